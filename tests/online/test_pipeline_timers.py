"""A pipeline that scores on timers and labels by silence, against an oracle: each entity once, when it is due."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.pipeline_runs import pipeline_of, resumed, state
from tests.online.task_streams import CHURN, DAY, HOUR, T0, plays


def churn_oracle(rows: list[tuple[str, float]], end: float) -> dict[str, tuple[float, int, bool | None]]:
    """Of each player's first play: when it is scored, the plays until then, and whether silence followed."""
    observe, horizon = 2 * HOUR, 5 * HOUR
    out: dict[str, tuple[float, int, bool | None]] = {}
    for user in dict.fromkeys(u for u, _ in rows):
        times = [ts for u, ts in rows if u == user]
        due = times[0] + observe
        if due > end:
            continue
        back = any(due <= ts < due + horizon for ts in times)
        known: bool | None = False if back else (True if due + horizon <= end else None)
        out[f"{user}@{T0 + times[0]:.0f}"] = (T0 + due, sum(ts < due for ts in times), known)
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * 3600)), min_size=1, max_size=40),
    st.lists(st.integers(1, 39), max_size=4),
    st.integers(0, 10 * 3600),
)
def test_timers_score_and_label_like_the_oracle(gaps: list[tuple[str, int]], cuts: list[int], rest: int) -> None:
    now, rows = 0.0, []
    for user, gap in gaps:
        now += gap
        rows.append((user, now))
    end = now + rest
    pipeline = pipeline_of(CHURN)
    batch = plays(rows)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    outs = [pipeline.events(batch.slice(a, b)) for a, b in pairwise(edges)]
    outs.append(pipeline.advance(T0 + end))
    count = pipeline.features.index("player.plays_count_30d")
    made: dict[str, tuple[float, float]] = {}
    for out in outs:
        if out.predictions is not None:
            p = out.predictions
            made |= {e: (ts, x[count]) for e, ts, x in zip(p.event_id, p.ts.tolist(), p.features.tolist(), strict=True)}
    known = {e: y for out in outs for b in out.examples for e, y in zip(b.event_id, b.y.tolist(), strict=True)}
    expected = churn_oracle(rows, end)
    assert {e: (ts, n) for e, (ts, n, _) in expected.items()} == made
    assert {e: y for e, (_, _, y) in expected.items() if y is not None} == known


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1800, 3600)), min_size=30, max_size=60),
    st.lists(st.integers(1, 39), max_size=4),
)
def test_no_label_of_silence_is_lost_where_a_call_is_of_more_time_than_scores_are_kept(
    gaps: list[tuple[str, int]], cuts: list[int]
) -> None:
    """They became known between the rows of the call, when their scores were there."""
    toml = CHURN.replace('observe_s = "2h"', 'score = "each event"') + '[labels.join]\nkeep_s = "6h"\n'
    ts = np.cumsum([float(gap) for _, gap in gaps]).tolist()
    batch = plays([(user, at) for (user, _), at in zip(gaps, ts, strict=True)])
    edges = sorted({0, len(gaps), *(c for c in cuts if c < len(gaps))})
    pipeline = pipeline_of(toml)
    outs = [pipeline.events(batch.slice(a, b)) for a, b in pairwise(edges)]
    outs.append(pipeline.advance(T0 + ts[-1] + DAY))
    scored = [e for out in outs if out.predictions is not None for e in out.predictions.event_id]
    assert sorted(e for out in outs for b in out.examples for e in b.event_id) == sorted(scored)
    assert pipeline.joiner.stats.expired_unlabelled == pipeline.joiner.waiting == 0


def test_timers_survive_a_snapshot() -> None:
    rng = np.random.default_rng(4)
    ts = np.cumsum(rng.integers(0, 3000, 200)).astype(float).tolist()
    batch = plays([(f"u{i}", t) for i, t in zip(rng.integers(0, 30, 200).tolist(), ts, strict=True)])
    straight = pipeline_of(CHURN)
    for cut in (1, 60, 110):
        straight.events(batch.slice(0 if cut == 1 else (1 if cut == 60 else 60), cut))
        second = resumed(straight, CHURN)
        assert state(second) == state(straight)
    for each in (straight, second):
        each.events(batch.slice(110, 200))
        each.advance(float(batch.ts[-1]) + DAY)
    assert state(second) == state(straight)
    assert straight.scored == 30


def test_a_label_from_silence_is_dated_when_it_became_known() -> None:
    """Aggregates fed by labels place it at the end of the silence, not at the time of the score."""
    toml = CHURN.replace(
        "aggregates = [", 'labels = [{ name = "left", ops = ["since_last"] }]\naggregates = ['
    ).replace('key = "user_id"', 'key = "user_id"\nttl = "60d"')
    toml = toml.replace('horizon_s = "5h"', 'horizon_s = "5h"\nremember_s = "1h"')
    pipeline = pipeline_of(toml)
    # a: scored at 2 h, silent at 7 h; three of 20 h tell that it is 20 h
    pipeline.events(plays([("a", 0.0), *[(name, 20 * HOUR) for name in "bcda"]]))
    out = pipeline.advance(T0 + 23 * HOUR)
    assert out.predictions is not None
    since = out.predictions.features[:, pipeline.features.index("player.left_since_last")].tolist()
    assert dict(zip(out.predictions.entity_id, since, strict=True)) == {**dict.fromkeys("bcd", 0.0), "a": 15 * HOUR}
