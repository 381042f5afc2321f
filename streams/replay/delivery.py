"""Sends records and knows which of them the brokers have: a bounded number is on its way at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from weir.streams.replay.replayed_files import Outgoing

IN_FLIGHT: Final = 20_000
"""Records on their way at most; kafka-python itself would hold as many as it is given."""
_FRAME_BYTES: Final = 128
"""What a batch of one record adds to its key and value, at most."""


class Delivery:
    """Counts what was acknowledged by all in-sync replicas; raises the first failure.

    Parameters
    ----------
    producer : waits for all replicas.
    limits : bytes a record of each topic may have. A larger one is left out and counted: once a broker refuses one
        record for its size, kafka-python gives up everything behind it.
    event_time : whether records carry their event time as Kafka's timestamp.
    """

    def __init__(self, producer: Any, limits: Mapping[str, int], event_time: bool = False) -> None:
        self._producer, self._limits, self._event_time = producer, limits, event_time
        self._open: deque[tuple[str, Any]] = deque()
        self.acknowledged: dict[str, int] = {}
        """Records by topic."""
        self.too_large = 0
        """Records that were left out for their size."""

    def send(self, record: Outgoing) -> None:
        """Hand over one record; waits while too many are on their way."""
        if len(record.value) + len(record.key or b"") + _FRAME_BYTES > self._limits[record.topic]:
            self.too_large += 1
            return
        stamp = round(record.ts * 1000) if self._event_time and record.ts is not None else None
        future = self._producer.send(record.topic, value=record.value, key=record.key, timestamp_ms=stamp)
        self._open.append((record.topic, future))
        # At each record, so that a failure is raised when it is known, not twenty thousand later.
        self.collect()
        while len(self._open) >= IN_FLIGHT:
            self._settle()

    def collect(self) -> None:
        """Count what is acknowledged by now."""
        while self._open and self._open[0][1].is_done:
            self._settle()

    def finish(self) -> None:
        """Wait for everything that is on its way."""
        self._producer.flush()
        while self._open:
            self._settle()

    def _settle(self) -> None:
        topic, future = self._open.popleft()
        future.get()
        self.acknowledged[topic] = self.acknowledged.get(topic, 0) + 1
