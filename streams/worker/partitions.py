"""The worker's lanes as partitions come and go, and the way of a batch to its lane."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from faust.types import TP

from weir.online.batch import ScoredBatch
from weir.online.codec.predictions import ScoredShape
from weir.online.features.store import FeatureStore
from weir.online.stages.dedupe import bytes_for
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.stages.seen import REMEMBERED as PREDICTIONS
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Role
from weir.streams.errors import StateError, UsageError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.log_ends import LogBounds
from weir.streams.kafka.consume.point_reader import PointReader
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.produce.producer import Sent
from weir.streams.model_replicas.follower import Follower
from weir.streams.model_replicas.past_models import ModelHistory
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.committed import committed_offsets
from weir.streams.worker.context import Context
from weir.streams.worker.horizon import share_of
from weir.streams.worker.idle import IdleTime, TimedLane
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.labelling.step_reader import LaneReader
from weir.streams.worker.lane import RowLane
from weir.streams.worker.moves import seek_labels, seek_rows, set_watermark
from weir.streams.worker.partitioner import settle_partitioner
from weir.streams.worker.scoring.batch_scoring import Scoring
from weir.streams.worker.scoring.event_partition import ScoreLane
from weir.streams.worker.update_partition import REMEMBERED as UPDATES
from weir.streams.worker.update_partition import SideLane, check_sizes, side_layouts

log = logging.getLogger(__name__)

OPEN_S: Final = 2.0
"""How long a rebalance waits for the store."""
FEW: Final = 50_000
"""Records that a lane takes again, at most, when the store has nothing of it."""
LABELLED: Final = (topics.PREDICTIONS, topics.LABELS)
"""Topics of which a label lane takes the partition of its number."""


class LaneHost:
    """Opens the lanes of each partition that this worker is given, and closes them when it goes.

    Parameters
    ----------
    ctx : what the lanes share.
    follower : the models.
    role : which lanes there are.
    """

    def __init__(self, ctx: Context, follower: Follower, role: Role) -> None:
        self.ctx, self.follower, self.role = ctx, follower, role
        self.rows: dict[Lane, RowLane] = {}
        """Score and side lanes, by Weir's own name of the topic and partition."""
        self.labels: dict[int, LabelLane] = {}
        self._parked: dict[Lane, RowLane | LabelLane] = {}
        """Of partitions that went in the rebalance under way."""
        self._scoring: dict[str, Scoring] = {}
        """By stream."""
        self._bounds = LogBounds(ctx.settings.kafka.client_options("bounds"), ctx.name(topics.PREDICTIONS))
        logged, limits = ctx.name(topics.PREDICTIONS), ctx.settings.limits_of(topics.PREDICTIONS)
        self._points = PointReader(ctx.settings.kafka.client_options("logged"), logged, limits)
        self._waiting: list[FetchedBatch] = []
        self._settling: asyncio.Future[None] | None = None
        self._late: asyncio.Future[None] | None = None
        self._idle = IdleTime(ctx, self._timed, self.partitions_of)
        self._asking: asyncio.Future[dict[TP, int]] | None = None
        self._of_stream: dict[str, list[TaskSpec]] = {}
        for task in ctx.tasks:
            self._of_stream.setdefault(task.stream, []).append(task)
        self._side = {task.name: self._stage(task) for task in ctx.tasks}
        self._shapes = {name: stage.shape for name, stage in self._side.items()}
        ctx.pauses.host = self

    @property
    def topics(self) -> list[str]:
        """Weir's own names of the topics that this role reads."""
        read: list[str] = []
        if self.role != "label":
            read += self._of_stream
            if any(side_layouts(stage) for stage in self._side.values()):
                read.append(topics.ENTITY_UPDATES)
        if self.role != "score":
            read.append(topics.LABELS)
        if self.role == "label":
            read.append(topics.PREDICTIONS)
        return read

    @property
    def reserved(self) -> int:
        """Of the memory for ids, what lanes other than score lanes may take."""
        return self._reserved([own for own, _ in self.rows], len(self.labels))

    @staticmethod
    def _reserved(rows: Sequence[str], labels: int) -> int:
        return rows.count(topics.ENTITY_UPDATES) * bytes_for(UPDATES) + labels * bytes_for(PREDICTIONS)

    def _share(self, read: Sequence[str]) -> int:
        """What the ids of a score lane may take, where these are the topics of the partitions to be opened."""
        reserved = self._reserved(read, read.count(topics.LABELS))
        return share_of(self.ctx.settings.worker.dedupe_bytes, reserved, sum(own in self._of_stream for own in read))

    def take(self, batch: FetchedBatch) -> None:
        """Bring a batch to its lane; the first ever waits until it is settled how producers partition."""
        if self.ctx.placement.partitioner is not None:
            self._give(batch)
            return
        self._waiting.append(batch)
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())

    async def _settle(self) -> None:
        try:
            self.ctx.placement.partitioner = await settle_partitioner(self.ctx)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing could be taken
            await self.ctx.crash(error)
            return
        waiting, self._waiting = self._waiting, []
        for batch in waiting:
            self._give(batch)

    def _give(self, batch: FetchedBatch) -> None:
        own = self.ctx.settings.topics.own(batch.topic)
        lane: RowLane | LabelLane | None = None
        if own in LABELLED:
            lane = self.labels.get(batch.partition)
        elif own is not None:
            lane = self.rows.get((own, batch.partition))
        if lane is not None:  # else the partition has just gone, and its next owner reads the batch
            lane.put(batch)

    def _timed(self) -> list[dict[Lane, TimedLane]]:
        """Lanes whose time passes together: of each stream, and of labels; none that is paused, or about to go on."""
        paused, groups = self.ctx.pauses.paused, dict[str, dict[Lane, TimedLane]]()
        for key, lane in self.rows.items():
            if isinstance(lane, ScoreLane) and lane.started and key not in paused:
                groups.setdefault(key[0], {})[key] = lane
        labels = {(topics.LABELS, partition): lane for partition, lane in self.labels.items()}
        return [*groups.values(), {key: lane for key, lane in labels.items() if key not in paused}]

    def check_sizes(self) -> None:
        """Raise ``UsageError`` where what a task makes may not fit its topic."""
        check_sizes(self._side.values(), lambda own: self.ctx.records.limit(self.ctx.name(own)))

    def names(self) -> list[str]:
        """Of the lanes that are open."""
        return [lane.name for lane in self._lanes()]

    def _lanes(self) -> list[RowLane | LabelLane]:
        return [*self.labels.values(), *self.rows.values()]

    async def close(self) -> None:
        """Let go of what the lanes shared; they have to be closed."""
        await self._idle.stop()
        if self._settling is not None:
            self._settling.cancel()
        await self._bounds.close()
        await self._points.close()

    # -- partitions come and go ----------------------------------------------------------------------------------

    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any.

        A rebalance cannot wait for a store that is away: after a while the lanes are opened behind it, and their
        partitions, of which the consumer may have read something by then, go on where the lanes say.
        """
        await self._check_partitions()
        await self.revoked(tps)
        opening = asyncio.ensure_future(self._open(tps))
        done, _ = await asyncio.wait({opening}, timeout=OPEN_S)
        if done:
            starts = opening.result()
            self._begin(tps)
            return starts
        log.warning("the store did not tell within %g s where %d partitions go on; they wait for it", OPEN_S, len(tps))
        self._late = asyncio.ensure_future(self._begin_late(tps, opening))
        return {}

    async def _begin_late(self, tps: set[TP], opening: asyncio.Future[dict[TP, int]]) -> None:
        try:
            for tp, offset in (await opening).items():
                self.ctx.consumer.rewind(tp, offset)
            self._begin(tps)
        except asyncio.CancelledError:  # the partitions have gone meanwhile
            opening.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the partitions would stand still
            await self.ctx.crash(error)

    def _begin(self, tps: set[TP]) -> None:
        for key in self._keys(map(self.ctx.own, tps)):
            if key not in self.ctx.pauses.paused:
                self.begin(key)
        for scoring in self._scoring.values():
            scoring.start()
        self._idle.start()
        self.ctx.assigned, self.ctx.lanes = True, len(self._lanes())
        log.info("%d partitions assigned: %s", len(tps), ", ".join(self.names()))

    async def _open(self, tps: set[TP]) -> dict[TP, int]:
        lanes = [(self.ctx.settings.topics.own(tp.topic) or tp.topic, tp.partition) for tp in sorted(tps)]
        self.ctx.id_bytes = self._share([own for own, _ in lanes])
        await self.ctx.topics.check_partitions(topics.PREDICTIONS)
        await self.ctx.store.settle(self.row_lanes())
        if self.ctx.remote is not None:
            await self.ctx.remote.own({partition for own, partition in lanes if own in self._of_stream})
        starts = await self.ctx.pauses.open_or_pause(self._keys(lanes))
        await self._forget_parked()
        self.ctx.metrics.inc("weir_rebalances_total")
        return {tp: starts[tp] for tp in tps if tp in starts}

    async def revoked(self, tps: Iterable[TP]) -> None:
        """Let go of the lanes of ``tps``."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        gone = {self.ctx.own(tp) for tp in tps}
        await self.ctx.pauses.forget(set(self._keys(gone)))
        # Every partition goes in a rebalance, so no other lane is in the middle of something.
        await asyncio.gather(*(self._scoring[own].stop() for own in {own for own, _ in gone} & self._scoring.keys()))
        rows = [self.rows.pop(lane) for lane in gone & self.rows.keys()]
        label = [self.labels.pop(p) for p in {p for own, p in gone if own in LABELLED} & self.labels.keys()]
        await asyncio.gather(*(self._park(lane) for lane in rows), *(self._park(lane) for lane in label))

    async def _park(self, lane: RowLane | LabelLane) -> None:
        """Let go of a lane; what is as it is stored is kept, for the case that its partition comes back to us."""
        if await lane.let_go():
            self._parked[lane.lane] = lane
        else:
            await lane.close()

    async def _unpark(self, lane: Lane) -> dict[Lane, int] | None:
        """Take a lane up again that nobody else had meanwhile; where it goes on, ``None`` where it has to be opened."""
        parked = self._parked.pop(lane, None)
        if parked is None:
            return None
        if not await parked.take_up():
            await parked.close()
            return None
        if isinstance(parked, LabelLane):
            self.labels[lane[1]] = parked
            return {(topic, lane[1]): offset for topic, offset in parked.positions.items()}
        self.rows[lane] = parked
        return {lane: parked.next_offset} if parked.next_offset is not None else {}

    async def _forget_parked(self) -> None:
        """Their partitions are another worker's now."""
        gone, self._parked = list(self._parked.values()), {}
        await asyncio.gather(*(lane.close() for lane in gone))

    def key(self, tp: TP) -> Lane:
        """See `process.PartitionHost`."""
        return self._keys([self.ctx.own(tp)])[0]

    # -- one lane, while the others go on ------------------------------------------------------------------------

    @staticmethod
    def _keys(lanes: Iterable[Lane]) -> list[Lane]:
        """What to call the lanes of some partitions: a label lane, which may have two, by that of its labels."""
        return sorted({(topics.LABELS, lane[1]) if lane[0] in LABELLED else lane for lane in lanes})

    def partitions_of(self, lane: Lane) -> list[TP]:
        """See `pauses.Host`."""
        read = [own for own in LABELLED if own in self.topics] if lane[0] in LABELLED else [lane[0]]
        return [self.ctx.topic_partition((own, lane[1])) for own in read]

    async def shut(self, lane: Lane) -> None:
        """See `pauses.Host`."""
        if lane[0] in LABELLED:
            if lane[1] in self.labels:
                await self.labels[lane[1]].close()
                self.labels.pop(lane[1], None)
        elif lane in self.rows:
            rows = self.rows[lane]
            if isinstance(rows, ScoreLane):
                self._scoring[lane[0]].drop(rows)
            async with rows.lock:  # what is computed together with other lanes is computed to its end
                await rows.drain(self.ctx.settings.worker.drain_s)
                await rows.close()
            self.rows.pop(lane, None)

    async def reopen(self, lane: Lane) -> Mapping[TP, int]:
        """See `pauses.Host`."""
        starts: dict[Lane, int] = {}
        for own in LABELLED if lane[0] in LABELLED else (lane[0],):
            await self.ctx.topics.check((own, lane[1]))
        if (taken_up := await self._unpark(lane)) is not None:
            starts |= taken_up
        elif lane[0] in LABELLED:
            label = self.labels[lane[1]] = self.label_lane(lane[1])
            starts |= {(topic, lane[1]): offset for topic, offset in (await label.open()).items()}
        else:
            rows = self.rows[lane] = self.row_lane(lane)
            start = await rows.open()
            if start is not None:
                starts[lane] = start
        read = {tp: self.ctx.own(tp) for tp in self.partitions_of(lane)}
        starts |= await self._first_time([own for own in read.values() if own not in starts])
        return {tp: starts[own] for tp, own in read.items() if own in starts}

    def begin(self, lane: Lane) -> None:
        """See `pauses.Host`."""
        opened = self.labels.get(lane[1]) if lane[0] in LABELLED else self.rows.get(lane)
        if opened is not None:
            opened.start()
        if lane[0] in self._scoring:
            self._scoring[lane[0]].start()

    def lanes_open(self) -> list[Lane]:
        """See `control.Movable`."""
        return [*self.rows, *((topics.LABELS, partition) for partition in self.labels)]

    def positions(self) -> Mapping[Lane, tuple[int | None, float | None]]:
        """See `control.Movable`."""
        found: dict[Lane, tuple[int | None, float | None]] = {}
        for lane, rows in self.rows.items():
            if rows.started:
                found[lane] = rows.next_offset, rows.intake.watermark if isinstance(rows, ScoreLane) else None
        for partition, label in self.labels.items():
            found[topics.LABELS, partition] = label.positions.get(topics.LABELS), None
        return found

    async def seek(self, lane: Lane, offset: int, by: str) -> str:
        """See `control.Movable`."""
        if lane[0] in LABELLED:
            told = await seek_labels(self.label_lane(lane[1]), offset, by)
        else:
            told = await seek_rows(self.row_lane(lane), offset, by)
        await self.ctx.topics.sought(lane)
        return told

    async def set_watermark(self, lane: Lane, ts: float) -> str:
        """See `control.Movable`."""
        if lane[0] in LABELLED:
            raise UsageError(f"{lane[0]}-{lane[1]} keeps no event time; give a partition of a stream of events")
        return await set_watermark(self.row_lane(lane), ts)

    async def _hand_over(self, partition: int, sent: list[Sent], scored: dict[str, ScoredBatch]) -> None:
        """Give acknowledged predictions to the label lane; where it is paused they are in Kafka for when it is not."""
        label = self.labels.get(partition)
        if label is not None:
            await label.hand_over(sent, scored)

    def row_lane(self, lane: Lane) -> RowLane:
        """A score or side lane, not open."""
        if lane[0] == topics.ENTITY_UPDATES:
            return SideLane(lane, self.ctx, self._side)
        tasks = self._of_stream[lane[0]]
        hand_over = partial(self._hand_over, lane[1]) if self.role == "all" else None
        scoring = self._scoring.get(lane[0])
        if scoring is None:
            scoring = self._scoring[lane[0]] = Scoring(self.ctx, lambda rows: [self._stage(t, rows) for t in tasks])
        return ScoreLane(lane, self.ctx, lambda: [self._stage(task) for task in tasks], scoring, hand_over)

    def label_lane(self, partition: int) -> LabelLane:
        """A label lane, not open."""
        histories = {task.name: self.follower.history(task.name) for task in self.ctx.tasks}
        stages = {task.name: self._labelling(task, partition, histories[task.name]) for task in self.ctx.tasks}
        shapes = {
            name: ScoredShape(s.features, s.masks, len(s.watched), s.secondary) for name, s in self._shapes.items()
        }
        steps = StepLog(self.ctx.link, f"label-{partition}")
        return LabelLane(
            partition,
            self.ctx,
            stages,
            steps,
            histories,
            LaneReader(partition, self.ctx, shapes, self._bounds, self._points),
            handed_over=self.role == "all",
        )

    def _stage(self, task: TaskSpec, rows: FeatureStore | None = None) -> ScoringStage:
        """A stage of a task, over the worker's store or ``rows``."""
        full, store = self.ctx.full.scorer(task.name), self.ctx.store if rows is None else rows
        return ScoringStage(task, store, side=True, model=self.follower.model(task.name), full=full)

    def _labelling(self, task: TaskSpec, partition: int, history: ModelHistory) -> LabellingStage:
        shape = self._shapes[task.name]
        return LabellingStage(
            task,
            shape.features,
            shape.masks,
            shape.secondary,
            history.contributions,
            share=1.0 / self.ctx.partitions,
            lane=str(partition),
        )

    # -- checks --------------------------------------------------------------------------------------------------

    async def _check_partitions(self) -> None:
        """Every topic keyed by entity has the same number of partitions; raises ``UsageError`` else.

        Asked at every rebalance, because a topic may be given more while workers run.
        """
        now = await self.ctx.topics.look(dict.fromkeys([*self.topics, topics.PREDICTIONS, topics.LABELS]))
        counts = {name: identity.partitions for name, identity in now.items()}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{self.ctx.name(name)} {count}" for name, count in counts.items())
            raise UsageError(
                f"topics keyed by entity need the same number of partitions, because a label meets its prediction in "
                f"the partition of the same number; there are: {found}. Make them equal; see weir topics check"
            )
        if not self.ctx.partitions:
            self.declare(counts[topics.PREDICTIONS])

    def row_lanes(self) -> list[Lane]:
        """Every lane with rows, of this worker or of another."""
        read = (*self._of_stream, topics.ENTITY_UPDATES)
        return [(own, partition) for own in read for partition in range(self.ctx.partitions)]

    def declare(self, partitions: int) -> None:
        """Every topic keyed by entity has so many partitions."""
        self.ctx.partitions = partitions
        for stage in self._side.values():
            for table in stage.engine.tables:
                if table.side:
                    self.ctx.store.declare_side(table.name, topics.ENTITY_UPDATES, self.ctx.partitions)

    async def _first_time(self, new: list[Lane]) -> dict[Lane, int]:
        """Where lanes of which the store has nothing begin.

        Raises ``StateError`` where their group has committed offsets all the same: it would score with empty windows.
        Unless these are so few, and all still there, that Redis lost a lane's first second: those are taken again.
        """
        if not new:
            return {}
        group, starts = self.ctx.app.transport_settings.group, dict[Lane, int]()
        if self._asking is None or self._asking.done():  # lanes that open together ask once
            self._asking = asyncio.ensure_future(committed_offsets(self.ctx.settings.kafka, group))
        committed = await asyncio.shield(self._asking)
        for lane in new:
            tp = self.ctx.topic_partition(lane)
            offset = committed.get(tp, 0)
            if offset <= 0:
                continue
            async with RangeReader(self.ctx.settings.kafka.client_options("bounds"), tp.topic) as reader:
                first, _ = await reader.bounds(tp.partition)
            if first > 0 or offset > FEW:
                raise StateError(
                    f"{lane[0]}-{lane[1]}: group {group!r} committed offset {offset}, but the store holds nothing of "
                    "this partition: it was emptied, or another one is configured. Run 'weir features rebuild' to "
                    "fill it from Kafka, or give [worker] another group to start afresh"
                )
            log.warning("%s-%d: the store holds nothing; taking the %d records before again", *lane, offset)
            starts[lane] = first
        return starts
