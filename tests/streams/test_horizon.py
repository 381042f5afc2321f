"""Memory for labels is shared out fairly, and a horizon that falls short of the task's is measured and told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from weir.online.batch import PredictionBatch
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy
from weir.streams.checks.kafka_checks import too_short
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.kafka.admin.topic_specs import ActualTopic, compare, short_of_horizons, wanted_topics
from weir.streams.ops.metrics import Metrics
from weir.streams.task_files import load_task
from weir.streams.worker.horizon import Horizon

DAY = 86_400.0
FRAUD = Path(__file__).parents[2] / "streams" / "demo" / "tasks" / "fraud.toml"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def log(to: LabelJoiner, start: int, count: int) -> None:
    """One prediction a second, each of which can be read back."""
    ids, ts = [f"e{i}" for i in range(start, start + count)], np.arange(start, start + count, dtype=np.float64)
    batch = PredictionBatch(ids, ids, ts, ts * 0, np.zeros(count, np.int64), np.zeros((count, 1)))
    to.log(batch, offsets=np.arange(start, start + count))


def joiner(**policy: object) -> LabelJoiner:
    return LabelJoiner(JoinPolicy.model_validate({"keep_s": DAY, **policy}), n_features=1)


def test_where_memory_is_short_the_largest_lanes_give_up_their_oldest_and_it_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, metrics, large, small = Clock(), Metrics(), joiner(), joiner()
    horizon = Horizon(1 << 20, metrics, clock)
    log(large, 0, 40_000)
    log(small, 0, 500)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            horizon.look({"fraud": [large, small]})
            log(large, 40_000 + int(clock.now), 10)
            clock.now += 10
    room = (1 << 20) * 3 // 4
    assert len(small) == 500, "who has little gives up nothing"
    assert len(large) * large.row_bytes + len(small) * small.row_bytes <= room
    horizon.look({"fraud": [large, small]})
    assert metrics.gauge("weir_label_horizon_seconds", task="fraud").value == large.horizon_s < DAY
    (said,) = [record.getMessage() for record in caplog.records]
    for part in ("task fraud", "not 1d (keep_s)", "of them a second", f"label_bytes = {1 << 20}", "MB"):
        assert part in said


def test_where_memory_suffices_nothing_leaves_early(caplog: pytest.LogCaptureFixture) -> None:
    metrics, one = Metrics(), joiner()
    log(one, 0, 40_000)
    with caplog.at_level(logging.WARNING):
        Horizon(512 << 20, metrics).look({"fraud": [one]})
    log(one, 40_000, 10)
    assert (len(one), one.cap, caplog.records) == (40_010, None, [])
    assert metrics.gauge("weir_label_horizon_seconds", task="fraud").value == DAY


def test_a_limit_of_the_task_is_named_as_one(caplog: pytest.LogCaptureFixture) -> None:
    one = joiner(max_rows=100)
    log(one, 0, 1_000)
    with caplog.at_level(logging.WARNING):
        Horizon(512 << 20, Metrics()).look({"fraud": [one]})
    assert "max_rows = 100 of [labels.join]" in caplog.text


def test_predictions_that_are_deleted_before_their_labels_come_are_a_finding() -> None:
    there = ActualTopic("predictions", 6, 1, {"retention.ms": str(round(7 * DAY * 1000))})
    (found,) = short_of_horizons({"fraud": 30 * DAY, "churn": 7 * DAY}, there)
    assert (found.topic, found.wanted, found.actual) == ("predictions", "30d or more: keep_s of task fraud", "7d")
    assert "[topics.override.predictions] retention" in found.fix
    assert not found.harmless
    forever = ActualTopic("predictions", 6, 1, {"retention.ms": "-1"})
    assert short_of_horizons({"fraud": np.inf}, forever) == []


def test_rows_that_live_longer_than_what_would_bring_them_back_are_a_harmless_finding() -> None:
    settings, task = Settings(), load_task(FRAUD)
    old = {topics.ENTITY_UPDATES: ActualTopic("entity-updates", 6, 1, {"retention.ms": str(round(60 * DAY * 1000))})}
    found = {d.wanted: d for d in too_short(settings, [task], old)}
    assert "68d or more: rows of fraud.merchant" in found
    assert all(d.harmless and "[topics.override.entity-updates]" in d.fix for d in found.values())
    new = {topics.ENTITY_UPDATES: replace(old[topics.ENTITY_UPDATES], configs={"retention.ms": "5875200000"})}
    assert "68d or more: rows of fraud.merchant" not in {d.wanted for d in too_short(settings, [task], new)}
    (wanted,) = (spec for spec in wanted_topics(settings.topics, 1) if spec.name == topics.ENTITY_UPDATES)
    kept = dict(wanted.configs) | {"retention.ms": str(round(60 * DAY * 1000))}
    (older,) = compare([wanted], {wanted.name: ActualTopic(wanted.name, wanted.partitions, 1, kept)})
    assert (older.wanted, older.actual, older.harmless) == ("68d", "60d", True)
