"""Fills an emptied store again from Kafka: ``weir features rebuild``.

Each lane runs over what Kafka still has, up to where its group had committed, and what it makes is thrown away: that is
in Kafka already. Label lanes take predictions and labels in the order of their timestamps and stop a minute before the
newest prediction, so that whatever was not published before the loss is made again (repeats are known by their ids).

A record in a partition that does not own its entity is taken by the lane that does, at its time: so topics may have
more partitions than the state was made with. Label lanes that are there know more than the topics still have: they are
not filled, but what they hold of an entity follows it (`LabelMove`). The number of partitions is written down in the
end; until then workers refuse to start on another one, and a rebuild that was killed is run again.

Side lanes come first, because score lanes read their rows. Where an aggregate of the stream's own entity depends on
such a row (a ``where`` over a merchant's feature), it sees the row of now, not of then; all else is as it was.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from faust.types import TP

from weir.online.batch import IntVector
from weir.online.codec.columns import ColumnRequest
from weir.online.stages.admission import DECODERS
from weir.online.task.spec import STREAM_KEYS, TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import StateError, UsageError
from weir.streams.kafka.admin.cluster import topic_settings_there
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.produce.producer import Sent
from weir.streams.kafka.produce.record_batches import Columns
from weir.streams.records import Record
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE, clear_lane, decode_position
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.stored_rows import lane_prefix
from weir.streams.redis.topic_identity import StoredIdentity
from weir.streams.worker.identity.partitioner import settle_partitioner
from weir.streams.worker.identity.topic_check import active_members, committed_offsets
from weir.streams.worker.label_move import LabelMove
from weir.streams.worker.lanes.update_partition import SideLane
from weir.streams.worker.partitions import LABELLED
from weir.streams.worker.run import Worker
from weir.streams.worker.scoring.misplaced import StrayReader, Strays

Progress = Callable[[str, int, int], None]
"""Told what is filled, how many records of it are done, and of how many."""
GRACE_S: Final = 2.0
POLL_S: Final = 0.5
LEFT_S: Final = 60.0
"""Predictions newer than this, against the newest one, are left to the worker."""


def rebuild(settings: Settings, tasks: Sequence[TaskSpec], progress: Progress) -> int:
    """Fill the store; raises ``UsageError`` while workers run.

    Returns how many predictions that wait for labels went to other partitions, with their entities.
    """
    return asyncio.run(_rebuild(settings, tasks, progress))


async def _rebuild(settings: Settings, tasks: Sequence[TaskSpec], progress: Progress) -> int:
    groups = [settings.worker.group_id(role) for role in ("all", "score", "label")]
    await _nobody_runs(settings, groups)
    committed: dict[TP, int] = {}
    for group in groups:
        for tp, offset in (await committed_offsets(settings.kafka, group)).items():
            # A deployment may have changed its roles: what any group took is in the rows.
            committed[tp] = max(offset, committed.get(tp, 0))
    worker = Worker(settings, tasks, "all")
    await worker.link.start()
    try:
        await worker.follower.catch_up()
        return await _Rebuilder(worker, committed, progress).run()
    finally:
        await worker.follower.stop()
        await worker.host.close()
        await worker.app.records.stop()
        await worker.link.stop()


async def _nobody_runs(settings: Settings, groups: Sequence[str]) -> None:
    """Wait for workers that ended without a word, which their group counts for so long; raises ``UsageError``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.worker.session_timeout_s + GRACE_S
    while busy := [group for group in groups if await active_members(settings.kafka, group)]:
        if loop.time() > deadline:
            raise UsageError(
                f"workers of group {', '.join(busy)} are running, and would write the same rows; stop them"
            )
        await asyncio.sleep(POLL_S)


class Silent:
    """Stands in for producer and consumer: everything is sent, taken and complete at once, and goes nowhere."""

    def limit(self, *_: Any, **__: Any) -> int:
        """Nothing is sent, so nothing need fit."""
        return 1 << 30

    async def send(self, *_: Any, **__: Any) -> asyncio.Future[list[Sent]]:
        """Acknowledged."""
        return _done([])

    async def send_parts(
        self, topic: str, columns: Columns, parts: Sequence[tuple[int, IntVector]]
    ) -> list[asyncio.Future[list[Sent]]]:
        """Acknowledged."""
        del topic, columns
        return [_done([]) for _ in parts]

    async def partition_count(self, *_: Any, **__: Any) -> int:
        """Nothing is passed on."""
        return 0

    def _always(self, *_: Any, **__: Any) -> bool:
        """Nobody takes a batch away, and nobody is told of it."""
        return True

    def _never(self, *_: Any, **__: Any) -> bool:
        """Time does not pass, and there is nobody to fall behind."""
        return False

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Nothing is fetched."""

    send_to = send
    take = complete = _always
    at_end = rewind = resume = _never
    hold = halt = _nothing


def _done(result: list[Sent]) -> asyncio.Future[list[Sent]]:
    future: asyncio.Future[list[Sent]] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


class _Rebuilder:
    """One run."""

    def __init__(self, worker: Worker, committed: dict[TP, int], progress: Progress) -> None:
        self._worker, self._committed, self._progress = worker, committed, progress
        self._ctx, self._host = worker.ctx, worker.host
        self._options: dict[str, Any] = worker.settings.kafka.client_options("rebuild")

    async def run(self) -> int:
        """Everything; see `rebuild`."""
        read = self._host.topics
        await self._host.check_partitions()
        if self._ctx.placement.partitioner is None:
            self._ctx.placement.partitioner = await settle_partitioner(self._ctx)
        moved = await self._labels(self._ctx.partitions)
        self._silence(True)
        for topic in sorted((t for t in read if t not in LABELLED), key=lambda t: t != topics.ENTITY_UPDATES):
            async with self._reader(topic) as reader:
                partitions = reader.partitions()
                # Rows of before are cleared, so those of today's aggregates take the plain name.
                await self._ctx.store.tables.settle((), anew=True)
                with Strays() as strays:
                    # All of a topic before any lane of it: a lane takes strays at their times, among its own.
                    for partition in partitions:
                        await self._collect((topic, partition), reader, strays)
                    for partition in partitions:
                        await self._rows((topic, partition), reader, strays.of(partition))
        await self._sign()
        return moved

    def _silence(self, silent: bool) -> None:
        """Whether what lanes make is in Kafka already, so that nothing is sent and no consumer is asked."""
        stands_in: Any = Silent() if silent else None
        self._ctx.silent, self._ctx.records = stands_in, stands_in or self._worker.app.records

    async def _labels(self, now: int) -> int:
        """Fill label lanes that are lost, and bring what all hold to the partitions of its entities."""
        records = self._worker.app.records
        await records.start()
        records.limits = (await asyncio.to_thread(topic_settings_there, self._ctx.settings.kafka)).limits
        before = await StoredIdentity(self._ctx.link).partitions() or now
        return await LabelMove(self._host, self._reader, self._label, before, now, self._progress).run()

    async def _sign(self) -> None:
        """What is stored now belongs to the topics that there are now."""
        topic_check = self._ctx.topics
        for own, identity in (await topic_check.look([*self._host.topics, topics.PREDICTIONS])).items():
            for partition in range(identity.partitions):
                await topic_check.accept((own, partition))
        await StoredIdentity(self._ctx.link).accept_partitions(self._ctx.partitions)
        await StoredIdentity(self._ctx.link).filled()

    async def _collect(self, lane: Lane, reader: RangeReader, strays: Strays) -> None:
        """Find the records of a partition that others own."""
        first, end = await self._bounds(lane, reader)
        if lane[0] == topics.ENTITY_UPDATES:
            side = cast(SideLane, self._host.row_lane(lane))
            async for batch in self._batches(reader, lane, first, end):
                for owner, record in side.strays(batch.records):
                    strays.add(owner, lane[1], record)
            return
        key, decode = STREAM_KEYS[lane[0]], DECODERS[lane[0]]
        async for batch in self._batches(reader, lane, first, end):
            raw = [record.value for record in batch.records]
            decoded = decode(raw, ColumnRequest(entities=(key,)), limits=self._ctx.settings.limits)
            ids = [entity or "" for entity in decoded.batch.entities[key]]
            for row, owner in zip(*self._ctx.placement.owners(ids, lane[1]), strict=True):
                strays.add(int(owner), lane[1], batch.records[int(decoded.index[row])])

    async def _bounds(self, lane: Lane, reader: RangeReader) -> tuple[int, int]:
        """The offsets of a partition to take: from the first one that is kept to where workers go on.

        The lane's own record tells that too, because brokers forget a group that stood still for a week. It is noted,
        because the record is gone where a rebuild was killed. Updates of rows are all taken: whoever applies them
        publishes nothing.
        """
        first, last = await reader.bounds(lane[1])
        if lane[0] == topics.ENTITY_UPDATES:
            return first, last
        end = max(first, self._committed.get(self._ctx.topic_partition(lane), 0))
        with suppress(StateError):  # the record is of a topic that is gone: its offsets mean nothing in this one
            await self._ctx.topics.check(lane)
            value = await self._worker.link.execute("GET", f"{lane_prefix(self._worker.link.prefix, lane)}lane")
            end = max(end, decode_position((value or b"")[POSITION_AND_NONCE]) or 0)
            end = await StoredIdentity(self._worker.link).fill_up_to(lane, end)
        return first, end

    def _reader(self, own: str) -> RangeReader:
        return RangeReader(self._options, self._ctx.name(own), limits=self._worker.settings.limits_of(own))

    async def _rows(self, lane: Lane, reader: RangeReader, strays: StrayReader) -> None:
        """One score or side lane."""
        first, end = await self._bounds(lane, reader)
        if end == first and not strays:
            return
        await self._forget(lane)
        opened = self._host.row_lane(lane)
        await opened.open()
        async for batch in self._batches(reader, lane, first, end):
            while before := strays.until(_time(batch)):
                await opened.run_alone(self._batch_of(before, lane, batch.base_offset))
            await opened.run_alone(batch)
            self._progress(opened.name, batch.next_offset - first, end - first)
        while left := strays.until(math.inf):
            await opened.run_alone(self._batch_of(left, lane, end))
        await opened.close()

    def _batch_of(self, records: Sequence[Record], lane: Lane, at: int) -> FetchedBatch:
        """Records of elsewhere as a batch of a lane that goes on ``at``."""
        tp = self._ctx.topic_partition(lane)
        return FetchedBatch(*tp, at, at, records, Ticket(tp, at, at, 0), [at] * len(records))

    async def _batches(self, reader: RangeReader, lane: Lane, first: int, end: int) -> AsyncIterator[FetchedBatch]:
        tp, at = self._ctx.topic_partition(lane), first
        async for piece in reader.read(tp.partition, first, end):
            offsets, records, refused, appended = piece
            ticket = Ticket(tp, at, piece.stop, 0)
            yield FetchedBatch(*tp, piece.start, piece.stop, records, ticket, offsets, appended, refused)
            at = piece.stop

    async def _forget(self, lane: Lane) -> None:
        """Take away what the store still has of a lane: it may be of other aggregates."""
        await clear_lane(self._worker.link, self._ctx.settings.redis.prefix, lane)

    async def _label(self, partition: int) -> None:
        """One label lane, in the order of the records' timestamps, where they are."""
        self._silence(True)
        await self._forget(("label", partition))
        lane = self._host.label_lane(partition)
        await lane.open()
        async with self._reader(topics.LABELS) as reader:
            lane.positions[topics.LABELS], _ = await reader.bounds(partition)
            end = self._committed.get(self._ctx.topic_partition((topics.LABELS, partition)), 0)
            labels = deque([found async for found in _steps(reader, topics.LABELS, partition, end)])
        async with self._reader(topics.PREDICTIONS) as reader:
            lane.positions[topics.PREDICTIONS], end = await reader.bounds(partition)
            until = await _newest(reader, partition, end) - LEFT_S
            async for step, piece in _steps(reader, topics.PREDICTIONS, partition, end):
                newest = _time(piece)
                if newest > until:
                    break
                while labels and _time(labels[0][1]) <= newest:
                    await lane.take_alone(*labels.popleft())
                await lane.take_alone(step, piece)
                self._progress(lane.name, step.stop, end)
        await lane.finish_alone()
        self._silence(False)


async def _steps(reader: RangeReader, topic: str, partition: int, end: int) -> AsyncIterator[tuple[OffsetRange, Slice]]:
    """Everything that is left of a partition before ``end``."""
    first, _ = await reader.bounds(partition)
    at = first
    async for piece in reader.read(partition, first, max(first, end)):
        yield OffsetRange(topic, at, piece.stop), piece
        at = piece.stop


def _time(piece: Slice | FetchedBatch) -> float:
    """Of its last record; at once, where nothing in it can be used."""
    return piece.records[-1].ts if piece.records else 0.0


async def _newest(reader: RangeReader, partition: int, end: int) -> float:
    """Timestamp of the last record before ``end``; the last offsets may be no records."""
    first, _ = await reader.bounds(partition)
    newest = 0.0
    async for piece in reader.read(partition, max(first, end - 100), end):
        newest = max(newest, _time(piece))
    return newest
