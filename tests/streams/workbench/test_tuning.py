"""``weir tune``: what is judged is never read before, a search goes on, and the task it writes is the one it tried."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from tests.streams.workbench.tuned_rows import DAY, TASK, N, rows
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.cli.models.tune import _unsettled, tune_command
from weir.streams.cli.options import INTERRUPTED
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import Interval
from weir.streams.workbench.tuning.findings import leaderboard, pick, recommended
from weir.streams.workbench.tuning.reference import Reference, reference_of
from weir.streams.workbench.tuning.study import Search, best_of, changes, finished, work_folder
from weir.streams.workbench.tuning.time_cut import cut


def poisoned(table: pa.Table, share: float) -> pa.Table:
    """The judged rows with other labels, and words where numbers were."""
    n = round(N * share)
    kept, last = table.slice(0, N - n), table.slice(N - n)
    other = ["no" if b == "yes" else "yes" for b in last["bad"].to_pylist()]
    last = last.set_column(2, "x", pa.array(["1.234,5", "broken", ""] * n)[:n]).set_column(3, "bad", pa.array(other))
    return pa.concat_tables([kept, last.set_column(0, "user", pa.array(["u3"] * n))])


def search(folder: Path, table: pa.Table) -> Search:
    folder.mkdir()
    pcsv.write_csv(table, folder / "rows.csv")
    study = folder / "study"
    made = cut(TaskSpec.from_toml(TASK), [folder / "rows.csv"], 0.2, work_folder(study))
    return Search(TASK, made, study, "average_precision", 1)


def test_a_poisoned_judged_part_never_changes_the_pick(tmp_path: Path) -> None:
    found = []
    for name, table in (("clean", rows()), ("poisoned", poisoned(rows(), 0.2))):
        one = search(tmp_path / name, table)
        study, reference = one.prepare()
        one.run(time.monotonic() + 600, 3, lambda _: None)
        best = study.trials[pick(leaderboard(one, study, reference), one.metric)]
        document = recommended(one, reference, best)
        found.append(([(t.number, t.value, t.params) for t in study.trials], document, one.cut.rows, one.cut.at))
        assert finished(study) == 3
        assert best.number == best_of(study)[0].number > 0
        assert "labels" in changes(best)  # which is what helps here
        assert one.cut.rows == 0.8 * N
    assert found[0] == found[1]


def test_a_label_that_became_known_after_the_cut_is_not_there_to_tune_by(tmp_path: Path) -> None:
    table = rows()
    known = [f"{np.datetime64(at) + np.timedelta64(10 * (i % 3), 'D')}" for i, at in enumerate(table["at"].to_pylist())]
    pcsv.write_csv(table.append_column("known", pa.array(known)), tmp_path / "rows.csv")
    task = TaskSpec.from_toml(TASK.replace('label_delay = "12h"', 'label_known = "known"'))
    made = cut(task, [tmp_path / "rows.csv"], 0.2, tmp_path)
    when = pa.parquet.read_table(made.path)["weir_known"]
    assert when.null_count == sum(
        np.datetime64(k).astype("datetime64[s]").astype(float) >= made.at for k in known[: made.rows]
    )
    assert when.null_count > 0


def wire_files(folder: Path) -> tuple[str, list[str]]:
    """The same rows as events and labels of the wire format, and the arguments that name them."""
    table, task = rows().to_pylist(), TASK.partition("[source]")[0]
    at = [float(np.datetime64(row["at"]).astype("datetime64[s]").astype(int)) for row in table]
    events = [
        {"v": 1, "event_id": f"e{i}", "type": "row", "user_id": row["user"], "ts": at[i],
         "properties": {"x": float(row["x"])}}
        for i, row in enumerate(table)
    ]  # fmt: skip
    labels = [
        {"v": 1, "label_id": f"l{i}", "task": "bad", "entity_id": row["user"], "event_id": f"e{i}", "ts": at[i],
         "value": int(row["bad"] == "yes")}
        for i, row in enumerate(table)
    ]  # fmt: skip
    for name, records in (("events", events), ("labels", labels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return task, ["--data", str(folder / "events.jsonl"), "--labels", str(folder / "labels.jsonl")]


def test_events_of_the_wire_format_are_tuned_as_a_table_is(tmp_path: Path) -> None:
    """No event or label of after the cut is in what trials read, and each trial is worth what it is of the table."""
    text, _ = wire_files(tmp_path)
    study, labels = tmp_path / "study", [tmp_path / "labels.jsonl"]
    made = cut(TaskSpec.from_toml(text), [tmp_path / "events.jsonl"], 0.2, work_folder(study), labels, DAY / 2)
    events, told = ([json.loads(line) for line in p.read_text().splitlines()] for p in (made.path, *made.labels))
    assert (len(events), made.rows, made.judged) == (480, 480, 120)
    assert max(e["ts"] for e in events) < made.at
    assert max(e["ts"] for e in told) < made.at - DAY / 2
    assert len(told) == 473  # one in 6,000 s: those of the last half day are not known at the cut
    found = []
    for one in (Search(text, made, study, "average_precision", 1, DAY / 2), search(tmp_path / "table", rows())):
        one.prepare()
        one.run(time.monotonic() + 600, 3, lambda _: None)
        found.append([(t.value, t.params) for t in one.open().trials])
    assert found[0] == found[1]


def test_the_command_tunes_events_and_says_what_is_missing(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(tune_command)
    text, given = wire_files(tmp_path)
    (tmp_path / "bad.toml").write_text(text)
    arguments = [str(tmp_path / "bad.toml"), *given, "--trials", "2", "--study", str(tmp_path / "study")]
    assert "say how late with --label-delay" in str(CliRunner().invoke(app, arguments).exception)
    done = CliRunner().invoke(app, [*arguments, "--label-delay", "12h", "--out", str(tmp_path / "tuned.toml")])
    assert done.exit_code == 0, done.output
    assert "the best of 2 configurations" in " ".join(done.output.split())
    assert TaskSpec.from_toml((tmp_path / "tuned.toml").read_text()).source is None
    short = [*arguments[:-3], "1", "--study", str(tmp_path / "short"), "--label-delay", "12h"]
    assert "nothing but the task as it is was tried" in CliRunner().invoke(app, short).output
    bare = CliRunner().invoke(app, [str(tmp_path / "bad.toml"), *given[:2]])
    assert "no labels to tune by: name the `label` column in [source], or give --labels" in str(bare.exception)


@pytest.mark.parametrize(
    ("gains", "sign", "says"),
    [
        ([(0.02, 0.01, 0.03), (0.02, 0.001, 0.04)], 1, ""),
        ([(0.02, 0.01, 0.03), (0.02, -0.001, 0.04)], 1, "do not settle"),
        ([(0.02, 0.01, 0.03), (0.02, np.nan, np.nan)], 1, ""),  # few weeks have no interval
        ([(0.02, np.nan, np.nan), (0.02, np.nan, np.nan)], 1, "do not settle"),
        ([(-0.02, -0.03, -0.01), (-0.02, -0.03, -0.01)], 1, "was better"),
        ([(-0.02, -0.03, -0.01), (-0.02, -0.03, -0.01)], -1, ""),  # of a loss
        ([(-0.02, -0.03, 0.01), (-0.02, -0.03, -0.01)], -1, "do not settle"),
    ],
)
def test_a_pick_that_the_judged_rows_do_not_bear_out_is_told(
    gains: list[tuple[float, float, float]], sign: int, says: str
) -> None:
    told = _unsettled([Interval(*gain) for gain in gains], sign)
    assert says in told
    assert bool(says) == bool(told)


def test_without_optuna_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(TASK)
    pcsv.write_csv(rows(), tmp_path / "rows.csv")
    program = "import sys; sys.modules['optuna'] = None; from weir.streams.cli.main import run; run()"
    arguments = ["tune", str(tmp_path / "bad.toml"), "--data", str(tmp_path / "rows.csv")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: optuna is not installed: pip install 'weir[train]'\n"


def test_the_command_goes_on_after_ctrl_c_and_writes_the_task_with_its_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcsv.write_csv(rows(), tmp_path / "rows.csv")
    (tmp_path / "bad.toml").write_text(TASK)
    app = typer.Typer()
    app.command()(tune_command)
    arguments = [str(tmp_path / "bad.toml"), "--data", str(tmp_path / "rows.csv"), "--trials", "2"]
    arguments += ["--study", str(tmp_path / "study"), "--out", str(tmp_path / "tuned.toml")]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("weir.streams.cli.models.tune._told", interrupted)
        broken = CliRunner().invoke(app, arguments)
    assert broken.exit_code == INTERRUPTED
    assert "goes on with" in broken.output
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "the best of 2 configurations" in done.output
    assert "judged once: 120 later rows" in done.output
    written = (tmp_path / "tuned.toml").read_text()
    assert written.startswith("# Whose payments go bad.\n")
    assert "# who pays" in written
    assert TaskSpec.from_toml(written) != TaskSpec.from_toml(TASK)
    (tmp_path / "bad.toml").write_text(TASK.replace("logistic", "boosted"))
    other = CliRunner().invoke(app, arguments)
    assert "is a study of another task" in str(other.exception)


def test_a_process_whose_parent_was_killed_ends_within_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = search(tmp_path / "one", rows())
    study, _ = one.prepare()

    class Parent:
        looks = 0

        def is_alive(self) -> bool:
            self.looks += 1
            return self.looks < 3  # it dies during the first trial

    parent = Parent()
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    one.run(time.monotonic() + 600, 5, lambda _: None)
    assert finished(study) == 1  # the task as it is
    assert [t.state.name for t in study.trials[1:] if t.params] == ["FAIL"]


def test_labels_that_come_sooner_than_others_do_not_count_too_often() -> None:
    """Positives are known after 2 days, negatives after 20: what counts of the newest rows has their true share."""
    rng = np.random.default_rng(5)
    n, label = 4_000, (rng.random(4_000) < 0.2).astype(float)
    ts = np.linspace(0.0, 60.0 * DAY, n)
    known_at = ts + rng.exponential(np.where(label == 1.0, 2.0, 20.0)) * DAY
    seen = known_at < ts[-1]
    text, none = pa.chunked_array([pa.array([f"{i % 50}" for i in range(n)])]), np.full(n, np.nan)
    empty = pa.chunked_array([pa.nulls(n, pa.string())])
    told = Outcomes(text, text, empty, empty, empty, ts, none, none, seen, np.where(seen, label, np.nan),
                    np.where(seen, known_at, np.nan), np.zeros(n, np.int64), none, ts)  # fmt: skip
    found = reference_of(told, 1.0)
    at = found.later()
    plain, weighed = found.label[at].mean(), np.average(found.label[at], weights=found.weight[at])
    assert plain > 0.25
    assert weighed == pytest.approx(0.2, abs=0.04)


def test_an_event_counts_when_both_of_its_outcomes_are_known() -> None:
    """Positives are known at once, negatives when something is over, and what lasts long is rather a positive."""
    rng = np.random.default_rng(5)
    n, days = 4_000, rng.random(4_000) * 40.0
    ts = np.linspace(0.0, 60.0 * DAY, n)
    label, over = (rng.random(n) < days / 80.0).astype(float), ts + days * DAY
    known_at = np.where(label == 1.0, ts + 0.1 * (over - ts), over)
    seen = known_at <= ts[-1]
    text, none = pa.chunked_array([pa.array([f"{i % 50}" for i in range(n)])]), np.full(n, np.nan)
    empty = pa.chunked_array([pa.nulls(n, pa.string())])
    y, known = np.where(seen, label, np.nan), np.where(seen, known_at, np.nan)
    told = [Outcomes(text, text, empty, empty, empty, ts, none, none, seen, y, known, np.zeros(n, np.int64), none, at)
            for at in (ts, over)]  # fmt: skip
    soon, ripe = (reference_of(each, 1.0, ts[-1]) for each in told)

    # What the share of positives is of so long a wait: known at once, those that wait long seem nearly all positive.
    def newest(reference: Reference) -> float:
        y = reference.label[: len(ripe)][days[: len(ripe)] > 20.0]
        return float(y[~np.isnan(y)][-300:].mean())

    assert newest(soon) > 0.5
    assert newest(ripe) == pytest.approx(30.0 / 80.0, abs=0.08)
    assert not (~np.isnan(ripe.label) & (over[: len(ripe)] > ts[-1])).any()
    assert 0.77 * n < len(ripe) < 0.9 * n  # 3 of 10 such waits are over when a fifth of the time is left
    assert (ripe.weight == 1.0).all()


def test_what_is_tuned_on_is_the_same_file_in_every_process(tmp_path: Path) -> None:
    """Columns are asked for as a set, whose order each process draws anew; a study tells its rows by a digest."""
    task, digests = TaskSpec.from_toml(TASK), set[str]()
    for k, order in enumerate(permutations(rows().column_names)):
        pcsv.write_csv(rows().select(order), tmp_path / f"{k}.csv")
        made = cut(task, [tmp_path / f"{k}.csv"], 0.2, tmp_path / "work")
        assert (names := pq.read_schema(made.path).names)[:-1] == sorted(names[:-1])
        digests.add(made.digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    "content", [b"time,user,eur\n1,a,2\n", b"\xff\xfe\x00\x01\n", b'{"a": 1}\n{"b": 2}\n', b"[]\n[]\n"]
)
def test_a_file_that_is_no_study_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    one = search(tmp_path / "table", rows())
    one.study.write_bytes(content)
    with pytest.raises(UsageError, match=r"is no study .*name another file by --study"):
        one.open()
    assert one.study.read_bytes() == content
