"""Windows in the kernel: rings of panes in a packed row, moved on, fed and read.

A window of ``span`` seconds is a ring of ``P`` panes of ``span / P`` seconds. At time ``t`` it holds the panes with
index in ``(floor(t / pane) - P, floor(t / pane)]``, so it covers between ``span - pane`` and ``span`` seconds. A late
event is added to the pane it belongs to while that pane is still in the ring, and reads the window at the newest time
its row was fed. The window ``ever`` is one pane of endless width, whose index is always 0.

Sums, smallest and largest values are float64: what is read is what was fed, and differences of a large counter are as
exact as its readings. A ring with ``std`` keeps the mean of each pane in place of its sum: deviations from it do not
cancel, however large the values. Sums run in pane order, so results do not depend on how rows are cut into batches or
on vector width. Counts are whole numbers in 32 bits.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import jit_inline
from weir.online.features import descriptors as d
from weir.online.features.quantiles import BIN_WORDS, add_to_bins, held, quantiles
from weir.online.jit import njit

DAY_S = 86_400.0


# Functions get whole tables and the number of a row: each slice would cost two atomic counts of references.
@jit_inline
def advance(f64, f32, u32, row, rings, r, idx):
    """Move a ring's newest pane up to ``idx``, clearing the panes it skips; a late ``idx`` changes nothing."""
    head = f64[row, rings[r, d.R_HEAD]]
    # A new row. Event times are of 2000 and later, so no pane but that of ``ever`` has the index 0.
    if head == 0.0:
        f64[row, rings[r, d.R_HEAD]] = idx
        return
    if idx <= head:
        return
    panes = rings[r, d.R_PANES]
    # After a pause every pane is cleared once, not once for each pane of the pause.
    steps = min(int(idx - head), panes)
    first = int(idx) - steps + 1
    for k in range(first, int(idx) + 1):
        p = k % panes
        u32[row, rings[r, d.R_COUNT] + p] = 0
        if rings[r, d.R_SUM] >= 0:
            f64[row, rings[r, d.R_SUM] + p] = 0.0
        if rings[r, d.R_M2] >= 0:
            f32[row, rings[r, d.R_M2] + p] = 0.0
        if rings[r, d.R_BITS] >= 0:
            for w in range(rings[r, d.R_BIT_WORDS]):
                u32[row, rings[r, d.R_BITS] + p * rings[r, d.R_BIT_WORDS] + w] = 0
        if rings[r, d.R_MORE] == 1 and rings[r, d.R_BINS] >= 0:
            for w in range(BIN_WORDS):
                u32[row, rings[r, d.R_BINS] + p * BIN_WORDS + w] = 0
    f64[row, rings[r, d.R_HEAD]] = idx


@jit_inline
def _set_bit(u32, row, rings, r, pane, bits):
    """Mark a value in a pane's bitmap; ``bits`` is the value's float64 bit pattern."""
    # The finaliser of MurmurHash3: whole numbers as floats end in zeros, and a modulus alone would put them on one bit.
    h = np.uint64(bits)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    h = h ^ (h >> np.uint64(33))
    words = rings[r, d.R_BIT_WORDS]
    bit = int(h % np.uint64(words * 32))
    at = rings[r, d.R_BITS] + pane * words + bit // 32
    u32[row, at] = u32[row, at] | np.uint32(1 << (bit % 32))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_more(f64, u32, row, rings, r, p, x, t):
    """Add one value to what few rings have, before the count of pane ``p`` goes up."""
    at = rings[r, d.R_FIRST]
    if at >= 0 and (f64[row, at] == 0.0 or t < f64[row, at]):
        f64[row, at] = t
    if rings[r, d.R_BINS] >= 0:
        add_to_bins(f64, u32, row, rings, r, p, x)
    at = rings[r, d.R_MEAN_EVER]
    if at >= 0:
        off = x - f64[row, at]
        f64[row, at] += off / (u32[row, rings[r, d.R_COUNT]] + 1.0)
        f64[row, at + 1] += off * (x - f64[row, at])


@jit_inline
def add(f64, f32, u32, row, rings, r, idx, x, bits, unit, t):
    """Add one value to the pane ``idx`` of a ring; ``unit`` is 1, or 0 for a correction that only moves the sum.

    Returns 1 when the pane is still in the ring, else 0: nothing was added.
    """
    panes = rings[r, d.R_PANES]
    if idx <= f64[row, rings[r, d.R_HEAD]] - panes:
        return 0.0
    p = int(idx) % panes
    if rings[r, d.R_MORE] == 1:
        _add_more(f64, u32, row, rings, r, p, x, t)
    before = float(u32[row, rings[r, d.R_COUNT] + p])
    u32[row, rings[r, d.R_COUNT] + p] += np.uint32(unit)
    if rings[r, d.R_M2] >= 0:
        mean = f64[row, rings[r, d.R_SUM] + p] if before > 0 else x
        f64[row, rings[r, d.R_SUM] + p] = mean + (x - mean) / (before + 1.0)
        f32[row, rings[r, d.R_M2] + p] += (x - mean) * (x - f64[row, rings[r, d.R_SUM] + p])
    elif rings[r, d.R_SUM] >= 0:
        f64[row, rings[r, d.R_SUM] + p] += x
    if rings[r, d.R_MIN] >= 0 and (before == 0.0 or x < f64[row, rings[r, d.R_MIN] + p]):
        f64[row, rings[r, d.R_MIN] + p] = x
    if rings[r, d.R_MAX] >= 0 and (before == 0.0 or x > f64[row, rings[r, d.R_MAX] + p]):
        f64[row, rings[r, d.R_MAX] + p] = x
    if rings[r, d.R_BITS] >= 0:
        _set_bit(u32, row, rings, r, p, bits)
    return 1.0


@jit_inline
def _popcount(v):
    """Set bits of a uint32."""
    v = v - ((v >> np.uint32(1)) & np.uint32(0x55555555))
    v = (v & np.uint32(0x33333333)) + ((v >> np.uint32(2)) & np.uint32(0x33333333))
    v = (v + (v >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    return ((v * np.uint32(0x01010101)) & np.uint32(0xFFFFFFFF)) >> np.uint32(24)  # numba widens the product


@jit_inline
def panes_behind(f64, row, rings, r, idx):
    """How many of a ring's oldest panes are out of the window at pane ``idx``: those a feeding row would clear."""
    return max(min(int(idx) - int(f64[row, rings[r, d.R_HEAD]]), rings[r, d.R_PANES]), 0)


@jit_inline
def _distinct(f64, u32, row, rings, r, behind):
    """Linear counting over the union of the panes (Whang et al. 1990); saturates at ``m ln m``."""
    words = rings[r, d.R_BIT_WORDS]
    head = int(f64[row, rings[r, d.R_HEAD]])
    filled = 0
    for w in range(words):
        union = np.uint32(0)
        for p in range(rings[r, d.R_PANES]):
            if held(head, p, rings[r, d.R_PANES], behind):
                union |= u32[row, rings[r, d.R_BITS] + p * words + w]
        filled += int(_popcount(union))
    m = words * 32.0
    return -m * np.log(max(m - filled, 1.0) / m)


@njit(cache=True, nogil=True, error_model="numpy")
def _trend(f64, u32, row, rings, r, behind):
    """The mean of the newer half of the window over that of its older half; NaN where either has no value."""
    panes, head = rings[r, d.R_PANES], int(f64[row, rings[r, d.R_HEAD]])
    old_n, old_sum, new_n, new_sum = 0.0, 0.0, 0.0, 0.0
    for p in range(panes):
        age = (head - p) % panes + behind
        c = float(u32[row, rings[r, d.R_COUNT] + p])
        if c > 0 and age < panes:
            total = f64[row, rings[r, d.R_SUM] + p] * (c if rings[r, d.R_M2] >= 0 else 1.0)
            if 2 * age < panes:
                new_n, new_sum = new_n + c, new_sum + total
            else:
                old_n, old_sum = old_n + c, old_sum + total
    if new_n == 0.0 or old_n == 0.0 or old_sum == 0.0:
        return np.nan
    return (new_sum / new_n) / (old_sum / old_n)


@njit(cache=True, nogil=True, error_model="numpy")
def _totals_of_more(f64, u32, row, rings, r, behind, n, stats):
    """Totals of what few rings have."""
    at = rings[r, d.R_MEAN_EVER]
    if at >= 0:
        stats[r, d.T_SUM], stats[r, d.T_M2] = n * f64[row, at], f64[row, at + 1]
    if rings[r, d.R_TREND] == 1:
        stats[r, d.T_TREND] = _trend(f64, u32, row, rings, r, behind)
    if rings[r, d.R_BINS] >= 0:
        quantiles(f64, u32, row, rings, r, behind, stats)


@jit_inline
def totals(f64, f32, u32, row, rings, r, behind, stats):
    """Count, sum, squared deviations, min, max, distinct values, trend and quantiles of a ring, into ``stats[r]``."""
    panes = rings[r, d.R_PANES]
    head = int(f64[row, rings[r, d.R_HEAD]])
    n = 0
    for p in range(panes):
        if held(head, p, panes, behind):
            n += u32[row, rings[r, d.R_COUNT] + p]
    stats[r, d.T_COUNT] = n
    if rings[r, d.R_M2] >= 0:
        _deviations(f64, f32, u32, row, rings, r, behind, n, stats)
    elif rings[r, d.R_SUM] >= 0:
        total = 0.0
        for p in range(panes):
            if held(head, p, panes, behind):
                total += f64[row, rings[r, d.R_SUM] + p]
        stats[r, d.T_SUM] = total
    if rings[r, d.R_MIN] >= 0:
        low = np.inf
        for p in range(panes):
            if u32[row, rings[r, d.R_COUNT] + p] > 0 and held(head, p, panes, behind):
                low = min(low, f64[row, rings[r, d.R_MIN] + p])
        stats[r, d.T_MIN] = low
    if rings[r, d.R_MAX] >= 0:
        high = -np.inf
        for p in range(panes):
            if u32[row, rings[r, d.R_COUNT] + p] > 0 and held(head, p, panes, behind):
                high = max(high, f64[row, rings[r, d.R_MAX] + p])
        stats[r, d.T_MAX] = high
    if rings[r, d.R_BITS] >= 0:
        stats[r, d.T_DISTINCT] = _distinct(f64, u32, row, rings, r, behind)
    if rings[r, d.R_MORE] == 1:
        _totals_of_more(f64, u32, row, rings, r, behind, n, stats)


@jit_inline
def _deviations(f64, f32, u32, row, rings, r, behind, n, stats):
    """Sum and squared deviations over the means of panes, taken from one of the means: no large numbers cancel."""
    panes, head = rings[r, d.R_PANES], int(f64[row, rings[r, d.R_HEAD]])
    origin, moved, m2 = np.nan, 0.0, 0.0
    for p in range(panes):
        c = float(u32[row, rings[r, d.R_COUNT] + p])
        if c > 0 and held(head, p, panes, behind):
            if origin != origin:
                origin = f64[row, rings[r, d.R_SUM] + p]
            moved += c * (f64[row, rings[r, d.R_SUM] + p] - origin)
    for p in range(panes):
        c = float(u32[row, rings[r, d.R_COUNT] + p])
        if c > 0 and held(head, p, panes, behind):
            off = f64[row, rings[r, d.R_SUM] + p] - origin - moved / n
            m2 += f32[row, rings[r, d.R_M2] + p] + c * off * off
    stats[r, d.T_SUM] = n * (origin + moved / n) if n > 0 else 0.0
    stats[r, d.T_M2] = m2


@jit_inline
def days_seen(f64, row, rings, r, width, t):
    """Days that a rate is over: the window, or the time since the first event where that is shorter; a day at least.

    A window shorter than a day counts whole.
    """
    window = width * rings[r, d.R_PANES]
    return min(max(t - f64[row, rings[r, d.R_FIRST]], DAY_S), window) / DAY_S


@jit_inline
def ring_feature(op, stats, r, x, counted, priors):
    """One windowed feature from a ring's totals; NaN where it is not defined."""
    n = stats[r, d.T_COUNT]
    if op in (d.COUNT, d.RATE):
        return n
    if op == d.SUM:
        return stats[r, d.T_SUM]
    if op == d.DISTINCT:
        return stats[r, d.T_DISTINCT]
    if op in (d.SHARE, d.POSITIVES):
        # The window may hold a correction, +1 or -1, and no longer the label that it corrects.
        positives = min(max(stats[r, d.T_SUM], 0.0), n)
        if op == d.POSITIVES:
            return positives
        weight = n + priors[r, 0]
        return (positives + priors[r, 0] * priors[r, 1]) / weight if weight > 0 else np.nan
    if op == d.OVER_MEAN:
        n -= counted
        own = (stats[r, d.T_SUM] - (x if counted > 0 else 0.0)) / n if n > 0 else np.nan
        return x / own if own != 0 else np.nan
    if n <= 0:
        return np.nan
    if op == d.MEAN:
        return stats[r, d.T_SUM] / n
    if op == d.STD:
        return np.sqrt(max(stats[r, d.T_M2], 0.0) / n)
    if op == d.MIN:
        return stats[r, d.T_MIN]
    if op == d.TREND:
        return stats[r, d.T_TREND]
    if op >= d.Q50:
        return stats[r, d.T_QUANTILES + op - d.Q50]
    return stats[r, d.T_MAX]
