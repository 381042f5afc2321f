"""A task that is tuned between two runs: what still fits is kept, the rest begins anew and says so, nothing stops."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.online.stages_apart import Logged, labelling_of, logged
from tests.online.task_streams import FRAUD
from weir.online.batch import LabelBatch, ScoredBatch
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.stages.labelling import LabellingStage, LabelOutput
from weir.online.stages.scoring import ScoringStage
from weir.online.stages.stateful import MEANING
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.worker.lanes.lane_outputs import prediction_columns

DRIFT: Final = frozenset({"drift", "rate_drift"})
NONE: Final = frozenset[str]()
TUNED: Final[dict[str, tuple[dict[str, Any], frozenset[str]]]] = {
    "threshold: budget": ({"threshold": {"kind": "budget", "alerts_per_day": 5}}, frozenset({"threshold"})),
    "threshold: cost": (
        {"threshold": {"kind": "cost", "false_positive": 1, "false_negative": 9}},
        frozenset({"threshold"}),
    ),
    "threshold: fixed": ({"threshold": {"kind": "fixed", "value": 0.7}}, frozenset({"threshold"})),
    "threshold: bins": (
        {"threshold": {"kind": "precision", "precision": 0.4, "bins": 64}},
        frozenset({"threshold"}),
    ),
    "threshold: precision": (
        {"threshold": {"kind": "precision", "precision": 0.6, "min_labels": 9}},
        NONE,
    ),
    "drift: block": ({"drift": {"block_events": 16}}, DRIFT),
    "drift: delta": ({"drift": {"adwin_delta": 0.01}}, DRIFT),
    "drift: windows": ({"drift": {"kswin_window_blocks": 16, "kswin_recent_blocks": 4}}, DRIFT),
    "drift: cooldown": ({"drift": {"cooldown_s": 60.0}}, DRIFT),
    "drift: off": ({"drift": False}, NONE),
    "watch": ({"watch": ["amount", "ratio"]}, frozenset({"drift"})),
    "metrics: rolling": ({"metrics": {"rolling": 50}}, frozenset({"evaluation"})),
    "metrics: fading": ({"metrics": {"fading": 50}}, frozenset({"evaluation"})),
    "metrics: every": ({"metrics": {"every": 3600.0}}, frozenset({"evaluation"})),
    "alerts": ({"alerts": {"resolve_after_s": 60.0, "cooldown_s": 0.0, "max_open": 5, "remember_events": 3}}, NONE),
    "alerting": ({"alerting": False}, NONE),
    "reasons": ({"reasons": {"top": 1}}, NONE),
    "wording": ({"wording": {"user.*": "{value} now"}}, NONE),
    "retrain": ({"retrain": {"after_labels": 7, "cooldown": 60.0, "on_drift": False}}, NONE),
    "description": ({"description": "tuned"}, NONE),
    "types": ({"types": ["purchase"]}, NONE),
    "labels: negatives": ({"labels": {"negative_rate": 0.1, "join": {"keep_s": 86_400.0, "chunk_rows": 16}}}, NONE),
    "labels: waits": (
        {"labels": {"join": {"keep_s": 259_200.0, "wait_s": 60.0, "negative_after_s": 3600.0, "chunk_rows": 16}}},
        NONE,
    ),
    "labels: caps": (
        {"labels": {"join": {"max_rows": 64, "max_waiting": 4, "remember_labels": 4, "chunk_rows": 16}}},
        NONE,
    ),
    "labels: pieces": ({"labels": {"join": {"chunk_rows": 32}}}, NONE),
    "labels: by range": ({"labels": {"join": {"match": "entity_range", "range_s": 60.0}}}, frozenset({"joiner"})),
}  # fmt: skip
"""Every table of a task file that can be tuned with the same features, and the parts that begin anew."""


def tuned(change: dict[str, Any]) -> TaskSpec:
    before = TaskSpec.from_toml(FRAUD).model_dump(exclude_unset=True)
    return TaskSpec.model_validate({**before, **change})


def feed(stage: LabellingStage, item: Logged) -> LabelOutput:
    return stage.scored(item) if isinstance(item, ScoredBatch) else stage.labels(item)


@pytest.mark.parametrize("name", TUNED)
def test_a_tuned_task_goes_on_with_what_fits_and_says_what_begins_anew(name: str) -> None:
    change, expected = TUNED[name]
    log = logged(5)
    before, after = labelling_of(TaskSpec.from_toml(FRAUD)), labelling_of(tuned(change))
    for item in log[: len(log) // 2]:
        feed(before, item)
    blank = {part: of.snapshot() for part, of in after.parts().items()}
    anew = after.restore(before.snapshot())
    assert {each.part for each in anew} == expected
    for each in anew:
        assert MEANING[each.part] in str(each)
        assert after.parts()[each.part].snapshot() == blank[each.part], "half of what did not fit was left in place"
    for item in log[len(log) // 2 :]:
        feed(after, _without_watched(item, after))
    assert after.counts.labelled > before.counts.labelled
    again = labelling_of(tuned(change))
    assert not again.restore(after.snapshot()), "from now on it fits"


def _without_watched(item: Logged, stage: LabellingStage) -> Logged:
    """A batch as it is decoded for a task that watches other columns."""
    if isinstance(item, LabelBatch):
        return item
    width = len(stage.task.watch) if stage.task.watch else item.watched.shape[1]
    if width == item.watched.shape[1]:
        return item
    shape = _shape(stage.task)
    raw = _records(item)
    return decode_scored(raw, {"fraud": shape}).tasks["fraud"].scored


def _stage(task: TaskSpec) -> ScoringStage:
    return ScoringStage(task, MemoryFeatureStore(), side=True)


def _shape(task: TaskSpec) -> ScoredShape:
    s = _stage(task).shape
    return ScoredShape(s.features, s.masks, len(s.watched), s.secondary)


def _records(item: ScoredBatch) -> list[bytes]:
    columns = prediction_columns(_stage(TaskSpec.from_toml(FRAUD)), item, 1.7e9)
    return [columns.record(row).value for row in range(len(columns))]


def test_predictions_that_watched_other_columns_are_used_without_them() -> None:
    item = next(item for item in logged(5) if isinstance(item, ScoredBatch) and len(item) > 1)
    for change in ({"drift": False}, {"watch": ["amount", "ratio"]}):
        found = decode_scored(_records(item), {"fraud": _shape(tuned(change))})
        assert not found.rejects
        scored = found.tasks["fraud"].scored
        assert scored.predictions.features.tobytes() == item.predictions.features.tobytes()
        assert scored.watched.shape == (len(item), _shape(tuned(change)).watched)
