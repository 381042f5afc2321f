"""The compiled path of a monitor: rows into blocks, and a closed block past every detector."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weir.online.drift import adwin, page_hinkley
from weir.online.drift.histograms import BINS, PSI_BINS, fill, ks_critical, ks_distance, psi
from weir.online.drift.monitor_state import SEASON, DriftState
from weir.online.jit import njit

CLIP = 4.0
"""A block mean further than this many standard deviations from the reference counts as this far. ADWIN's bound is for
values in [0, 1], and a heavy tail must not raise an alarm by one value."""

CHI_SQUARE = 45.0
"""Exceeded with probability 1e-6 by a chi-square variable with 9 degrees of freedom."""

MIN_COMPARED = 100  # sampled values on either side below which KSWIN and PSI stay silent


@njit(cache=True)
def _usual_at(hour: float, usual: NDArray[np.float64], offset: NDArray[np.float64]) -> int:
    """What is usual of each stream at ``hour`` goes into ``offset (C,)``; returns the hour whose middle is nearer."""
    size, whole = usual.shape[1], math.floor(hour)
    part, h = hour - whole, int(whole % size)
    after = (h + 1) % size
    for c in range(len(offset)):
        offset[c] = (1.0 - part) * usual[c, h] + part * usual[c, after]
    return h if part < 0.5 else after


@njit(cache=True)
def gather(
    columns: NDArray[np.float64], begun: int, sample_every: int, hours: NDArray[np.float64], state: DriftState
) -> None:
    """Add rows ``columns (n, C)`` to the open block, which has ``begun`` rows; skips what is not finite.

    Parameters
    ----------
    hours : (n,) hours of event time since the middle of the first hour of the epoch's week; NaN where it is not known.
    state : its open block, and the season of streams that learn theirs.
    """
    anchor, sums, samples, sampled = state.anchor, state.sums, state.samples, state.sampled
    phase, season = state.phase, state.season
    offset, minute = np.zeros(len(anchor)), math.nan
    nearest = 0
    for i in range(columns.shape[0]):
        keep = (begun + i) % sample_every == 0
        known = not math.isnan(hours[i])
        # What is usual is interpolated once a minute of event time, not at each row: within one it hardly moves.
        if known and math.floor(hours[i] * 60.0) != minute:  # nan is never equal
            minute = math.floor(hours[i] * 60.0)
            nearest = _usual_at(minute / 60.0, state.usual, offset)
        for c in range(columns.shape[1]):
            x = columns[i, c]
            if not math.isfinite(x):
                continue
            if math.isnan(anchor[c]):
                anchor[c] = x
            if known:
                if phase[c] == SEASON:
                    above = x - anchor[c]
                    season[c, nearest, 0] += 1.0
                    season[c, nearest, 1] += above
                    season[c, nearest, 2] += above * above
                else:
                    x -= offset[c]
            apart = x - anchor[c]
            sums[c, 0] += 1.0
            sums[c, 1] += apart
            sums[c, 2] += apart * apart
            if keep:
                samples[c, sampled[c]] = x
                sampled[c] += 1


@njit(cache=True)
def _kswin(
    history: NDArray[np.int64], block: int, window: int, recent: int, alpha: float, floor: float, inflation: float
) -> tuple[float, float]:
    """Distance between the newest blocks and the older part of the window, and what it must exceed."""
    new, old = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for b in range(window):
        row = history[(block - b) % len(history)]
        if b < recent:
            new += row
        else:
            old += row
    n, m = old.sum(), new.sum()
    if min(n, m) < MIN_COMPARED:
        return 0.0, math.inf
    return ks_distance(old, new), max(ks_critical(n / inflation, m / inflation, alpha), floor)


@njit(cache=True)
def current_psi(
    history: NDArray[np.int64],
    block: int,
    window: int,
    psi_bin: NDArray[np.int64],
    reference: NDArray[np.int64],
    inflation: float,
) -> tuple[float, float]:
    """PSI of the newest ``window`` blocks against the reference, and what chance alone could make of it.

    Without drift PSI is (1 / n + 1 / m) times a chi-square variable with bins - 1 degrees of freedom (Yurdakul and
    Naranjo, 2020, "Statistical properties of the population stability index"). NaN where there are too few values.
    """
    current = np.zeros(PSI_BINS, np.int64)
    for b in range(window):
        row = history[(block - b) % len(history)]
        for k in range(BINS):
            current[psi_bin[k]] += row[k]
    n, m = reference.sum(), current.sum()
    if min(n, m) < MIN_COMPARED:
        return math.nan, math.inf
    return psi(reference, current), CHI_SQUARE * inflation * (1.0 / n + 1.0 / m)


@njit(cache=True)
def examine(
    watched: NDArray[np.int64],
    uses: NDArray[np.bool_],
    limits: NDArray[np.float64],
    spans: NDArray[np.int64],
    state: DriftState,
    verdicts: NDArray[np.float64],
) -> bool:
    """Show the closed block to the detectors of the ``watched`` streams; True if any raises an alarm.

    Parameters
    ----------
    uses : (C, 4) bool, which detectors watch a stream, in the order of ``policy.DETECTORS``.
    limits : (6,) ADWIN delta, Page-Hinkley delta and threshold, KSWIN alpha and floor, PSI threshold.
    spans : (4,) ADWIN clock, KSWIN window and recent part, PSI window, in blocks.
    verdicts : (C, 4, 2) statistic and threshold, written for every watched stream.
    """
    alarm = False
    for c in watched:
        verdicts[c, :, 0], verdicts[c, :, 1] = 0.0, math.inf
        mean = state.anchor[c] + state.sums[c, 1] / state.sums[c, 0]
        z = (mean - state.centre[c]) / state.spread[c]
        z = min(max(z, -CLIP), CLIP)
        blocks, history = state.blocks[c], state.history[c]
        block = blocks - 1
        if uses[c, 0]:
            windows = state.adwin_sums, state.adwin_totals, state.adwin_held
            apart, bound = adwin.step(z / (2.0 * CLIP) + 0.5, limits[0], spans[0], *windows, c)
            # Back from [0, 1], for which ADWIN's bound holds, to standard deviations.
            verdicts[c, 0, 0], verdicts[c, 0, 1] = apart * 2.0 * CLIP, bound * 2.0 * CLIP
        if uses[c, 1]:
            verdicts[c, 1, 0] = page_hinkley.step(z, limits[1], state.page_hinkley[c])
            verdicts[c, 1, 1] = limits[2]
        if uses[c, 2] or uses[c, 3]:
            fill(state.samples[c, : state.sampled[c]], state.edges[c], history[block % len(history)])
        if uses[c, 2] and blocks >= spans[1]:
            verdicts[c, 2] = _kswin(history, block, spans[1], spans[2], limits[3], limits[4], state.inflation[c])
        if uses[c, 3] and blocks >= spans[3]:
            against = state.psi_bin[c], state.psi_reference[c], state.inflation[c]
            index, chance = current_psi(history, block, spans[3], *against)
            if not math.isnan(index):
                verdicts[c, 3, 0], verdicts[c, 3, 1] = index, max(limits[5], chance)
        for d in range(4):
            alarm = alarm or verdicts[c, d, 0] > verdicts[c, d, 1]
    return alarm
