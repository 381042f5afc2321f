"""Follows whole topics from their present end, outside any consumer group: each process sees every record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from weir.online.codec.limits import InputLimits
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.consume.fetched import Unpacking
from weir.streams.kafka.consume.range_reader import tell_refused
from weir.streams.kafka.kafka_errors import RecordsDeleted, said
from weir.streams.kafka.reachable import absent_topics, disconnect
from weir.streams.records import Record


@dataclass(frozen=True, slots=True)
class TailedBatch:
    """A `weir.streams.records.RecordBatch` of a followed topic; offsets may have gaps."""

    topic: str
    partition: int
    base_offset: int
    next_offset: int
    records: Sequence[Record]
    offsets: Sequence[int]

    def offset_of(self, index: int) -> int:
        """Offset of ``records[index]``."""
        return self.offsets[index]


class TailReader:
    """Follows topics; use it as an async context.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    limits : what records of a topic may hold, by its name on the cluster.
    """

    def __init__(self, options: Mapping[str, Any], limits: Mapping[str, InputLimits]) -> None:
        self._options, self._where = dict(options), ", ".join(options["bootstrap_servers"])
        self._unpacking = Unpacking(InputLimits(), dict(limits))
        self._positions: dict[TopicPartition, int] = {}
        self._consumer: Any = None

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` where no broker answers."""
        self._consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # else what retention deleted would be left out in silence
            isolation_level="read_committed",
            # A partition with news may wait for the fetch in flight of the same broker; 5 ms instead made decisions no
            # faster, at 100 and at 500 a second (benchmarks.bench_serve_kafka).
            fetch_max_wait_ms=50,
        )
        try:
            await self._consumer.start()
            self._unpacking.watch(self._consumer._fetcher)
        except KafkaError as error:
            await disconnect(self._consumer)
            raise BrokerError(f"{self._where}: {said(error)}") from error

    async def stop(self) -> None:
        """Disconnect, where it is connected."""
        if self._consumer is not None:
            await disconnect(self._consumer)

    async def follow(self, topics: Iterable[str]) -> None:
        """Follow these topics only: those that are new from their present end, the others from where they are.

        Raises
        ------
        UsageError
            There is no such topic, or this user may not read it.
        """
        wanted = list(topics)
        try:
            if absent := await absent_topics(self._consumer, wanted):
                raise UsageError(f"{self._where}: no topic {', '.join(absent)} that you may read; weir topics create")
            await self._consumer._client.set_topics(wanted)  # else their partitions are not known
            lanes = [TopicPartition(t, p) for t in wanted for p in sorted(self._consumer.partitions_for_topic(t) or ())]
            new = [lane for lane in lanes if lane not in self._positions]
            ends = await self._consumer.end_offsets(new) if new else {}
        except KafkaError as error:
            raise BrokerError(f"{self._where}: {said(error)}") from error
        self._positions = {lane: self._positions.get(lane, ends.get(lane, 0)) for lane in lanes}
        self._consumer.assign(lanes)
        # Those too that were there: an assignment begins without positions.
        for lane, at in self._positions.items():
            self._consumer.seek(lane, at)

    async def fetch(self, timeout_s: float = 0.5) -> list[TailedBatch]:
        """What came next, of any of the topics; nothing where nothing came in time, also while brokers are away.

        What cannot be used is left out, which the log says.

        Raises
        ------
        BrokerError
            The brokers refuse; another try may succeed.
        RecordsDeleted
            Retention deleted what comes next.
        """
        try:
            # What aiokafka takes for one record is a slice of them.
            found = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=64)
        except OffsetOutOfRangeError as error:
            raise RecordsDeleted(f"records of {error.args[0]} were deleted before they were read here") from error
        except KafkaError as error:
            raise BrokerError(f"{self._where}: {said(error)}") from error
        made = []
        for lane, slices in found.items():
            for piece in slices:
                self._positions[lane] = piece.stop
                tell_refused(lane, piece)
                if piece.records:
                    made.append(
                        TailedBatch(
                            lane.topic, lane.partition, piece.offsets[0], piece.stop, piece.records, piece.offsets
                        )
                    )
        return made
