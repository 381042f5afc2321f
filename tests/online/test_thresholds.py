"""Thresholds: what each policy promises, against counting by hand, and independence of batch cuts."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from weir.online.decisions.histogram import bin_edges, bin_of
from weir.online.decisions.threshold import Threshold
from weir.online.decisions.threshold_policy import (
    BudgetThreshold,
    CostThreshold,
    FixedThreshold,
    PrecisionThreshold,
    ThresholdPolicy,
)
from weir.online.errors import StateError

DAY = 86400.0
Floats = NDArray[np.float64]


def scores(n: int, seed: int = 0) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.random.default_rng(seed).normal(-3.0, 2.0, n)))


def minutes(n: int) -> Floats:
    return np.arange(n, dtype=np.float64) * 60.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50), st.sampled_from([16, 100, 2048]))
def test_a_score_is_in_the_bin_whose_edges_enclose_it(values: list[float], bins: int) -> None:
    edges = bin_edges(bins)
    score = np.array([*values, 0.0, 1.0, *edges])
    index = bin_of(score, edges)
    assert np.all(edges[index] <= score)
    assert np.all((score < edges[index + 1]) | (index == bins - 1))


@given(st.floats(0.0, 1e3), st.floats(0.1, 1e3), st.floats(0.0, 0.99), st.floats(0.0, 1.0))
def test_the_cost_threshold_takes_the_cheaper_side(fp: float, fn: float, share: float, p: float) -> None:
    policy = CostThreshold(false_positive=fp, false_negative=fn, review=share * fn)
    alert, silent = policy.review + (1 - p) * fp, p * fn
    if abs(alert - silent) > 1e-9 * (fp + fn):
        assert (p >= Threshold(policy).threshold) == (alert < silent)


def test_the_budget_is_met_after_the_warm_up_and_after_a_shift() -> None:
    per_day, days, budget = 5000, 30, 40
    ts = np.sort(np.random.default_rng(1).uniform(0.0, days * DAY, per_day * days))
    score = scores(len(ts))
    shifted = ts > 15 * DAY
    score[shifted] = score[shifted] ** 0.7
    at = Threshold(BudgetThreshold(alerts_per_day=budget, half_life_days=2.0))
    thresholds = at.thresholds(ts, score)
    over = score >= thresholds
    assert not over[ts < DAY].any(), "no alerts in the first day"
    assert over[(ts > 5 * DAY) & ~shifted].sum() / 10 == pytest.approx(budget, rel=0.1)
    assert over[ts > 22 * DAY].sum() / 8 == pytest.approx(budget, rel=0.1)


LOSSES = BudgetThreshold(alerts_per_day=20, value="amount", half_life_days=2.0)


def test_losses_in_any_currency_are_told_apart() -> None:
    """Of a million million the largest alert, as of ones; they shared a bin from half a thousand million on."""
    rng, n = np.random.default_rng(3), 40_000
    ts, score, amount = np.sort(rng.uniform(0.0, 20 * DAY, n)), np.full(n, 0.9), np.exp(rng.normal(3.0, 1.5, n))
    over = [score >= Threshold(LOSSES).thresholds(ts, score, amount=unit * amount) for unit in (1.0, 1e9, 1e12)]
    late = ts > 5 * DAY
    for found in over:
        assert found[late].sum() / 15 == pytest.approx(20, rel=0.1)
        assert np.median(amount[late & found]) > np.quantile(amount[late], 0.98)


def test_a_state_of_losses_of_before_goes_on() -> None:
    rng, n = np.random.default_rng(4), 5_000
    ts, score, amount = np.sort(rng.uniform(0.0, 5 * DAY, n)), scores(n), np.exp(rng.normal(3.0, 1.5, n))
    one, other = Threshold(LOSSES), Threshold(LOSSES)
    one.thresholds(ts, score, amount=amount)
    kind, bins, *held = msgspec.msgpack.decode(one.snapshot())
    counts = slice(8 * bins // 4, 8 * bins // 4 * 3)  # half as many, those in the middle, and no word of how far
    before = [each[counts] if isinstance(each, bytes) and len(each) == 8 * bins else each for each in held]
    other.restore(msgspec.msgpack.encode([kind, bins // 2, *before[:-2], before[-1]]))
    assert other.snapshot() == one.snapshot()


def test_without_fading_the_budget_threshold_is_the_lowest_edge_that_fits() -> None:
    """Up to the first alert; then what of the cap is unused lowers it, and the mean score holds it."""
    ts, score = minutes(3000), scores(3000)
    policy = BudgetThreshold(alerts_per_day=25, half_life_days=1e12, min_scores=1, min_days=1.0, bins=256)
    thresholds = Threshold(policy, every_rows=100, every_s=1e9).thresholds(ts, score)
    start = int(np.argmax(np.isfinite(thresholds)))
    allowed = 25 * (ts[start] - ts[0]) / DAY
    fitting = [edge for edge in bin_edges(256)[:-1] if np.count_nonzero(score[:start] >= edge) <= allowed]
    assert start == 1500
    assert {*thresholds[start : start + 100].tolist()} <= {min(fitting), np.inf}
    assert thresholds[start + 100 :].min() >= score.mean() / 1.2


@pytest.mark.parametrize("values", [(1.0, 0.9), (0.3, 0.2), (0.9999999999, 0.5)])
def test_of_scores_that_are_one_and_the_same_the_first_alert(values: tuple[float, float]) -> None:
    """More of them than the budget: the cap is used all the same, and by none of the lower ones."""
    ts, score = minutes(40_000), np.where(np.arange(40_000) % 7, *values[::-1])
    over = score >= Threshold(BudgetThreshold(alerts_per_day=5, min_scores=10)).thresholds(ts, score)
    assert {*score[over].tolist()} == {values[0]}
    assert over.sum() >= 0.9 * 5 * (ts[-1] / DAY - 1)


def test_a_budget_larger_than_the_stream_alerts_nothing_improbable() -> None:
    ts, score = minutes(20_000), scores(20_000)
    over = score >= Threshold(BudgetThreshold(alerts_per_day=5_000)).thresholds(ts, score)
    assert score[over].min() > 0.8 * score.mean() > 0.05
    floored = BudgetThreshold(alerts_per_day=5_000, min_score=0.5)
    assert score[score >= Threshold(floored).thresholds(ts, score)].min() >= 0.5


@pytest.mark.parametrize("budget", [3, 20])
def test_a_line_of_expected_loss_prefers_what_is_worth_more(budget: int) -> None:
    n, rng = 30_000, np.random.default_rng(5)
    ts, score, amount = minutes(n), scores(n), rng.lognormal(3.0, 2.0, n)
    amount[::50] = 0.0  # missing
    loss, met = score * amount, []
    for policy in (BudgetThreshold(alerts_per_day=budget), BudgetThreshold(alerts_per_day=budget, value="amount")):
        over = score >= Threshold(policy).thresholds(ts, score, amount=amount)
        assert over.sum() >= 0.8 * budget * (ts[-1] / DAY - 1)
        met.append(loss[over].sum() / over.sum())
    assert met[1] > 3 * met[0]
    assert not (over & (amount == 0.0)).any()


@given(st.floats(0, 50), st.floats(0.1, 5), st.floats(0, 9), st.floats(0, 1), st.floats(0, 1e4))
def test_the_cost_of_an_amount_is_the_cheaper_side(
    fp: float, fn: float, review: float, p: float, amount: float
) -> None:
    policy = CostThreshold(false_positive=fp, false_negative=fn, review=review, value="amount")
    alert, silent = review + (1 - p) * fp, p * fn * amount
    line = Threshold(policy).thresholds(np.zeros(1), np.full(1, p), amount=np.full(1, amount))[0]
    if abs(alert - silent) > 1e-9 * (fp + fn * amount + review):
        assert (p >= line) == (alert < silent)


def test_precision_is_reached_on_what_comes_next() -> None:
    n = 10_000
    ts, score = minutes(n), scores(n)
    y = np.random.default_rng(2).uniform(size=n) < score
    at = Threshold(PrecisionThreshold(precision=0.7, min_labels=50))
    over = np.zeros(n, dtype=np.bool_)
    for part in np.array_split(np.arange(n), 80):
        over[part] = score[part] >= at.thresholds(ts[part], score[part])
        at.update_labels(score[part], y[part], np.ones(len(part)))
    late = over & (np.arange(n) > n // 2)
    assert y[late].mean() == pytest.approx(0.75, abs=0.06)
    looser = y & (score > 0.9 * at.threshold) | (score > at.threshold)
    assert looser.sum() > late.sum(), "the threshold leaves positives out: it is not just low"
    assert not over[:500].any(), "nothing is over the threshold before there are labels"


def test_precision_counts_sampled_negatives_by_weight_and_takes_corrections_back() -> None:
    policy = PrecisionThreshold(precision=0.5, min_labels=1, bins=64)

    def after(y: list[bool], weight: list[float], correction: list[bool]) -> float:
        at = Threshold(policy, every_rows=1)
        score = np.full(len(y), 0.8)
        at.update_labels(score, np.array(y), np.array(weight), np.array(correction))
        at.thresholds(np.arange(2.0), np.full(2, 0.5))
        return at.threshold

    assert after([True, True, False], [1.0, 1.0, 1.0], [False] * 3) <= 0.8
    assert after([True, True, False], [1.0, 1.0, 10.0], [False] * 3) == np.inf
    assert after([True, True, False], [1.0, 1.0, 1.0], [False, False, True]) <= 0.8
    assert after([True, False, False, False], [1.0] * 4, [False, False, True, True]) == np.inf


def test_precision_falls_back_to_the_budget_until_there_are_labels() -> None:
    ts, score = minutes(5000), scores(5000)
    budget = BudgetThreshold(alerts_per_day=50)
    with_fallback = Threshold(PrecisionThreshold(precision=0.9, fallback=budget))
    assert np.array_equal(with_fallback.thresholds(ts, score), Threshold(budget).thresholds(ts, score))
    with_fallback.update_labels(np.full(100, 0.3), np.ones(100, dtype=np.bool_), np.ones(100))
    assert with_fallback.thresholds(ts[-1:] + DAY, score[:1])[0] <= 0.3


POLICIES: list[Any] = [
    FixedThreshold(value=0.5),
    BudgetThreshold(alerts_per_day=300, half_life_days=0.1, min_scores=5, min_days=0.01, bins=64),
    PrecisionThreshold(precision=0.6, half_life_days=0.2, min_labels=3, bins=64),
    PrecisionThreshold(
        precision=0.9, min_labels=5, fallback=BudgetThreshold(alerts_per_day=99, min_scores=9, min_days=0)
    ),
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(POLICIES),
    st.lists(st.tuples(st.integers(0, 40_000), st.floats(0, 1), st.booleans(), st.booleans()), max_size=60),
    st.sets(st.integers(1, 59)),
    st.booleans(),
)
def test_thresholds_do_not_depend_on_cuts_or_snapshots(
    policy: Any, rows: list[tuple[int, float, bool, bool]], cuts: set[int], sort: bool
) -> None:
    rows = sorted(rows) if sort else rows
    ts, score = np.array([r[0] for r in rows], dtype=np.float64), np.array([r[1] for r in rows])
    y, correction = np.array([r[2] for r in rows], dtype=np.bool_), np.array([r[3] for r in rows], dtype=np.bool_)
    weight = 0.1 + score * 7

    def run(edges: list[int], snapshots: bool) -> tuple[list[float], bytes]:
        at = Threshold(policy, every_rows=7, every_s=5000)
        # Labels first, cut apart by themselves; then the scores they are to decide on, cut apart.
        for a, b in itertools.pairwise(edges):
            at.update_labels(score[a:b], y[a:b], weight[a:b], correction[a:b])
        out: list[float] = []
        for a, b in itertools.pairwise(edges):
            out += at.thresholds(ts[a:b], score[a:b]).tolist()
            if snapshots:
                state, at = at.snapshot(), Threshold(policy, every_rows=at.every_rows, every_s=at.every_s)
                at.restore(state)
        return out, at.snapshot()

    edges = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    assert run([0, len(rows)], False) == run(edges, False) == run(edges, True)


def test_policies_are_told_apart_by_kind_and_refuse_nonsense() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ThresholdPolicy)
    assert adapter.validate_python({"kind": "budget", "alerts_per_day": 3}) == BudgetThreshold(alerts_per_day=3)
    with pytest.raises(ValueError, match="no alert would ever pay"):
        adapter.validate_python({"kind": "cost", "false_positive": 1, "false_negative": 2, "review": 5})
    with pytest.raises(ValueError, match="kind"):
        adapter.validate_python({"kind": "magic"})
    with pytest.raises(StateError, match="start it anew"):
        Threshold(BudgetThreshold(alerts_per_day=1)).restore(Threshold(FixedThreshold(value=0.5)).snapshot())


# -- gaps in the stream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap_days", [3, 30, 70, 26 * 365])
@pytest.mark.parametrize("at_row", [1, 20_000])
def test_a_gap_earns_no_alerts_for_later(gap_days: int, at_row: int) -> None:
    """As many alerts a day after a pause (or after one clock of the year 2000) as without it."""
    ts, score, budget = minutes(40_000), scores(40_000), 5
    paused = ts + np.where(np.arange(len(ts)) >= at_row, gap_days * DAY, 0.0)
    over = [score >= Threshold(BudgetThreshold(alerts_per_day=budget)).thresholds(t, score) for t in (ts, paused)]
    after = slice(20_000, None)
    days = (ts[-1] - ts[20_000]) / DAY
    assert over[0][after].sum() / days == pytest.approx(budget, rel=0.25)
    assert over[1][after].sum() == pytest.approx(over[0][after].sum(), abs=budget)
    first_days = slice(at_row, at_row + 2 * 1_440)
    two_days = max(int(over[0][first_days].sum()), 2 * budget)
    assert over[1][first_days].sum() <= two_days + budget, "the gap counts for a day"


@pytest.mark.parametrize("budget", [5, 25])
@pytest.mark.parametrize("per_day", [200, 1_440])
@pytest.mark.parametrize(
    ("every_days", "gap_days", "unset", "stepped_back"),
    [
        (1e9, 0, 0, []),
        (1e9, 0, 26 * 365, []),
        (5, 70, 0, [100, 4_000]),
        (2, 3, 0, []),
        (0.25, 1, 0, []),
        (1, 0.5, 9, []),
    ],
)
def test_no_pattern_of_pauses_and_clocks_breaks_the_budget(
    budget: int, per_day: int, every_days: float, gap_days: float, unset: int, stepped_back: list[int]
) -> None:
    n = 12_000
    spacing = np.random.default_rng(1).exponential(DAY / per_day, n)
    spacing[np.flatnonzero(np.diff(np.arange(n) // (every_days * per_day))) + 1] += gap_days * DAY
    spacing[1] += unset * DAY
    counted = np.cumsum(np.minimum(spacing, DAY))  # the days of events, by the definition of the policy
    ts = np.cumsum(spacing)
    ts[stepped_back] -= 3_000 * DAY
    score = scores(n)
    over = counted[score >= Threshold(BudgetThreshold(alerts_per_day=budget, min_scores=200)).thresholds(ts, score)]
    assert len(over) > budget
    for days in (1, 7, 30):
        most = np.searchsorted(over, over + days * DAY, side="right") - np.arange(len(over))
        assert most.max() <= budget * (days + 4) + 10


PIECES = st.one_of(
    st.tuples(st.just("steady"), st.integers(1, 1_500), st.sampled_from([30.0, 600.0, 7_200.0])),
    st.tuples(st.just("at once"), st.integers(1, 3_000), st.just(0.0)),
    st.tuples(st.just("gap"), st.just(1), st.floats(0.1, 9_000.0).map(lambda days: days * DAY)),
    st.tuples(st.just("back"), st.integers(1, 300), st.floats(1.0, 3_000.0).map(lambda days: -days * DAY)),
)
"""What a stream does next, with how many rows, and the seconds between them or of the jump."""


@given(
    st.lists(PIECES, min_size=1, max_size=12),
    st.sampled_from([0.3, 2.0, 40.0]),
    st.sampled_from(["level", "jump", "flood"]),
    st.integers(0, 9),
)
def test_no_pattern_of_times_and_scores_gives_more_than_the_budget_and_the_burst(
    pieces: list[tuple[str, int, float]], budget: float, kind: str, seed: int
) -> None:
    ts, now = np.zeros(0), 1.7e9
    for what, n, seconds in pieces:
        if what == "back":  # rows of a clock that lags, then the others again
            part = np.full(n, now + seconds)
        else:
            part = now + seconds * np.arange(1, n + 1)
            now = float(part[-1])
        ts = np.append(ts, part)
    score = scores(len(ts), seed)
    if kind != "level":
        score[len(ts) // 2 :] = score[len(ts) // 2 :] ** 0.2 if kind == "jump" else 1.0
    policy = BudgetThreshold(alerts_per_day=budget, min_scores=20, min_days=0.0)
    over = score >= Threshold(policy).thresholds(ts, score)
    at = np.maximum.accumulate(ts)[over]
    for alerts, span in policy.limits:
        span = span / min(alerts, 1.0)
        assert (np.searchsorted(at, at + span) - np.arange(len(at)) <= max(int(alerts), 1)).all()


def test_a_jump_of_the_level_is_corrected_within_hours() -> None:
    """The line itself, not only the cap: soon as few rows as before are over it, not as many as the level brought."""
    n, at = 40_000, Threshold(BudgetThreshold(alerts_per_day=50))
    ts, score, wanted = minutes(n), scores(n), np.zeros(n, dtype=np.bool_)
    score[n // 2 :] **= 0.1

    def note(start: int, stop: int, line: Floats) -> None:
        wanted[start:stop] = score[start:stop] >= line[start:stop]
        for row in (start + np.flatnonzero(wanted[start:stop])).tolist():
            at.admit(float(ts[row]), float(ts[row]))

    at.thresholds(ts, score, note)
    old_line = score[: n // 2][wanted[: n // 2]].min()
    assert (score[n // 2 :] > old_line).mean() > 0.3
    assert 45 <= wanted[n // 2 - 2_880 : n // 2].sum() / 2 <= 75
    assert 45 <= wanted[n // 2 + 240 :][:1_440].sum() <= 150


def test_scores_that_fall_from_a_constant_alert_again_within_two_days() -> None:
    """No label is known for a week, so all scores are the prior; then the best of them are far below it."""
    ts, score = minutes(20_000), scores(20_000) / 50
    score[:10_000] = 0.5
    over = score >= Threshold(BudgetThreshold(alerts_per_day=20)).thresholds(ts, score)
    over, score = over[10_000 + 2 * 1_440 :], score[10_000 + 2 * 1_440 :]
    assert over.sum() >= 0.9 * 20 * len(score) / 1_440
    assert np.median(score[over]) > np.quantile(score, 0.96)


def test_scores_that_are_all_alike_alert_nobody() -> None:
    """Who has learned nothing gives each event the prior: none of them is more than another."""
    score = np.full(10_000, 0.5)
    assert (score < Threshold(BudgetThreshold(alerts_per_day=20)).thresholds(minutes(10_000), score)).all()


def test_rows_before_the_time_is_known_count_and_alert_nobody() -> None:
    score = np.tile([0.9, 0.8], 20)
    ts = np.concatenate([np.full(10, -np.inf), minutes(30)])
    at = Threshold(BudgetThreshold(alerts_per_day=9, min_scores=20, min_days=0.0), every_rows=5)
    thresholds = np.concatenate([at.thresholds(ts[:4], score[:4]), at.thresholds(ts[4:], score[4:])])
    assert thresholds[:20].tolist() == [np.inf] * 20
    assert np.isfinite(thresholds[-5:]).all()
