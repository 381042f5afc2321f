"""The window kernel: one compiled pass over a batch in event order that updates packed entity rows and reads features.

It interprets small descriptor tables (built by ``plan``) so that one compiled function serves every task, live and in a
backtest. It knows rows of words, not names.

Only what feeds a row changes it: a timer that looks, or an event that reads a label aggregate, leaves every bit as it
was. So a row is a function of the records that fed it, and whoever reads it need not be its owner.
"""

from __future__ import annotations

import numpy as np

from weir.online.codec.forms.machine_words import jit_inline
from weir.online.features import descriptors as d
from weir.online.features.rings import add, advance, days_seen, panes_behind, ring_feature, totals
from weir.online.features.scalars import gap_since, scalar_feature, update_run, update_scalar
from weir.online.jit import njit

# Row modes.
EVENT, READ, LABEL = 0, 1, 2


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
    rows,
    slots,
    ts,
    modes,
    fed_by,
    values,
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
    rows : (K, W) uint8, packed rows; changed in place.
    slots : (n,) int64, row of each record, -1 where it names no entity (its features are NaN).
    ts : (n,) float64, event time; for label rows the time at which the label became known.
    modes : (n,) uint8, EVENT, READ (a timer looks, nothing changes) or LABEL.
    fed_by : EVENT or LABEL, the kind of row that updates this pass's aggregates.
    values : (V, n) float64, columns that aggregates take values or ``where`` masks from.
    y : (n,) float64, the label's value (or its change, for a correction); ``unit (n,)`` 1, or 0 for a correction.
    rings, widths, priors, scalars, decays, features : the pass's tables; without ``features`` rows are only updated.
    out : (n, C) float64, filled for EVENT and READ rows.
    """
    # Viewed here: of few rows, arrays that are handed over cost more than what is done with them.
    f64, f32, u32, bits = rows.view(np.float64), rows.view(np.float32), rows.view(np.uint32), values.view(np.int64)
    n_rings, n_scalars, n_features = rings.shape[0], scalars.shape[0], features.shape[0]
    stats = np.zeros((n_rings, d.TOTALS))
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
                    out[i, features[k, d.F_OUT]] = np.nan
            continue
        for r in range(n_rings):
            index[r] = np.floor(t / widths[r])
            if feeds:
                advance(f64, f32, u32, row, rings, r, index[r])
            behind[r] = panes_behind(f64, row, rings, r, index[r])
            if reads and rings[r, d.R_BEFORE] == 1:
                totals(f64, f32, u32, row, rings, r, behind[r], stats)
        # Read before the row feeds them: the time since the last event is not 0 at every event.
        if reads:
            for k in range(n_features):
                op, j = features[k, d.F_OP], features[k, d.F_SOURCE]
                if op >= d.LAST:
                    x = values[scalars[j, d.S_VALUE], i] if scalars[j, d.S_VALUE] >= 0 else 1.0
                    out[i, features[k, d.F_OUT]] = scalar_feature(op, f64, row, scalars, j, t, x)
        for r in range(n_rings):
            counted[r] = 0.0
            if _takes(rings[r, d.R_MASK], feeds, values, i):
                x = _value(rings[r, d.R_VALUE], mode, values, y, i)
                # Before the scalars are updated below: the gap is the time since the event before this one.
                if x == x and rings[r, d.R_GAP] >= 0:
                    x = gap_since(f64, row, scalars, rings[r, d.R_GAP], t)
                if x == x:
                    b = bits[rings[r, d.R_VALUE], i] if rings[r, d.R_VALUE] >= 0 else 0
                    added = add(f64, f32, u32, row, rings, r, index[r], x, b, unit[i], t)
                    # What the row itself added, which ``over_mean`` leaves out of the mean that it is compared with.
                    counted[r] = added * (1.0 - rings[r, d.R_BEFORE])
        for j in range(n_scalars):
            if feeds and scalars[j, d.S_RUN] >= 0:  # a negative ends a run whatever ``where`` says of it
                x = values[scalars[j, d.S_RUN_VALUE], i] if scalars[j, d.S_RUN_VALUE] >= 0 else np.nan
                counts = _takes(scalars[j, d.S_MASK], feeds, values, i)
                update_run(f64, row, scalars[j, d.S_RUN], values[scalars[j, d.S_RUN_TS], i], y[i], counts, x)
            if _takes(scalars[j, d.S_MASK], feeds, values, i):
                x = _value(scalars[j, d.S_VALUE], mode, values, y, i)
                if x == x:
                    update_scalar(f64, row, scalars, j, decays, t, x, unit[i])
        if not reads:
            continue
        for r in range(n_rings):
            if rings[r, d.R_BEFORE] == 0:
                totals(f64, f32, u32, row, rings, r, behind[r], stats)
        for k in range(n_features):
            op, r = features[k, d.F_OP], features[k, d.F_SOURCE]
            if op < d.LAST:
                x = values[rings[r, d.R_VALUE], i] if rings[r, d.R_VALUE] >= 0 else 1.0
                value = ring_feature(op, stats, r, x, counted[r], priors)
                if op == d.RATE and value > 0:
                    value /= days_seen(f64, row, rings, r, widths[r], t)
                out[i, features[k, d.F_OUT]] = value
