"""Records of ``ticks``: event time that passes without events, as part of the log, so that a replay is exact.

Whoever writes them knows a clock; here is only what one looks like. The time to move to is the clock's less what an
event may be late, as in `weir.streams.worker.idle`: what is due by then can not be changed by an event that comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weir.online.codec.wire import TS_MAX, TS_MIN
from weir.online.stages.admission import refuse_ahead
from weir.streams.records import Record


def tick_record(to: float, now: float) -> Record:
    """Let event time move to ``to``; ``now`` is when the record is written. Both are epoch seconds."""
    return Record(b"", repr(float(to)).encode(), now)


def tick_times(records: Sequence[Record], max_ahead: float) -> tuple[list[float], list[tuple[int, str]]]:
    """The times that records of ``ticks`` say, in order; and the place of each that says none, with the reason.

    >>> tick_times([tick_record(1.7e9, 1.7e9), Record(b"", b"soon", 1.7e9)], 3600.0)
    ([1700000000.0], [(1, "tick: got 'soon'; give the time to move to, in epoch seconds")])
    """
    said = [_time(record.value) for record in records]
    bad = [
        (i, f"tick: got {records[i].value[:40].decode(errors='replace')!r}; give the time to move to, in epoch seconds")
        for i, at in enumerate(said)
        if at is None
    ]
    rows = [i for i, at in enumerate(said) if at is not None]
    times = np.array([said[i] for i in rows], np.float64)
    ahead = {r.row: r.reason for r in refuse_ahead(times, np.array([records[i].ts for i in rows]), max_ahead)}
    good = [at for row, at in enumerate(times.tolist()) if row not in ahead]
    return good, sorted([*bad, *((rows[row], why) for row, why in ahead.items())])


def _time(value: bytes) -> float | None:
    try:
        at = float(value)
    except ValueError:
        return None
    return at if TS_MIN <= at <= TS_MAX else None
