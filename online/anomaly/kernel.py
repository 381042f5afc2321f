"""One pass of the anomaly detector over many series: every view's error, its surprise, the score. Numba, in place.

It knows state rows, weights and settings; parameters, checks and names are in ``detector``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.anomaly.components import (
    deviation,
    nearest,
    remember,
    season_cell,
    season_deviation,
    season_level,
    season_track,
    surprise,
    track,
)
from weir.online.anomaly.half_space import HalfSpaces, emptiness, turn_window, unit
from weir.online.anomaly.layout import (
    ANCHOR,
    CHANGE,
    CONTEXT,
    CONTEXT_DIM,
    CONTEXTS,
    COUNT,
    DENSITY,
    HABITUATION,
    LAST,
    LEVEL,
    MEANS,
    MEMORY,
    N_COMPONENTS,
    N_MEANS,
    PATTERN,
    PATTERN_DIM,
    PATTERNS,
    RAISED_AT,
    ROUGHNESS,
    SEASON,
    SEASONAL,
    SPREAD,
    TRACKERS,
)
from weir.online.jit import njit

Row = NDArray[np.float64]
Row32 = NDArray[np.float32]

_LIMIT = 1e30  # float32 blocks hold the values, so they are cut here
# Scales from the level beyond which a value counts as this far: what is remembered of one that is absurd must fade.
_FAR = 1e4
_LEVEL_AT, _STEP_AT, _ROUGH_AT, _CONTEXT_AT = TRACKERS, TRACKERS + 2, TRACKERS + 4, TRACKERS + 6
DENSITY_FEATURES = 3
_MEAN_SPANS = (3.0, 10.0, 30.0, 100.0)


class Settings(NamedTuple):
    """Rates and limits as numba takes them; meanings as in ``AnomalyParams``."""

    threshold: float
    refractory: int
    habituation: float
    decay: float
    warm_up: int
    likelihood_rate: float
    level_rate: float
    season_rate: float
    memory_stride: int
    tree_window: int
    utc_offset_s: float


@njit(cache=True)
def _expected(row: Row, seasonal: float) -> float:
    """Of the seasonal and the robust level, the one whose residuals have been smaller."""
    if row[COUNT] == 0.0:
        return np.nan
    if np.isnan(seasonal) or row[SEASON + 1] <= 20.0 or row[SEASON] >= row[_LEVEL_AT + 1]:
        return float(row[_LEVEL_AT] + row[ANCHOR])
    return float(seasonal + row[ANCHOR])


@njit(cache=True)
def _roughness(row: Row, step: float, count: float) -> float:
    """Log of the running mean absolute step over about 6 values, learning ``step``."""
    row[ROUGHNESS] += max(1.0 / 6.0, 1.0 / (count + 1.0)) * (abs(step) - row[ROUGHNESS])
    row[ROUGHNESS + 1] += max(0.002, 1.0 / (count + 1.0)) * (abs(step) - row[ROUGHNESS + 1])
    return float(np.log(row[ROUGHNESS] + 0.01 * row[ROUGHNESS + 1] + 1e-12))


@njit(cache=True)
def _novelty(
    row: Row, row32: Row32, x: float, pattern: Row, context: Row, scale: Row, stride: int, wanted: Row, errors: Row
) -> None:
    """Fill both windows, measure their distance to what is remembered, learn scales and every ``stride``-th window."""
    count = row[COUNT]
    context[0] = x
    for j in range(N_MEANS):
        row[MEANS + j] += max(1.0 / _MEAN_SPANS[j], 1.0 / (count + 1.0)) * (x - row[MEANS + j])
        context[j + 1] = row[MEANS + j]
    pattern[0] = x
    for j in range(1, PATTERN_DIM):
        pattern[j] = row[LAST + j - 1]
    for j in range(CONTEXT_DIM):
        track(row, _CONTEXT_AT + 2 * j, context[j], count, 0.001, 100.0)
        scale[j] = 1.0 / (row[_CONTEXT_AT + 2 * j + 1] + 1e-9 * abs(row[ANCHOR]) + 1e-12)
    stored = max(int(count) - 1, 0) // stride
    filled = min(stored, MEMORY)
    learn = count > 0.0 and int(count) % stride == 0
    if wanted[CONTEXT] > 0.0:
        if filled >= 3:
            errors[CONTEXT] = nearest(row32, CONTEXTS, filled, context, scale)
        if learn:
            remember(row32, CONTEXTS, stored, context)
    if wanted[PATTERN] > 0.0:
        scale[:] = scale[0]
        if filled >= 3:
            errors[PATTERN] = nearest(row32, PATTERNS, filled, pattern, scale)
        if learn:
            for j in range(PATTERN_DIM):  # three values late: an anomaly must not at once become its own neighbour
                pattern[j] = row[LAST + j + 2]
            remember(row32, PATTERNS, stored, pattern)


@njit(cache=True)
def _density(row: Row, row32: Row32, x: float, step: float, cube: Row, trees: HalfSpaces, window: int) -> float:
    """Emptiness of (level, step, running mean) in the unit cube; 0 until the first mass window is full."""
    scale = row[_LEVEL_AT + 1] + 1e-12
    cube[0] = unit((x - row[_LEVEL_AT]) / scale)
    cube[1] = unit(step / (row[_STEP_AT + 1] + 1e-12))
    cube[2] = unit((row[MEANS + 1] - row[_LEVEL_AT]) / scale)
    found = emptiness(row32, cube, trees.feature, trees.threshold, window)
    learned = int(row[COUNT]) + 1
    if learned % window == 0:
        turn_window(row32, learned == window)
    return found if learned > window else 0.0


@njit(cache=True)
def _decide(row: Row, evidence: float, settings: Settings) -> float:
    """Score from the evidence, the rest after an episode and the habituation; raises an episode at 0.5."""
    count = row[COUNT]
    row[HABITUATION] *= settings.decay
    excess = max(evidence / settings.threshold - row[HABITUATION], 0.0)
    score = excess / (1.0 + excess)
    rests = row[RAISED_AT] > 0.0 and count - row[RAISED_AT] <= settings.refractory
    # Half of a score stays below 0.5: it is told, but raises no episode.
    if rests or count < settings.warm_up:
        return float(0.5 * score)
    if score >= 0.5:
        row[RAISED_AT] = count
        row[HABITUATION] += settings.habituation
    return float(score)


@njit(cache=True)
def run_kernel(
    state: NDArray[np.float64],
    slots: NDArray[np.int64],
    ts: Row,
    values: Row,
    weights: Row,
    settings: Settings,
    trees: HalfSpaces,
    score: Row,
    components: NDArray[np.float64],
    expected: Row,
) -> None:
    """Score ``values (n,)`` in order into ``score``, ``components (n, C)`` and ``expected``; update ``state`` rows."""
    pattern, context, scale = np.zeros(PATTERN_DIM), np.zeros(CONTEXT_DIM), np.zeros(CONTEXT_DIM)
    cube, errors = np.zeros(DENSITY_FEATURES), np.zeros(N_COMPONENTS)
    for i in range(len(values)):
        row = state[slots[i]]
        row32 = row.view(np.float32)
        cell = season_cell(ts[i], settings.utc_offset_s)
        seasonal = season_level(row, cell)
        expected[i] = _expected(row, seasonal)
        # Behind ``expected``, which is told of a missing value as well.
        if not np.isfinite(values[i]):
            continue
        count = row[COUNT]
        if count == 0.0:
            row[ANCHOR] = min(max(values[i], -_LIMIT), _LIMIT)
        x = min(max(values[i] - row[ANCHOR], -_LIMIT), _LIMIT)
        step = x - row[LAST] if count > 0.0 else 0.0
        errors[:] = 0.0
        errors[LEVEL] = deviation(row, _LEVEL_AT, x, row[ANCHOR])
        errors[CHANGE] = deviation(row, _STEP_AT, step, row[ANCHOR])
        errors[SEASONAL] = season_deviation(row, x, seasonal, row[_LEVEL_AT + 1], row[ANCHOR])
        if count > 20.0 and row[_LEVEL_AT + 1] > 0.0:
            # Errors above are of the value as it came; from here on it is only remembered, as far as it can fade again.
            far = _FAR * row[_LEVEL_AT + 1]
            x = min(max(x, row[_LEVEL_AT] - far), row[_LEVEL_AT] + far)
            step = x - row[LAST]
        if weights[SPREAD] > 0.0:
            rough = _roughness(row, step, count)
            errors[SPREAD] = deviation(row, _ROUGH_AT, rough, 0.0)
            track(row, _ROUGH_AT, rough, count, 0.001, 3.0)
        if weights[CONTEXT] > 0.0 or weights[PATTERN] > 0.0 or weights[DENSITY] > 0.0:
            _novelty(row, row32, x, pattern, context, scale, settings.memory_stride, weights, errors)
        if weights[DENSITY] > 0.0:
            errors[DENSITY] = _density(row, row32, x, step, cube, trees, settings.tree_window)
        track(row, _LEVEL_AT, x, count, settings.level_rate, 3.0)
        track(row, _STEP_AT, step, count, 0.002, 3.0)
        season_track(row, cell, x, seasonal, settings.season_rate)
        evidence = 0.0
        for c in range(N_COMPONENTS):
            if weights[c] > 0.0:
                components[i, c] = weights[c] * surprise(row, c, errors[c], count, settings.likelihood_rate)
                evidence += components[i, c]
        score[i] = _decide(row, evidence, settings)
        for j in range(4, 0, -1):
            row[LAST + j] = row[LAST + j - 1]
        row[LAST] = x
        row[COUNT] = count + 1.0
