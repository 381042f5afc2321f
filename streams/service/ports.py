"""What the service asks of the system behind it: a log of records, and the state of the tasks that run on it.

Both ports have two adapters: one process without a broker (``weir.streams.service.embedded``), and a Kafka fleet
(``weir.streams.service.kafka``). Topics are Weir's own names. What both logs share is here, too: who is told of new
batches, and how a topic is read whole, or what is newest in it.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self

from weir.online.codec.decode import DecodedEvents, DecodedLabels
from weir.streams.checks.entity_rows import TableRow
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.records import Record, RecordBatch
from weir.streams.service.parts import NoLongerKept

if TYPE_CHECKING:
    from weir.streams.model_replicas.model_snapshots import ModelSnapshots

log = logging.getLogger(__name__)

Decoded = DecodedEvents | DecodedLabels
"""Records as the door decoded them, so that nobody decodes them twice."""


class Outcome(NamedTuple):
    """What became of one record."""

    status: Literal["accepted", "repeat", "refused"]
    reason: str = ""
    """Of a refused one: the words that its dead letter has."""


class Span(NamedTuple):
    """Offsets that a partition holds: ``[first, end)``."""

    first: int
    end: int


Listener = Callable[[RecordBatch], None]
"""Called in the event loop with each new batch, in the order of its partition; it must not block."""


class ServiceLog(Protocol):
    """A log that can be appended to, read by place and followed. Its methods belong to one event loop."""

    @property
    def epoch(self) -> str:
        """Identity of the log: where it is another, offsets of before mean nothing."""

    async def start(self) -> None:
        """Open or connect; batches reach the listeners from now on."""

    async def stop(self) -> None:
        """Finish what was appended, and close."""

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        """Append records that are durable when this returns; each one's outcome, as far as it is known here.

        Without a fleet a record has been processed by then, so that a repeat or a late event is told. With one, it is
        told by the outputs.

        Raises
        ------
        OverloadError
            Too much waits already (503).
        LogFull
            The disk has no room (507); nothing was appended.
        BrokerError
            The brokers do not take records (503); some may have been taken, and may be sent again.
        """

    def subscribe(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each new batch of these topics, from now on; returns how to end that."""

    async def spans(self, topic: str) -> Mapping[int, Span]:
        """What each partition holds now."""

    async def offsets_at(self, topic: str, ts: float) -> Mapping[int, int]:
        """The first offset of each partition whose record became available at ``ts`` or later; its end where none."""

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20) -> Sequence[RecordBatch]:
        """Batches from ``offset`` on, at least one where there is one; the first may begin before ``offset``.

        Raises
        ------
        NoLongerKept
            ``offset`` is before what is kept (410).
        """


class Serving(Protocol):
    """The tasks that run: here, or in a fleet."""

    def ready(self) -> list[str]:
        """Why decisions cannot be made now, a sentence each; empty where they can."""

    def describe(self) -> Mapping[str, object]:
        """What runs, as JSON can hold it."""

    async def metrics(self, task: str) -> Mapping[str, Mapping[str, float]]:
        """Prequential metrics now: ``cumulative``, ``rolling`` and ``fading``; an undefined one is absent."""

    async def rows(self, task: str, entity: str) -> Sequence[TableRow]:
        """What the store holds of an entity, by table."""

    async def score(self, task: str, features: Mapping[str, float]) -> tuple[float, int]:
        """What the online model of now says of the logged features of an event, and the model's version.

        Raises ``UsageError`` where they are not those of the task as it is now.
        """

    async def stored_models(self) -> ModelSnapshots | None:
        """Models of before, from which older ones are made again faster; ``None`` where there are none."""

    async def lag(self) -> int | None:
        """Records that workers have not taken yet, of all their groups; ``None`` where none are, or it is not known."""


class Listeners:
    """The listeners of each topic."""

    def __init__(self) -> None:
        self._of: dict[str, list[Listener]] = defaultdict(list)

    def topics(self) -> set[str]:
        """Those that somebody listens to."""
        return {topic for topic, listeners in self._of.items() if listeners}

    def add(self, topics: Sequence[str], listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of these topics from now on; returns how to end that."""
        for topic in topics:
            self._of[topic].append(listener)

        def end() -> None:
            for topic in topics:
                self._of[topic].remove(listener)

        return end

    def tell(self, batch: RecordBatch) -> None:
        """Call the listeners of a new batch's topic."""
        # A copy, as a listener may end itself while it is called.
        for listener in tuple(self._of[batch.topic]):
            try:
                listener(batch)
            except Exception:  # one part's mistake must not keep the others, or callers, from their batches
                log.exception("a listener of %s failed", batch.topic)


class PlacedRecord(NamedTuple):
    """A record and where it is."""

    partition: int
    offset: int
    record: Record


def within(batches: Sequence[RecordBatch], start: int, end: float = math.inf) -> list[tuple[int, Record]]:
    """The records from ``start`` to before ``end``, with their offsets: the first batch may begin before it."""
    placed = ((batch.offset_of(i), record) for batch in batches for i, record in enumerate(batch.records))
    return [(offset, record) for offset, record in placed if start <= offset < end]


async def records_between(
    log: ServiceLog, topic: str, partition: int, start: int, end: int
) -> AsyncIterator[tuple[int, Record]]:
    """The records of a partition from ``start`` to before ``end``, with their offsets."""
    while start < end:
        batches = await log.read(topic, partition, start)
        for placed in within(batches, start, end):
            yield placed
        # The rest of the offsets may hold no record: compacted, or marks of another producer's transactions.
        start = batches[-1].next_offset if batches else end


async def every_record(log: ServiceLog, topic: str, newest: int | None = None) -> AsyncIterator[PlacedRecord]:
    """The records of a topic up to its present end, in the order of each partition.

    Parameters
    ----------
    newest : only about so many of each partition, the last ones; offsets may have gaps.
    """
    for partition, span in (await log.spans(topic)).items():
        at = max(span.first, 0 if newest is None else span.end - newest)
        # What came after the ends were looked up is not of this reading.
        async for offset, record in records_between(log, topic, partition, at, span.end):
            yield PlacedRecord(partition, offset, record)


class ServiceLogReader:
    """One topic of a service's log, for what folds models and finds scores; see ``TopicReader``.

    Parameters
    ----------
    log : of either mode.
    topic : Weir's own name.
    """

    def __init__(self, log: ServiceLog, topic: str) -> None:
        self.topic, self._log = topic, log
        self._spans: Mapping[int, Span] = {}

    async def __aenter__(self) -> Self:
        self._spans = await self._log.spans(self.topic)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing: the log stays open."""

    def partitions(self) -> list[int]:
        """See ``TopicReader``."""
        return sorted(self._spans)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """See ``TopicReader``; as they were when the reader was opened. An empty topic of one process has none yet."""
        return self._spans.get(partition, Span(0, 0))

    async def offset_at(self, partition: int, ts: float) -> int:
        """See ``TopicReader``."""
        return (await self._log.offsets_at(self.topic, ts)).get(partition, 0)

    async def read(self, partition: int, start: int, stop: int) -> AsyncIterator[Slice]:
        """See ``TopicReader``."""
        at = start
        while at < stop:
            try:
                batches = await self._log.read(self.topic, partition, at)
            # Who reads through ``TopicReader`` knows the error of Kafka alone.
            except NoLongerKept as gone:
                raise RecordsDeleted(gone.detail) from gone
            for batch in batches:
                places = [batch.offset_of(i) for i in range(len(batch.records))]
                yield Slice(places, tuple(batch.records)).split(stop)[0].split(at)[1]
            at = batches[-1].next_offset if batches else stop
