"""Timers whose entities come to other lanes: every one fires once, at the time at which it would have fired anyway."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import IntVector
from weir.online.errors import StateError
from weir.online.labels.moves.moved_timers import divided
from weir.online.labels.repeated_silence import DAY_S, EVENT_MARK, AnyTimers, timers_of
from weir.online.labels.silence import SilencePolicy, TimerOutput

Event = tuple[str, float]
Told = tuple[str, str, float, bool | None]
"""Whether it is a score or a label, its id, when it was due or known, and a label's value."""
BEFORE, AFTER = 2, 3
END = 60 * DAY_S


def lane_of(entity: str, of: int) -> int:
    """Those of one lane of before come to several, and those of several to one."""
    number = "abcdef".index(entity)
    return number // 3 if of == BEFORE else number % AFTER


def owners(entities: Sequence[str]) -> IntVector:
    return np.array([lane_of(entity, AFTER) for entity in entities], np.int64)


def told(out: TimerOutput) -> list[Told]:
    scores: list[Told] = [("score", i, t, None) for i, t in zip(out.event_id, out.due_ts.tolist(), strict=True)]
    labels = zip(out.labels.label_id, out.known_at.tolist(), out.labels.value.tolist(), strict=True)
    return scores + [("label", i, t, bool(value)) for i, t, value in labels]


class Lanes:
    """The timers of some lanes; each row is told to the lane of its entity, and one call is one row."""

    def __init__(self, policy: SilencePolicy, of: int) -> None:
        self.policy, self.of, self.told = policy, of, list[Told]()
        self.timers: list[AnyTimers] = [timers_of(policy) for _ in range(of)]

    def advance(self, events: Sequence[tuple[int, Event]]) -> None:
        for number, (entity, ts) in events:
            key = entity if self.policy.on_timers else f"{entity}{EVENT_MARK}e{number}"
            self.told += told(self.timers[lane_of(entity, self.of)].advance([key], np.array([ts])))

    def flush(self) -> None:
        for timers in self.timers:
            self.told += told(timers.flush(END))

    def moved(self, past: Sequence[tuple[int, Event]], again: bool) -> Lanes:
        """As a rebuild moves them: other lanes, whose time is that of their own events; perhaps twice."""
        made = Lanes(self.policy, AFTER)
        made.advance(past)
        made.told = list(self.told)
        parts = divided(self.policy, [timers.snapshot() for timers in self.timers], owners, AFTER)
        if again:
            parts = divided(self.policy, parts, owners, AFTER)
        for timers, part in zip(made.timers, parts, strict=True):
            timers.restore(part, timed=False)
        return made


EVENTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60).map(float)), min_size=1, max_size=30)
FIRST = st.builds(
    lambda observe, horizon, late, remember, reveal: SilencePolicy(
        observe_s=observe, horizon_s=horizon, lateness_s=late, remember_s=remember, reveal=reveal
    ),
    st.integers(1, 12), st.integers(1, 20), st.sampled_from([0.0, 3.0]), st.sampled_from([0.0, 5.0, math.inf]),
    st.sampled_from(["early", "at_horizon"]),
)  # fmt: skip
REPEATED = st.builds(
    lambda score, horizon, late: SilencePolicy(score=score, horizon_s=horizon, lateness_s=late),
    st.sampled_from(["each event", "after 4s", "after 9s"]), st.integers(1, 20), st.sampled_from([0.0, 3.0]),
)  # fmt: skip
DAILY = st.builds(
    lambda horizon, remember: SilencePolicy(score="daily 18:00", horizon_s=horizon * DAY_S / 4, remember_s=remember),
    st.integers(1, 20), st.sampled_from([0.0, DAY_S, 3 * DAY_S, math.inf]),
)  # fmt: skip
POLICIES = st.one_of(FIRST, REPEATED, DAILY)


@settings(max_examples=200, deadline=None)
@given(EVENTS, POLICIES, st.integers(0, 30), st.booleans())
def test_all_is_told_as_by_lanes_that_were_as_many_from_the_start(
    events: list[Event], policy: SilencePolicy, cut: int, again: bool
) -> None:
    """In a stream in the order of time; the lanes' own times differ, as each has its own newest event."""
    every = list(enumerate(_scaled(sorted(events, key=lambda row: row[1]), policy)))
    old, oracle = Lanes(policy, BEFORE), Lanes(policy, AFTER)
    old.advance(every[:cut])
    new = old.moved(every[:cut], again)
    new.advance(every[cut:])
    oracle.advance(every)
    new.flush()
    oracle.flush()
    assert Counter(new.told) == Counter(oracle.told)


@settings(max_examples=200, deadline=None)
@given(EVENTS, POLICIES, st.booleans())
def test_whatever_the_times_of_lanes_nothing_is_told_twice_or_left_out(
    events: list[Event], policy: SilencePolicy, again: bool
) -> None:
    """One lane may be far ahead of the other, where what had fired in it is yet to come in its new one."""
    every = list(enumerate(_scaled(events, policy)))
    old, oracle = Lanes(policy, BEFORE), Lanes(policy, BEFORE)
    for lanes in (old, oracle):
        lanes.advance(every)
    new = old.moved(every, again)
    new.flush()
    oracle.flush()
    assert Counter(new.told) == Counter(oracle.told)


def _scaled(events: list[Event], policy: SilencePolicy) -> list[Event]:
    return [(entity, ts * DAY_S / 7) for entity, ts in events] if policy.daily_s is not None else events


def test_who_came_from_a_lane_that_was_behind_is_forgotten_at_its_own_time() -> None:
    """It was labelled after one that came from a lane ahead, and is to be forgotten before that one."""
    policy = SilencePolicy(observe_s=1, horizon_s=1, remember_s=10)
    ahead, behind = timers_of(policy), timers_of(policy)
    ahead.advance(["a", "x"], np.array([20.0, 22.0]))
    behind.advance(["b"], np.array([1.0]))
    (one,) = divided(policy, [ahead.snapshot(), behind.snapshot()], lambda ids: np.zeros(len(ids), np.int64), 1)
    made = timers_of(policy)
    made.restore(one)
    assert [i for _, i, *_ in told(made.flush(14.0))] == ["b@1", "b@1/silence"]
    # a is held till 32, so its event at 30 begins nothing; b is not, so its own does.
    out = made.advance(["a", "b", "c"], np.array([30.0, 30.0, 31.5]))
    assert out.event_id == ["x@22", "b@30"]


def test_an_entity_that_is_in_two_lanes_counts_once_as_the_one_has_it_that_saw_it_last() -> None:
    """Where producers changed how they partition."""
    policy = SilencePolicy(score="after 5s", horizon_s=10)
    lanes = [timers_of(policy), timers_of(policy)]
    lanes[0].advance(["a", "b"], np.array([1.0, 2.0]))
    lanes[1].advance(["a"], np.array([3.0]))
    (one,) = divided(policy, [of.snapshot() for of in lanes], lambda ids: np.zeros(len(ids), np.int64), 1)
    made = timers_of(policy)
    made.restore(one)
    assert [told(made.flush(at)) for at in (7.0, 8.0)] == [[("score", "b@7", 7.0, None)], [("score", "a@8", 8.0, None)]]


def test_timers_of_another_kind_are_refused() -> None:
    first = SilencePolicy(observe_s=5, horizon_s=10)
    timers = timers_of(SilencePolicy(score="after 5s", horizon_s=10))
    timers.advance(["a"], np.array([1.0]))
    with pytest.raises(StateError, match="timers of silence"):
        divided(first, [timers.snapshot()], owners, AFTER)
