"""A task whose records may not fit their topics does not start, and none is larger than was said."""

from __future__ import annotations

import numpy as np
import pytest

from weir.online.batch import PredictionBatch, ScoredBatch
from weir.online.codec.encode import encode_model, encode_scored
from weir.online.codec.wire import FEATURE_MAX, REASON_CHARS, Alert, Reason
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.topics import DEFAULT_RECORD_BYTES
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.worker.lanes.update_partition import check_sizes, largest_records

TASK = TaskSpec.from_toml("""
name = "spend"
stream = "user-events"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "seen"
value = "amount"
ops = ["count", "mean", "sum"]
windows = ["1h", "1d", "7d"]
[model]
kind = "logistic"
""")
WIDE = "\U0001f600"
"""Four bytes."""


@pytest.fixture
def stage() -> ScoringStage:
    return ScoringStage(TASK, MemoryFeatureStore(), side=True)


def test_no_record_is_larger_than_what_is_said(stage: ScoringStage) -> None:
    largest, f = largest_records(stage), len(stage.shape.features)
    p = PredictionBatch(
        [WIDE * 64],
        [WIDE * 64],
        np.array([1.7e9 + 1 / 3]),
        np.array([1 / 3]),
        np.array([2**62]),
        np.full((1, f), -FEATURE_MAX / 3),
    )
    w = len(stage.shape.watched)
    scored = ScoredBatch(p, np.full((1, stage.shape.masks), -1e9 / 3), np.full((1, w), -1e9 / 3), {})
    (value,) = encode_scored(scored, stage.shape.features, TASK.name, 1.7e9 + 1 / 3)
    assert len(value) + len(p.entity_id[0].encode()) < largest[topics.PREDICTIONS]
    reason = Reason(feature=WIDE * 64, value=-1e300 / 3, contribution=-1e300 / 3, text=WIDE * REASON_CHARS)
    alert = Alert(
        alert_id=WIDE * 256, task=WIDE * 64, entity_id=WIDE * 64, status="acknowledged", severity="critical",
        score=1 / 3, threshold=1 / 3, reasons=(reason,) * 64, opened_at=1.7e9, updated_at=1.7e9,
        event_ids=(WIDE * 100,) * 1_000,
    )  # fmt: skip
    assert len(encode_model(alert)) < largest[topics.ALERTS]


def test_what_kafka_takes_by_default_is_enough_and_less_is_refused_at_the_start(stage: ScoringStage) -> None:
    check_sizes([stage], dict.fromkeys(topics.ALL, DEFAULT_RECORD_BYTES).__getitem__)
    with pytest.raises(
        UsageError, match=r"task spend: a record of predictions may have \d+ bytes, .* takes 1024: raise"
    ):
        check_sizes([stage], lambda own: 1_024 if own == topics.PREDICTIONS else DEFAULT_RECORD_BYTES)
