"""The embedded log as the service's: tasks run where records are appended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from weir.streams.embedded.embedded_host import READ, EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record, RecordBatch
from weir.streams.service.ports import Decoded, Listener, Outcome, Span

_T = TypeVar("_T")


class EmbeddedServiceLog:
    """A first form: everything happens in the event loop.

    Parameters
    ----------
    host : runs the tasks.
    log : what it reads and writes.
    """

    def __init__(self, host: EmbeddedHost, log: EmbeddedLog) -> None:
        self._host, self._log = host, log
        self._listeners: dict[str, list[Listener]] = defaultdict(list)
        self.epoch = "embedded"

    async def start(self) -> None:
        """Go on from the newest checkpoint."""
        self._host.resume()

    async def stop(self) -> None:
        """Write a checkpoint, and close."""
        self._host.checkpoint()
        self._log.close()

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """Append and process."""
        del decoded
        before = self._log.next_seq
        for batch in self._log.append(topic, records):
            if topic in READ:
                self._host.process(batch)
        for made in self._log.read(list(self._listeners), before):
            for listener in self._listeners[made.topic]:
                listener(made)
        return [Outcome("accepted")] * len(records)

    async def call(self, ask: Callable[[], _T]) -> _T:
        """What ``ask`` gives, between two batches: nothing changes what it looks at meanwhile."""
        return ask()

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """See ``ServiceLog``."""
        for topic in topics:
            self._listeners[topic].append(listener)

        def end() -> None:
            for topic in topics:
                self._listeners[topic].remove(listener)

        return end

    async def spans(self, topic: str) -> Mapping[int, Span]:
        """See ``ServiceLog``."""
        return {p: Span(0, end) for p, end in self._log.end_offsets(topic).items()}

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:
        """See ``ServiceLog``."""
        found = dict(self._log.end_offsets(topic))
        for batch in reversed(list(self._log.read([topic], 0))):
            for i, record in enumerate(batch.records):
                if record.ts >= ts:
                    found[batch.partition] = batch.base_offset + i
                    break
        return found

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        """See ``ServiceLog``."""
        del max_bytes
        return [b for b in self._log.read([topic], 0) if b.partition == partition and b.next_offset > offset]
