from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.dedupe import Deduper
from online.errors import StateError

events = st.lists(st.tuples(st.integers(0, 12).map(str), st.integers(0, 40).map(float)), max_size=60)


def keep(dedupe: Deduper, rows: list[tuple[str, float]]) -> list[bool]:
    verdicts: list[bool] = dedupe.keep(
        [row[0] for row in rows], np.array([row[1] for row in rows], np.float64)
    ).tolist()
    return verdicts


def oracle(rows: list[tuple[str, float]], capacity: int, window_s: float) -> list[bool]:
    """One event at a time: two generations of at most ``capacity // 2`` ids each."""
    generations: list[dict[str, float]] = [{}, {}]
    verdicts = []
    for event_id, ts in rows:
        seen = next((g[event_id] for g in generations if event_id in g), None)
        verdicts.append(seen is None or abs(ts - seen) > window_s)
        if verdicts[-1]:
            generations[0][event_id] = ts
        if len(generations[0]) == capacity // 2:
            generations = [{}, generations[0]]
    return verdicts


@given(events, st.integers(2, 20), st.integers(0, 30).map(float), st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=300, deadline=None)
def test_agrees_with_one_at_a_time_whatever_the_batch_cuts(
    rows: list[tuple[str, float]], capacity: int, window_s: float, cuts: list[int]
) -> None:
    dedupe = Deduper(capacity, window_s)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    kept = [verdict for a, b in pairwise(edges) for verdict in keep(dedupe, rows[a:b])]
    assert kept == oracle(rows, capacity, window_s)
    whole = Deduper(capacity, window_s)
    keep(whole, rows)
    assert dedupe.snapshot() == whole.snapshot()
    assert len(dedupe) <= capacity


@given(events, events, st.integers(2, 20))
@settings(max_examples=100, deadline=None)
def test_a_restored_memory_continues_the_same(
    before: list[tuple[str, float]], after: list[tuple[str, float]], capacity: int
) -> None:
    straight, restored = Deduper(capacity, 20.0), Deduper(capacity, 20.0)
    keep(straight, before)
    restored.restore(straight.snapshot())
    assert keep(straight, after) == keep(restored, after)
    assert straight.snapshot() == restored.snapshot()


def test_redelivery_within_half_the_capacity_is_always_caught() -> None:
    dedupe = Deduper(capacity=1_000)
    ids = [f"e{i}" for i in range(10_000)]
    ts = np.arange(10_000, dtype=np.float64)
    for start in range(0, 10_000, 250):
        assert dedupe.keep(ids[start : start + 250], ts[start : start + 250]).all()
        again = max(start - 249, 0)
        assert not dedupe.keep(ids[again : start + 250], ts[again : start + 250]).any()
        assert len(dedupe) <= 1_000


def test_an_absurd_time_does_not_empty_the_memory() -> None:
    dedupe = Deduper(capacity=1_000, window_s=60.0)
    assert keep(dedupe, [("a", 0.0), ("b", 4e9), ("c", 4.1e9), ("a", 0.0)]) == [True, True, True, False]


def test_snapshots_of_others_are_refused() -> None:
    state = Deduper(10, 5.0).snapshot()
    with pytest.raises(StateError, match=r"capacity 10, window_s 5.0 does not fit"):
        Deduper(12, 5.0).restore(state)
    with pytest.raises(StateError, match="not a snapshot of a Deduper"):
        Deduper(10, 5.0).restore(b"hello")


def test_settings_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity is 1"):
        Deduper(capacity=1)
    with pytest.raises(ValueError, match="window_s is -1"):
        Deduper(window_s=-1.0)
    with pytest.raises(ValueError, match="1 event_ids and 2 ts"):
        Deduper().keep(["a"], np.zeros(2))
