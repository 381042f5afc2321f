"""What the service asks of the system behind it: a log of records, and the state of the tasks that run on it.

Both ports have two adapters: one process without a broker (``weir.streams.service.embedded``), and a Kafka fleet
(``weir.streams.service.kafka``). Topics are Weir's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from weir.online.codec.decode import DecodedEvents, DecodedLabels
from weir.streams.checks.entity_rows import TableRow
from weir.streams.records import Record, RecordBatch

if TYPE_CHECKING:
    from weir.streams.model_replicas.model_snapshots import ModelSnapshots

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
