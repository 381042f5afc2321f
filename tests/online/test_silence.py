"""Event-time timers against a brute-force reading of the whole stream."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.errors import StateError
from weir.online.labels.silence import SilencePolicy, SilenceTimers, TimerOutput

Event = tuple[str, float]
FLUSH = 10_000.0


def fired(out: TimerOutput, offset: int) -> list[tuple[Any, ...]]:
    """Everything that fired: (row, what, event id, value, time); of a label no row is told."""
    scores = zip(out.before_row + offset, out.event_id, out.due_ts, strict=True)
    labels = zip(out.labels.event_id, out.labels.value, out.known_at, strict=True)
    rows: list[tuple[Any, ...]] = [(int(r), "score", e, None, float(t)) for r, e, t in scores]
    return rows + [(None, "label", e, bool(v), float(t)) for e, v, t in labels]


def by_kind(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Scores in order, then labels in order."""
    return sorted(rows, key=lambda row: row[1] == "label")


def run(timers: SilenceTimers, events: list[Event], cuts: set[int], snapshots: bool = False) -> list[tuple[Any, ...]]:
    out: list[tuple[Any, ...]] = []
    edges = [0, *sorted(c for c in cuts if 0 < c < len(events)), len(events)]
    for start, end in itertools.pairwise(edges):
        part = events[start:end]
        out += fired(timers.advance([e for e, _ in part], np.array([t for _, t in part], dtype=np.float64)), start)
        if snapshots:
            state, timers = timers.snapshot(), SilenceTimers(timers.policy)
            timers.restore(state)
    return by_kind(out + fired(timers.flush(FLUSH), len(events)))


def expected(events: list[Event], policy: SilencePolicy) -> list[tuple[Any, ...]]:
    """Per entity, with the whole stream in view and nothing forgotten."""
    marks = list(np.maximum.accumulate([t for _, t in events])) if events else []

    def first_row_at(time: float) -> int:
        return next((row for row, mark in enumerate(marks) if mark >= time), len(events))

    out: list[tuple[Any, ...]] = []
    for entity in {e for e, _ in events}:
        own = [(row, t) for row, (e, t) in enumerate(events) if e == entity]
        started = [(row, t) for row, t in own if t + policy.observe_s > marks[row]]
        if not started:
            continue
        row, first = started[0]
        due = first + policy.observe_s
        end = due + policy.horizon_s
        name, close = f"{entity}@{first:.0f}", first_row_at(end + policy.lateness_s)
        out.append(((first_row_at(due), 0, due, 0, row), "score", name, None, due))
        back = [r for r, t in own if due <= t < end and r > row]
        open_ = [r for r in back if r < close]
        if open_ and policy.reveal == "early":
            out.append(((open_[0], 1), "label", name, False, marks[open_[0]]))
            continue
        known = end + policy.lateness_s
        out.append(((close, 0, known, 1, row), "label", name, not open_, known))
        if back and not open_:
            out.append(((back[0], 1), "label", name, False, marks[back[0]]))
    ordered = sorted(out, key=lambda item: item[0])
    return by_kind([(key[0] if what == "score" else None, what, *rest) for key, what, *rest in ordered])


EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60).map(float)), max_size=25)
POLICIES = st.builds(
    SilencePolicy,
    observe_s=st.integers(1, 12),
    horizon_s=st.integers(1, 20),
    reveal=st.sampled_from(["early", "at_horizon"]),
    lateness_s=st.sampled_from([0.0, 3.0]),
)
CUTS = st.sets(st.integers(1, 24))


@settings(max_examples=150, deadline=None)
@given(st.one_of(EVENTS, EVENTS.map(lambda rows: sorted(rows, key=lambda row: row[1]))), POLICIES, CUTS)
def test_timers_fire_as_a_reading_of_the_whole_stream_says(
    events: list[Event], policy: SilencePolicy, cuts: set[int]
) -> None:
    assert run(SilenceTimers(policy), events, cuts) == expected(events, policy)


@settings(max_examples=100, deadline=None)
@given(EVENTS, POLICIES, CUTS, CUTS, st.sampled_from([0.0, 5.0, math.inf]), st.integers(1, 4))
def test_forgetting_does_not_depend_on_cuts_or_snapshots(
    events: list[Event], policy: SilencePolicy, cuts: set[int], other: set[int], remember_s: float, most: int
) -> None:
    policy = policy.model_copy(update={"remember_s": remember_s, "max_entities": most})
    out = run(SilenceTimers(policy), events, cuts)
    assert run(SilenceTimers(policy), events, other) == out
    assert run(SilenceTimers(policy), events, other, snapshots=True) == out
    scores = [row[2] for row in out if row[1] == "score"]
    assert {row[2] for row in out if row[1] == "label"} == set(scores), "each score gets its label"
    due = {row[2]: row[4] for row in out if row[1] == "score"}
    assert all(row[4] >= due[row[2]] for row in out if row[1] == "label"), "no label is known before its score"


def test_a_forgotten_entity_starts_again_and_a_remembered_one_does_not() -> None:
    events = [("a", 0.0), ("b", 50.0), ("a", 60.0), ("b", 500.0)]
    once = SilenceTimers(SilencePolicy(observe_s=5, horizon_s=10))
    again = SilenceTimers(SilencePolicy(observe_s=5, horizon_s=10, remember_s=20))
    assert [r[2] for r in run(once, events, set()) if r[1] == "score"] == ["a@0", "b@50"]
    assert [r[2] for r in run(again, events, set()) if r[1] == "score"] == ["a@0", "b@50", "a@60", "b@500"]
    assert len(again) == 0


def test_the_timers_of_an_evicted_observation_do_not_touch_the_next() -> None:
    timers = SilenceTimers(SilencePolicy(observe_s=1, horizon_s=1, remember_s=10, max_entities=1))
    # a is evicted by b and comes back; its first observation would be forgotten at 12, its second is at 18.
    out = run(timers, [("a", 0.0), ("b", 3.0), ("a", 6.0), ("a", 13.0)], set())
    assert [row[2] for row in out if row[1] == "score"] == ["a@0", "b@3", "a@6"]


def test_memory_is_bounded() -> None:
    timers = SilenceTimers(SilencePolicy(observe_s=5, horizon_s=10, max_entities=100))
    ids = [f"u{i}" for i in range(3000)]
    timers.advance(ids, np.arange(3000.0))
    assert len(timers) == 100
    assert timers.stats.refused == 0
    assert timers.stats.evicted == 2900
    crowd = SilenceTimers(SilencePolicy(observe_s=5, horizon_s=10, max_entities=100))
    crowd.advance(ids, np.zeros(3000))
    assert crowd.stats.refused == 2900
    assert len(crowd.flush(5.0).event_id) == 100


def test_policies_read_durations_and_refuse_nonsense() -> None:
    assert SilencePolicy.model_validate({"observe_s": "5d", "horizon_s": "10d"}).horizon_s == 864_000.0
    with pytest.raises(ValueError, match="greater than 0"):
        SilencePolicy(observe_s=0, horizon_s=1)
    with pytest.raises(StateError, match="silence timers"):
        SilenceTimers(SilencePolicy(observe_s=1, horizon_s=1)).restore(b"\x01")
