"""``weir tune``: what is judged is never read before, a search goes on, and the task it writes is the one it tried."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import tomllib
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from weir.online.batch import PredictionBatch
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.cli.models.tune import tune_command
from weir.streams.cli.options import INTERRUPTED
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import Interval
from weir.streams.workbench.tuning import study as telling
from weir.streams.workbench.tuning.findings import Row, leaderboard, pick, recommended
from weir.streams.workbench.tuning.reference import Reference, reference_of
from weir.streams.workbench.tuning.space import AS_IS, Facts, Space, built
from weir.streams.workbench.tuning.study import Search, best_of, changes, document_of, finished, work_folder
from weir.streams.workbench.tuning.task_text import rewritten
from weir.streams.workbench.tuning.time_cut import cut

N, DAY = 600, 86_400.0
PROTOCOLS = sorted((Path(__file__).resolve().parents[3] / "benchmarks" / "protocols").glob("*k*.toml"))
TASK = """# Whose payments go bad.
name = "bad"
entity = "user"
numbers = ["x"]
inputs = ["x"]  # to begin with

[[entities]]
name = "user"  # who pays
key = "user_id"

[model]
kind = "logistic"

[threshold]
kind = "fixed"
value = 0.5

[source]
columns = { user_id = "user", x = "x" }
constants = { type = "row" }
time = "at"
label = "bad"
label_delay = "12h"
"""
SOME = Facts(gap_s=7200.0, span_s=86_400.0 * 60, delay_s=43_200.0, positive=0.1)
NOISE = [f"n{k}" for k in range(14)]


def rows() -> pa.Table:
    """Users differ in how often theirs are bad, so that what is known of a user's labels helps."""
    rng = np.random.default_rng(2)
    user, x = rng.integers(20, size=N), rng.normal(size=N)
    at = np.datetime64("2024-03-01T00:00:00") + (np.arange(N) * 6_000).astype("timedelta64[s]")
    bad = rng.random(N) < np.where(user < 5, 0.9, 0.05)
    texts = {"user": [f"u{k}" for k in user], "at": [str(t) for t in at], "x": [f"{v:.4f}" for v in x]}
    return pa.table({**texts, "bad": ["yes" if b else "no" for b in bad]})


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


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_option_of_every_knob_is_a_task_that_can_be_written(path: Path) -> None:
    text = path.read_text()
    document = tomllib.loads(text)
    assert rewritten(text, document).split("\n") == [*text.rstrip("\n").split("\n"), ""]
    space = Space(document, SOME)
    for edits in space.knobs.values():
        for name, edit in edits.items():
            changed = copy.deepcopy(document)
            edit(changed)
            assert (changed == document) == (name == AS_IS)
            written = rewritten(text, changed)
            assert tomllib.loads(written) == changed
            assert written.count("#") >= text.count("#") - 1
            assert built(changed) is not None


def test_inputs_that_tell_most_of_older_rows_are_tried_alone(tmp_path: Path) -> None:
    """Of 15 numbers two tell the label: they are ranked first, and a dozen do as well as all."""
    rng, n = np.random.default_rng(3), 3_000
    x = {name: rng.normal(size=n) for name in ("x", *NOISE)}
    table = pa.table({
        "user": [f"u{k}" for k in rng.integers(300, size=n)], "at": (np.arange(n) * 6_000.0 + 1.7e9).astype(np.int64),
        **x, "bad": (rng.random(n) < 1 / (1 + np.exp(2.0 - 2 * x["x"] + 2 * x["n3"]))).astype(np.int64),
    })  # fmt: skip
    columns = "".join(f", {name} = '{name}'" for name in NOISE)
    text = TASK.replace('x = "x"', f'x = "x"{columns}').replace('["x"]', str(["x", *NOISE]))
    pcsv.write_csv(table, tmp_path / "rows.csv")
    spec = TaskSpec.from_toml(text)
    study_file = tmp_path / "s"
    made = cut(spec, [tmp_path / "rows.csv"], 0.2, work_folder(study_file))
    one = Search(text, made, study_file, "roc_auc", 1)
    study, reference = one.prepare()
    assert {*reference.facts.telling[:2]} == {"x", "n3"}
    assert one.reference().facts == reference.facts  # as it was kept
    one.run(time.monotonic() + 600, 2, lambda _: None)
    alone = study.trials[1]
    assert changes(alone) == {"inputs": "best 12"}
    assert len(document_of(one, alone, reference.facts)["inputs"]) == 12
    assert alone.value == pytest.approx(study.trials[0].value, abs=0.01)


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


def test_fewer_inputs_that_are_no_worse_are_taken_and_other_changes_only_where_clearly_better() -> None:
    def row(number: int, value: float, low: float, changed: dict[str, str]) -> Row:
        return Row(number, 0.5 + value, Interval(value, low, value + 0.1, 50), 1.0, changed)

    as_is, fewer = row(0, 0.0, 0.0, {}), row(2, 0.01, -0.02, {"inputs": "best 12"})
    lucky, clear = row(1, 0.02, -0.01, {"seen": "on"}), row(3, 0.01, 0.005, {"learner": "boosted"})
    worse, both = row(4, -0.01, -0.03, {"inputs": "best 24"}), row(5, 0.03, -0.01, {"inputs": "best 12", "seen": "on"})
    metric = "average_precision"
    assert pick([both, lucky, fewer, as_is, worse], metric) == 2
    assert pick([lucky, fewer, clear, as_is], metric) == 3
    assert pick([both, lucky, as_is, worse], metric) == 0


def test_the_clock_is_tried_as_inputs_and_without_it() -> None:
    document = tomllib.loads(TASK.replace('["x"]', '["x", "hour"]'))
    for name, inputs in (("on", ["x", "hour", "weekday"]), ("off", ["x"])):
        changed = copy.deepcopy(document)
        Space(document, SOME).knobs["clock"][name](changed)
        assert changed["inputs"] == inputs


def test_other_windows_of_columns_that_are_named_one_by_one() -> None:
    text = TASK.replace('["x"]', '["x", "user.seen_count_1d"]')
    text = text.replace(
        "[model]", '[[entities.aggregates]]\nname = "seen"\nops = ["count"]\nwindows = ["1d"]\n\n[model]'
    )
    space = Space(tomllib.loads(text), SOME)
    changed = tomllib.loads(text)
    space.knobs["windows"]["long"](changed)
    assert changed["inputs"] == ["x", "user.seen_*"]


def test_a_sample_of_inputs_is_bounded_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_MOST_ROWS", 100)
    sample, rng = telling.InputSample(), np.random.default_rng(4)
    x, text = rng.normal(size=(3_000, 2)), ["a"] * 7
    sample._names = ("noise", "told")
    for k in range(0, 2_800, 7):
        part, none = x[k : k + 7], np.zeros(7)
        batch = PredictionBatch(text, text, none, none, np.zeros(7, np.int64), part)
        sample.add(StepOutput(predictions=batch))
    rows = np.concatenate([rows for rows, _ in sample._held])
    assert 50 <= len(rows) <= 100
    assert (np.diff(rows) == np.diff(rows)[0]).all()
    assert np.concatenate([part for _, part in sample._held]) == pytest.approx(x[rows].astype(np.float32))
    assert sample.ranked(np.full(2_000, np.nan)) == sample.ranked(np.zeros(2_000)) == []


def test_what_cannot_be_tuned_is_told(tmp_path: Path) -> None:
    pcsv.write_csv(rows().slice(0, 30), tmp_path / "few.csv")
    few = Search(TASK, cut(TaskSpec.from_toml(TASK), [tmp_path / "few.csv"], 0.2, tmp_path), tmp_path / "s", "brier", 1)
    with pytest.raises(UsageError, match=r"24 labels are known .* needs 40 of either|labels are known before the cut"):
        few.reference()
    unlabelled = TaskSpec.from_toml(TASK.replace('label = "bad"\n', "").replace('label_delay = "12h"\n', ""))
    with pytest.raises(UsageError, match="no labels to tune by"):
        cut(unlabelled, [tmp_path / "few.csv"], 0.2, tmp_path)
    (tmp_path / "bad.toml").write_text(TASK)
    with pytest.raises(UsageError, match="give --data FILE"):
        tune_command(tmp_path / "bad.toml")


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
