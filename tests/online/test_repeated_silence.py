"""Silence asked again and again, against a brute-force reading of the whole stream."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.pipeline_runs import pipeline_of
from tests.online.task_streams import CHURN, HOUR, T0, plays
from weir.online.labels.repeated_silence import EVENT_MARK, RepeatedSilence
from weir.online.labels.silence import SilencePolicy, TimerOutput

Event = tuple[str, float]
Fired = tuple[Any, ...]
DAY = 86_400.0


def fired(out: TimerOutput, offset: int) -> list[Fired]:
    """Scores (row, event id, time), then labels (event id, value, time)."""
    scores = zip((out.before_row + offset).tolist(), out.event_id, out.due_ts.tolist(), strict=True)
    labels = zip(out.labels.event_id, out.labels.value.tolist(), out.known_at.tolist(), strict=True)
    return [("score", *row) for row in scores] + [("label", *row) for row in labels]


def run(policy: SilencePolicy, events: list[Event], cuts: set[int], end: float, *, restart: bool) -> list[Fired]:
    timers, out = RepeatedSilence(policy), list[Fired]()
    mark = "" if policy.on_timers else EVENT_MARK
    names = [f"{entity}{mark}{i if mark else ''}" for i, (entity, _) in enumerate(events)]
    edges = [0, *sorted(c for c in cuts if 0 < c < len(events)), len(events)]
    for start, stop in itertools.pairwise(edges):
        out += fired(timers.advance(names[start:stop], np.array([t for _, t in events[start:stop]])), start)
        if restart:
            state, timers = timers.snapshot(), RepeatedSilence(policy)
            timers.restore(state)
    out += fired(timers.flush(end), len(events))
    return sorted(out, key=lambda each: each[0] == "label")


def expected(policy: SilencePolicy, events: list[Event], end: float) -> list[Fired]:
    """Every score that is asked for, and its label, with the whole stream in view."""
    marks = np.maximum.accumulate([t for _, t in events]).tolist()

    def row_at(time: float) -> int:
        return next((row for row, mark in enumerate(marks) if mark >= time), len(events))

    def own(entity: str, until: int) -> list[float]:
        return [t for e, t in events[:until] if e == entity]

    scores = list[tuple[int, str, str, float]]()
    entities = list(dict.fromkeys(e for e, _ in events))
    if policy.daily_s is not None:
        day = math.floor((marks[0] - policy.daily_s) / DAY) + 1
        ticks = np.arange(day * DAY + policy.daily_s, end + 1.0, DAY).tolist()
        for tick, entity in itertools.product(ticks, entities):
            seen = own(entity, row_at(tick))
            if seen and min(seen) < tick <= max(seen) + policy.remember_s:
                scores.append((row_at(tick), entity, f"{entity}@{tick:.15g}", tick))
    elif policy.after_s is not None:
        for row, (entity, t) in enumerate(events):
            due = t + policy.after_s
            newest = all(t > other for other in own(entity, row))
            followed = any(t < other < due for other in own(entity, row_at(due)))
            if due > marks[row] and newest and not followed and due <= end:
                scores.append((row_at(due), entity, f"{entity}@{due:.15g}", due))
    else:
        scores = [(row, entity, f"{row}", t) for row, (entity, t) in enumerate(events)]
    out: list[Fired] = [("score", row, name, due) for row, _, name, due in scores if policy.on_timers]
    for row, entity, name, due in scores:
        close = due + policy.horizon_s + policy.lateness_s
        if close > end or (not policy.on_timers and close <= marks[row]):
            continue
        least = due if policy.on_timers else np.nextafter(due, math.inf)
        back = any(least <= t < due + policy.horizon_s for t in own(entity, row_at(close)))
        out.append(("label", name, not back, close))
    return out


EVENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60).map(float)), min_size=1, max_size=25)
POLICIES = st.builds(
    lambda score, horizon, late, remember: SilencePolicy(
        score=score, horizon_s=float(horizon), lateness_s=late, remember_s=remember
    ),
    st.sampled_from(["each event", "after 4s", "after 9s"]),
    st.integers(1, 20),
    st.sampled_from([0.0, 3.0]),
    st.just(math.inf),
)
DAILY = st.builds(
    lambda horizon, remember: SilencePolicy(score="daily 18:00", horizon_s=horizon * DAY / 4, remember_s=remember),
    st.integers(1, 20),
    st.sampled_from([0.0, DAY, 3 * DAY, math.inf]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(EVENTS, EVENTS.map(lambda rows: sorted(rows, key=lambda row: row[1]))),
    st.one_of(POLICIES, DAILY),
    st.sets(st.integers(1, 24)),
)
def test_silence_is_asked_as_often_as_a_reading_of_the_whole_stream_says(
    events: list[Event], policy: SilencePolicy, cuts: set[int]
) -> None:
    daily = policy.daily_s is not None
    events = [(e, t * DAY / 7) for e, t in events] if daily else events
    end = 15 * DAY if daily else 10_000.0
    out = run(policy, events, cuts, end, restart=False)
    assert sorted(out) == sorted(expected(policy, events, end))
    assert run(policy, events, set(), end, restart=False) == out
    assert run(policy, events, cuts, end, restart=True) == out


@pytest.mark.parametrize("restart", [False, True])
def test_of_a_busy_entity_only_scores_that_nothing_followed_are_looked_at(restart: bool) -> None:
    """Each event would else look at all that wait: a device with an event a minute has 43,000 in a month."""
    timers = RepeatedSilence(SilencePolicy(score="each event", horizon_s=1_000.0))
    timers.advance([f"a\ne{i}" for i in range(500)], np.arange(500.0))
    if restart:
        state, timers = timers.snapshot(), RepeatedSilence(timers.policy)
        timers.restore(state)
    assert len(timers._entities["a"].open) == 500
    assert [score.event_id for score in timers._quiet["a"]] == ["e499"]
    labels = timers.flush(10_000.0).labels
    assert labels.value.tolist() == [False] * 499 + [True]
    assert not timers._quiet


def test_what_is_held_is_bounded() -> None:
    policy = SilencePolicy(score="after 5s", horizon_s=10, max_entities=100)
    timers = RepeatedSilence(policy)
    timers.advance([f"u{i}" for i in range(3_000)], np.arange(3_000.0))
    assert len(timers) <= 16  # only those of whom something is open
    assert timers.stats.refused == 0
    timers.advance([f"v{i}" for i in range(300)], np.full(300, 3_000.0))
    assert len(timers) == 100
    assert timers.stats.refused > 200
    timers.flush(1e6)
    assert len(timers) == 0


@pytest.mark.parametrize(
    ("score", "scored", "labels"),
    [("each event", ["e0", "e1", "e2"], {"e0": False, "e1": True}), ("after 2h", ["u0@", "u0@"], {"first": True})],
)
def test_a_pipeline_scores_and_learns_it_with_a_prior_until_then(
    score: str, scored: list[str], labels: dict[str, bool]
) -> None:
    toml = CHURN.replace('observe_s = "2h"', f'score = "{score}"\nprior = 0.125')
    pipeline = pipeline_of(toml)
    rows = [("u0", 0.0), ("u0", HOUR), ("u0", 30 * HOUR)]
    batch = plays(rows)
    outs = [pipeline.events(batch), pipeline.advance(T0 + 33 * HOUR)]
    made = [e for out in outs if out.predictions is not None for e in out.predictions.event_id]
    first = next(out.predictions for out in outs if out.predictions is not None)
    assert len(made) == len(scored)
    assert first.score[0] == 0.125
    learned = [y for out in outs for b in out.examples for y in b.y.tolist()]
    assert learned == list(labels.values())


def test_policies_say_what_is_wrong() -> None:
    for wrong in ("sometimes", "daily 24:00", "after never", "after 0s"):
        with pytest.raises(ValueError, match=r"duration|daily 18:00"):
            SilencePolicy(score=wrong, horizon_s=1)
    with pytest.raises(ValueError, match="has no observe_s"):
        SilencePolicy(score="each event", horizon_s=1, observe_s=2)
    plain = SilencePolicy(observe_s=1, horizon_s=1).model_dump()
    assert not {"score", "prior"} & plain.keys(), "task files of before have the digest of before"
