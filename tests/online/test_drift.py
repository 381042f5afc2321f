"""Detectors against River and scipy, planted drifts against their truth, and the promises about cuts and snapshots."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from river import drift as river_drift
from scipy import stats  # type: ignore[import-untyped]

from weir.online.drift import adwin, histograms, page_hinkley
from weir.online.drift.detection import Detection
from weir.online.drift.drift_policy import DriftPolicy, StreamKind
from weir.online.drift.monitor import DriftMonitor
from weir.online.errors import StateError

CHANGE = 40_000
FloatVector = NDArray[np.float64]
SHORT = DriftPolicy(reference_days=0.0)
"""For streams that end within hours."""
RIVER: Any = river_drift  # its detectors are not annotated


def watch(x: FloatVector, kind: StreamKind = "feature", policy: DriftPolicy | None = None) -> list[Detection]:
    return DriftMonitor({"x": kind}, policy or SHORT).update(np.arange(len(x)) + 0.0, x[:, None])


def stepwise(rng: np.random.Generator) -> FloatVector:
    """Values in [0, 1] around levels that change at random places."""
    levels = np.repeat(rng.random(6), rng.integers(20, 700, 6))
    x: FloatVector = np.clip(levels + rng.choice([0.05, 0.3]) * rng.normal(size=len(levels)), 0.0, 1.0)
    return x


@pytest.mark.parametrize("clock", [1, 4, 32])
@pytest.mark.parametrize("seed", range(6))
def test_adwin_alarms_where_rivers_does(seed: int, clock: int) -> None:
    x = stepwise(np.random.default_rng(seed))
    river = RIVER.ADWIN(delta=0.002, clock=clock)
    sums, totals = np.zeros((2, adwin.SUMS)), np.zeros((2, adwin.LEVELS, adwin.PER_LEVEL + 1))
    held = np.zeros((2, adwin.LEVELS), dtype=np.int64)
    alarms: tuple[list[int], list[int]] = ([], [])
    for i, value in enumerate(x.tolist()):
        river.update(value)
        statistic, bound = adwin.step(value, 0.002, clock, sums, totals, held, 1)
        if river.drift_detected:
            alarms[0].append(i)
        if statistic > bound:
            alarms[1].append(i)
            adwin.clear(sums, totals, held, 1)
        elif not river.drift_detected:
            assert sums[1, adwin.WIDTH] == river.width
            assert sums[1, adwin.TOTAL] == pytest.approx(river.total)
            assert sums[1, adwin.VARIANCE] / sums[1, adwin.WIDTH] == pytest.approx(river.variance / river.width)
    assert alarms[1] == alarms[0]
    assert alarms[0]
    assert not sums[0].any(), "each window has rows of its own"


@pytest.mark.parametrize("seed", range(6))
def test_page_hinkley_alarms_where_rivers_does(seed: int) -> None:
    x = 10.0 * stepwise(np.random.default_rng(seed))
    river = RIVER.PageHinkley(delta=0.1, threshold=20.0)
    state = np.zeros(page_hinkley.SLOTS)
    alarms: tuple[list[int], list[int]] = ([], [])
    for i, value in enumerate(x.tolist()):
        river.update(value)
        if river.drift_detected:
            alarms[0].append(i)
        if page_hinkley.step(value, 0.1, state) > 20.0:
            alarms[1].append(i)
            state[:] = 0.0
    assert alarms[1] == alarms[0]
    assert alarms[0]


def widest_gap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Kolmogorov-Smirnov by definition; scipy's agrees and takes 20 ms."""
    points = np.concatenate((a, b))
    below = [np.searchsorted(np.sort(part), points, side="right") / len(part) for part in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def test_the_brute_force_distance_is_scipys() -> None:
    rng = np.random.default_rng(8)
    old, new = np.round(rng.normal(size=90), 1), np.round(rng.normal(0.5, 1.5, 70), 1)
    assert widest_gap(old, new) == pytest.approx(stats.ks_2samp(old, new).statistic)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 300), m=st.integers(1, 300), grid=st.sampled_from([0.0, 0.2, 1.0]))
def test_binned_distance_is_exact_on_bins_and_never_above_that_of_the_values(
    seed: int, n: int, m: int, grid: float
) -> None:
    rng = np.random.default_rng(seed)
    old, new = rng.normal(size=n), rng.normal(0.5, 1.5, size=m)
    if grid:
        old, new = np.round(old / grid) * grid, np.round(new / grid) * grid
    edges, _ = histograms.quantile_edges(old)
    counts = np.zeros((2, histograms.BINS), dtype=np.int64)
    histograms.fill(old, edges, counts[0])
    histograms.fill(new, edges, counts[1])
    places = [np.searchsorted(edges, values) for values in (old, new)]
    for row, place in zip(counts, places, strict=True):
        assert row.tolist() == np.bincount(place, minlength=histograms.BINS).tolist()
    distance = histograms.ks_distance(counts[0], counts[1])
    assert distance == pytest.approx(widest_gap(*places))
    assert distance <= widest_gap(old, new) + 1e-12


@pytest.mark.parametrize("alpha", [0.01, 1e-4, 1e-6])
def test_critical_distance_has_the_stated_significance(alpha: float) -> None:
    distance = histograms.ks_critical(1536.0, 512.0, alpha)
    assert stats.kstwobign.sf(distance * math.sqrt(1536 * 512 / 2048)) == pytest.approx(alpha, rel=0.01)


def test_psi_is_the_published_formula_and_stays_finite() -> None:
    p, q = np.array([1000, 2000, 7000]), np.array([2000, 2000, 6000])
    expected = float(((q - p) / 10_000 * np.log(q / p)).sum())
    assert histograms.psi(p, q) == pytest.approx(expected, rel=1e-3)
    assert histograms.psi(p, p) == 0.0
    assert 2.0 < histograms.psi(np.array([1000, 0]), np.array([0, 1000])) < 20.0


def planted(name: str, rng: np.random.Generator) -> tuple[FloatVector, StreamKind]:
    """40,000 rows before the change and 20,000 after it."""
    n = CHANGE + 20_000
    new = np.arange(n) >= CHANGE
    match name:
        case "mean up":
            return rng.normal(31.0, 10.0, n) + 5.0 * new, "feature"
        case "mean down":
            return rng.normal(31.0, 10.0, n) - 2.5 * new, "score"
        case "amounts":
            return np.exp(rng.normal(3.0, 1.0, n)) * np.where(new, 1.5, 1.0), "feature"
        case "spread up":
            return rng.normal(5.0, np.where(new, 2.0, 1.0)), "feature"
        case "spread down":
            return rng.normal(5.0, np.where(new, 0.5, 1.0)), "score"
        case "rate":
            return (rng.random(n) < np.where(new, 0.06, 0.02)).astype(np.float64), "rate"
        case "a constant begins to vary":
            return np.where(new, rng.normal(0.1, 1.0, n), 0.1), "feature"
    raise AssertionError(name)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "delay", "before", "after", "word"),
    [
        ("mean up", 2_048, 31.0, 36.0, "mean moved"),
        ("mean down", 2_560, 31.0, 28.5, "mean moved"),
        ("amounts", 2_560, 33.1, 49.7, "mean moved"),
        ("spread up", 2_560, 5.0, 5.0, "spread moved"),
        ("spread down", 2_560, 5.0, 5.0, "spread moved"),
        ("rate", 4_096, 0.02, 0.06, "mean moved"),
        ("a constant begins to vary", 2_048, 0.1, 0.1, ""),
    ],
)
def test_a_planted_drift_is_found_once_in_time_and_described(
    name: str, delay: int, before: float, after: float, word: str, seed: int
) -> None:
    x, kind = planted(name, np.random.default_rng(seed))
    found = watch(x, kind, DriftPolicy(reference_days=0.0, cooldown_s=1_000.0))
    assert len(found) == 1
    drift = found[0]
    assert CHANGE <= drift.ts < CHANGE + delay
    assert drift.statistic > drift.threshold
    old, new = x[:CHANGE], x[CHANGE : int(drift.ts) + 1]
    # Within five standard errors of the truth, and a part of the step: the change may share its block with old rows.
    assert drift.before == pytest.approx(before, abs=5 * old.std() / math.sqrt(10_000) + 1e-9)
    assert drift.after == pytest.approx(after, abs=5 * new.std() / math.sqrt(len(new)) + 0.25 * abs(after - before))
    if old.std() > 1e-9:
        assert drift.how_much == pytest.approx((drift.after - drift.before) / drift.before_std)
        assert drift.before_std == pytest.approx(old.std(), rel=0.1)
    assert drift.words.startswith("x: ")
    assert word in drift.words


def stationary(rng: np.random.Generator, n: int) -> dict[str, tuple[StreamKind, FloatVector]]:
    slow = np.repeat(stats.norm.ppf(rng.random(n // 16 + 1)), 16)[:n]  # 16 rows of one entity in a row
    return {
        "normal": ("feature", rng.normal(size=n)),
        "amount": ("feature", np.exp(1.5 * rng.normal(size=n))),
        "pareto": ("feature", rng.pareto(1.5, n)),
        "count": ("feature", rng.poisson(2.0, n).astype(np.float64)),
        "rare": ("feature", (rng.random(n) < 0.001).astype(np.float64)),
        "constant": ("feature", np.full(n, 0.1)),
        "bursts": ("feature", slow + 0.5 * rng.normal(size=n)),
        "half missing": ("feature", np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n))),
        "score": ("score", rng.beta(0.5, 20.0, n)),
        "rate": ("rate", (rng.random(n) < 0.02).astype(np.float64)),
        "rare rate": ("rate", (rng.random(n) < 0.002).astype(np.float64)),
        "even rate": ("rate", (rng.random(n) < 0.5).astype(np.float64)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_no_alarm_on_stationary_streams(seed: int) -> None:
    """Stated rate: below one alarm in 10,000 blocks and stream; here 4 x 12 x 586 blocks may raise none."""
    streams = stationary(np.random.default_rng(seed), 150_000)
    monitor = DriftMonitor({name: kind for name, (kind, _) in streams.items()}, SHORT)
    columns = np.column_stack([x for _, x in streams.values()])
    assert [found.words for found in monitor.update(np.arange(150_000.0), columns)] == []


def test_cooldown_makes_one_drift_one_alarm_and_the_new_level_the_reference() -> None:
    rng = np.random.default_rng(4)
    level = np.minimum(np.maximum(np.arange(120_000) - CHANGE, 0) / 10_000, 1.0)  # a slope 10,000 rows long
    x = rng.normal(size=120_000) + 3.0 * level
    assert len(watch(x, policy=DriftPolicy(reference_days=0.0, cooldown_s=0.0))) > 1
    assert len(watch(x, policy=DriftPolicy(reference_days=0.0, cooldown_s=12_000.0))) == 1
    x[90_000:] -= 3.0  # going back is a drift too
    found = watch(x, policy=DriftPolicy(reference_days=0.0, cooldown_s=12_000.0))
    assert len(found) == 2
    assert 90_000 <= found[1].ts < 91_000
    assert found[1].before == pytest.approx(3.0, abs=0.1)  # the level after the first drift
    assert found[1].after < 1.0


def test_only_the_stream_that_moved_is_named() -> None:
    rng = np.random.default_rng(6)
    columns = rng.normal(size=(60_000, 3))
    columns[CHANGE:, 1] += 1.0
    monitor = DriftMonitor({"a": "feature", "b": "feature", "c": "score"}, SHORT)
    assert [found.stream for found in monitor.update(np.arange(60_000.0), columns)] == ["b"]


SMALL = DriftPolicy(
    reference_days=0.0,
    block_events=16,
    sample_every=2,
    reference_blocks=8,
    kswin_window_blocks=16,
    kswin_recent_blocks=8,
    cooldown_s=100.0,
)


def drifting(seed: int, n: int) -> tuple[FloatVector, NDArray[Any]]:
    """Two features and a rate that jump at random places, with holes."""
    rng = np.random.default_rng(seed)
    jumps = np.cumsum(rng.random((n, 3)) < 0.005, axis=0) * rng.choice([-3.0, 0.0, 3.0], 3)
    columns = rng.normal(size=(n, 3)) + jumps
    columns[:, 2] = columns[:, 2] > 1.0
    columns[rng.random((n, 3)) < 0.1] = np.nan
    return np.cumsum(rng.random(n)) + rng.normal(size=n), columns


def small() -> DriftMonitor:
    return DriftMonitor({"a": "feature", "b": "score", "r": "rate"}, SMALL)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 1500), max_size=12))
def test_cuts_change_nothing_and_a_snapshot_continues(seed: int, cuts: list[int]) -> None:
    ts, columns = drifting(seed, 1500)
    whole, pieces, resumed = small(), small(), small()
    expected = whole.update(ts, columns)
    found = []
    for start, end in pairwise([0, *sorted(cuts), 1500]):
        found += pieces.update(ts[start:end], columns[start:end])
        state = pieces.snapshot()
        pieces = small()
        pieces.restore(state)
    assert found == expected
    assert pieces.snapshot() == whole.snapshot()
    resumed.restore(whole.snapshot())
    assert resumed.snapshot() == whole.snapshot()


def test_the_small_policy_does_find_drifts() -> None:
    """Keeps the test above honest: its streams raise alarms."""
    assert sum(len(small().update(*drifting(seed, 1500))) for seed in range(10)) >= 10


def test_state_is_bounded() -> None:
    monitor = small()
    size = len(monitor.snapshot())
    for seed in range(3):
        monitor.update(*drifting(seed, 20_000))
    assert abs(len(monitor.snapshot()) - size) < 100


def test_inputs_are_not_changed_and_infinities_are_missing_values() -> None:
    ts, columns = drifting(1, 1000)
    copy = columns.copy()
    expected = small()
    expected.update(ts, columns)
    assert np.array_equal(copy, columns, equal_nan=True)
    other = small()
    other.update(ts, np.where(np.isnan(columns), np.inf, columns))
    assert other.snapshot() == expected.snapshot()


def test_calls_without_rows_leave_nothing_behind() -> None:
    monitor = DriftMonitor({"a": "feature"}, SMALL)
    for _ in range(3):
        assert monitor.update(np.empty(0), np.empty((0, 1))) == []
    assert not monitor._held


def test_a_stream_without_values_is_left_alone() -> None:
    assert watch(np.full(30_000, np.nan)) == []


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pass \(n, 3\) for a, b, r"):
        small().update(np.zeros(4), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="streams is empty"):
        DriftMonitor({})
    with pytest.raises(StateError, match="build it with the same parameters"):
        small().restore(DriftMonitor({"a": "feature"}).snapshot())
    with pytest.raises(ValidationError, match="does not divide block_events"):
        DriftPolicy(block_events=100, sample_every=3)
    with pytest.raises(ValidationError, match="must be less than kswin_window_blocks"):
        DriftPolicy(kswin_recent_blocks=32)
    with pytest.raises(ValidationError, match="extra"):
        DriftPolicy(adwin_detla=0.1)  # type: ignore[call-arg]


# -- days and weeks ----------------------------------------------------------------------------------------------------

HOUR, DAY, PER_DAY = 3_600.0, 86_400.0, 100_000


def swinging(daily: float, weekly: float, days: int, seed: int) -> tuple[FloatVector, FloatVector]:
    """Times and values of an ordinary stream, noise of one deviation on top of the swings of days and weeks."""
    n = days * PER_DAY
    ts: FloatVector = np.linspace(1.7e9, 1.7e9 + days * DAY, n, endpoint=False)
    mean = daily * np.sin(2 * np.pi * ts / DAY) + weekly * np.sin(2 * np.pi * ts / (7 * DAY))
    x: FloatVector = 50.0 + mean + np.random.default_rng(seed).normal(size=n)
    return ts, x


def alarms(ts: FloatVector, x: FloatVector, policy: DriftPolicy | None = None) -> list[Detection]:
    return DriftMonitor({"x": "feature"}, policy).update(ts, x[:, None])


@pytest.mark.parametrize(("daily", "weekly", "seed"), [(0.25, 0.0, 0), (0.25, 0.25, 1), (1.0, 0.0, 0), (0.5, 1.0, 1)])
def test_the_swing_of_days_and_weeks_is_no_drift_and_a_shift_on_it_is(daily: float, weekly: float, seed: int) -> None:
    """14 days as ever: one alarm at most, where a reference of hours gives dozens. Then half a deviation more."""
    ts, x = swinging(daily, weekly, 16, seed)
    ordinary = ts < 1.7e9 + 14 * DAY
    assert len(alarms(ts[ordinary], x[ordinary])) <= 1
    found = alarms(ts, np.where(ordinary, x, x + 0.5))
    after = [d for d in found if d.ts > 1.7e9 + 14 * DAY]
    assert len(found) - len(after) <= 1
    assert after
    assert after[0].how_much > 0.2


def test_without_hours_the_swing_is_a_dozen_drifts() -> None:
    """Keeps the test above honest."""
    assert len(alarms(*swinging(0.25, 0.0, 14, 0), SHORT)) >= 12


def test_days_alone_are_learned_within_one() -> None:
    ts, x = swinging(1.0, 0.0, 6, 3)
    policy = DriftPolicy(reference_days=1.0)
    assert len(alarms(ts, x, policy)) <= 1
    shifted = alarms(ts, np.where(ts < 1.7e9 + 4 * DAY, x, x - 0.5), policy)
    assert 1.7e9 + 4 * DAY < shifted[-1].ts < 1.7e9 + 6 * DAY


def test_a_gap_is_no_day_of_the_reference() -> None:
    """A pause of 70 days in the second hour: the course of a week is not known after it."""
    ts, x = swinging(1.0, 0.0, 6, 4)
    ts[10_000:] += 70 * DAY
    monitor = DriftMonitor({"x": "feature"})
    monitor.update(ts, x[:, None])
    assert monitor._state.phase.tolist() == [3]


def test_a_snapshot_of_the_version_before_begins_anew() -> None:
    """It knew no hours; of other streams it is refused as ever."""
    monitor = DriftMonitor({"x": "feature"})
    old = monitor.snapshot().replace(b"DriftMonitor v2 ", b"DriftMonitor v1 ")
    ts, x = swinging(0.5, 0.0, 1, 5)
    monitor.update(ts, x[:, None])
    monitor.restore(old)
    assert monitor.snapshot() == DriftMonitor({"x": "feature"}).snapshot()
    with pytest.raises(StateError, match="build it with the same parameters"):
        DriftMonitor({"y": "feature"}).restore(old)
