"""When a label became known, on the clock of event time.

Logs tell when a record was written: by the wall clock in production, in event time in the embedded host, and years
later where old events are replayed. What the log does tell in each case is which events had been scored by then.
"""

from __future__ import annotations

import numpy as np

from weir.models.types import FloatVector, IntVector


def known_times(told_at: FloatVector, row: IntVector, ts: FloatVector, written_at: FloatVector) -> FloatVector:
    """Event time at which each of m labels became known, given a history of n events.

    Event time moves when an event later than all before it is scored. A label that was written between two such moves
    became known between their times, and at the time it was written where that lies between; behind the last one, as
    long after it as it was written after it. So whoever takes the events and labels up to a time of this clock
    has what was in the log at some moment, and nothing later.

    Parameters
    ----------
    told_at : ``(m,)`` when each was written, by the clock of the log.
    row : ``(m,)`` index of its event; a label is never known before that.
    ts, written_at : ``(n,)`` event time of each event, and when its prediction was written; the latter increasing.
    """
    if len(row) == 0:
        return np.empty(0)
    mark = np.maximum.accumulate(ts)
    last = np.maximum(np.searchsorted(written_at, told_at, side="right") - 1, row)
    low = mark[last]
    later = np.searchsorted(mark, low, side="right")
    beyond = low + np.maximum(told_at - written_at[last], 0.0)
    high = np.where(later < len(mark), mark[np.minimum(later, len(mark) - 1)], beyond)
    known: FloatVector = np.clip(told_at, low, np.maximum(low, high))
    return known
