from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online.dedupe import Deduper, Kept, pack, unpack
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


def restored(other: Deduper) -> Deduper:
    dedupe = Deduper(other.capacity, other.window_s)
    dedupe.restore(other.snapshot())
    return dedupe


@given(events, events, st.integers(2, 20))
@settings(max_examples=100, deadline=None)
def test_a_restored_memory_continues_the_same(
    before: list[tuple[str, float]], after: list[tuple[str, float]], capacity: int
) -> None:
    straight = Deduper(capacity, 20.0)
    keep(straight, before)
    other = restored(straight)
    assert keep(straight, after) == keep(other, after)
    assert straight.snapshot() == other.snapshot()


def contents(parts: list[Kept]) -> list[tuple[int, list[str], list[float]]]:
    return [(part.generation, part.ids, part.ts.tolist()) for part in parts]


@given(events, events, st.integers(2, 20), st.integers(0, 30).map(float), st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=300)
def test_a_memory_rebuilt_from_its_journal_is_the_same(
    before: list[tuple[str, float]], after: list[tuple[str, float]], capacity: int, window_s: float, cuts: list[int]
) -> None:
    straight, journalled = Deduper(capacity, window_s), Deduper(capacity, window_s, journal=True)
    edges = [0, *sorted(min(cut, len(before)) for cut in cuts), len(before)]
    parts: list[Kept] = []
    for k, (a, b) in enumerate(pairwise(edges)):
        assert keep(straight, before[a:b]) == keep(journalled, before[a:b])
        if k % 2:  # several batches may go by before it is taken
            parts += journalled.take_journal()
    parts += journalled.take_journal()
    assert journalled.take_journal() == []

    oldest = journalled.generation - 1
    needed = [unpack(pack(part)) for part in parts if part.generation >= oldest]
    for kept in (needed, parts):
        rebuilt = Deduper(capacity, window_s, journal=True)
        rebuilt.keep(["x", "y"], np.array([1.0, 2.0]))
        rebuilt.rebuild(kept)
        assert (rebuilt.snapshot(), rebuilt.generation) == (straight.snapshot(), journalled.generation)
        assert keep(rebuilt, after) == keep(restored(straight), after)
    keep(journalled, after)
    assert contents(rebuilt.take_journal()) == contents(journalled.take_journal())
    assert rebuilt.snapshot() == journalled.snapshot()


def test_the_journal_is_cut_where_generations_turn() -> None:
    dedupe = Deduper(capacity=4, journal=True)
    keep(dedupe, [("a", 0.0), ("a", 1.0), ("b", 2.0), ("c", 3.0)])
    keep(dedupe, [("c", 3.5), ("d", 4.0), ("e", 5.0)])
    parts = [(0, ["a", "b"], [0.0, 2.0]), (1, ["c", "d"], [3.0, 4.0]), (2, ["e"], [5.0])]
    assert contents(dedupe.take_journal()) == parts
    assert (dedupe.generation, dedupe.take_journal()) == (2, [])


def test_the_journal_does_not_follow_the_callers_array() -> None:
    dedupe, ts = Deduper(journal=True), np.array([1.0])
    dedupe.keep(["a"], ts)
    ts[0] = 9.0
    assert contents(dedupe.take_journal()) == [(0, ["a"], [1.0])]


def test_a_journal_after_a_restore_holds_everything_that_is_remembered() -> None:
    straight, restored = Deduper(4), Deduper(4, journal=True)
    keep(straight, [(name, float(i)) for i, name in enumerate("abcdefg")])
    restored.restore(straight.snapshot())
    keep(restored, [("h", 8.0)])
    rebuilt = Deduper(4)
    rebuilt.rebuild(restored.take_journal())
    assert rebuilt.snapshot() == restored.snapshot()


@pytest.mark.parametrize("capacity", [2, 6, 40])
def test_a_memory_of_another_capacity_is_rebuilt_as_far_as_it_goes(capacity: int) -> None:
    written = Deduper(10, journal=True)
    keep(written, [(f"e{i}", float(i)) for i in range(18)])
    parts = written.take_journal()
    rebuilt = Deduper(capacity, journal=True)
    rebuilt.rebuild(parts)
    assert len(rebuilt) <= capacity
    assert keep(rebuilt, [("e17", 17.0), ("new", 18.0)]) == [False, True]
    assert rebuilt.take_journal()[0].generation >= parts[-1].generation


def test_what_is_no_journal_is_refused() -> None:
    with pytest.raises(ValueError, match="keeps no journal"):
        Deduper().take_journal()
    for wrong in (b"", b"hello", pack(Kept(1, ["a"], np.zeros(2))), Deduper(10).snapshot()):
        with pytest.raises(StateError, match="not a part of a Deduper's journal"):
            unpack(wrong)


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
