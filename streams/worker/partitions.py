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
from weir.online.metrics.input_watch import InputWatch
from weir.online.stages.dedupe import bytes_for
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.stages.seen import REMEMBERED as PREDICTIONS
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Role
from weir.streams.errors import StateError, UsageError
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.point_reader import PointReader
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.produce.producer import Sent
from weir.streams.model_replicas.follower import Follower
from weir.streams.model_replicas.past_models import ModelHistory
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.horizon import share_of
from weir.streams.worker.identity.partitioner import settle_partitioner
from weir.streams.worker.identity.topic_check import committed_offsets
from weir.streams.worker.idle import IdleTime
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.labelling.step_reader import LaneReader
from weir.streams.worker.lane_table import LaneTable, PartitionLane
from weir.streams.worker.lanes.lane import REMEMBERED as UPDATES
from weir.streams.worker.lanes.lane import RowLane
from weir.streams.worker.lanes.update_partition import SideLane, check_sizes, side_layouts
from weir.streams.worker.scoring.batch_scoring import Scoring
from weir.streams.worker.scoring.event_partition import ScoreLane

log = logging.getLogger(__name__)

OPEN_S: Final = 2.0
"""How long a rebalance waits for the store."""
FEW: Final = 50_000
"""Records that a lane takes again, at most, when the store has nothing of it."""
LABELLED: Final = (topics.PREDICTIONS, topics.LABELS)
"""Topics of which a label lane takes the partition of its number."""


class LaneHost(LaneTable):
    """Opens the lanes of each partition that this worker is given, and closes them when it goes."""

    def __init__(self, ctx: Context, follower: Follower, role: Role) -> None:
        super().__init__(ctx)
        self.follower, self.role = follower, role
        self._parked: dict[Lane, PartitionLane] = {}
        """Of partitions that went in the rebalance under way."""
        self._scoring: dict[str, Scoring] = {}
        """By stream."""
        logged, limits = ctx.name(topics.PREDICTIONS), ctx.settings.limits_of(topics.PREDICTIONS)
        self._points = PointReader(ctx.settings.kafka.client_options("logged"), logged, limits)
        self._waiting: list[FetchedBatch] = []
        self._settling: asyncio.Future[None] | None = None
        self._late: asyncio.Future[None] | None = None
        self.idle = IdleTime(ctx, self._timed, self.partitions_of)
        self._asking: asyncio.Future[dict[TP, int]] | None = None
        self._of_stream: dict[str, list[TaskSpec]] = {}
        for task in ctx.tasks:
            self._of_stream.setdefault(task.stream, []).append(task)
        self.watches = {task.name: InputWatch(task.name, task.stream, task.types) for task in ctx.tasks}
        """By task, over all its lanes: one partition alone may never have an event of a task."""
        self._side = {task.name: self._stage(task) for task in ctx.tasks}
        self._shapes = {name: stage.shape for name, stage in self._side.items()}

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
    def labels(self) -> list[LabelLane]:
        """The label lanes that are open."""
        return [lane for lane in self.lanes.values() if isinstance(lane, LabelLane)]

    @property
    def rows(self) -> list[RowLane]:
        """The others."""
        return [lane for lane in self.lanes.values() if isinstance(lane, RowLane)]

    @property
    def reserved(self) -> int:
        """Of the memory for ids, what lanes other than score lanes may take."""
        return self._reserved([own for own, _ in self.lanes])

    @staticmethod
    def _reserved(read: Sequence[str]) -> int:
        labels = read.count(topics.LABELS) * bytes_for(PREDICTIONS)
        return labels + read.count(topics.ENTITY_UPDATES) * bytes_for(UPDATES)

    def _share(self, read: Sequence[str]) -> int:
        """What the ids of a score lane may take, where these are the topics of the partitions to be opened."""
        lanes = sum(own in self._of_stream for own in read)
        return share_of(self.ctx.settings.worker.dedupe_bytes, self._reserved(read), lanes)

    def take(self, batch: FetchedBatch) -> None:
        """Bring a batch to its lane; the first ever waits until it is settled how producers partition."""
        if self.ctx.placement.partitioner is not None:
            super().take(batch)
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
            super().take(batch)

    def _timed(self) -> list[dict[Lane, ScoreLane | LabelLane]]:
        """Lanes whose time passes together: of each stream, and of labels; none that is paused, or about to go on."""
        groups = dict[str, dict[Lane, ScoreLane | LabelLane]]()
        for key, lane in self.lanes.items():
            if key in self.ctx.pauses.paused:
                continue
            if isinstance(lane, LabelLane) or (isinstance(lane, ScoreLane) and lane.started):
                groups.setdefault(key[0], {})[key] = lane
        return [*groups.values()]

    def check_sizes(self) -> None:
        """Raise ``UsageError`` where what a task makes may not fit its topic, or has none."""
        records, name = self.ctx.records, self.ctx.name(topics.DECISIONS)
        if self.ctx.settings.worker.decisions and self.role != "score" and name not in records.limits:
            # A deployment of before [worker] decisions has no such topic, and sending to it would wait for minutes.
            raise UsageError(
                f"[worker] decisions is set, and there is no topic {name} that this worker may write to: run weir "
                "topics create and weir acl kafka, or unset it"
            )
        check_sizes(self._side.values(), lambda own: records.limit(self.ctx.name(own)))

    async def close(self) -> None:
        """Let go of what the lanes shared; they have to be closed."""
        if self._settling is not None:
            self._settling.cancel()
        await self._points.close()

    # -- partitions come and go ----------------------------------------------------------------------------------

    async def assigned(self, tps: set[TP]) -> dict[TP, int]:
        """Open the lanes of ``tps``; the offsets to go on from, where there are any.

        A rebalance cannot wait for a store that is away: after a while the lanes are opened behind it, and their
        partitions, of which the consumer may have read something by then, go on where the lanes say.
        """
        # Before any lane: a wrong number of partitions ends the worker with every lane as it was.
        await self.check_partitions()
        # One that comes again without having gone has a lane of before.
        await self.revoked(tps)
        # A task of its own, which goes on where the rebalance does not wait for its end.
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
        for key in self._keys(tps):
            if key not in self.ctx.pauses.paused:
                self.begin(key)
        self.ctx.assigned, self.ctx.lanes = True, len(self.lanes)
        log.info("%d partitions assigned: %s", len(tps), ", ".join(self.names()))

    async def _open(self, tps: set[TP]) -> dict[TP, int]:
        lanes = [(self.ctx.settings.topics.own(tp.topic) or tp.topic, tp.partition) for tp in sorted(tps)]
        # Before lanes are opened, as the memory of each is built to its share.
        self.ctx.id_bytes = self._share([own for own, _ in lanes])
        await self.ctx.topics.check_partitions(topics.PREDICTIONS)
        # Of all partitions, not ours alone: which name a table has is one answer for all workers.
        await self.ctx.store.tables.settle(self.row_lanes())
        if self.ctx.remote is not None:
            # Before the lanes: an answer to their first request would come before anybody reads.
            await self.ctx.remote.own({partition for own, partition in lanes if own in self._of_stream})
        starts = await self.ctx.pauses.open_or_pause(self._keys(tps))
        # Only now: a lane that came back was taken up above, with its rows in memory.
        await self._forget_parked()
        self.ctx.metrics.inc("weir_rebalances_total")
        return {tp: starts[tp] for tp in tps if tp in starts}

    async def revoked(self, tps: Iterable[TP]) -> None:
        """Let go of the lanes of ``tps``."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        gone = set(map(self.key, tps))
        # First, so that nothing opens or closes one of these lanes beside us.
        await self.ctx.pauses.forget(gone)
        # Every partition goes in a rebalance, so no other lane is in the middle of something.
        await asyncio.gather(*(self._scoring[own].stop() for own in {own for own, _ in gone} & self._scoring.keys()))
        lanes = [self.lanes.pop(key) for key in gone & self.lanes.keys()]
        await asyncio.gather(*(self._park(lane) for lane in lanes))

    async def _park(self, lane: PartitionLane) -> None:
        """Let go of a lane; what is as it is stored is kept, for the case that its partition comes back to us."""
        if await lane.let_go():
            self._parked[lane.lane] = lane
        else:
            await lane.close()

    async def open_lane(self, key: Lane) -> PartitionLane:
        """See `LaneTable`; a lane that nobody else had meanwhile is taken up again as it is."""
        if (parked := self._parked.pop(key, None)) is not None:
            if await parked.take_up():
                self.lanes[key] = parked
                return parked
            await parked.close()
        return await super().open_lane(key)

    async def _forget_parked(self) -> None:
        """Their partitions are another worker's now."""
        gone, self._parked = list(self._parked.values()), {}
        await self.close_all(gone)

    # -- one lane, while the others go on ------------------------------------------------------------------------

    def key(self, tp: TP) -> Lane:
        """See `LaneTable`; a label lane, which may read two topics, is called by that of its labels."""
        own = self.ctx.own(tp)
        return (topics.LABELS, own[1]) if own[0] in LABELLED else own

    def _keys(self, tps: Iterable[TP]) -> list[Lane]:
        return sorted(set(map(self.key, tps)))

    def topics_of(self, key: Lane) -> Sequence[str]:
        """See `LaneTable`."""
        return LABELLED if key[0] in LABELLED else (key[0],)

    def partitions_of(self, key: Lane) -> list[TP]:
        """See `LaneTable`."""
        return [self.ctx.topic_partition((own, key[1])) for own in self.topics_of(key) if own in self.topics]

    async def reopen(self, key: Lane) -> Mapping[TP, int]:
        """See `LaneTable`."""
        starts = await super().reopen(key)
        return {**starts, **await self._first_time([tp for tp in self.partitions_of(key) if tp not in starts])}

    def make(self, key: Lane) -> PartitionLane:
        """See `LaneTable`."""
        return self.label_lane(key[1]) if key[0] in LABELLED else self.row_lane(key)

    async def _hand_over(self, partition: int, sent: list[Sent], scored: dict[str, ScoredBatch]) -> None:
        """Give acknowledged predictions to the label lane; where it is paused they are in Kafka for when it is not."""
        label = self.lanes.get((topics.LABELS, partition))
        if isinstance(label, LabelLane):
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
            LaneReader(partition, self.ctx, shapes, self._points),
            handed_over=self.role == "all",
        )

    def _stage(self, task: TaskSpec, rows: FeatureStore | None = None) -> ScoringStage:
        """A stage of a task, over the worker's store or ``rows``."""
        full, model = self.ctx.full.scorer(task.name), self.follower.model(task.name)
        store = self.ctx.store if rows is None else rows
        step, watch = self.ctx.settings.worker.intake.max_step, self.watches[task.name]
        return ScoringStage(task, store, side=True, model=model, full=full, max_step=step, watch=watch)

    def _labelling(self, task: TaskSpec, partition: int, history: ModelHistory) -> LabellingStage:
        shape = self._shapes[task.name]
        return LabellingStage(
            task, shape.features, shape.masks, shape.secondary, history.contributions,
            share=1.0 / self.ctx.partitions, lane=str(partition), max_step=self.ctx.settings.worker.intake.max_step,
        )  # fmt: skip

    # -- checks --------------------------------------------------------------------------------------------------

    async def check_partitions(self) -> None:
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
        # Once: lanes and stages are built for this number. Another one later is refused by `check_partitions`.
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
                    self.ctx.store.tables.declare_side(table.name, topics.ENTITY_UPDATES, self.ctx.partitions)

    async def _first_time(self, new: Sequence[TP]) -> dict[TP, int]:
        """Where partitions of which the store has nothing begin.

        Raises ``StateError`` where their group has committed offsets all the same: it would score with empty windows.
        Unless these are so few, and all still there, that Redis lost a lane's first second: those are taken again.
        """
        if not new:
            return {}
        group, starts = self.ctx.app.transport_settings.group, dict[TP, int]()
        if self._asking is None or self._asking.done():  # lanes that open together ask once
            self._asking = asyncio.ensure_future(committed_offsets(self.ctx.settings.kafka, group))
        # A lane that closes while it opens must not take the answer from the others.
        committed = await asyncio.shield(self._asking)
        for tp in new:
            offset, lane = committed.get(tp, 0), self.ctx.own(tp)
            # Nothing was committed, so nothing can be missing: it begins at the earliest.
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
            starts[tp] = first
        return starts
