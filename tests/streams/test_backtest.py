"""``weir backtest``: one pass over files as it would have run live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weir.streams.backtest.runner
from tests.streams.payment_runs import DELAY, T0, TASK, columns, scored, spec, write
from weir.online.batch import EventBatch, FloatVector, LabelBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import LabelSpec, TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_outputs import SCORE_SCHEMA
from weir.streams.backtest.runner import run_backtest
from weir.streams.errors import TooManyRejects


def part(table: dict[str, list[Any]], rows: slice) -> dict[str, list[Any]]:
    return {name: cells[rows] for name, cells in table.items()}


def test_each_format_gives_identical_scores(tmp_path: Path) -> None:
    made = [
        scored(tmp_path, write(tmp_path / f"x.{kind}", columns())) for kind in ("csv", "csv.gz", "parquet", "jsonl")
    ]
    assert all(other.equals(made[0]) for other in made[1:])
    assert made[0].schema.equals(SCORE_SCHEMA)
    assert made[0].column("event_id").to_pylist() == columns()["id"]
    assert len(set(made[0].column("score").to_pylist())) > 100
    assert made[0].column("model_version").to_pylist()[-1] > 300


def test_files_are_merged_by_event_time(tmp_path: Path) -> None:
    table = columns()
    whole = scored(tmp_path, write(tmp_path / "x.csv", table))
    odd = write(tmp_path / "odd.csv", part(table, slice(1, None, 2)))
    even = write(tmp_path / "even.parquet", part(table, slice(0, None, 2)))
    assert scored(tmp_path, even, odd).equals(whole)


def test_a_run_repeats_to_the_bit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", columns())
    (tmp_path / "a").mkdir()
    first = run_backtest(spec(), [path], tmp_path / "a" / "scores.parquet")
    second = run_backtest(spec(), [path], tmp_path / "scores.parquet")
    assert (tmp_path / "scores.parquet").read_bytes() == (tmp_path / "a" / "scores.parquet").read_bytes()
    assert first.pipeline.snapshot() == second.pipeline.snapshot()


class Probe(TaskPipeline):
    """Records the order of what a backtest does."""

    calls: list[tuple[str, list[str], list[float]]]

    def events(self, batch: EventBatch) -> StepOutput:
        self.calls.append(("events", list(batch.event_id), batch.ts.tolist()))
        return super().events(batch)

    def labels(self, labels: LabelBatch, known_at: FloatVector | None = None) -> StepOutput:
        self.calls.append(("labels", [e or "" for e in labels.event_id], labels.ts.tolist()))
        return super().labels(labels, known_at)


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0, 1, 600, 3600, 4 * 3600, 30 * 3600]), min_size=1, max_size=60),
    size=st.integers(1, 20),
    delay=st.sampled_from([0.0, 1.0, 3600.0, DELAY]),
    order=st.randoms(use_true_random=False),
)
def test_a_label_is_released_at_the_first_batch_after_its_delay(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], size: int, delay: float, order: Any
) -> None:
    """Never before event time + delay, and not one batch later; labels come in the order of their events."""
    at = [int(T0) + t for t in np.cumsum(gaps).tolist()]
    order.shuffle(at)
    n = len(at)
    table = {"id": [f"e{i}" for i in range(n)], "at": at, "user": ["u"] * n, "eur": [1.0] * n, "bad": [1] * n}
    path = write(tmp_path_factory.mktemp("x") / "x.csv", table)
    Probe.calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weir.streams.backtest.runner, "TaskPipeline", Probe)
        run_backtest(spec(label_delay=delay, batch_size=size), [path], None)
    seen: list[tuple[float, str]] = []
    released: list[str] = []
    for kind, events, ts in Probe.calls:
        if kind == "labels":
            released += events
            continue
        now = ts[0]
        assert released == [e for t, e in seen if t + delay <= now]
        seen += zip(ts, events, strict=True)
    assert len(seen) == n


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0, 1, 600, 4 * 3600]), st.sampled_from([None, -5, 0, 1, 3600, DELAY])),
        min_size=1, max_size=40,
    ),
    size=st.integers(1, 20),
)  # fmt: skip
def test_a_label_is_released_after_its_own_time(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float | None]], size: int
) -> None:
    """At the first batch that begins after the label became known, in the order of these times; never without one."""
    at = [int(T0) + t for t in np.cumsum([gap for gap, _ in rows]).tolist()]
    known = [None if delay is None else t + delay for t, (_, delay) in zip(at, rows, strict=True)]
    n = len(at)
    table = {"id": [f"e{i}" for i in range(n)], "at": at, "user": ["u"] * n, "eur": [1.0] * n, "bad": [1] * n}
    path = write(tmp_path_factory.mktemp("x") / "x.csv", table | {"known": ["" if k is None else k for k in known]})
    Probe.calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weir.streams.backtest.runner, "TaskPipeline", Probe)
        run_backtest(spec(label_known="known", batch_size=size), [path], None)
    seen, released, place = list[tuple[float, str]](), list[str](), 0
    for kind, events, ts in Probe.calls:
        if kind == "labels":
            released += events
            continue
        assert sorted(released) == sorted(e for t, e in seen if t < ts[0])
        for event in events:
            if (k := known[place]) is not None:
                seen.append((max(k, at[place]), event))
            place += 1
    due = {e: t for t, e in seen}
    assert [due[e] for e in released] == sorted(t for t, e in seen if e in released)
    assert place == n


@pytest.mark.parametrize(("maturity", "told"), [("none", True), ("9h", False)])
def test_labels_that_are_known_sooner_by_their_value_are_told(tmp_path: Path, maturity: str, told: bool) -> None:
    table = columns()
    table["known"] = [at + (3600 if bad else 8 * 3600) for at, bad in zip(table["at"], table["bad"], strict=True)]
    task = spec(label_known="known")
    task = task.model_copy(update={"labels": LabelSpec.model_validate({"maturity": maturity})})
    result = run_backtest(task, [write(tmp_path / "x.csv", table)], None)
    assert ("labels uneven" in [note.kind for note in result.notes]) == told
    assert result.task.labels.metrics_over == ("all known labels" if told else "mature events (maturity = 9h)")
    assert (result.pipeline.joiner.stats.early > 300) != told


@pytest.mark.parametrize("way", ["a delay", "times", "a file of labels"])
@pytest.mark.parametrize("maturity", ["horizon", "none"])
def test_no_event_whose_label_is_known_in_time_is_taken_for_a_0(tmp_path: Path, way: str, maturity: str) -> None:
    """Batches may span more than the horizon: rows of one must not make negatives of what is known before them."""
    table, after = columns(), 8 * 3600.0
    parts = np.random.default_rng(4).uniform(0.01, 0.97, 400) if way != "a delay" else 0.97
    table["at"] = [T0 + 3_000.0 * i for i in range(400)]
    bad = np.array(table["bad"], np.bool_)
    known = (np.array(table["at"]) + after * parts).tolist()
    labels = LabelSpec.model_validate({"maturity": maturity, "join": {"negative_after_s": "8h"}})
    table["bad"] = [int(b) if b else "" for b in bad]
    task = spec(label_delay=0.97 * after, batch_size=512).model_copy(update={"labels": labels})
    given: list[Path] = []
    if way == "times":
        task = spec(label_known="known", batch_size=512).model_copy(update={"labels": labels})
    elif way == "a file of labels":
        task = spec(label=None, batch_size=512).model_copy(update={"labels": labels})
        told = [{"v": 1, "task": "fraud", "entity_id": user, "event_id": event, "ts": at, "value": 1}
                for user, event, at, b in zip(table["user"], table["id"], known, bad, strict=True) if b]  # fmt: skip
        given = [tmp_path / "labels.jsonl"]
        given[0].write_bytes(b"".join(orjson.dumps(label) + b"\n" for label in told))
        del table["bad"]
    path = write(tmp_path / "x.csv", table | {"known": known})
    result = run_backtest(task, [path], labels=given, label_delay_s=0.0 if given else None)
    stats = result.pipeline.joiner.stats
    assert stats.corrections == 0
    assert stats.joined == np.count_nonzero(bad & (np.array(known) <= table["at"][-1]))
    assert stats.assumed_negatives == np.count_nonzero(~bad & (np.array(table["at"]) <= table["at"][-1] - after))


def test_a_label_changes_no_score_before_its_delay_has_passed(tmp_path: Path) -> None:
    table = columns()
    before = scored(tmp_path, write(tmp_path / "x.csv", table))
    flipped = 120
    table["bad"][flipped] = 1 - table["bad"][flipped]
    after = scored(tmp_path, write(tmp_path / "x.csv", table))
    known = table["at"][flipped] + DELAY
    early = np.array(before.column("ts")) < known
    one, two = np.array(before.column("score")), np.array(after.column("score"))
    assert early.sum() > flipped + 5
    assert one[early].tolist() == two[early].tolist()
    assert (one[~early] != two[~early]).any()


def test_silence_on_a_thin_stream_is_learned_as_soon_as_other_labels(tmp_path: Path) -> None:
    """One batch of all rows would be scored before anything is learned, and lose most labels."""
    silence = '[labels.silence]\nscore = "each event"\nhorizon_s = "4d"\n'
    task = TaskSpec.from_toml(TASK.replace('label = "bad"\nlabel_delay = "6h"\n', "") + silence)
    hours = [T0 + 6 * 3600.0 * i for i in range(400)]
    result = run_backtest(task, [write(tmp_path / "x.csv", columns() | {"at": hours})], keep=Keep(outcomes=True))
    assert result.outcomes is not None
    late = result.outcomes.ts > T0 + 6 * 86_400.0
    assert (result.outcomes.version[late] > 0).all()
    stats = result.pipeline.joiner.stats
    assert stats.labels == stats.joined > 350
    assert "labels late" not in [note.kind for note in result.notes]


def test_a_row_without_a_label_is_scored_and_not_learned(tmp_path: Path) -> None:
    table = columns()
    table["bad"] = [v if i % 2 else "" for i, v in enumerate(table["bad"])]
    result = run_backtest(spec(label_delay=0.0), [write(tmp_path / "x.csv", table)], None)
    report = result.report()
    assert report["scored"] == 400
    assert 180 <= report["labelled"] <= 200


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_are_rejected_and_the_rest_is_scored(tmp_path: Path, kind: str) -> None:
    table = columns()
    table["eur"][7], table["eur"][31], table["user"][90] = "few", "much", ""
    result = run_backtest(spec(), [write(tmp_path / f"x.{kind}", table)], tmp_path / "scores.parquet")
    report = result.report()
    assert [r["row"] for r in report["first_rejects"]] == [8, 32, 91]
    assert [r["reason"].split(":")[0] for r in report["first_rejects"]] == ["amount", "amount", "user_id"]
    assert (report["rows"], report["rejected"], report["scored"]) == (400, 3, 397)
    ids = pq.read_table(tmp_path / "scores.parquet").column("event_id").to_pylist()
    assert ids == [e for i, e in enumerate(table["id"]) if i not in (7, 31, 90)]


def test_a_wrong_mapping_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    table = columns(3000)
    table["eur"] = [-1e13] * 3000
    with pytest.raises(TooManyRejects, match=r"rejected, the limit is 50%.*amount is -1e"):
        run_backtest(spec(), [write(tmp_path / "x.csv", table)], tmp_path / "scores.parquet")
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 0


def test_a_small_file_of_bad_rows_only_is_an_error_too(tmp_path: Path) -> None:
    table = columns(20)
    table["eur"] = [-1e13] * 20
    with pytest.raises(TooManyRejects, match=r"x.csv: 20 of 20 rows were rejected.*amount is -1e"):
        run_backtest(spec(), [write(tmp_path / "x.csv", table)], None)


def test_the_report_holds_the_metrics_over_time(tmp_path: Path) -> None:
    report = run_backtest(spec(), [write(tmp_path / "x.csv", columns())], None).report()
    assert orjson.loads(orjson.dumps(report))["task"] == "fraud"
    assert {"cumulative", "rolling", "fading"} == set(report["metrics"])
    assert 0 < report["metrics"]["cumulative"]["roc_auc"] < 1
    assert 300 < report["labelled"] < 400
    times = [point["ts"] for point in orjson.loads(orjson.dumps(report["metrics_over_time"]))]
    assert times == sorted(times)
    assert len(times) >= 3
