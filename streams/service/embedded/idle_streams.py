"""Lets time pass in streams to which nothing comes: labels from silence and quiet alerts wait for it.

The rule is that of `weir.streams.worker.idle`: the time is the clock's less what an event may be late, and only where
the stream had reached the clock, as a history that is being loaded has not. A tick is written only where something is
due by it, so an idle service writes next to nothing.
"""

from __future__ import annotations

from typing import Final

from weir.online.stages.admission import DECODERS
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.ticks import tick_record
from weir.streams.records import Record

IDLE_S: Final = 1.0
"""So long nothing has to come; also the time between two looks."""


class IdleStreams:
    """The streams of a host.

    Parameters
    ----------
    host : runs the tasks.
    lateness : what an event may be late, seconds.
    """

    def __init__(self, host: EmbeddedHost, lateness: float) -> None:
        self._host, self._lateness = host, lateness
        self._came = dict.fromkeys(DECODERS, 0.0)
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
