"""The window kernel: one compiled pass over a batch in event order that updates packed entity rows and reads features.

It interprets small descriptor tables (built by ``plan``) so that one compiled function serves every task, live and in a
backtest. It knows rows of words, not names.

A window of ``span`` seconds is a ring of ``P`` panes of ``span / P`` seconds. At time ``t`` it holds the panes with
index in ``(floor(t / pane) - P, floor(t / pane)]``, so it covers between ``span - pane`` and ``span`` seconds. A late
event is added to the pane it belongs to while that pane is still in the ring, and reads the window at the newest time
its row was fed.

Only what feeds a row changes it: a timer that looks, or an event that reads a label aggregate, leaves every bit as it
was. So a row is a function of the records that fed it, and whoever reads it need not be its owner.

Sums, smallest and largest values are float64: what is read is what was fed, and differences of a large counter are as
exact as its readings. A ring with ``std`` keeps the mean of each pane in place of its sum: deviations from it do not
cancel, however large the values. Sums run in pane order, so results do not depend on how rows are cut into batches or
on vector width. Counts are whole numbers in 32 bits.
"""

from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import jit_inline
from weir.online.jit import njit

# Row modes.
EVENT, READ, LABEL = 0, 1, 2

LAYOUT = 2
"""Part of every row's schema; raised when the same tables give a row another layout. 1: panes were float32."""

# Columns of the ring table (int64); -1 = absent. COUNT and BITS index the uint32 view of a row, M2 the float32 view,
# HEAD, SUM, MIN and MAX the float64 view. With M2, SUM is where the means of the panes are.
(R_VALUE, R_MASK, R_PANES, R_HEAD, R_COUNT, R_SUM, R_M2, R_MIN, R_MAX, R_BITS, R_BIT_WORDS, R_BEFORE) = range(12)
RING_COLUMNS = 12

# Columns of the scalar table (int64); every offset indexes the float64 view of a row.
# S_RUN_TS and S_RUN_VALUE are value columns: when a label's event was, and what ``run_min`` is the smallest of.
(S_VALUE, S_MASK, S_LAST_TS, S_FIRST_TS, S_LAST, S_EW, S_POSITIVE_TS, S_FIRST_POSITIVE_TS, S_RUN, S_RUN_TS,
 S_RUN_VALUE) = range(11)  # fmt: skip
SCALAR_COLUMNS = 11

# A label run, offsets from S_RUN: time of the newest known negative; of the run's first positive; how many positives,
# and their smallest value.
RUN_NEGATIVE, RUN_FIRST, RUN_SIZE, RUN_LEAST = range(4)
RUN_WORDS = 4

# Columns of the feature table (int64): which operation, on which ring or scalar, into which output column.
F_OP, F_SOURCE, F_OUT = range(3)
FEATURE_COLUMNS = 3

(
    COUNT,
    SUM,
    MEAN,
    STD,
    MIN,
    MAX,
    DISTINCT,
    OVER_MEAN,
    SHARE,
    LAST,
    SINCE_LAST,
    SINCE_FIRST,
    EWMEAN,
    OVER_EWMEAN,
    SINCE_POSITIVE,
    SINCE_FIRST_POSITIVE,
    RUN_COUNT,
    RUN_MIN,
    RUN_SINCE_FIRST,
    RUN_SINCE_NEGATIVE,
) = range(20)

# A clipped mean accepts values whole until this much weight has been seen, so that one first value cannot pin it.
_MIN_CLIP_WEIGHT = 2.0


# Functions get whole tables and the number of a row: each slice would cost two atomic counts of references.
@jit_inline
def _advance(f64, f32, u32, row, rings, r, idx):
    """Move a ring's newest pane up to ``idx``, clearing the panes it skips; a late ``idx`` changes nothing."""
    head = f64[row, rings[r, R_HEAD]]
    if head == 0.0:
        f64[row, rings[r, R_HEAD]] = idx
        return
    if idx <= head:
        return
    panes = rings[r, R_PANES]
    steps = min(int(idx - head), panes)
    first = int(idx) - steps + 1
    for k in range(first, int(idx) + 1):
        p = k % panes
        u32[row, rings[r, R_COUNT] + p] = 0
        if rings[r, R_SUM] >= 0:
            f64[row, rings[r, R_SUM] + p] = 0.0
        if rings[r, R_M2] >= 0:
            f32[row, rings[r, R_M2] + p] = 0.0
        if rings[r, R_BITS] >= 0:
            for w in range(rings[r, R_BIT_WORDS]):
                u32[row, rings[r, R_BITS] + p * rings[r, R_BIT_WORDS] + w] = 0
    f64[row, rings[r, R_HEAD]] = idx


@jit_inline
def _set_bit(u32, row, rings, r, pane, bits):
    """Mark a value in a pane's bitmap; ``bits`` is the value's float64 bit pattern."""
    h = np.uint64(bits)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    h = h ^ (h >> np.uint64(33))
    words = rings[r, R_BIT_WORDS]
    bit = int(h % np.uint64(words * 32))
    at = rings[r, R_BITS] + pane * words + bit // 32
    u32[row, at] = u32[row, at] | np.uint32(1 << (bit % 32))


@jit_inline
def _add(f64, f32, u32, row, rings, r, idx, x, bits, unit):
    """Add one value to the pane ``idx`` of a ring; ``unit`` is 1, or 0 for a correction that only moves the sum.

    Returns 1 when the pane is still in the ring, else 0: nothing was added.
    """
    panes = rings[r, R_PANES]
    if idx <= f64[row, rings[r, R_HEAD]] - panes:
        return 0.0
    p = int(idx) % panes
    before = float(u32[row, rings[r, R_COUNT] + p])
    u32[row, rings[r, R_COUNT] + p] += np.uint32(unit)
    if rings[r, R_M2] >= 0:
        mean = f64[row, rings[r, R_SUM] + p] if before > 0 else x
        f64[row, rings[r, R_SUM] + p] = mean + (x - mean) / (before + 1.0)
        f32[row, rings[r, R_M2] + p] += (x - mean) * (x - f64[row, rings[r, R_SUM] + p])
    elif rings[r, R_SUM] >= 0:
        f64[row, rings[r, R_SUM] + p] += x
    if rings[r, R_MIN] >= 0 and (before == 0.0 or x < f64[row, rings[r, R_MIN] + p]):
        f64[row, rings[r, R_MIN] + p] = x
    if rings[r, R_MAX] >= 0 and (before == 0.0 or x > f64[row, rings[r, R_MAX] + p]):
        f64[row, rings[r, R_MAX] + p] = x
    if rings[r, R_BITS] >= 0:
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
def _behind(f64, row, rings, r, idx):
    """How many of a ring's oldest panes are out of the window at pane ``idx``: those a feeding row would clear."""
    return max(min(int(idx) - int(f64[row, rings[r, R_HEAD]]), rings[r, R_PANES]), 0)


@jit_inline
def _held(head, p, panes, behind):
    """Whether pane ``p`` of a ring with its newest pane at ``head`` is in a window that is ``behind`` panes further."""
    return behind == 0 or (head - p) % panes < panes - behind


@jit_inline
def _distinct(f64, u32, row, rings, r, behind):
    """Linear counting over the union of the panes (Whang et al. 1990); saturates at ``m ln m``."""
    words = rings[r, R_BIT_WORDS]
    head = int(f64[row, rings[r, R_HEAD]])
    filled = 0
    for w in range(words):
        union = np.uint32(0)
        for p in range(rings[r, R_PANES]):
            if _held(head, p, rings[r, R_PANES], behind):
                union |= u32[row, rings[r, R_BITS] + p * words + w]
        filled += int(_popcount(union))
    m = words * 32.0
    return -m * np.log(max(m - filled, 1.0) / m)


@jit_inline
def _totals(f64, f32, u32, row, rings, r, behind, stats):
    """Count, sum, squared deviations, min, max and distinct values of a ring's panes, into ``stats[r]``, ``(6,)``."""
    panes = rings[r, R_PANES]
    head = int(f64[row, rings[r, R_HEAD]])
    n = 0
    for p in range(panes):
        if _held(head, p, panes, behind):
            n += u32[row, rings[r, R_COUNT] + p]
    stats[r, 0] = n
    if rings[r, R_M2] >= 0:
        _deviations(f64, f32, u32, row, rings, r, behind, n, stats)
    elif rings[r, R_SUM] >= 0:
        total = 0.0
        for p in range(panes):
            if _held(head, p, panes, behind):
                total += f64[row, rings[r, R_SUM] + p]
        stats[r, 1] = total
    if rings[r, R_MIN] >= 0:
        low = np.inf
        for p in range(panes):
            if u32[row, rings[r, R_COUNT] + p] > 0 and _held(head, p, panes, behind):
                low = min(low, f64[row, rings[r, R_MIN] + p])
        stats[r, 3] = low
    if rings[r, R_MAX] >= 0:
        high = -np.inf
        for p in range(panes):
            if u32[row, rings[r, R_COUNT] + p] > 0 and _held(head, p, panes, behind):
                high = max(high, f64[row, rings[r, R_MAX] + p])
        stats[r, 4] = high
    if rings[r, R_BITS] >= 0:
        stats[r, 5] = _distinct(f64, u32, row, rings, r, behind)


@jit_inline
def _deviations(f64, f32, u32, row, rings, r, behind, n, stats):
    """Sum and squared deviations over the means of panes, taken from one of the means: no large numbers cancel."""
    panes, head = rings[r, R_PANES], int(f64[row, rings[r, R_HEAD]])
    origin, moved, m2 = np.nan, 0.0, 0.0
    for p in range(panes):
        c = float(u32[row, rings[r, R_COUNT] + p])
        if c > 0 and _held(head, p, panes, behind):
            if origin != origin:
                origin = f64[row, rings[r, R_SUM] + p]
            moved += c * (f64[row, rings[r, R_SUM] + p] - origin)
    for p in range(panes):
        c = float(u32[row, rings[r, R_COUNT] + p])
        if c > 0 and _held(head, p, panes, behind):
            d = f64[row, rings[r, R_SUM] + p] - origin - moved / n
            m2 += f32[row, rings[r, R_M2] + p] + c * d * d
    stats[r, 1] = n * (origin + moved / n) if n > 0 else 0.0
    stats[r, 2] = m2


@jit_inline
def _update_scalar(f64, row, scalars, j, decays, t, x, unit):
    """Update last, first and exponentially weighted values of one aggregate."""
    half_life, clip = decays[j, 0], decays[j, 1]
    newest = True
    if scalars[j, S_LAST_TS] >= 0:
        newest = t >= f64[row, scalars[j, S_LAST_TS]]
        f64[row, scalars[j, S_LAST_TS]] = max(t, f64[row, scalars[j, S_LAST_TS]])
    at = scalars[j, S_FIRST_TS]
    if at >= 0 and (f64[row, at] == 0.0 or t < f64[row, at]):
        f64[row, at] = t
    if scalars[j, S_LAST] >= 0 and newest:
        f64[row, scalars[j, S_LAST]] = x if unit > 0 else (1.0 if x > 0 else 0.0)
    if scalars[j, S_POSITIVE_TS] >= 0 and x > 0:
        f64[row, scalars[j, S_POSITIVE_TS]] = max(t, f64[row, scalars[j, S_POSITIVE_TS]])
    at = scalars[j, S_FIRST_POSITIVE_TS]
    if at >= 0 and x > 0 and (f64[row, at] == 0.0 or t < f64[row, at]):
        f64[row, at] = t
    at = scalars[j, S_EW]
    if at >= 0:  # weighted sum, weight, time of the newest value
        weight = f64[row, at + 1]
        if weight >= _MIN_CLIP_WEIGHT and clip > 0:
            x = min(x, clip * f64[row, at] / weight)
        age = t - f64[row, at + 2]
        if weight == 0.0 or age >= 0:
            decay = 0.5 ** (age / half_life) if weight > 0 else 0.0
            f64[row, at] = f64[row, at] * decay + x
            f64[row, at + 1] = weight * decay + unit
            f64[row, at + 2] = t
        else:
            decay = 0.5 ** (-age / half_life)
            f64[row, at] += x * decay
            f64[row, at + 1] += unit * decay


@jit_inline
def _update_run(f64, row, at, event_ts, y, counts, x):
    """Fold one label, in the order in which labels become known, into the run of positives since the last negative.

    Times are those of the events. A positive joins the run where ``counts`` says so and its event is later than every
    known negative's. A negative whose event is not before the run's first ends the whole run.
    """
    if y <= 0.0:
        f64[row, at + RUN_NEGATIVE] = max(f64[row, at + RUN_NEGATIVE], event_ts)
        if f64[row, at + RUN_SIZE] > 0.0 and event_ts >= f64[row, at + RUN_FIRST]:
            f64[row, at + RUN_SIZE] = 0.0
        return
    if not counts or event_ts <= f64[row, at + RUN_NEGATIVE]:
        return
    if f64[row, at + RUN_SIZE] == 0.0:
        f64[row, at + RUN_FIRST] = event_ts
        f64[row, at + RUN_LEAST] = np.nan
    f64[row, at + RUN_SIZE] += 1.0
    f64[row, at + RUN_FIRST] = min(f64[row, at + RUN_FIRST], event_ts)
    if not x >= f64[row, at + RUN_LEAST] and x == x:
        f64[row, at + RUN_LEAST] = x


@jit_inline
def _run_feature(op, f64, row, at, t):
    """One feature of a label run; NaN where there is no run, or no negative."""
    size = f64[row, at + RUN_SIZE]
    if op == RUN_COUNT:
        return size
    if op == RUN_SINCE_NEGATIVE:
        then = f64[row, at + RUN_NEGATIVE]
        return max(t - then, 0.0) if then != 0.0 else np.nan
    if size == 0.0:
        return np.nan
    return f64[row, at + RUN_LEAST] if op == RUN_MIN else max(t - f64[row, at + RUN_FIRST], 0.0)


@jit_inline
def _ring_feature(op, stats, r, x, counted, priors):
    """One windowed feature from a ring's totals; NaN where it is not defined."""
    n = stats[r, 0]
    if op == COUNT:
        return n
    if op == SUM:
        return stats[r, 1]
    if op == DISTINCT:
        return stats[r, 5]
    if op == SHARE:
        return (stats[r, 1] + priors[r, 0] * priors[r, 1]) / (n + priors[r, 0]) if n + priors[r, 0] > 0 else np.nan
    if op == OVER_MEAN:
        n -= counted
        own = (stats[r, 1] - (x if counted > 0 else 0.0)) / n if n > 0 else np.nan
        return x / own if own != 0 else np.nan
    if n <= 0:
        return np.nan
    if op == MEAN:
        return stats[r, 1] / n
    if op == STD:
        return np.sqrt(max(stats[r, 2], 0.0) / n)
    if op == MIN:
        return stats[r, 3]
    return stats[r, 4]


@jit_inline
def _scalar_feature(op, f64, row, scalars, j, t, x):
    """One unwindowed feature, read before the row's own update; NaN where it is not defined."""
    if op >= RUN_COUNT:
        return _run_feature(op, f64, row, scalars[j, S_RUN], t)
    if op in (EWMEAN, OVER_EWMEAN):
        weight = f64[row, scalars[j, S_EW] + 1]
        mean = f64[row, scalars[j, S_EW]] / weight if weight > 0 else np.nan
        if op == EWMEAN:
            return mean
        return x / mean if mean != 0 else np.nan
    if op == LAST:
        return f64[row, scalars[j, S_LAST]] if f64[row, scalars[j, S_LAST_TS]] != 0.0 else np.nan
    if op == SINCE_LAST:
        then = f64[row, scalars[j, S_LAST_TS]]
    elif op == SINCE_FIRST:
        then = f64[row, scalars[j, S_FIRST_TS]]
    elif op == SINCE_POSITIVE:
        then = f64[row, scalars[j, S_POSITIVE_TS]]
    else:
        then = f64[row, scalars[j, S_FIRST_POSITIVE_TS]]
    return max(t - then, 0.0) if then != 0.0 else np.nan


@jit_inline
def _takes(mask, feeds, values, i):
    """Whether row ``i`` feeds an aggregate: it is of the kind that feeds this pass, and its ``where`` holds."""
    return feeds and (mask < 0 or values[mask, i] > 0.0)


@jit_inline
def _value(column, mode, values, y, i):
    """The value a row brings: the label's for a label row, 1 when the aggregate only counts."""
    if mode == LABEL:
        return y[i]
    return values[column, i] if column >= 0 else 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def run_rows(
    f64,
    f32,
    u32,
    slots,
    ts,
    modes,
    fed_by,
    values,
    bits,
    y,
    unit,
    rings,
    widths,
    priors,
    scalars,
    decays,
    features,
    out,
):
    """Run rows in order: advance windows, read the features, update the state. Rows that do not feed only read.

    Parameters
    ----------
    f64, f32, u32 : (K, W / 8), (K, W / 4), (K, W / 4), three views of the same packed rows; changed in place.
    slots : (n,) int64, row of each record, -1 where it names no entity (its features are NaN).
    ts : (n,) float64, event time; for label rows the time at which the label became known.
    modes : (n,) uint8, EVENT, READ (a timer looks, nothing changes) or LABEL.
    fed_by : EVENT or LABEL, the kind of row that updates this pass's aggregates.
    values : (V, n) float64, columns that aggregates take values or ``where`` masks from; ``bits`` its int64 view.
    y : (n,) float64, the label's value (or its change, for a correction); ``unit (n,)`` 1, or 0 for a correction.
    rings, widths, priors, scalars, decays, features : the pass's tables; without ``features`` rows are only updated.
    out : (n, C) float64, filled for EVENT and READ rows.
    """
    n_rings, n_scalars, n_features = rings.shape[0], scalars.shape[0], features.shape[0]
    stats = np.zeros((n_rings, 6))
    counted = np.zeros(n_rings)
    index = np.zeros(n_rings)
    behind = np.zeros(n_rings, dtype=np.int64)
    for i in range(slots.shape[0]):
        row, t, mode = slots[i], ts[i], modes[i]
        feeds = mode == fed_by
        reads = mode != LABEL and n_features > 0
        if row < 0:
            if reads:
                for k in range(n_features):
                    out[i, features[k, F_OUT]] = np.nan
            continue
        for r in range(n_rings):
            index[r] = np.floor(t / widths[r])
            if feeds:
                _advance(f64, f32, u32, row, rings, r, index[r])
            behind[r] = _behind(f64, row, rings, r, index[r])
            if reads and rings[r, R_BEFORE] == 1:
                _totals(f64, f32, u32, row, rings, r, behind[r], stats)
        # Read before the row feeds them: the time since the last event is not 0 at every event.
        if reads:
            for k in range(n_features):
                op, j = features[k, F_OP], features[k, F_SOURCE]
                if op >= LAST:
                    x = values[scalars[j, S_VALUE], i] if scalars[j, S_VALUE] >= 0 else 1.0
                    out[i, features[k, F_OUT]] = _scalar_feature(op, f64, row, scalars, j, t, x)
        for r in range(n_rings):
            counted[r] = 0.0
            if _takes(rings[r, R_MASK], feeds, values, i):
                x = _value(rings[r, R_VALUE], mode, values, y, i)
                if x == x:
                    b = bits[rings[r, R_VALUE], i] if rings[r, R_VALUE] >= 0 else 0
                    added = _add(f64, f32, u32, row, rings, r, index[r], x, b, unit[i])
                    # What the row itself added, which ``over_mean`` leaves out of the mean that it is compared with.
                    counted[r] = added * (1.0 - rings[r, R_BEFORE])
        for j in range(n_scalars):
            if feeds and scalars[j, S_RUN] >= 0:  # a negative ends a run whatever ``where`` says of it
                x = values[scalars[j, S_RUN_VALUE], i] if scalars[j, S_RUN_VALUE] >= 0 else np.nan
                counts = _takes(scalars[j, S_MASK], feeds, values, i)
                _update_run(f64, row, scalars[j, S_RUN], values[scalars[j, S_RUN_TS], i], y[i], counts, x)
            if _takes(scalars[j, S_MASK], feeds, values, i):
                x = _value(scalars[j, S_VALUE], mode, values, y, i)
                if x == x:
                    _update_scalar(f64, row, scalars, j, decays, t, x, unit[i])
        if not reads:
            continue
        for r in range(n_rings):
            if rings[r, R_BEFORE] == 0:
                _totals(f64, f32, u32, row, rings, r, behind[r], stats)
        for k in range(n_features):
            op, r = features[k, F_OP], features[k, F_SOURCE]
            if op < LAST:
                x = values[rings[r, R_VALUE], i] if rings[r, R_VALUE] >= 0 else 1.0
                out[i, features[k, F_OUT]] = _ring_feature(op, stats, r, x, counted[r], priors)
