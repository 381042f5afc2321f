"""What a backtest collects: outcomes, alerts, features. All follow from the pipeline's steps, however rows are cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import weir.streams.backtest.runner
from tests.streams.payment_runs import DELAY, TASK, columns, write
from weir.online.batch import EventBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep, Outcomes
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.outputs import records_of

ALL = Keep(outcomes=True, alerts=True, features=True, reasons=True)
FIXED = 'kind = "fixed"\nvalue = 0.6'
VARIANTS = {
    "delay": TASK,
    "silent negatives": TASK + '[labels.join]\nnegative_after_s = "5h"\n',
    "maturity": TASK + '[labels]\nmaturity = "9h"\n',
    "budget": TASK.replace(FIXED, 'kind = "budget"\nalerts_per_day = 20\nmin_scores = 50\nmin_days = 0.1'),
    "timers": TASK.replace('label = "bad"\nlabel_delay = "6h"\n', "")
    + '[labels.silence]\nhorizon_s = "3h"\nscore = "each event"\n',
}  # fmt: skip


class Watched(TaskPipeline):
    """Keeps every step of the newest one."""

    newest: Watched

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.steps: list[StepOutput] = []
        Watched.newest = self

    def _kept(self, out: StepOutput) -> StepOutput:
        self.steps.append(out)
        return out

    def events(self, batch: EventBatch) -> StepOutput:
        return self._kept(super().events(batch))

    def labels(self, *args: Any) -> StepOutput:
        return self._kept(super().labels(*args))

    def advance(self, now: float) -> StepOutput:
        return self._kept(super().advance(now))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(weir.streams.backtest.runner, "TaskPipeline", Watched)
    return Watched


def outcomes_of(result: BacktestResult) -> Outcomes:
    assert result.outcomes is not None
    return result.outcomes


def same(a: Outcomes, b: Outcomes) -> bool:
    return bool(a.table().equals(b.table()))


@pytest.mark.parametrize("kind", VARIANTS)
def test_outcomes_are_what_the_run_did(tmp_path: Path, watched: type[Watched], kind: str) -> None:
    """Every score in order with its line; of labels those that were told, the last one of each event."""
    result = run_backtest(TaskSpec.from_toml(VARIANTS[kind]), [write(tmp_path / "x.csv", columns())], keep=ALL)
    steps, kept = watched.newest.steps, outcomes_of(result)
    scored = [(out.predictions, out.thresholds) for out in steps if out.predictions is not None]
    assert len(scored) > 20
    assert kept.event_id == [event for p, _ in scored for event in p.event_id]
    assert kept.threshold.tolist() == [line for _, lines in scored if lines is not None for line in lines.tolist()]
    told: dict[tuple[str, str], tuple[float, float]] = {}
    for joined in (j for out in steps for j in out.told):
        rows = zip(joined.entity_id, joined.examples.event_id, joined.examples.y, joined.label_ts_known, strict=True)
        told |= {(entity, event): (float(y), at) for entity, event, y, at in rows}
    assert len(told) > 100
    nothing = (np.nan, np.nan)
    label, known_at = np.array([told.get(key, nothing) for key in zip(kept.entity_id, kept.event_id, strict=True)]).T
    np.testing.assert_array_equal(kept.label, label)
    assert (kept.known_at[kept.labelled] >= known_at[kept.labelled]).all()
    delay = DELAY if kind in ("delay", "maturity", "budget") else 0.0
    assert (kept.known_at[kept.labelled] >= kept.ts[kept.labelled] + delay).all()
    over = kept.score >= kept.threshold
    assert not (kept.alerted & ~over).any()
    assert kept.alerted.sum() > 5
    assert kept.alert_ids.is_valid().to_pylist() == over.tolist()


@settings(max_examples=5, deadline=None)
@given(size=st.integers(1, 100), seed=st.integers(0, 3), kind=st.sampled_from(["budget", "silent negatives"]))
def test_blocks_do_not_matter(tmp_path_factory: pytest.TempPathFactory, size: int, seed: int, kind: str) -> None:
    """Rows are handed on in blocks; of whatever size, the outcomes, alerts and features are the same."""
    path, task = write(tmp_path_factory.mktemp("x") / "x.csv", columns(200, seed)), TaskSpec.from_toml(VARIANTS[kind])
    whole = run_backtest(task, [path], keep=ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weir.streams.backtest.run_outputs._BLOCK_ROWS", size)
        cut = run_backtest(task, [path], keep=ALL)
    assert same(outcomes_of(whole), outcomes_of(cut))
    assert whole.alert_log is not None
    assert cut.alert_log is not None
    assert [*whole.alert_log.lines()] == [*cut.alert_log.lines()]
    assert whole.features is not None
    assert cut.features is not None
    assert whole.features.equals(cut.features)


def test_the_last_label_of_an_event_counts(tmp_path: Path) -> None:
    """First a negative because nothing was said, later a positive that corrects it."""
    table = columns(300)
    result = run_backtest(
        TaskSpec.from_toml(VARIANTS["silent negatives"]), [write(tmp_path / "x.csv", table)], keep=ALL
    )
    kept = outcomes_of(result)
    assert result.pipeline.joiner.stats.corrections > 20
    bad = np.array(table["bad"]) == 1
    old = kept.ts + DELAY <= kept.ts[-1] - 3600  # by then all labels are known
    assert (kept.label[old] == bad[old]).all()
    assert (kept.known_at[old & bad] >= kept.ts[old & bad] + DELAY).all()
    assert (kept.known_at[old & ~bad] < kept.ts[old & ~bad] + DELAY).all()


def test_alerts_and_features_are_the_records_that_live_appends(tmp_path: Path, watched: type[Watched]) -> None:
    path = write(tmp_path / "x.csv", columns())
    task = TaskSpec.from_toml(VARIANTS["budget"])
    alerts, features = tmp_path / "alerts.jsonl", tmp_path / "features.parquet"
    result = run_backtest(task, [path], alerts=alerts, features=features, keep=Keep(outcomes=True))
    pipeline = watched.newest
    live = [records_of(out, pipeline, 1.8e9) for out in pipeline.steps]
    sent = [record.value for made in live for record in made.get(topics.ALERTS, ())]
    lines = alerts.read_bytes().splitlines()
    assert len(sent) == len(lines) > 20
    assert [re.sub(rb',"outcome":(null|"\w+")}$', b"}", line) for line in lines] == sent
    logged = [orjson.loads(record.value) for made in live for record in made.get(topics.PREDICTIONS, ())]
    table = pq.read_table(features)
    assert table.column_names == ["event_id", "entity_id", "ts", *result.pipeline.features]
    for row, record in zip(table.to_pylist(), logged, strict=True):
        ids = {name: row.pop(name) for name in ("event_id", "entity_id", "ts")}
        assert ids == {name: record[name] for name in ids}
        # repr tells -0.0, which stands for missing, from 0.0.
        assert repr(row) == repr(record["features"])


def test_an_alert_has_the_outcome_that_its_events_have(tmp_path: Path) -> None:
    result = run_backtest(
        TaskSpec.from_toml(TASK), [write(tmp_path / "x.csv", columns(900))], keep=ALL, alerts=tmp_path / "a.parquet"
    )
    kept, last = outcomes_of(result), pq.read_table(tmp_path / "a.parquet")
    alerted = kept.take(kept.alerted)
    of: dict[str, list[float]] = {}
    for alert_id, label in zip(alerted.alert_ids.to_pylist(), alerted.label.tolist(), strict=True):
        of.setdefault(alert_id, []).append(label)
    said = dict(zip(last["alert_id"].to_pylist(), last["outcome"].to_pylist(), strict=True))
    assert said.keys() == of.keys()
    assert {*said.values()} == {"confirmed", "false_alarm", None}
    for alert_id, labels in of.items():
        negative = "false_alarm" if not any(np.isnan(labels)) else None
        assert said[alert_id] == ("confirmed" if 1.0 in labels else negative)


def test_scores_keep_their_first_columns(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    result = run_backtest(TaskSpec.from_toml(TASK), [write(tmp_path / "x.csv", columns())], path)
    table, kept = pq.read_table(path), outcomes_of(result)
    assert table.column_names[:6] == ["event_id", "entity_id", "ts", "task", "score", "model_version"]
    assert table["label"].null_count == int((~kept.labelled).sum()) > 0
    reasons = table["reasons"].to_pylist()
    assert [said is not None for said in reasons] == (kept.score >= kept.threshold).tolist()
    assert all(said for said in reasons if said is not None)


def test_rows_are_taken_by_place_and_by_truth(tmp_path: Path) -> None:
    kept = outcomes_of(run_backtest(TaskSpec.from_toml(TASK), [write(tmp_path / "x.csv", columns(50))], keep=ALL))
    some = np.arange(len(kept)) % 3 == 0
    assert same(kept.take(some), kept.take(np.flatnonzero(some)))
    assert kept.take(np.array([4, 2])).event_id == ["e4", "e2"]


def test_nothing_scored_gives_no_rows(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK.replace('entity = "user"', 'entity = "user"\ntypes = ["refund"]', 1))
    result = run_backtest(task, [write(tmp_path / "x.csv", columns(30))], tmp_path / "s.parquet", keep=ALL)
    assert len(outcomes_of(result)) == pq.read_table(tmp_path / "s.parquet").num_rows == 0


def test_a_run_ends_where_it_is_asked_to(tmp_path: Path) -> None:
    """Every file is whole and holds exactly what was scored by then."""
    path, asked = write(tmp_path / "x.csv", columns()), iter([False] * 10 + [True])
    result = run_backtest(
        TaskSpec.from_toml(TASK), [path], tmp_path / "s.parquet", features=tmp_path / "f.parquet",
        alerts=tmp_path / "a.jsonl", stop=lambda: next(asked),
    )  # fmt: skip
    assert result.stopped
    assert 0 < result.rows < 400
    for name in ("s", "f"):
        assert pq.read_table(tmp_path / f"{name}.parquet")["event_id"].to_pylist() == columns()["id"][: result.rows]
    assert len((tmp_path / "a.jsonl").read_bytes().splitlines()) == result.alert_records


@pytest.mark.parametrize("field", ["country", "user_id", "amount", "shop"])
def test_a_field_is_kept_with_each_outcome(tmp_path: Path, field: str) -> None:
    """One of the task, or a column of the file that [source] does not feed; it changes no score."""
    table = columns(100) | {"land": ["at", "de", "", "fr"] * 25, "shop": ["a", "b"] * 50}
    path = write(tmp_path / "x.csv", table)
    text = TASK.replace('amount = "eur"', 'amount = "eur", country = "land"')
    plain = outcomes_of(run_backtest(TaskSpec.from_toml(text), [path], keep=ALL))
    kept = outcomes_of(run_backtest(TaskSpec.from_toml(text), [path], keep=Keep(outcomes=True, field=field)))
    assert kept.score.tolist() == plain.score.tolist()
    column = {"country": "land", "user_id": "user", "amount": "eur"}.get(field, field)
    wanted = [f"{value:g}" if isinstance(value, float) else value or None for value in table[column]]
    assert kept.values.to_pylist() == wanted


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("output", ["scores", "alerts", "features"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, output: str) -> None:
    (full := tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(UsageError, match=r"/full cannot be written: .*No space left on device.*; check its rights"):
        run_backtest(TaskSpec.from_toml(TASK), [write(tmp_path / "x.csv", columns())], **{output: full})  # type: ignore[arg-type]
