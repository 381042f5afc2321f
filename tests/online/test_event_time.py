"""Event time: what one sender can do to it, what three can, and that cuts change nothing."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.errors import StateError
from weir.online.event_time import EventTime

HOUR, DAY = 3_600.0, 86_400.0
# Around the step (an hour) and around the jumps that matter: near, ahead, far ahead, of another age.
times = st.one_of(st.integers(0, 9_000), st.sampled_from([-1e9, 1e6, 1e6 + 3_599, 1e6 + 3_601, 2e6, 1e12])).map(float)
events = st.lists(st.tuples(times, st.sampled_from("abcd")), max_size=40)


def columns(rows: list[tuple[float, str]]) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], list[str]]:
    return np.array([ts for ts, _ in rows], dtype=np.float64), [who for _, who in rows]


def of(rows: list[tuple[float, str]]) -> EventTime:
    time = EventTime()
    time.advance(*columns(rows))
    return time


@given(events, st.lists(st.integers(0, 40), max_size=8), st.booleans())
@settings(max_examples=150)
def test_cuts_and_states_change_nothing(rows: list[tuple[float, str]], cuts: list[int], by_newest: bool) -> None:
    """Whole, row by row, in pieces with a state between, and by the newest time where that is enough."""
    ts, who = columns(rows)
    whole, single, pieces = EventTime(), EventTime(), EventTime()
    marks = whole.advance(ts, who)
    assert [single.advance(ts[i : i + 1], who[i : i + 1])[0] for i in range(len(ts))] == marks.tolist()
    edges = [0, *sorted(min(c, len(ts)) for c in cuts), len(ts)]
    for a, b in pairwise(edges):
        if not (by_newest and b > a and pieces.follow(ts[a:b])):
            assert pieces.advance(ts[a:b], who[a:b]).tolist() == marks[a:b].tolist()
        state, pieces = pieces.state(), EventTime()
        pieces.set_state(**state)
    assert pieces.state() == single.state() == whole.state()


@given(events)
def test_one_event_moves_it_by_a_step_at_most_unless_three_said_so(rows: list[tuple[float, str]]) -> None:
    ts, who = columns(rows)
    marks = EventTime().advance(ts, who)
    for i in range(3, len(ts)):
        if marks[i] > marks[i - 1] + HOUR and marks[i - 1] > -math.inf:
            assert np.count_nonzero(ts[: i + 1] >= marks[i]) >= 1
            assert np.count_nonzero(ts[: i + 1] > marks[i - 1] + HOUR) >= 3


@given(events)
def test_without_a_step_it_is_the_largest_time(rows: list[tuple[float, str]]) -> None:
    ts, who = columns(rows)
    assert EventTime(math.inf).advance(ts, who).tolist() == np.maximum.accumulate(ts).tolist()


def test_a_pause_of_70_days_ends_with_the_third_entity() -> None:
    time = of([(60.0 * i, "abc"[i % 3]) for i in range(50)])
    before = time.watermark
    marks = time.advance(*columns([(70 * DAY, "a"), (70 * DAY + 1, "a"), (70 * DAY + 2, "b"), (70 * DAY + 3, "c")]))
    assert marks.tolist() == [before, before, before, 70 * DAY + 3]


def test_the_only_one_left_is_believed_after_two_steps() -> None:
    time = of([(60.0 * i, "abc"[i % 3]) for i in range(50)])
    late = np.array([70 * DAY + 600.0 * i for i in range(20)])
    marks = time.advance(late, ["a"] * 20)
    assert marks[13] < HOUR
    assert marks[14:].tolist() == late[14:].tolist()


@pytest.mark.parametrize("others", [0, 50])
def test_one_that_moved_it_alone_is_refuted_by_the_next_other(others: int) -> None:
    """A device uploads what it kept for days, its clock ahead; nobody else speaks meanwhile, then everybody does."""
    before = [(60.0 * i, "abc"[i % 3]) for i in range(others)]
    time = of([*before, *[(30 * DAY + 4_000.0 * i, "broken") for i in range(9)]])
    assert time.watermark > 30 * DAY
    time.advance(*columns([(3_000.0 + i, "abc"[i % 3]) for i in range(3)]))
    assert time.watermark == 3_002.0


def test_a_device_days_ahead_moves_nothing_while_others_send() -> None:
    rows = [(float(i), "abc"[i % 3]) if i % 4 else (10 * DAY + 5_000.0 * i, "broken") for i in range(2_000)]
    assert of(rows).watermark == 1_999.0


@pytest.mark.parametrize("first", [-26 * 365 * DAY, 75 * 365 * DAY])
def test_a_first_event_of_another_age_is_outvoted(first: float) -> None:
    time = of([(first, "odd"), *[(10.0 * i, f"u{i}") for i in range(5)]])
    assert time.watermark == 40.0


def test_set_watermark_steps_back_and_forgets_claims() -> None:
    time = of([(float(i), "abc"[i % 3]) for i in range(9)] + [(9 * DAY, "x"), (9 * DAY, "y")])
    time.set_watermark(3.0)
    time.advance(*columns([(9 * DAY, "z"), (4.0, "a")]))
    assert time.watermark == 4.0


@pytest.mark.parametrize("state", [b"", b"\xff", msgspec.msgpack.encode({"mark": 1.0}), msgspec.msgpack.encode([1.0])])
def test_what_is_no_snapshot_is_refused(state: bytes) -> None:
    time = of([(1e6, "a"), (1e6, "b"), (1e6, "c")])
    with pytest.raises(StateError, match="not a snapshot of an event time"):
        time.restore(state)
    assert time.watermark == 1e6


def test_a_step_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_step is 0"):
        EventTime(0.0)
