"""Reads one partition from an exact offset, outside any consumer group: for recovery, models and explanations.

A range is ``[start, stop)`` of one partition. Offsets without a record (transaction markers, aborted records,
compaction) are gaps, not errors; a range that Kafka does not hold any more, or does not hold yet, is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from weir.online.codec.limits import InputLimits
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.consume.fetched import Unpacking
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.kafka_errors import RecordsDeleted, said
from weir.streams.kafka.reachable import absent_topics, disconnect

log = logging.getLogger(__name__)

POLL_S: Final = 0.5


def tell_refused(lane: Any, piece: Slice) -> None:
    """Say in the log what of a slice cannot be used: who reads outside of a group sends no dead letters."""
    for refused in piece.refused[:1]:
        more = f", and {len(piece.refused) - 1} more" if len(piece.refused) > 1 else ""
        where = f"{lane.topic}-{lane.partition} at offset {refused.offset}"
        log.error("%s: cannot be used: %s%s", where, refused.reason, more)


class RangeReader:
    """Reads partitions of one topic, one at a time; use it as an async context.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    topic : the topic.
    patience_s : how long the brokers may give nothing of a range before that is an error.
    wait_ms : how long a broker may hold a fetch at the end of the log. Another partition is not asked for before the
        answer, so where several are read in turn it had better be short.
    fetch_bytes : what a broker gives of a partition at once, if only one batch of records; little, where little is read
        in many places.
    limits : what a record and a compressed batch may hold; more comes as refused.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        *,
        patience_s: float = 30.0,
        wait_ms: int = 20,
        fetch_bytes: int = 4 << 20,
        limits: InputLimits | None = None,
    ) -> None:
        self.topic, self._options, self._patience_s, self._wait_ms = topic, dict(options), patience_s, wait_ms
        self._where, self._fetch_bytes = ", ".join(options["bootstrap_servers"]), fetch_bytes
        self._unpacking = Unpacking(limits or InputLimits())
        self._consumer: Any = None
        self._lane: Any = None

    async def __aenter__(self) -> Self:
        """Connect; raises `BrokerError` when no broker answers, `UsageError` when there is no such topic."""
        self._consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # aiokafka would skip what was deleted in silence
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._fetch_bytes,
            fetch_max_wait_ms=self._wait_ms,
        )
        try:
            with self._translated():
                await self._consumer.start()
                self._unpacking.watch(self._consumer._fetcher)
                if await absent_topics(self._consumer, [self.topic]):
                    raise UsageError(f"{self._where}: no topic {self.topic} that you may read; weir topics create")
                await self._consumer._client.set_topics([self.topic])  # else its partitions are not known
        # Also where this is cancelled: a client that has begun to connect has tasks and sockets.
        except BaseException:
            await disconnect(self._consumer)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await disconnect(self._consumer)
        self._consumer._fetcher._records.clear()  # megabytes, and cycles of aiokafka's hold them for minutes

    def partitions(self) -> list[int]:
        """Numbers of the topic's partitions."""
        return sorted(self._consumer.partitions_for_topic(self.topic) or ())

    async def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the one behind the last that may be read now."""
        lane = TopicPartition(self.topic, partition)
        with self._translated():
            first = await self._consumer.beginning_offsets([lane])
            end = await self._consumer.end_offsets([lane])
        return int(first[lane]), int(end[lane])

    async def offset_at(self, partition: int, ts: float) -> int:
        """The first offset whose record was written at ``ts`` (epoch seconds) or later; the end without one."""
        lane = TopicPartition(self.topic, partition)
        with self._translated():
            found = (await self._consumer.offsets_for_times({lane: int(ts * 1000)}))[lane]
        return int(found.offset) if found is not None else (await self.bounds(partition))[1]

    async def seek(self, partition: int, start: int) -> None:
        """Stand at ``start``; raises `RecordsDeleted` when Kafka does not hold it any more."""
        lane = TopicPartition(self.topic, partition)
        first, _ = await self.bounds(partition)
        if start < first:
            raise self._deleted(lane, start, f"the first that is left is {first}")
        self.stand(partition, start)

    def stand(self, partition: int, start: int) -> None:
        """Stand at ``start``, asking nobody: a fetch finds out whether Kafka holds it."""
        lane = TopicPartition(self.topic, partition)
        # Assigned anew, it would lose what is fetched already.
        if lane not in self._consumer.assignment():
            self._consumer.assign([lane])
        self._consumer.seek(lane, start)
        self._lane = lane

    async def fetch(self, max_records: int = 4096, timeout_s: float = POLL_S) -> Slice:
        """The next records, none when none came in time; while brokers are away none come.

        There may be none where something was refused, which the log says too.

        Raises
        ------
        RecordsDeleted
            Retention deleted what comes next.
        """
        try:
            with self._translated():
                self._unpacking.most = max_records
                # What aiokafka takes for one record is a slice of them.
                found = await self._consumer.getmany(self._lane, timeout_ms=int(timeout_s * 1000), max_records=1)
        except BrokerError as error:
            if isinstance(error.__cause__, OffsetOutOfRangeError):
                raise self._deleted(self._lane, await self.position(), "they are gone") from error
            raise
        piece: Slice = found[self._lane][0] if self._lane in found else Slice((), ())
        tell_refused(self._lane, piece)
        return piece

    async def position(self) -> int:
        """The offset that is read next. It also moves over offsets that hold no record."""
        return int(await self._consumer.position(self._lane))

    def known_end(self) -> int | None:
        """The log's end as of the newest answer of a broker; asks nobody."""
        end = self._consumer.last_stable_offset(self._lane)
        return None if end is None else int(end)

    def answered(self) -> int | None:
        """When a broker last answered a fetch, in ms by the wall clock; it changes with every answer."""
        at = self._consumer.last_poll_timestamp(self._lane)
        return None if at is None else int(at)

    async def read(self, partition: int, start: int, stop: int) -> AsyncIterator[Slice]:
        """The records of ``[start, stop)``, in order; a slice may hold none, where something was refused.

        Raises
        ------
        RecordsDeleted
            Retention deleted a part of it, before or while it was read.
        BrokerError
            The log ends before ``stop`` and does not grow, or the brokers stopped answering.
        """
        if start >= stop:
            return
        await self.seek(partition, start)
        loop = asyncio.get_running_loop()
        at, deadline = start, loop.time() + self._patience_s
        while at < stop:
            if piece := (await self.fetch()).split(stop)[0]:
                yield piece
            # By the position, not by records: offsets that hold none move it, too.
            before, at = at, await self.position()
            if at > before:
                deadline = loop.time() + self._patience_s
            elif loop.time() > deadline:
                raise await self._stuck(partition, at, stop)

    async def _stuck(self, partition: int, at: int, stop: int) -> BrokerError:
        name = f"{self.topic}-{partition}"
        _, end = await self.bounds(partition)
        if end < stop:
            return BrokerError(
                f"{name} ends at {end}, wanted up to {stop}: the topic was made anew, or lost its end; restore it, or "
                "remove the state that names these offsets"
            )
        return BrokerError(
            f"{self._where}: nothing of {name} came for {self._patience_s:g} s at offset {at}, wanted up to {stop}; "
            "see whether the brokers are up"
        )

    def _deleted(self, lane: Any, start: int, detail: str) -> RecordsDeleted:
        return RecordsDeleted(
            f"{lane.topic}-{lane.partition}: records from offset {start} on were deleted by retention: {detail}; give "
            "the topic more retention, and start from a newer snapshot"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except KafkaError as error:
            raise BrokerError(f"{self._where}: topic {self.topic} cannot be read: {said(error)}") from error
