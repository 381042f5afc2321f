"""Quantiles of a window in bounded state: a histogram of 32 bins a pane, whose bins grow with the range of the values.

A value ``x`` falls into bin ``floor(asinh(x) / width)``: beyond 1 the bins are equal on a logarithmic scale, below on a
linear one, and negative values need nothing of their own. The width is the least ``2^k`` for which all values since the
window was last empty fit, so the error is at most one bin: a 15th of the range of ``asinh(x)``. Where a new value does
not fit, neighbours are merged two by two, as the uniform collapse of UDDSketch does (Epicoco et al. 2020). Bins are
found by their index modulo 32, two of them to a word; a pane whose bin is full halves all its bins, and weighs by its
own count.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import jit_inline
from weir.online.features import descriptors as d
from weir.online.jit import njit

BINS = 32
BIN_WORDS = BINS // 2
SCALE_WORDS = 3
"""Offsets from R_SCALE: how often the width was doubled, the least bin and the greatest."""
_FINEST = 2.0**-20
_FULL = np.uint32(0xFFFF)


@jit_inline
def held(head, p, panes, behind):
    """Whether pane ``p`` of a ring with its newest pane at ``head`` is in a window that is ``behind`` panes further."""
    return behind == 0 or (head - p) % panes < panes - behind


@jit_inline
def _bin(u32, row, at, key):
    """The count of a bin of the pane at ``at``."""
    place = int(key) % BINS
    return (u32[row, at + place // 2] >> np.uint32(16 * (place % 2))) & _FULL


@jit_inline
def _set_bin(u32, row, at, key, count):
    place = int(key) % BINS
    shift = np.uint32(16 * (place % 2))
    kept = u32[row, at + place // 2] & ~(_FULL << shift)
    u32[row, at + place // 2] = kept | (np.uint32(count) << shift)


@njit(cache=True, nogil=True, error_model="numpy")
def _merge(u32, row, at, low, high, times):
    """Merge the bins ``low`` to ``high`` of a pane two by two, so many times."""
    merged = np.zeros(BINS, dtype=np.int64)
    most = 0
    for key in range(low, high + 1):
        place = (key >> times) % BINS
        merged[place] += int(_bin(u32, row, at, key))
        most = max(most, merged[place])
    for place in range(BINS):
        _set_bin(u32, row, at, place, merged[place] if most <= 0xFFFF else merged[place] >> 1)


@njit(cache=True, nogil=True, error_model="numpy")
def add_to_bins(f64, u32, row, rings, r, p, x):
    """Count ``x`` in pane ``p``, before the pane's own count goes up."""
    scale, panes, bins = rings[r, d.R_SCALE], rings[r, d.R_PANES], rings[r, d.R_BINS]
    n = 0
    for k in range(panes):
        n += u32[row, rings[r, d.R_COUNT] + k]
    # Only an empty window may begin with fine bins again: bins are merged, and never split.
    if n == 0:
        f64[row, scale] = 0.0
    y = np.arcsinh(x) / _FINEST
    key = int(np.floor(y / 2.0 ** f64[row, scale]))
    low, high = int(f64[row, scale + 1]), int(f64[row, scale + 2])
    if n == 0:
        low, high = key, key
    times = 0
    while (max(high, key) >> times) - (min(low, key) >> times) >= BINS:
        times += 1
    if times > 0:
        for k in range(panes):
            if u32[row, rings[r, d.R_COUNT] + k] > 0:
                _merge(u32, row, bins + k * BIN_WORDS, low, high, times)
        f64[row, scale] += times
        low, high, key = low >> times, high >> times, key >> times
    f64[row, scale + 1], f64[row, scale + 2] = min(low, key), max(high, key)
    at = bins + p * BIN_WORDS
    if _bin(u32, row, at, key) == _FULL:
        for place in range(BINS):
            _set_bin(u32, row, at, place, _bin(u32, row, at, place) >> np.uint32(1))
    _set_bin(u32, row, at, key, _bin(u32, row, at, key) + np.uint32(1))


@njit(cache=True, nogil=True, error_model="numpy")
def quantiles(f64, u32, row, rings, r, behind, stats):
    """The quantiles of the panes in the window, into ``stats[r]``: the least value that so large a share is not above.

    Within a bin values are taken as even.
    """
    panes, head = rings[r, d.R_PANES], int(f64[row, rings[r, d.R_HEAD]])
    low, high = int(f64[row, rings[r, d.R_SCALE] + 1]), int(f64[row, rings[r, d.R_SCALE] + 2])
    weights = np.zeros(BINS)
    total = 0.0
    for p in range(panes):
        count = u32[row, rings[r, d.R_COUNT] + p]
        if count > 0 and held(head, p, panes, behind):
            at, binned = rings[r, d.R_BINS] + p * BIN_WORDS, 0
            for w in range(BIN_WORDS):
                binned += int(u32[row, at + w] & _FULL) + int(u32[row, at + w] >> np.uint32(16))
            share = count / binned
            for w in range(BIN_WORDS):
                if u32[row, at + w] > 0:
                    weights[2 * w] += share * (u32[row, at + w] & _FULL)
                    weights[2 * w + 1] += share * (u32[row, at + w] >> np.uint32(16))
            total += count
    width = _FINEST * 2.0 ** f64[row, rings[r, d.R_SCALE]]
    for j in range(len(d.QUANTILES)):
        left, wanted = 0.0, d.QUANTILES[j] * total
        value = np.nan
        for key in range(low, high + 1):
            weight = weights[key % BINS]
            if weight > 0.0:
                value = np.sinh((key + min(max((wanted - left) / weight, 0.0), 1.0)) * width)
                left += weight
                # Sums of shares miss a whole number by rounding, which must not move a quantile on by a bin.
                if left >= wanted - 1e-9 * total:
                    break
        stats[r, d.T_QUANTILES + j] = value
