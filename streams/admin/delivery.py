"""Sends records and knows which of them the brokers have: a bounded number is on its way at any time."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from streams.admin.clients import kafka_module
from streams.admin.outgoing import Outgoing

IN_FLIGHT: Final = 20_000
"""Records on their way at most; kafka-python itself would hold as many as it is given."""


class Delivery:
    """Counts what was acknowledged by all in-sync replicas; raises the first failure that is not a record's own."""

    def __init__(self, producer: Any, event_time: bool = False, in_flight: int = IN_FLIGHT) -> None:
        self._producer = producer
        self._event_time = event_time
        self._limit = in_flight
        self._too_large = kafka_module("kafka.errors").MessageSizeTooLargeError
        self._open: deque[tuple[str, Any]] = deque()
        self.acknowledged: dict[str, int] = {}
        """Records by topic."""
        self.too_large = 0
        """Records that the client or the broker refused for their size."""

    def send(self, record: Outgoing) -> None:
        """Hand over one record; waits while too many are on their way."""
        stamp = round(record.ts * 1000) if self._event_time and record.ts is not None else None
        try:
            future = self._producer.send(record.topic, value=record.value, key=record.key, timestamp_ms=stamp)
        except self._too_large:
            self.too_large += 1
            return
        self._open.append((record.topic, future))
        self.collect()
        while len(self._open) >= self._limit:
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
        try:
            future.get()
        except self._too_large:
            self.too_large += 1
            return
        self.acknowledged[topic] = self.acknowledged.get(topic, 0) + 1
