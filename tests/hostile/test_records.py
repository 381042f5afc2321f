"""What `benchmarks/torture` calls a record that nobody can use is refused, and what it calls usable is not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.torture.good import GoodTraffic, Shot
from benchmarks.torture.hostile import HOSTILE, HostileTraffic
from benchmarks.torture.torture_run import TASK_FILE
from weir.online.codec.decode import decode_labels, decode_user_events
from weir.online.codec.limits import InputLimits
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.column_plan import columns_of
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.task_files import load_task

NOW = 1.8e9
BY_SIZE = ("oversized", "bombs")
"""Kinds that the transport refuses, before anything is decoded."""
BY_TIME = ("clocks", "future labels")
"""Kinds that are refused where a clock is."""


def shots(kind: str, seed: int = 5, count: int = 60) -> list[Shot]:
    good = GoodTraffic(seed)
    list(good.until(NOW, 30_000))
    hostile = HostileTraffic(seed, good, partitions=4)
    hostile.now = NOW
    return [shot for _ in range(count) for shot in HOSTILE[kind][0](hostile)]


def verdict(shot: Shot) -> str:
    """What one record alone gets, by its values: ``letter`` or ``scored``."""
    if shot.topic == topics.LABELS:
        return "letter" if decode_labels([shot.value]).rejects else "scored"
    task = load_task(TASK_FILE)
    return "letter" if decode_user_events([shot.value], columns_of(task)).rejects else "scored"


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in (*BY_SIZE, *BY_TIME, "forged", "repeats")])
def test_a_record_is_refused_if_and_only_if_it_says_so(kind: str) -> None:
    for shot in shots(kind):
        if shot.expect != "any":
            assert verdict(shot) == shot.expect, shot.value[:300]


@pytest.mark.parametrize("kind", BY_SIZE)
def test_what_is_too_large_is_larger_than_the_limit(kind: str) -> None:
    (shot,) = shots(kind, count=1)
    assert len(shot.value) > InputLimits().record_bytes
    assert shot.expect == "letter"


def test_every_kind_goes_through_a_pipeline_and_leaves_finite_scores() -> None:
    task = load_task(TASK_FILE)
    pipeline, intake = TaskPipeline(task, MemoryFeatureStore()), Admission(IntakePolicy())
    good = GoodTraffic(3)
    hostile = HostileTraffic(3, good, partitions=4)
    scored = 0
    for second in range(12):
        made = [*good.until(NOW + second, 300), *hostile.until(NOW + second, 100)]
        events = [s.value for s in made if s.topic == topics.USER_EVENTS and s.kind not in BY_SIZE]
        decoded = decode_user_events(events, columns_of(task))
        admitted = intake.admit(decoded.batch, np.full(len(decoded.batch), NOW + second))
        out = pipeline.events(admitted.batch)
        assert out.predictions is not None
        assert np.isfinite(out.predictions.score).all()
        assert np.isfinite(out.predictions.features).all()
        scored += len(out.predictions)
        labels = decode_labels([s.value for s in made if s.topic == topics.LABELS])
        if (own := labels.by_task().get(task.name)) is not None:
            pipeline.labels(own)
    assert scored > 12 * 300


def test_the_same_seed_sends_the_same_records() -> None:
    def draw() -> list[Shot]:
        good = GoodTraffic(4)
        hostile = HostileTraffic(4, good, partitions=4)
        return [shot for at in range(3) for shot in (*good.until(NOW + at, 50), *hostile.until(NOW + at, 50))]

    assert draw() == draw()
