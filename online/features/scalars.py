"""What the kernel keeps of an aggregate without a window: last and first times, weighted means and gaps, label runs."""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False
from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import jit_inline
from weir.online.features import descriptors as d
from weir.online.jit import njit

# A clipped mean accepts values whole until this much weight has been seen, so that one first value cannot pin it.
_MIN_CLIP_WEIGHT = 2.0


@jit_inline
def gap_since(f64, row, scalars, j, t):
    """The gap that an event at ``t`` ends; NaN for a first event, and for a late one, which ends none."""
    then = f64[row, scalars[j, d.S_LAST_TS]]
    return t - then if then != 0.0 and t >= then else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _update_gaps(f64, row, at, half_life, gap):
    """Weigh one gap in, older ones by the time since (West 1979)."""
    if gap != gap:
        return
    f64[row, at + d.GAP_WEIGHT] = f64[row, at + d.GAP_WEIGHT] * 0.5 ** (gap / half_life) + 1.0
    off = gap - f64[row, at + d.GAP_MEAN_AT]
    f64[row, at + d.GAP_MEAN_AT] += off / f64[row, at + d.GAP_WEIGHT]
    left = f64[row, at + d.GAP_M2] * 0.5 ** (gap / half_life)
    f64[row, at + d.GAP_M2] = left + off * (gap - f64[row, at + d.GAP_MEAN_AT])
    f64[row, at + d.GAP_FAST_WEIGHT] = f64[row, at + d.GAP_FAST_WEIGHT] * 0.5 ** (4.0 * gap / half_life) + 1.0
    f64[row, at + d.GAP_FAST] += (gap - f64[row, at + d.GAP_FAST]) / f64[row, at + d.GAP_FAST_WEIGHT]


@njit(cache=True, nogil=True, error_model="numpy")
def _gap_feature(op, f64, row, at):
    """One feature of the weighted gaps; NaN where there is none."""
    mean, weight = f64[row, at + d.GAP_MEAN_AT], f64[row, at + d.GAP_WEIGHT]
    if weight == 0.0:
        return np.nan
    if op == d.GAP_MEAN:
        return mean
    if op == d.GAP_STD:
        return np.sqrt(max(f64[row, at + d.GAP_M2], 0.0) / weight)
    return f64[row, at + d.GAP_FAST] / mean if mean > 0.0 else np.nan


@jit_inline
def update_scalar(f64, row, scalars, j, decays, t, x, unit):
    """Update last, first and exponentially weighted values of one aggregate."""
    half_life, clip = decays[j, 0], decays[j, 1]
    newest = True
    # Before the newest time moves on: a gap is measured from it.
    if scalars[j, d.S_GAP] >= 0:
        _update_gaps(f64, row, scalars[j, d.S_GAP], half_life, gap_since(f64, row, scalars, j, t))
    if scalars[j, d.S_LAST_TS] >= 0:
        newest = t >= f64[row, scalars[j, d.S_LAST_TS]]
        f64[row, scalars[j, d.S_LAST_TS]] = max(t, f64[row, scalars[j, d.S_LAST_TS]])
    at = scalars[j, d.S_FIRST_TS]
    if at >= 0 and (f64[row, at] == 0.0 or t < f64[row, at]):
        f64[row, at] = t
    if scalars[j, d.S_LAST] >= 0 and newest:
        # A correction brings the change of the label, +1 or -1, and not the label.
        f64[row, scalars[j, d.S_LAST]] = x if unit > 0 else (1.0 if x > 0 else 0.0)
    if scalars[j, d.S_POSITIVE_TS] >= 0 and x > 0:
        f64[row, scalars[j, d.S_POSITIVE_TS]] = max(t, f64[row, scalars[j, d.S_POSITIVE_TS]])
    at = scalars[j, d.S_FIRST_POSITIVE_TS]
    if at >= 0 and x > 0 and (f64[row, at] == 0.0 or t < f64[row, at]):
        f64[row, at] = t
    at = scalars[j, d.S_EW]
    if at >= 0:  # weighted sum, weight, time of the newest value
        weight = f64[row, at + 1]
        # Of a mean above 0 alone: a multiple of one below 0 is lower still, and of 0 it is 0 for ever.
        if weight >= _MIN_CLIP_WEIGHT and clip > 0 and f64[row, at] > 0.0:
            x = min(x, clip * f64[row, at] / weight)
        age = t - f64[row, at + 2]
        # A late value is weighed down by its age, and the newest time stays: without a clip the order of arrival
        # changes nothing but rounding.
        if weight == 0.0 or age >= 0:
            decay = 0.5 ** (age / half_life) if weight > 0 else 0.0
            f64[row, at] = f64[row, at] * decay + x
            f64[row, at + 1] = weight * decay + unit
            f64[row, at + 2] = t
        else:
            decay = 0.5 ** (-age / half_life)
            f64[row, at] += x * decay
            f64[row, at + 1] += unit * decay
        if unit == 0.0:
            # A correction comes in full when the label that it corrects has faded: of labels no more can be positive
            # than are left, and no fewer than none.
            f64[row, at] = min(max(f64[row, at], 0.0), f64[row, at + 1])


@jit_inline
def update_run(f64, row, at, event_ts, y, counts, x):
    """Fold one label, in the order in which labels become known, into the run of positives since the last negative.

    Times are those of the events. A positive joins the run where ``counts`` says so and its event is later than every
    known negative's. A negative whose event is not before the run's first ends the whole run.
    """
    if y <= 0.0:
        f64[row, at + d.RUN_NEGATIVE] = max(f64[row, at + d.RUN_NEGATIVE], event_ts)
        if f64[row, at + d.RUN_SIZE] > 0.0 and event_ts >= f64[row, at + d.RUN_FIRST]:
            f64[row, at + d.RUN_SIZE] = 0.0
        return
    if not counts or event_ts <= f64[row, at + d.RUN_NEGATIVE]:
        return
    if f64[row, at + d.RUN_SIZE] == 0.0:
        f64[row, at + d.RUN_FIRST] = event_ts
        f64[row, at + d.RUN_LEAST] = np.nan
    f64[row, at + d.RUN_SIZE] += 1.0
    f64[row, at + d.RUN_FIRST] = min(f64[row, at + d.RUN_FIRST], event_ts)
    # Not ``<``: the run's least value is NaN before its first.
    if not x >= f64[row, at + d.RUN_LEAST] and x == x:
        f64[row, at + d.RUN_LEAST] = x


@jit_inline
def _run_feature(op, f64, row, at, t):
    """One feature of a label run; NaN where there is no run, or no negative."""
    size = f64[row, at + d.RUN_SIZE]
    if op == d.RUN_COUNT:
        return size
    if op == d.RUN_SINCE_NEGATIVE:
        then = f64[row, at + d.RUN_NEGATIVE]
        return max(t - then, 0.0) if then != 0.0 else np.nan
    if size == 0.0:
        return np.nan
    return f64[row, at + d.RUN_LEAST] if op == d.RUN_MIN else max(t - f64[row, at + d.RUN_FIRST], 0.0)


@jit_inline
def scalar_feature(op, f64, row, scalars, j, t, x):
    """One unwindowed feature, read before the row's own update; NaN where it is not defined."""
    if op >= d.RUN_COUNT:
        return _run_feature(op, f64, row, scalars[j, d.S_RUN], t)
    if op in (d.EWMEAN, d.OVER_EWMEAN):
        weight = f64[row, scalars[j, d.S_EW] + 1]
        mean = f64[row, scalars[j, d.S_EW]] / weight if weight > 0 else np.nan
        if op == d.EWMEAN:
            return mean
        return x / mean if mean != 0 else np.nan
    if d.GAP_MEAN <= op <= d.GAP_TREND:
        return _gap_feature(op, f64, row, scalars[j, d.S_GAP])
    if op == d.LAST:
        return f64[row, scalars[j, d.S_LAST]] if f64[row, scalars[j, d.S_LAST_TS]] != 0.0 else np.nan
    if op == d.SINCE_LAST:
        then = f64[row, scalars[j, d.S_LAST_TS]]
    elif op == d.SINCE_FIRST:
        then = f64[row, scalars[j, d.S_FIRST_TS]]
    elif op == d.SINCE_POSITIVE:
        then = f64[row, scalars[j, d.S_POSITIVE_TS]]
    else:
        then = f64[row, scalars[j, d.S_FIRST_POSITIVE_TS]]
    return max(t - then, 0.0) if then != 0.0 else np.nan
