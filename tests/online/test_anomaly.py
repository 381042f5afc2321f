from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from river import anomaly as river_anomaly

from weir.online.anomaly.components import (
    CAP,
    deviation,
    nearest,
    season_cell,
    season_deviation,
    season_level,
    season_track,
    slot_of,
    surprise,
    track,
)
from weir.online.anomaly.detector import AnomalyParams, AnomalyRun, SeriesAnomalyDetector
from weir.online.anomaly.half_space import draw_trees, emptiness, turn_window
from weir.online.anomaly.layout import COMPONENTS, LATEST_MASS, MEMORY, SEASON, STATE_WIDTH, TREE_NODES, TREES

Floats = NDArray[np.float64]

DETECTOR = SeriesAnomalyDetector()


def run(values: Floats, ts: Floats | None = None, detector: SeriesAnomalyDetector = DETECTOR) -> AnomalyRun:
    """One series from the start, five minutes between values unless told."""
    times = np.arange(0.0, 300.0 * len(values), 300.0) if ts is None else ts
    return detector.run_many(np.zeros((1, detector.state_width)), np.zeros(len(values), np.int64), times, values)


def daily(days: int, seed: int = 1, noise: float = 0.3) -> Floats:
    """A daily wave with noise, 288 values a day."""
    t = np.arange(288 * days)
    return 20.0 + 5.0 * np.sin(2 * np.pi * t / 288) + noise * np.random.default_rng(seed).normal(size=len(t))


def test_the_state_is_small() -> None:
    assert STATE_WIDTH * 8 <= 16 * 1024


def raised(result: AnomalyRun) -> list[int]:
    return np.flatnonzero(result.score >= 0.5).tolist()


values_strategy = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324])),
        st.sampled_from([0.0, -60.0, 300.0, 1e5, np.nan, -1e12]),
    ),
    min_size=1,
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(rows=values_strategy, cuts=st.lists(st.integers(0, 120), max_size=4), repeat=st.integers(1, 4))
def test_result_depends_neither_on_cuts_nor_on_other_series(
    rows: list[tuple[int, float, float]], cuts: list[int], repeat: int
) -> None:
    rows = rows * repeat
    slots = np.array([r[0] for r in rows])
    values = np.array([r[1] for r in rows])
    ts = 1.4e9 + np.cumsum([r[2] if np.isfinite(r[2]) else 0.0 for r in rows])
    ts[[not np.isfinite(r[2]) for r in rows]] = np.nan
    whole_state, cut_state = np.zeros((3, STATE_WIDTH)), np.zeros((3, STATE_WIDTH))
    whole = DETECTOR.run_many(whole_state, slots, ts, values)
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [DETECTOR.run_many(cut_state, slots[a:b], ts[a:b], values[a:b]).score for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.score)
    assert cut_state.tobytes() == whole_state.tobytes()
    assert np.isfinite(whole.score).all()
    assert ((whole.score >= 0.0) & (whole.score <= 1.0)).all()
    assert np.isfinite(whole.components).all()
    assert np.isfinite(whole_state[:, :SEASON]).all()
    for slot in range(3):
        mine = slots == slot
        alone = DETECTOR.run_many(np.zeros((1, STATE_WIDTH)), np.zeros(mine.sum(), np.int64), ts[mine], values[mine])
        np.testing.assert_array_equal(alone.score, whole.score[mine])
        np.testing.assert_array_equal(alone.expected, whole.expected[mine])


def test_a_score_does_not_see_later_values() -> None:
    values = daily(5)
    other = values.copy()
    other[1000:] *= -3.0
    np.testing.assert_array_equal(run(values).score[:1000], run(other).score[:1000])
    assert run(values).score[1000] != run(other).score[1000]


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_a_missing_value_scores_zero_and_teaches_nothing(missing: float) -> None:
    state = np.zeros((1, STATE_WIDTH))
    one, values = np.zeros(1, np.int64), daily(3)
    DETECTOR.run_many(state, np.zeros(len(values), np.int64), np.arange(0.0, 300.0 * len(values), 300.0), values)
    before = state.copy()
    result = DETECTOR.run_many(state, one, np.array([0.0]), np.array([missing]))
    assert result.score[0] == 0.0
    assert not result.components.any()
    assert np.isfinite(result.expected[0])
    assert state.tobytes() == before.tobytes()


@pytest.mark.parametrize("level", [0.0, 0.1, -7e8])
def test_a_constant_series_is_quiet_until_it_moves(level: float) -> None:
    values = np.full(2000, level)
    values[1500:] += 1.0
    result = run(values)
    assert not result.score[:1500].any()
    assert raised(result)[0] == 1500


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("step", lambda x, k: x.__setitem__(slice(k, None), x[k:] + 15.0)),
        ("spike", lambda x, k: x.__setitem__(slice(k, k + 3), 60.0)),
        ("stuck sensor", lambda x, k: x.__setitem__(slice(k, k + 200), x[k])),
        ("noise", lambda x, k: x.__setitem__(slice(k, k + 60), x[k : k + 60] + 6.0 * (-1.0) ** np.arange(60))),
        ("missed daily peak", lambda x, k: x.__setitem__(slice(k, k + 288), 15.5 + 0.01 * x[k : k + 288])),
    ],
)
def test_the_usual_failures_are_found_and_quiet_days_are_quiet(name: str, change: object) -> None:
    values = daily(16)
    at = 288 * 14 + 20
    assert len([i for i in raised(run(values)) if i > 288 * 3]) <= 2
    assert callable(change)
    change(values, at)
    found = [i for i in raised(run(values)) if at <= i < at + 200]
    assert found, name


def test_one_episode_is_one_detection_and_a_restless_series_is_habituated() -> None:
    values = daily(40, noise=0.2)
    starts = np.arange(1500, len(values) - 200, 250)
    for start in starts:
        values[start : start + 6] += 12.0
    hits = np.array(raised(run(values)))
    assert (np.diff(hits) > DETECTOR.params.refractory).all()
    free = SeriesAnomalyDetector(AnomalyParams(habituation=0.0))
    assert len(hits) < len(raised(run(values, detector=free)))


def test_nothing_is_raised_during_warm_up() -> None:
    values = np.random.default_rng(3).normal(size=120)
    values[60] = 1e6
    assert not [i for i in raised(run(values)) if i < DETECTOR.params.warm_up]


def test_scores_do_not_depend_on_the_unit_or_the_offset() -> None:
    values = daily(6)
    values[1200:1210] += 9.0
    base = run(values)
    moved = run(values * 1024.0 + 5000.0)
    np.testing.assert_allclose(moved.score, base.score, atol=0.02)
    np.testing.assert_allclose(moved.expected[1:], base.expected[1:] * 1024.0 + 5000.0, rtol=1e-6)


def test_a_wrong_hour_is_explained_as_seasonal_with_the_value_expected() -> None:
    t = np.arange(288 * 15)
    hour = (t % 288) // 12
    values = np.where((hour >= 9) & (hour < 17), 80.0, 20.0) + np.random.default_rng(2).normal(size=len(t))
    at = 288 * 13 + 12 * 3
    values[at : at + 24] += 60.0
    result = run(values)
    hit = next(i for i in raised(result) if i >= at)
    drove = np.argsort(-result.components[hit])[:3]
    assert hit < at + 12
    assert "seasonal" in [COMPONENTS[c] for c in drove]
    assert abs(result.expected[hit] - 20.0) < 5.0


def test_components_add_up_to_the_evidence_behind_an_unhabituated_score() -> None:
    values = daily(4)
    result = run(values, detector=SeriesAnomalyDetector(AnomalyParams(habituation=0.0, refractory=0)))
    excess = result.components.sum(axis=1) / DETECTOR.params.threshold
    np.testing.assert_allclose(result.score[100:], (excess / (1 + excess))[100:], rtol=1e-12)
    assert result.components.shape == (len(values), len(DETECTOR.component_names))


def test_a_component_of_weight_zero_is_silent() -> None:
    only = AnomalyParams(**{f"{c}_weight": float(c == "pattern") for c in COMPONENTS})
    result = run(daily(4), detector=SeriesAnomalyDetector(only))
    assert result.components[:, COMPONENTS.index("pattern")].any()
    assert not np.delete(result.components, COMPONENTS.index("pattern"), axis=1).any()


@settings(max_examples=50, deadline=None)
@given(data=st.data(), dim=st.integers(1, 5), filled=st.integers(1, 20))
def test_nearest_is_the_brute_force_minimum(data: st.DataObject, dim: int, filled: int) -> None:
    number = st.floats(-100, 100, width=32)
    memory = np.array(data.draw(st.lists(number, min_size=filled * dim, max_size=filled * dim)), np.float32)
    window = np.array(data.draw(st.lists(number, min_size=dim, max_size=dim)), np.float64)
    scale = np.linspace(0.5, 2.0, dim)
    rows = memory.reshape(filled, dim).astype(np.float64)
    expected = (np.abs(rows - window) * scale).mean(axis=1).min()
    assert nearest(memory, 0, filled, window, scale) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_memory_fills_in_order_and_then_replaces_everywhere() -> None:
    assert [slot_of(k) for k in range(MEMORY)] == list(range(MEMORY))
    assert len({slot_of(k) for k in range(MEMORY, 11 * MEMORY)}) == MEMORY


@settings(max_examples=30, deadline=None)
@given(errors=st.lists(st.floats(0, 1e6), min_size=40, max_size=80))
def test_surprise_is_the_short_mean_in_long_run_deviations(errors: list[float]) -> None:
    row = np.zeros(STATE_WIDTH)
    mean, variance, logs = 0.0, 0.0, np.log1p(np.array(errors))
    for i, error in enumerate(errors):
        expected = 0.0
        if i > 30:
            short = logs[max(0, i - 9) : i + 1].mean()
            expected = min(max((short - mean) / (np.sqrt(variance) + 1e-9), 0.0), CAP)
        assert surprise(row, 2, error, float(i), 0.001) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        pace = max(0.001, 1 / (i + 1))
        step = logs[i] - mean
        mean += pace * step
        variance = (1 - pace) * (variance + pace * step * step)


def test_robust_level_follows_a_shift_but_not_an_outlier() -> None:
    row, rng = np.zeros(2), np.random.default_rng(5)
    for i in range(500):
        track(row, 0, rng.normal(), float(i), 0.02, 3.0)
    level = row[0]
    track(row, 0, 1e9, 500.0, 0.02, 3.0)
    assert abs(row[0] - level) < 0.1
    assert deviation(row, 0, 1e9, 0.0) == 1e6
    for i in range(1500):
        track(row, 0, 50.0 + rng.normal(), 501.0 + i, 0.02, 3.0)
    assert abs(row[0] - 50.0) < 2.0


def test_season_keeps_hours_and_weekends_apart_and_borrows_what_it_lacks() -> None:
    row, hour, thursday, saturday = np.zeros(STATE_WIDTH), 3600.0, 0.0, 2 * 86400.0
    assert np.isnan(season_level(row, season_cell(thursday, 0.0)))
    for week in range(10):
        for day in range(5):
            ts = thursday + (7 * week + day) * 86400.0
            weekend = day in (2, 3)  # counted from a Thursday
            cell = season_cell(ts, 0.0)
            season_track(row, cell, 50.0 if weekend else 10.0, season_level(row, cell), 0.05)
    assert season_level(row, season_cell(thursday, 0.0)) == pytest.approx(10.0, abs=1.0)
    assert season_level(row, season_cell(saturday, 0.0)) > 20.0
    assert np.isnan(season_level(row, season_cell(thursday + 5 * hour, 0.0)))
    assert season_cell(thursday + 5 * hour, -5 * hour) == season_cell(thursday, 0.0)
    assert season_cell(np.nan, 0.0) == -1
    assert season_deviation(row, 10.0, np.nan, 1.0, 0.0) == 0.0


def test_half_space_masses_count_every_value_once_per_level() -> None:
    mass, trees = np.zeros(2 * STATE_WIDTH, np.float32), draw_trees(3, 1)
    points = np.random.default_rng(1).random((250, 3))
    for point in points:
        emptiness(mass, point, trees.feature, trees.threshold, 250)
    latest = mass[LATEST_MASS : LATEST_MASS + TREES * TREE_NODES].reshape(TREES, TREE_NODES)
    for depth in range(6):
        np.testing.assert_array_equal(latest[:, 2**depth - 1 : 2 ** (depth + 1) - 1].sum(axis=1), 250.0)
    turn_window(mass, True)
    assert not mass[LATEST_MASS : LATEST_MASS + TREES * TREE_NODES].any()


def test_half_space_trees_rank_outliers_as_rivers_do() -> None:
    rng = np.random.default_rng(4)
    inliers = rng.normal(0.5, 0.05, size=(1500, 3)).clip(0, 1)
    points = np.vstack([inliers, rng.random((60, 3))])
    mass, trees = np.zeros(2 * STATE_WIDTH, np.float32), draw_trees(3, 1)
    reference: Any = river_anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=250, seed=1)
    ours, rivers = [], []
    for i, point in enumerate(points):
        ours.append(emptiness(mass, point, trees.feature, trees.threshold, 250))
        if (i + 1) % 250 == 0:
            turn_window(mass, i + 1 == 250)
        if i % 3 == 0 or i >= 1500:
            named = {str(j): float(v) for j, v in enumerate(point)}
            rivers.append(reference.score_one(named))
            reference.learn_one(named)

    def auc(normal: list[float], odd: list[float]) -> float:
        return float((np.array(odd)[:, None] > np.array(normal)).mean())

    assert auc(ours[500:1500], ours[1500:]) > 0.9
    assert auc(ours[500:1500], ours[1500:]) > auc(rivers[250:500], rivers[500:]) - 0.05


def test_bad_arguments_are_named() -> None:
    state, one, x = np.zeros((1, STATE_WIDTH)), np.zeros(1, np.int64), np.zeros(1)
    with pytest.raises(ValueError, match=r"give \(S, "):
        DETECTOR.run_many(np.zeros((1, 3)), one, x, x)
    with pytest.raises(ValueError, match="contiguous"):
        DETECTOR.run_many(np.zeros((2, 2 * STATE_WIDTH))[:, ::2], one, x, x)
    with pytest.raises(ValueError, match="same length"):
        DETECTOR.run_many(state, one, np.zeros(2), x)
    with pytest.raises(ValueError, match="must lie in"):
        DETECTOR.run_many(state, one + 1, x, x)
    assert len(DETECTOR.run_many(state, one[:0], x[:0], x[:0]).score) == 0
    with pytest.raises(ValidationError):
        AnomalyParams(treshold=3.0)  # type: ignore[call-arg]
    for offset in (np.nan, np.inf):  # of neither follows an hour: the index of one would be any
        with pytest.raises(ValidationError):
            AnomalyParams(utc_offset_s=offset)
