"""Records of ``ticks``: event time that passes without events, as part of the log, so that a replay is exact.

Whoever writes them knows a clock; `IdleStreams` is told its time. The time to move to is the clock's less what an event
may be late, as in `weir.streams.worker.idle`: what is due by then can not be changed by an event that comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from weir.online.codec.wire import TS_MAX, TS_MIN
from weir.online.stages.admission import DECODERS, refuse_ahead
from weir.streams.records import Record

if TYPE_CHECKING:
    from weir.streams.embedded.embedded_host import EmbeddedHost
    from weir.streams.embedded.embedded_log import EmbeddedLog


def tick_record(to: float, now: float, stream: str = "") -> Record:
    """Let event time move to ``to``; ``now`` is when the record is written. Both are epoch seconds.

    ``stream`` is whose time that is; of all where none is named: one may stand still while a history fills another.
    """
    # `repr` gives every bit of it back.
    return Record(stream.encode(), repr(float(to)).encode(), now)


def tick_times(records: Sequence[Record], max_ahead: float) -> tuple[list[tuple[str, float]], list[tuple[int, str]]]:
    """The streams and times of ``ticks``, in order; and the place of each record that says none, with the reason.

    >>> tick_times([tick_record(1.7e9, 1.7e9), Record(b"", b"soon", 1.7e9)], 3600.0)
    ([('', 1700000000.0)], [(1, "tick: got 'soon'; give the time to move to, in epoch seconds")])
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
    named = [records[i].key.decode(errors="replace") for i in rows]
    good = [(name, at) for row, (name, at) in enumerate(zip(named, times.tolist(), strict=True)) if row not in ahead]
    return good, sorted([*bad, *((rows[row], why) for row, why in ahead.items())])


def _time(value: bytes) -> float | None:
    try:
        at = float(value)
    except ValueError:
        return None
    # Asked so that NaN is none, too.
    return at if TS_MIN <= at <= TS_MAX else None


IDLE_S: Final = 1.0
"""So long nothing has to come; also the time between two looks."""


class IdleStreams:
    """Lets time pass in streams of a host to which nothing comes: labels from silence and quiet alerts wait for it.

    It passes only where the stream had reached the clock, as a history that is being loaded has not. A tick is written
    only where something is due by it, so an idle service writes next to nothing.

    Parameters
    ----------
    host : runs the tasks.
    lateness : what an event may be late, seconds.
    inputs : what came before a restart: a history of which a half is loaded is one still.
    """

    def __init__(self, host: EmbeddedHost, lateness: float, inputs: EmbeddedLog) -> None:
        self._host, self._lateness = host, lateness
        self._came = {stream: inputs.newest(stream, 0) for stream in DECODERS}
        """When the newest events of each stream were there, epoch seconds."""
        self._looked = 0.0

    def came(self, stream: str, ts: float) -> None:
        """Events of a stream were processed, which were there at ``ts``."""
        if stream in self._came:
            self._came[stream] = ts

    def ticks(self, now: float) -> list[Record]:
        """What is to be appended now, for streams in which something is due; ``now`` is the clock, epoch seconds."""
        # A clock that was set back must not keep it from looking until it has caught up.
        if 0.0 <= now - self._looked < IDLE_S:
            return []
        self._looked = now
        to = now - self._lateness
        return [
            tick_record(to, now, stream) for stream in DECODERS if self._idle(stream, now) and self._due(stream, to)
        ]

    def _idle(self, stream: str, now: float) -> bool:
        came, intake = self._came[stream], self._host.intake.get(f"{stream}-0")
        live = intake is not None and came - intake.watermark <= self._lateness
        return live and now - came >= IDLE_S

    def _due(self, stream: str, at: float) -> bool:
        return any(p.due(at) for p in self._host.pipelines.values() if p.task.stream == stream)
