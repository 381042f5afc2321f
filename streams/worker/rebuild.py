"""Fills an emptied store again from Kafka: ``weir features rebuild``.

Each lane runs over what Kafka still has, up to where its group had committed, and what it makes is thrown away: that is
in Kafka already. Label lanes take predictions and labels in the order of their timestamps and stop a minute before the
newest prediction, so that whatever was not published before the loss is made again (repeats are known by their ids).

A record in a partition that does not own its entity is taken by the lane that does, at its time: so topics may have
more partitions than the state was made with. Label lanes that are there, and timers of silence, know more than the
topics still have: they are not filled, but what they hold of an entity follows it (`LabelMove`, `TimerMove`). The
number of partitions is written down in the end. From before the first lane is touched until then workers refuse to
start, and a rebuild that was cut short is run again (`StoredRebuild`).

Side lanes come first, because score lanes read their rows. Where an aggregate of the stream's own entity depends on
such a row (a ``where`` over a merchant's feature), it sees the row of now, not of then; all else is as it was.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Final, cast

from faust.types import TP

from weir.online.codec.columns import ColumnRequest
from weir.online.stages.admission import DECODERS
from weir.online.task.spec import STREAM_KEYS, TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import StateError
from weir.streams.kafka.admin.cluster import topic_settings_there
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.records import Record
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.redis.partitions.partition_record import POSITION_AND_NONCE, clear_lane, decode_position
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.redis.stored_rebuild import StoredRebuild
from weir.streams.redis.stored_rows import lane_prefix
from weir.streams.redis.topic_identity import StoredIdentity
from weir.streams.worker.identity.partitioner import settle_partitioner
from weir.streams.worker.identity.topic_check import committed_offsets
from weir.streams.worker.label_move import LabelMove
from weir.streams.worker.lanes.lane import RowLane
from weir.streams.worker.lanes.update_partition import SideLane
from weir.streams.worker.partitions import LABELLED
from weir.streams.worker.rebuild_checks import alone, begin, check_tasks, groups_of, nobody_runs
from weir.streams.worker.run import Worker
from weir.streams.worker.scoring.event_partition import ScoreLane
from weir.streams.worker.scoring.misplaced import StrayReader, Strays
from weir.streams.worker.silent import Silent
from weir.streams.worker.timer_move import TimerMove, Timers
from weir.streams.worker.warmup import warm_up_structs

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told what is filled, how many records of it are done, and of how many."""
MOST_RECORDS: Final = 4096
"""Of one batch, more or less."""
LEFT_S: Final = 60.0
"""Predictions newer than this, against the newest one, are left to the worker."""


def rebuild(settings: Settings, tasks: Sequence[TaskSpec], progress: Progress, drop: Sequence[str] = ()) -> int:
    """Fill the store; returns how many predictions that wait for labels went to other partitions, with their entities.

    Raises ``UsageError``, with everything as it was, while workers or another rebuild run, and where the store holds
    tasks that are neither in ``tasks`` nor in ``drop``, the names of those of which everything goes.
    """
    return asyncio.run(_rebuild(settings, tasks, progress, drop))


async def _rebuild(settings: Settings, tasks: Sequence[TaskSpec], progress: Progress, drop: Sequence[str]) -> int:
    warm_up_structs()
    worker = Worker(settings, tasks, "all")

    async def work(kept: StoredRebuild) -> int:
        await nobody_runs(settings)
        await check_tasks(worker.link, [task.name for task in tasks], drop)
        await worker.follower.catch_up()
        return await _Rebuilder(worker, await _committed(settings), progress, kept).run(drop)

    try:
        await worker.link.start()
        return await alone(worker.link, settings.worker.session_timeout_s, work)
    finally:
        await worker.follower.stop()
        await worker.host.close()
        await worker.app.records.stop()
        await worker.link.stop()


async def _committed(settings: Settings) -> dict[TP, int]:
    """How far the groups of all roles were: one deployment may have changed them, and what any took is in the rows."""
    committed: dict[TP, int] = {}
    for group in groups_of(settings):
        for tp, offset in (await committed_offsets(settings.kafka, group)).items():
            committed[tp] = max(offset, committed.get(tp, 0))
    return committed


class _Rebuilder:
    """One run."""

    def __init__(self, worker: Worker, committed: dict[TP, int], progress: Progress, kept: StoredRebuild) -> None:
        self._worker, self._committed, self._progress, self._kept = worker, committed, progress, kept
        self._ctx, self._host = worker.ctx, worker.host
        self._options: dict[str, Any] = worker.settings.kafka.client_options("rebuild")

    async def run(self, drop: Sequence[str]) -> int:
        """Everything; see `rebuild`."""
        await self._host.check_partitions()
        if self._ctx.placement.partitioner is None:
            self._ctx.placement.partitioner = await settle_partitioner(self._ctx)
        await begin(self._kept, self._ctx.settings)
        read, now = self._host.topics, self._ctx.partitions
        before = await StoredIdentity(self._ctx.link).partitions() or now
        moved = await self._labels(before, now)
        self._silence(True)
        if drop:
            unread = [own for own in (*STREAM_KEYS, topics.ENTITY_UPDATES) if own not in read]
            await self._clear(unread, max(before, now))
        for topic in sorted((t for t in read if t not in LABELLED), key=lambda t: t != topics.ENTITY_UPDATES):
            async with self._reader(topic) as reader:
                timers = await self._timers(reader, topic, before, now)
                # Rows of before are cleared, so those of today's aggregates take the plain name.
                await self._ctx.store.tables.settle((), anew=True)
                with Strays() as strays:
                    # All of a topic before any lane of it: a lane takes strays at their times, among its own.
                    for partition in reader.partitions():
                        await self._collect((topic, partition), reader, strays)
                    for partition in reader.partitions():
                        await self._rows((topic, partition), reader, strays.of(partition), timers.get(partition, {}))
        await self._sign(drop)
        return moved

    async def _clear(self, streams: Sequence[str], partitions: int) -> None:
        """Empty lanes of topics that no task reads any more."""
        for lane in product(streams, range(partitions)):
            await clear_lane(self._worker.link, self._ctx.settings.redis.prefix, lane)

    async def _timers(self, reader: RangeReader, topic: str, before: int, now: int) -> Mapping[int, Timers]:
        """By partition, what the timers of a stream are to hold there."""
        if topic == topics.ENTITY_UPDATES:
            return {}
        bounds, batches = partial(self._bounds, reader), partial(self._batches, reader)
        move = TimerMove(self._host, self._kept, bounds, batches, before, now)
        return dict(enumerate(await move.timers_of(topic)))

    def _silence(self, silent: bool) -> None:
        """Whether what lanes make is in Kafka already, so that nothing is sent and no consumer is asked."""
        stands_in: Any = Silent() if silent else None
        self._ctx.silent, self._ctx.records = stands_in, stands_in or self._worker.app.records

    async def _labels(self, before: int, now: int) -> int:
        """Fill label lanes that are lost, and bring what all hold to the partitions of its entities."""
        records = self._worker.app.records
        await records.start()
        records.limits = (await asyncio.to_thread(topic_settings_there, self._ctx.settings.kafka)).limits
        return await LabelMove(self._host, self._reader, self._label, before, now, self._progress).run()

    async def _sign(self, drop: Sequence[str]) -> None:
        """What is stored now belongs to the topics, and the tasks, that there are now."""
        topic_check, identity = self._ctx.topics, StoredIdentity(self._ctx.link)
        for own, now in (await topic_check.look([*self._host.topics, topics.PREDICTIONS])).items():
            for partition in range(now.partitions):
                await topic_check.accept((own, partition))
        await identity.drop(drop)
        await identity.accept_partitions(self._ctx.partitions)
        await self._kept.done()

    async def _collect(self, lane: Lane, reader: RangeReader, strays: Strays) -> None:
        """Find the records of a partition that others own."""
        first, end = await self._bounds(reader, lane)
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

    async def _bounds(self, reader: RangeReader, lane: Lane) -> tuple[int, int]:
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
            end = await self._kept.fill_up_to(lane, end)
        return first, end

    def _reader(self, own: str) -> RangeReader:
        return RangeReader(self._options, self._ctx.name(own), limits=self._worker.settings.limits_of(own))

    async def _rows(self, lane: Lane, reader: RangeReader, strays: StrayReader, timers: Timers) -> None:
        """One score or side lane."""
        first, end = await self._bounds(reader, lane)
        filled = end > first or bool(strays)
        if not filled and not timers:
            return
        opened = await self._opened(lane, anew=filled)
        async for batch in self._batches(reader, lane, first, end):
            for piece in _among(strays, batch):
                await opened.run_alone(piece)
            self._progress(opened.name, batch.next_offset - first, end - first)
        while left := strays.until(math.inf):
            await opened.run_alone(self._batch_of(left, lane, end))
        if timers:
            await cast(ScoreLane, opened).hold(timers, end)
        await opened.close()

    async def _opened(self, lane: Lane, *, anew: bool) -> RowLane:
        """A lane that is open: emptied where there is what to fill it with, or where nothing in it can be used."""
        opened = self._host.row_lane(lane)
        try:
            if not anew:
                await opened.open()
                return opened
        except StateError as error:
            log.warning("%s is emptied, as what is stored of it cannot be used: %s", opened.name, error)
        # It may be of other aggregates, or of entities that went elsewhere.
        await clear_lane(self._worker.link, self._ctx.settings.redis.prefix, lane)
        await opened.open()
        return opened

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

    async def _label(self, partition: int) -> None:
        """One label lane, in the order of the records' timestamps, where they are."""
        self._silence(True)
        await clear_lane(self._worker.link, self._ctx.settings.redis.prefix, ("label", partition))
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


def _among(strays: StrayReader, batch: FetchedBatch) -> Iterator[FetchedBatch]:
    """A batch with the strays that came before its records, each at its time, in pieces that are not too large.

    Of a quiet partition one batch may be of a week: strays before all of it would make its own records late.
    """
    records, offsets = list[Record](), list[int]()
    for place, record in enumerate(batch.records):
        at = batch.offset_of(place)
        while before := strays.until(record.ts):
            records += before
            offsets += [at] * len(before)
            if len(records) >= MOST_RECORDS:
                yield replace(batch, next_offset=at, records=records, offsets=offsets, refused=())
                records, offsets = [], []
        records.append(record)
        offsets.append(at)
    yield replace(batch, records=records, offsets=offsets)


def _time(piece: Slice) -> float:
    """Of its last record; at once, where nothing in it can be used."""
    return piece.records[-1].ts if piece.records else 0.0


async def _newest(reader: RangeReader, partition: int, end: int) -> float:
    """Timestamp of the last record before ``end``; the last offsets may be no records."""
    first, _ = await reader.bounds(partition)
    newest = 0.0
    async for piece in reader.read(partition, max(first, end - 100), end):
        newest = max(newest, _time(piece))
    return newest
