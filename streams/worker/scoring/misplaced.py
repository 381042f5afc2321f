"""Records in a partition that does not own their key, and how they get to the one that does.

The owner of an entity is the partition that the deployment's partitioner gives its id as a key
(`weir.streams.worker.identity.partitioner`). Where producers differ, or set no key, an entity would have a row in each
of several partitions, and a label would wait where its prediction never comes.

A copy of such a record, under its entity's id as the key, goes to the owner. It is exactly once in effect: the
partition that passes it on never admits it, and the owner knows a second copy by its event or label id. A copy cannot
travel in circles, because every worker of a store counts the same partitions
(`weir.streams.worker.identity.topic_check`), and nothing is passed on while the brokers count others.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

import numpy as np

from weir.online.batch import IntVector
from weir.streams.kafka.kafka_errors import RecordTooLarge
from weir.streams.kafka.partitioners import PartitionerName, partitions_of_text
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.records import Record

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

log = logging.getLogger(__name__)


WARN_EVERY_S: Final = 60.0
FIX: Final[dict[PartitionerName, str]] = {
    "murmur2": "set partitioner=murmur2_random in librdkafka clients, and the entity's id as the key of each record",
    "crc32": "most producers hash by CRC32, so let all do so, and set the entity's id as the key of each record",
}


class Astray(NamedTuple):
    """A valid record in a partition that does not own its entity."""

    place: int
    """Among the records of its batch."""
    entity: str
    owner: int
    """The partition that it belongs to."""


class Placement:
    """Finds and passes on misplaced records, for all lanes of a worker.

    Parameters
    ----------
    ctx : of the worker; tells the number of partitions, and sends.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.partitioner: PartitionerName | None = None
        """``None`` until it is settled, which is before the first record is taken."""
        self._warned: dict[str, float] = {}
        """By topic, when it was last warned of."""
        self._since: dict[str, int] = {}
        """By topic, records found since then."""

    def partitions_of(self, ids: Sequence[str]) -> IntVector:
        """The partitions that own some entities, ``(n,)``."""
        return partitions_of_text(ids, self._ctx.partitions, self.partitioner or "murmur2")

    def owners(self, ids: Sequence[str], at: IntVector | int) -> tuple[IntVector, IntVector]:
        """Rows of ``ids`` that are not ``at (n,)`` their owner, and the owners of those rows; both mostly empty."""
        none = np.empty(0, np.int64)
        if self._ctx.partitions <= 1 or not len(ids) or self._ctx.settings.topics.misplaced == "keep":
            return none, none
        owners = self.partitions_of(ids)
        rows = np.flatnonzero(owners != at)
        return rows, owners[rows] if len(rows) else none

    async def pass_on(
        self, topic: str, partition: int, records: Sequence[Record], astray: Sequence[Astray]
    ) -> tuple[list[asyncio.Future[Any]], list[tuple[int, str]]]:
        """Send copies to their owners.

        Parameters
        ----------
        topic : what it is called on the brokers.
        partition, records : the batch that they are in.
        astray : which of its records.

        Returns
        -------
        The acknowledgements of the copies, and what is refused instead: index in the batch and reason.
        """
        if not astray or self._ctx.silent is not None:  # a rebuild brings them to their owners by itself
            return [], []
        self._tell(topic, partition, astray)
        # Refused rather than scored here, where it would begin a second row of its entity.
        if why := await self._obstacle(topic):
            return [], [(a.place, self._reason(a, topic, partition, why)) for a in astray]
        # The time of sending, as for all that Weir sends: by it retention deletes. The event's own is in the value.
        now, left, refused = self._ctx.now(), list(astray), list[tuple[int, str]]()
        while left:
            copies = [Record(a.entity.encode(), records[a.place].value, now) for a in left]
            try:
                owners = np.array([a.owner for a in left])
                parts = [(owner, np.flatnonzero(owners == owner)) for owner in np.unique(owners).tolist()]
                return list(await self._ctx.records.send_parts(topic, Columns.of(copies), parts)), refused
            except RecordTooLarge as error:  # nothing of the call was sent
                a = left.pop(error.index)
                refused.append((a.place, self._reason(a, topic, partition, "too large to be sent with its key")))
        return [], refused

    async def _obstacle(self, topic: str) -> str:
        """Why nothing may be passed on; empty where it may."""
        if self._ctx.settings.topics.misplaced == "refuse":
            return '[topics] misplaced = "refuse"'
        # Asked each time, as a topic may be given partitions while we run.
        count = await self._ctx.records.partition_count(topic)
        if count == self._ctx.partitions:
            return ""
        return f"the topic has {count} partitions by now, this worker's state {self._ctx.partitions}"

    def _tell(self, topic: str, partition: int, astray: Sequence[Astray]) -> None:
        """Count them, and warn at the first and then once a minute."""
        m, first = self._ctx.metrics, astray[0]
        own = self._ctx.settings.topics.own(topic) or topic
        m.inc("weir_misplaced_total", len(astray), topic=own)
        found = self._since[topic] = self._since.get(topic, 0) + len(astray)
        if topic in self._warned and m.now() - self._warned[topic] < WARN_EVERY_S:
            return
        passed_on = self._ctx.settings.topics.misplaced == "forward"
        log.warning(
            "topic %s: %d records are in a partition that does not own their key: %r is in partition %d and belongs "
            "to %d. They are %s. Correct the producer: %s",
            topic, found, first.entity, partition, first.owner,
            "passed on, which costs each a second write and some time" if passed_on else "refused", self._fix(),
        )  # fmt: skip
        self._warned[topic], self._since[topic] = m.now(), 0

    def _reason(self, astray: Astray, topic: str, partition: int, why: str) -> str:
        return (
            f"misplaced: {astray.entity!r} belongs to partition {astray.owner} of {topic}, not {partition}, and is not "
            f"passed on: {why}. Correct the producer ({self._fix()}), then replay it"
        )

    def _fix(self) -> str:
        return FIX[self.partitioner or "murmur2"]


_HEAD: Final = struct.Struct("<dI")


class Strays:
    """Those of one topic that a rebuild meets, on disk until the lane of their owner is filled; use it as a context.

    There are many where a topic was given more partitions, or where producers did not partition by key.

    >>> with Strays() as strays:
    ...     strays.add(1, 0, Record(b"", b"late", 9.0))
    ...     strays.add(1, 2, Record(b"", b"early", 5.0))
    ...     taken = strays.of(1)
    ...     [record.value for record in taken.until(7.0)], [record.value for record in taken.until(float("inf"))]
    ([b'early'], [b'late'])
    """

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="weir-rebuild-")
        self._paths: dict[int, dict[Path, None]] = {}
        """By owner, a file for each partition that had any of its records."""
        self._source = -1
        # Of one source at a time: a file for each pair of partitions would be more than a process may have open.
        self._files: dict[int, BinaryIO] = {}
        """By owner, where records of the source that is read now go."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()
        self._folder.cleanup()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def add(self, owner: int, source: int, record: Record) -> None:
        """Keep a record of partition ``source``; those of one partition come in their order."""
        if source != self._source:
            self._close()
            self._source = source
        if owner not in self._files:
            path = Path(self._folder.name) / f"{owner}-{source}"
            self._paths.setdefault(owner, {})[path] = None
            self._files[owner] = path.open("ab")
        self._files[owner].write(_HEAD.pack(record.ts, len(record.value)) + record.value)

    def of(self, owner: int) -> StrayReader:
        """What belongs to a partition, oldest first."""
        self._close()  # what was written last is in its buffer else
        files = self._paths.get(owner, {})
        return StrayReader(heapq.merge(*map(_read, files), key=lambda record: record.ts))


class StrayReader:
    """Strays of one owner, taken bit by bit."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._next = next(records, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def until(self, ts: float, most: int = 4096) -> list[Record]:
        """The next ones that were written up to ``ts``, ``most`` of them."""
        taken: list[Record] = []
        while self._next is not None and self._next.ts <= ts and len(taken) < most:
            taken.append(self._next)
            self._next = next(self._records, None)
        return taken


def _read(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            ts, size = _HEAD.unpack(head)
            yield Record(b"", file.read(size), ts)
