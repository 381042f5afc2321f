"""Rows that come alone are counted some at a time: nobody who looks can tell, at whatever moment."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import ExampleBatch
from weir.online.drift.drift_policy import DriftPolicy
from weir.online.drift.monitor import DriftMonitor
from weir.online.stages.evaluation import Evaluation
from weir.online.task.spec import MetricSpec

N = 600
cuts = st.lists(st.tuples(st.integers(0, N), st.booleans()), max_size=12)


def edges(at: list[tuple[int, bool]]) -> list[tuple[int, int, bool]]:
    """Pieces of the rows, and whether somebody looks after each."""
    ends = [(0, False), *sorted(at), (N, True)]
    return [(a, b, looked) for (a, _), (b, looked) in pairwise(ends)]


@settings(max_examples=15, deadline=None)
@given(at=cuts)
def test_metrics_are_the_same_however_often_they_are_looked_at(at: list[tuple[int, bool]]) -> None:
    rng = np.random.default_rng(0)
    names, ts = [f"e{i % 550}" for i in range(N)], 1e9 + 900.0 * np.arange(N, dtype=np.float64)
    y, again = rng.random(N) < 0.3, np.arange(N) >= 550
    score, one = rng.random(N), np.ones(N)
    rows = ExampleBatch(names, ts, np.zeros((N, 1)), score, y, one, again, entity_id=["u"] * N)
    whole, parts = Evaluation(MetricSpec()), Evaluation(MetricSpec())
    whole.update(rows, 0.5 * one)
    for a, b, looked in edges(at):
        parts.update(rows.slice(a, b), 0.5 * one[a:b])
        if looked:
            state = parts.snapshot()
            parts = Evaluation(MetricSpec())
            parts.restore(state)
            assert parts.rolling() == parts.get()["rolling"]
    assert parts.snapshot() == whole.snapshot()
    assert parts.points() == whole.points()


@settings(max_examples=15, deadline=None)
@given(at=cuts)
def test_drift_is_found_at_the_same_row_however_often_its_state_is_stored(at: list[tuple[int, bool]]) -> None:
    policy = DriftPolicy(reference_days=0, block_events=16)
    ts = np.arange(float(8 * N))
    value = np.random.default_rng(0).normal(np.where(ts < 5 * N, 0.0, 3.0))
    whole, parts = DriftMonitor({"v": "feature"}, policy), DriftMonitor({"v": "feature"}, policy)
    expected, found = whole.update(ts, value[:, None]), []
    for a, b, looked in edges(at):
        made = parts.update(ts[8 * a : 8 * b], value[8 * a : 8 * b, None])
        assert all(8 * a <= each.ts < 8 * b for each in made)
        found += made
        if looked:
            state = parts.snapshot()
            parts = DriftMonitor({"v": "feature"}, policy)
            parts.restore(state)
    assert found == expected != []
    assert parts.snapshot() == whole.snapshot()
