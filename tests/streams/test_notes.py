"""What a backtest says of data that is odd: each kind of note alone, none for clean data, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.streams.purchase_tasks import purchases, source
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.app import app
from weir.streams.errors import UsageError

DAY, T0, N = 86_400.0, 1_767_571_200.0, 600
TASK = purchases(top='types = ["purchase"]\ninputs = ["amount", "user.*"]\n')
SOURCE = source("who", 'label_delay = "2d"\nbatch_size = 64\n', columns=', basket = "basket"')
Table = dict[str, list[Any]]


def rows(n: int = N) -> Table:
    rng = np.random.default_rng(3)
    return {
        "id": [f"e{i}" for i in range(n)],
        "at": [T0 + i * 30 * DAY / n for i in range(n)],
        "who": [f"u{u}" for u in rng.integers(0, 40, n)],
        "eur": np.round(rng.lognormal(2, 1, n), 2).tolist(),
        "basket": rng.integers(1, 9, n).tolist(),
        "bad": (rng.random(n) < 0.1).astype(int).tolist(),
    }


def run(folder: Path, table: Table, task: str = TASK + SOURCE, scores: Path | None = None) -> BacktestResult:
    file = folder / "rows.csv"
    pa_csv.write_csv(pa.table({name: pa.array([None if c is None else str(c) for c in cells]) for name, cells in
                               table.items()}), file)  # fmt: skip
    return run_backtest(TaskSpec.from_toml(task), [file], scores)


def kinds(result: BacktestResult) -> list[str]:
    return [note.kind for note in result.notes]


def said(result: BacktestResult, kind: str) -> str:
    (note,) = (note for note in result.notes if note.kind == kind)
    return str(note)


def changed(**columns: Callable[[int, Any], Any]) -> Table:
    table = rows()
    return table | {name: [of(i, cell) for i, cell in enumerate(table[name])] for name, of in columns.items()}


def test_clean_data_has_no_notes(tmp_path: Path) -> None:
    result = run(tmp_path, rows(), 'numbers = ["basket"]\n' + TASK + SOURCE)
    assert result.notes == []
    assert result.pipeline.scored == N


@pytest.mark.parametrize(
    ("kind", "table", "edit", "words"),
    [
        ("one class", changed(bad=lambda *_: 0), {}, "labels are negative, none is positive"),
        ("one class", changed(bad=lambda *_: 1), {}, "labels are positive, none is negative"),
        ("no labels", changed(bad=lambda *_: None), {}, "no label was found in the column 'bad'"),
        ("no labels", rows(), {'"2d"': '"40d"', "[model]": '[labels.join]\nkeep_s = "50d"\n[model]'},
         "none of 600 labels became known before the data ended: it spans 29.9 days and labels come 40d late"),
        ("no labels", rows(), {"[model]": '[labels]\nmaturity = "40d"\n[model]'},
         "labels are early: mature events (maturity = 40d) alone are learned, and the data spans 29.9 days"),
        ("no labels", rows(), {'label = "bad"': ""}, "no labels were given"),
        ("missing", changed(eur=lambda i, eur: eur if i % 5 == 0 else None), {}, "amount is missing, or no number, in"),
        ("constant", changed(eur=lambda *_: 5), {}, "amount is 5 wherever it is known"),
        ("one entity", changed(who=lambda i, who: who if i % 3 else "guest"), {}, "of one user_id, 'guest'"),
        ("one entity", changed(who=lambda i, who: who if i % 7 else "0"), {}, "14% of the events are of"),
        ("one entity", changed(who=lambda i, who: who if i % 20 else "guest"), {}, None),
        ("sentinel", changed(eur=lambda i, eur: -9999 if i % 50 == 0 else eur), {},
         "set missing = [-9999] in the task"),
        ("sentinel", changed(eur=lambda i, eur: 65535 if i == 7 else eur), {}, "amount is 65535 in 1 rows, far"),
        ("sentinel", changed(eur=lambda i, eur: -9999 if i == 7 else eur),
         {"[model]": "[ranges]\namount = [0, 900]\n[model]"}, None),
        ("sentinel", changed(eur=lambda i, eur: -9999 if i == 7 else eur),
         {'name = "fraud"': 'name = "fraud"\nmissing = [-9999]'}, None),
        ("sentinel", changed(eur=lambda i, eur: 9000 + 3 * i if i % 50 == 0 else eur), {}, None),
        ("one entity", changed(who=lambda i, who: who if i % 3 == 0 else "guest"), {}, "of one user_id, 'guest'"),
        ("one entity", changed(who=lambda *_: "c001"), {}, "100% of the events are of one user_id, 'c001'"),
        ("clock", changed(at=lambda i, at: 946_684_804 if i == 9 else at), {}, "1 row stands 9,501 days before all"),
        ("clock", changed(at=lambda i, at: 4_000_000_000 if i in (7, 8) else at), {}, "2 rows stand 25,"),
        ("clock", changed(at=lambda *_: T0), {'"2d"': '"0s"'}, "all rows have the same time, 2026-"),
        ("pause", changed(at=lambda i, at: at + 4 * DAY * (i >= 300)), {}, "time jumps by more than a day once by 4.0"),
        ("unlabelled start", changed(bad=lambda i, bad: bad if i >= 100 else None), {}, "100 rows from 2026-01-05"),
        ("rows refused", changed(eur=lambda i, eur: "much" if i == 7 else eur), {}, "1 row was refused (1 x amount)"),
        ("no readings", changed(eur=lambda i, eur: 3.4e38 if i == 7 else eur), {},
         "amount: 1 numbers that no sensor reads, such as 3.4e38, were taken as missing; if so, say it: missing ="),
        ("types", rows(), {'["purchase"]': '["purchase", "refund"]'}, "no event is of type 'refund'"),
    ],
)  # fmt: skip
def test_what_is_odd_is_said(
    tmp_path: Path, kind: str, table: Table, edit: Mapping[str, str], words: str | None
) -> None:
    task = TASK + SOURCE
    for old, new in edit.items():
        task = task.replace(old, new)
    result = run(tmp_path, table, task)
    if words is None:
        assert result.notes == []
    else:
        assert kinds(result) == [kind]
        assert words in said(result, kind)


def test_of_types_that_are_all_rare_columns_are_told(tmp_path: Path) -> None:
    """Of 150 types none has one event in a hundred."""
    task = (TASK + SOURCE).replace('types = ["purchase"]', "").replace("columns = {", 'columns = { type = "kind",')
    task = task.replace('constants = { type = "purchase" }', "")
    kind = [f"k{i % 150}" for i in range(N)]
    assert run(tmp_path, rows() | {"kind": kind}, task).notes == []
    assert kinds(run(tmp_path, changed(eur=lambda *_: None) | {"kind": kind}, task)) == ["missing"]


def test_an_irregular_stream_has_no_pauses(tmp_path: Path) -> None:
    """Where days between rows are usual, they are not odd."""
    rng = np.random.default_rng(1)
    result = run(tmp_path, rows() | {"at": (T0 + np.cumsum(rng.exponential(2 * DAY, N))).tolist()})
    assert result.notes == []


def test_a_number_of_one_type_only_is_not_missing(tmp_path: Path) -> None:
    table = changed(eur=lambda i, eur: eur if i % 4 == 0 else None)
    table["kind"] = ["purchase" if i % 4 == 0 else "view" for i in range(N)]
    task = (TASK + SOURCE).replace('types = ["purchase"]', "").replace("columns = {", 'columns = { type = "kind",')
    assert run(tmp_path, table, task.replace('constants = { type = "purchase" }', "")).notes == []


def test_repeats_are_dropped_as_live_and_counted(tmp_path: Path) -> None:
    table = rows()
    twice = {name: [*cells, *cells[100:200]] for name, cells in table.items()}
    (tmp_path / "a").mkdir()
    once = run(tmp_path, table, scores=tmp_path / "once.parquet")
    result = run(tmp_path / "a", twice, scores=tmp_path / "twice.parquet")
    assert pq.read_table(tmp_path / "once.parquet").equals(pq.read_table(tmp_path / "twice.parquet"))
    assert (result.repeats, result.report()["repeats"], once.repeats) == (100, 100, 0)
    assert "100 rows repeat an event_id" in said(result, "repeats")
    assert result.pipeline.evaluation.get() == once.pipeline.evaluation.get()


def test_the_label_of_a_repeat_counts_where_the_first_had_none(tmp_path: Path) -> None:
    """An older export, without labels yet, overlaps a newer one."""
    table = rows()
    old = {name: cells[:300] for name, cells in table.items()} | {"bad": [None] * 300}
    both = {name: [*old[name], *cells] for name, cells in table.items()}
    (tmp_path / "a").mkdir()
    whole = run(tmp_path, table)
    assert run(tmp_path / "a", both).pipeline.labelled == whole.pipeline.labelled


def test_rows_without_an_id_column_are_never_repeats(tmp_path: Path) -> None:
    table = {name: [*cells, *cells] for name, cells in rows().items()}
    assert run(tmp_path, table, (TASK + SOURCE).replace('event_id = "id"', "")).repeats == 0


def test_a_file_given_twice_is_dropped_by_its_ids_or_refused_without(tmp_path: Path) -> None:
    run(tmp_path, rows())
    twice, task = [tmp_path / "rows.csv"] * 2, TASK + SOURCE
    assert run_backtest(TaskSpec.from_toml(task), twice, None).repeats == N
    with pytest.raises(UsageError, match="a file is given twice, and without `event_id`"):
        run_backtest(TaskSpec.from_toml(task.replace('event_id = "id"', "")), twice, None)
    (folder := tmp_path / "days").mkdir()
    inside = (tmp_path / "rows.csv").rename(folder / "rows.csv")
    with pytest.raises(UsageError, match="a file is given twice, and without `event_id`"):
        run_backtest(TaskSpec.from_toml(task.replace('event_id = "id"', "")), [folder, inside], None)


def test_a_key_that_nothing_feeds_is_an_error_at_the_start(tmp_path: Path) -> None:
    shop = '[[entities]]\nname = "shop"\nkey = "merchant_id"\n'
    shop += 'aggregates = [{ name = "n", ops = ["count"], windows = ["7d"] }]'
    with pytest.raises(UsageError, match=r"nothing in \[source\] feeds 'merchant_id'.*Add merchant_id = \"COLUMN\""):
        run(tmp_path, rows(), TASK + shop + SOURCE)
    result = wire(tmp_path, TASK + shop)
    assert "merchant_id is missing in all rows" in said(result, "entity key")


def wire(folder: Path, task: str = TASK, labels: Sequence[Mapping[str, Any]] | None = None, **more: Any
         ) -> BacktestResult:  # fmt: skip
    """The rows as wire events; ``labels`` replace those of all rows, ``more`` goes into each label."""
    table = rows()
    made = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    events = [{"v": 1, "event_id": r["id"], "type": "purchase", "user_id": r["who"], "ts": r["at"], "amount": r["eur"]}
              for r in made]  # fmt: skip
    told = [{"v": 1, "label_id": f"l{r['id']}", "task": "fraud", "entity_id": r["who"], "event_id": r["id"],
             "ts": r["at"], "value": r["bad"]} for r in made]  # fmt: skip
    for name, lines in (("events", events), ("labels", told if labels is None else labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({**line, **more}) + "\n" if name == "labels" else
                                                      json.dumps(line) + "\n" for line in lines))  # fmt: skip
    return run_backtest(TaskSpec.from_toml(task), [folder / "events.jsonl"], None,
                        labels=[folder / "labels.jsonl"], label_delay_s=2 * DAY)  # fmt: skip


def label(**fields: Any) -> dict[str, Any]:
    number = str(fields.get("event_id", "")).removeprefix("e")
    who = rows()["who"][int(number)] if number.isdecimal() else "u1"
    return {"v": 1, "label_id": f"x{fields}", "task": "fraud", "entity_id": who, "ts": T0, "value": 1, **fields}


def test_labels_that_cannot_be_used_are_told_apart(tmp_path: Path) -> None:
    result = wire(tmp_path)
    assert result.notes == []
    odd = [label(event_id="gone"), label(), label(event_id="e0", value="yes")]
    good = [label(event_id=f"e{i}", value=i % 2, ts=T0 + i * DAY / 20) for i in range(200)]
    result = wire(tmp_path, labels=good + odd)
    assert kinds(result) == ["labels refused", "labels unknown", "labels without event"]
    assert "1 labels name events that are not in the data, such as 'gone' of 'u1'" in said(result, "labels unknown")
    assert "row 203: value: " in said(result, "labels refused")
    assert 'or set match = "entity_range"' in said(result, "labels without event")


def test_labels_that_come_too_late_are_not_called_unknown(tmp_path: Path) -> None:
    task = TASK + '[labels.join]\nkeep_s = "5d"\n'
    late = [
        label(event_id=f"e{i}", value=i % 2, ts=T0 + i * DAY / 20 + (10 * DAY if i % 4 == 0 else 0)) for i in range(400)
    ]
    result = wire(tmp_path, task, labels=late)
    assert kinds(result) == ["labels late"]
    assert "90 of 400 labels came when their predictions had been let go" in said(result, "labels late")
    assert "predictions wait for keep_s = 5d" in said(result, "labels late")


def test_labels_that_come_long_before_their_events_are_not_called_unknown(tmp_path: Path) -> None:
    result = wire(tmp_path, labels=[label(event_id=f"e{i}", value=i % 2) for i in range(400)])
    assert kinds(result) == ["labels late"]
    assert "or long before them: predictions wait for keep_s = 30d, labels for wait_s = 1d" in said(
        result, "labels late"
    )


def test_labels_that_contradict_each_other_are_said(tmp_path: Path) -> None:
    both = [label(event_id=f"e{i}", value=v, ts=T0 + i * DAY / 20) for i in range(400) for v in (i % 2, 1 - i % 2)]
    assert kinds(wire(tmp_path, labels=both)) == ["labels contradict"]


@pytest.mark.parametrize(("value", "kind", "early"), [(0.5, "logistic", True), (0.51, "logistic", False),
                                                       (0.5, "column", False)])  # fmt: skip
def test_alerts_of_a_model_that_has_learned_nothing_are_said(
    tmp_path: Path, value: float, kind: str, *, early: bool
) -> None:
    task = TASK.replace('"logistic"', f'"{kind}"') + ('params = { column = "amount" }\n' if kind == "column" else "")
    task += f'[threshold]\nkind = "fixed"\nvalue = {value}\n[alerts]\nresolve_after_s = "9d"\n'
    table = rows() | {"eur": [0.5] * N} if kind == "column" else rows()
    notes = [note for note in run(tmp_path, table, task + SOURCE.replace("= 64", "= 1")).notes
             if note.kind == "early alerts"]  # fmt: skip
    assert bool(notes) == early
    if early:
        opened = {r["who"] for r in (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
                  if r["at"] < T0 + 2 * DAY}  # fmt: skip
        assert notes[0].what.startswith(f"{len(opened)} alerts opened before anything was learned")
        assert notes[0].fix == "set value above 0.5 in [threshold]"


def test_what_feeds_a_missing_column_is_said(tmp_path: Path) -> None:
    result = wire(tmp_path, 'numbers = ["basket"]\n' + TASK)
    assert "basket is missing, or no number, in all rows; look at basket in the events" in said(result, "missing")
    task = 'numbers = ["basket"]\n' + TASK + SOURCE
    assert "look at the column 'basket'" in said(run(tmp_path, rows() | {"basket": [None] * N}, task), "missing")
    assert "nothing in [source] feeds it" in said(run(tmp_path, rows(), task.replace("basket =", "cart =")), "missing")


def test_cells_that_are_no_numbers_are_counted_with_the_first(tmp_path: Path) -> None:
    table = rows() | {"basket": ["ask" if i % 20 == 5 else i for i in range(N)]}
    note = said(run(tmp_path, table, 'numbers = ["basket"]\n' + TASK + SOURCE), "missing")
    assert "30 of 600 values of column 'basket' are no numbers, the first 'ask'" in note
    assert "row 6" in note


def test_refused_lines_alone_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"labels of: none, and 600 lines were refused; the first, row 1: ts: "):
        wire(tmp_path, ts=1_767_571_200_000)


@pytest.mark.parametrize("delay", ["29d", "29.9d", "0s"])
def test_no_label_is_lost_to_the_batches_however_short_keep_s_is(tmp_path: Path, delay: str) -> None:
    """Batches are cut so that a label that is handed over late is not too late."""
    table = rows() | {"at": [T0 + i * 4 * DAY / 10 for i in range(N)]}
    result = run(tmp_path, table, (TASK + SOURCE).replace('"2d"', f'"{delay}"').replace("= 64", "= 4096"))
    assert result.pipeline.joiner.stats.unmatched == 0
    assert result.pipeline.labelled >= N - 75 - 80 * (delay == "0s") * 8
    assert kinds(result) == []


def test_a_delay_beyond_keep_s_is_refused_with_both(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    run(tmp_path, rows())
    task = TASK + '[labels.join]\nkeep_s = "30d"\n' + SOURCE
    with pytest.raises(UsageError, match=r"after 40d, but predictions wait for them only keep_s = 30d"):
        run_backtest(TaskSpec.from_toml(task), [table], None, label_delay_s=40 * DAY)


@pytest.mark.parametrize("by", ["the command", "a column"])
def test_keep_s_that_is_not_given_follows_the_delay(tmp_path: Path, by: str) -> None:
    """Each label is learned however late it is; what was decided is told."""
    table = rows() | {"at": [T0 + i * DAY for i in range(N)], "known": [T0 + (i + 40 + i % 5) * DAY for i in range(N)]}
    source = SOURCE if by == "the command" else SOURCE.replace('label_delay = "2d"', 'label_known = "known"')
    run(tmp_path, table)
    delay_s = 40 * DAY if by == "the command" else None
    result = run_backtest(TaskSpec.from_toml(TASK + source), [tmp_path / "rows.csv"], None, label_delay_s=delay_s)
    assert result.pipeline.joiner.stats.unmatched == 0
    assert N - 60 < result.pipeline.labelled < N
    assert any("keep_s = " in told for told in result.decisions)


def test_labels_of_other_types_are_no_loss(tmp_path: Path) -> None:
    table = rows()
    table["kind"] = ["purchase" if i % 2 else "view" for i in range(N)]
    task = (
        (TASK + SOURCE)
        .replace("columns = {", 'columns = { type = "kind",')
        .replace('constants = { type = "purchase" }', "")
    )
    result = run(tmp_path, table, task)
    assert result.notes == []
    assert result.pipeline.labelled > 250


class TestCommand:
    """The words and the exit status."""

    def invoke(self, folder: Path, table: Table, *args: str, task: str = TASK + SOURCE) -> tuple[int, str, Any]:
        (folder / "task.toml").write_text(task)
        run(folder, table)
        report = folder / "report.json"
        command = ["backtest", str(folder / "task.toml"), "--data", str(folder / "rows.csv"), "--report", str(report)]
        result = CliRunner().invoke(app, [*command, *args], env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})
        return result.exit_code, result.output, orjson.loads(report.read_bytes())

    def test_types_that_match_nothing_are_exit_status_3(self, tmp_path: Path) -> None:
        status, output, report = self.invoke(tmp_path, rows(), task=(TASK + SOURCE).replace('["purchase"]', '["sale"]'))
        assert status == 3
        assert "types = ['sale'] matches none of the 600 events; the data has: purchase (600); correct" in output
        assert [note["kind"] for note in report["notes"]] == ["types"]

    def test_no_row_at_all_is_exit_status_3(self, tmp_path: Path) -> None:
        status, output, _ = self.invoke(tmp_path, {name: cells[:0] for name, cells in rows().items()})
        assert (status, "no row was scored: the files hold none" in output) == (3, True)
        (tmp_path / "events.jsonl").write_text("")
        assert run_backtest(TaskSpec.from_toml(TASK), [tmp_path / "events.jsonl"], None).pipeline.scored == 0

    def test_strict_makes_warnings_errors(self, tmp_path: Path) -> None:
        assert self.invoke(tmp_path, rows(), "--strict")[0] == 0
        table = {name: [*cells, *cells[:9]] for name, cells in rows().items()}
        assert self.invoke(tmp_path, table)[0] == 0
        status, output, report = self.invoke(tmp_path, table, "--strict")
        assert (status, "error: --strict, and there are warnings: repeats" in output) == (1, True)
        assert report["notes"][0]["fix"].startswith("remove the overlap")

    def test_a_full_model_is_said_to_be_left_out(self, tmp_path: Path) -> None:
        task = TASK.replace("[model]", "[full]\n[model]") + SOURCE
        status, output, report = self.invoke(tmp_path, rows(), "--no-full", task=task)
        assert status == 0
        assert "[full]: no full model is trained in this run" in output
        assert report["decisions"][-1].startswith("[full]")
