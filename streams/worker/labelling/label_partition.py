"""The label lane: predictions and labels of one partition to examples, alerts, drift and requests.

Its state is in memory. Each *step* (so many records of one topic, in the order taken) is journalled before anything it
made is published, so that after a crash the same steps are taken again in the same order from the newest snapshot, and
make the same outputs. What was published twice is known by its id: the first counts.

Predictions come from Kafka, or, where the same process scores, from the score lane (`HandedPredictions`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from weir.online.batch import ScoredBatch
from weir.online.stages.labelling import LabellingStage
from weir.streams.config import topics
from weir.streams.errors import in_words
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.kafka.produce.producer import Sent
from weir.streams.model_replicas.past_models import ModelHistory, cover_all
from weir.streams.redis.partitions.label_journal import TICK, OffsetRange, StepLog, StoredLane
from weir.streams.redis.partitions.partition_store import Lane
from weir.streams.worker.context import Context
from weir.streams.worker.labelling.handed_predictions import HandedPredictions
from weir.streams.worker.labelling.labels_first import LabelsFirst
from weir.streams.worker.labelling.lane_snapshot import captured, positions_of, restored
from weir.streams.worker.labelling.publisher import Made, PendingStep, StepPublisher, together
from weir.streams.worker.labelling.step_reader import LaneReader
from weir.streams.worker.lanes.step_writer import DECIDED_S, MOST_S, Linger

log = logging.getLogger(__name__)

EXPLAIN_TIMEOUT_S = 60.0
LOOK_S = 0.05
"""How often a lane looks whether labels have come for which predictions wait."""
CLOSE_S = 2.5
"""How long letting go may take in all; a rebalance waits for it, within its ``hook_timeout_s``."""


class LabelLane:
    """Partition ``partition`` of predictions and labels.

    Parameters
    ----------
    partition : its number.
    ctx : what all lanes of the worker share.
    stages : by task, new.
    steps : the lane's journal.
    histories : by task, its model as of any version, for the reasons of alerts.
    reader : decodes batches, and reads ranges of both topics again.
    handed_over : whether predictions come from this process; else the consumer brings them.
    """

    def __init__(
        self,
        partition: int,
        ctx: Context,
        stages: dict[str, LabellingStage],
        steps: StepLog,
        histories: Mapping[str, ModelHistory],
        reader: LaneReader,
        handed_over: bool,
    ) -> None:
        self.partition, self.ctx, self.stages = partition, ctx, stages
        self.lane = topics.LABELS, partition
        self.name, self.ready = f"label-{partition}", False
        self._steps, self._histories, self.reader, self._handed_over = steps, histories, reader, handed_over
        self.positions: dict[str, int] = {}
        """Next offset of each topic, as of the steps taken."""
        self.of = 0
        """Of how many lanes it was one when it was stored; 0 where that is not known."""
        self._first_label = 0
        """No label before this one is kept, as far as was asked."""
        self._number = 0
        """Steps taken, since the lane began."""
        self._snapshot_step = 0
        """The last step in a snapshot that is stored, as far as is known."""
        self._linger = Linger(DECIDED_S if ctx.settings.worker.decisions else MOST_S)
        self._empty()
        self._tasks: list[asyncio.Task[None]] = []
        self._publishing: asyncio.Task[None] | None = None
        self._snapshot_at = 0.0
        self.active_at = -math.inf
        self._took_at = math.inf
        """When it took its newest step that was not a tick, by the wall clock."""
        self._whole = True
        """Whether its state is that behind a step: after an error half of one may be in it, which is not stored."""

    def _empty(self) -> None:
        """Nothing waits, before the lane or behind it."""
        self._inbox: asyncio.Queue[PendingStep] = asyncio.Queue()
        predictions = topics.PREDICTIONS, self.partition
        self._handed = HandedPredictions(self._inbox, self.reader, partial(self.ctx.topics.look_again, predictions))
        self._turns = LabelsFirst(self.ctx, self.partition)
        self._out = StepPublisher(self.partition, self.ctx, self._steps, self.reader.features)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- life ----------------------------------------------------------------------------------------------------

    @property
    def starts(self) -> dict[Lane, int]:
        """The next offset of each topic that it takes, where there is one."""
        return {(topic, self.partition): offset for topic, offset in self.positions.items()}

    @property
    def where(self) -> tuple[int | None, float | None]:
        """See `RowLane`."""
        return self.positions.get(topics.LABELS), None

    async def open(self) -> None:
        """Claim the lane and load what is stored."""
        # Before reading: what the owner before writes from now on is refused, so what is read stays true.
        await self._steps.claim()
        async with self.ctx.opening:
            stored = await self._steps.load()
        self._snapshot_step = stored.snapshot_step
        # Held in one place alone, which lets go of it once it is restored.
        self._stored, self._blob = replace(stored, snapshot=None), stored.snapshot
        if self._blob is not None:
            # As much as the consumer has to know now; the stages are restored in a thread, behind the rebalance.
            self.positions, self.of = positions_of(self._blob)
        for step in self._stored.steps:
            if step.topic != TICK:
                self.positions[step.topic] = step.stop

    @property
    def blank(self) -> bool:
        """Whether nothing is stored of it, where it is open and not started."""
        return self._blob is None and self._stored.next_step == 1

    async def take_up(self) -> bool:
        """Go on with a lane that was `let_go`, where nobody has had it since; else it has to be opened anew."""
        if not await self._steps.claim():
            return False
        self._stored = StoredLane(None, self._number, [], self._number)
        self._empty()
        return True

    def start(self) -> None:
        """Recover, then take steps."""
        works: list[Callable[[], Awaitable[None]]] = [self._run, partial(self._out.run, self._stored)]
        if self._handed_over:
            works.append(self._handed.look_for_left)
        self._tasks = [asyncio.ensure_future(self._guard(work)) for work in works]
        self._publishing = self._tasks[1]

    async def close(self) -> None:
        """Let go of the partition and of what is in memory."""
        await self.let_go()

    async def finish(self, limit_s: float) -> None:  # noqa: ARG002 - it has a limit of its own
        """See `RowLane`."""
        await self.let_go()

    async def let_go(self) -> bool:
        """Let go of the partition; what is not published soon is taken again by its next owner.

        Whether everything that is in memory was published: then the lane may be taken up again.
        """
        if not self._closed.done():
            self._closed.set_result(None)
        deadline = asyncio.get_running_loop().time() + CLOSE_S
        for task in self._tasks:
            # Publishing goes on for a moment: what it has journalled and not sent would be made again.
            if task is not self._publishing:
                task.cancel()
        await self._publish_rest(deadline - CLOSE_S / 2)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        # Behind the tasks' end, which may fail or publish one more step.
        rests = self.ready and self._whole and self._out.published == self._number
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*(history.close() for history in self._histories.values()))
                if rests and self._number > self._snapshot_step:  # so that the next owner has nothing to take again
                    await self._out.store(self._number, self._capture())
                    self._snapshot_step = self._number
        except Exception as error:  # noqa: BLE001 - whatever it is, the journal is there
            why = f"it took longer than {CLOSE_S:g} s" if isinstance(error, TimeoutError) else in_words(error)
            log.warning("%s: no snapshot at the end (%s); its next owner takes some steps again", self.name, why)
        return rests

    async def _publish_rest(self, deadline: float) -> None:
        """Wait a little for what was taken, so that a clean stop makes nothing twice."""
        if self._publishing is None or not self.ready:
            return
        published = asyncio.ensure_future(self._out.until(self._number))
        left_s = deadline - asyncio.get_running_loop().time()
        await asyncio.wait({published, self._publishing}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        published.cancel()

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, going on would skip a step
            self._whole = False
            self.ctx.fail((topics.LABELS, self.partition), error)

    # -- what comes in -------------------------------------------------------------------------------------------

    def put(self, batch: FetchedBatch) -> None:
        """Take a batch of labels or predictions; the consumer bounds how many wait."""
        if self.ctx.consumer.take(batch):
            try:
                self._inbox.put_nowait(self.reader.decode(batch))
            except Exception as error:  # noqa: BLE001 - it is this partition's
                self.ctx.fail((topics.LABELS, self.partition), error)

    async def hand_over(self, sent: list[Sent], scored: dict[str, ScoredBatch]) -> None:
        """Take predictions that the brokers have acknowledged, in the order in which they were sent.

        Where the lane closes instead, or fails, they are in Kafka for whoever opens it next: the score lane goes on.
        """
        handing = asyncio.ensure_future(self._guard(partial(self._handed.put, sent, scored)))
        try:
            await asyncio.wait({handing, self._closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            handing.cancel()

    # -- time without events; see `IdleTime` -------------------------------------------------------------------

    @property
    def watermark(self) -> float:
        """Event time of the partition, by its predictions."""
        return max(stage.time.watermark for stage in self.stages.values())

    @property
    def live(self) -> bool:
        """Whether its newest predictions came no later than they may be late."""
        return self._took_at - self.watermark <= self.ctx.settings.worker.intake.allowed_lateness

    def due(self, at: float) -> bool:
        """Whether an alert may resolve by event time ``at``, if no event comes, and nothing waits before that."""
        idle = self.ready and self._inbox.empty() and not self._turns
        return idle and any(stage.book.due(at) for stage in self.stages.values())

    def pass_time(self, at: float) -> None:
        """Resolve what is quiet by then: a step of its own, so that it is taken again in its place."""
        self.active_at = asyncio.get_running_loop().time()
        self._inbox.put_nowait(PendingStep(OffsetRange(TICK, round(at * 1000), round(at * 1000))))

    # -- steps ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._recover()
        while True:
            works = await self._come()
            if self._handed_over and works:
                # Only what is handed over comes in small pieces; the consumer's batches have gathered already.
                await asyncio.sleep(self._linger.pause_s(self.ctx.lanes))
            while not self._inbox.empty():
                works.append(self._inbox.get_nowait())
            while turn := self._turn(works):
                for work in together(turn):
                    await self._take(work)
                    self._handed.taken(work)
                works = []

    async def _come(self) -> list[PendingStep]:
        """The next step; none after a moment where some are held, for which it is to be looked again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if self._turns else None):
                return [await self._inbox.get()]
        if topics.LABELS not in self.positions:  # where all that there were are deleted, none ever comes
            self._first_label = await self.reader.first_label()
        return []

    def _turn(self, came: list[PendingStep]) -> list[PendingStep]:
        """Which of the steps that have come are taken now."""
        if not (came or self._turns):
            return []
        joiners = [stage.joiner for stage in self.stages.values()]
        # Labels that wait for their events come near the number at which the oldest of them go.
        full = any(joiner.waiting * 2 >= joiner.policy.max_waiting for joiner in joiners)
        taken = self.positions.get(topics.LABELS, self._first_label)
        return self._turns.order(came, self.watermark, taken, full=full)

    async def _recover(self) -> None:
        """From the snapshot and the steps since to where the lane was; outputs that may be missing are made again."""
        stored = self._stored
        if self._blob is not None:
            self.positions = await asyncio.to_thread(restored, self._blob, self.stages, self.name)
            self._number, self._blob = stored.snapshot_step, None  # it may be large
        async for work in self.reader.again(stored.steps):
            # Outputs of steps that were acknowledged are there; of those behind, nobody knows.
            await self._take(work, publish=self._number >= stored.done)
        if stored.steps:
            log.info("%s: took %d steps again", self.name, len(stored.steps))
        # A lane that never took any begins with the first that is kept: nobody else says from where on they are its
        # own.
        if self._handed_over and topics.PREDICTIONS not in self.positions:
            self.positions[topics.PREDICTIONS], _ = await self.reader.bounds()
        self._snapshot_at = asyncio.get_running_loop().time() + self.ctx.settings.worker.snapshot_every_s
        self.ready = True
        self._handed.begin(self.positions.get(topics.PREDICTIONS, 0))

    async def _take(self, work: PendingStep, publish: bool = True) -> None:
        await self._bring(work)
        alerting = {task: s for task, s in work.scored.items() if self.stages[task].task.alerting}
        asked = [(self._histories[task], s.predictions.model_version) for task, s in alerting.items()]
        # Last, and before the step: a stage asks for reasons while it computes, where nothing can be waited for.
        await cover_all(asked, EXPLAIN_TIMEOUT_S)
        clock, started = self.ctx.metrics.stages("label"), self.ctx.metrics.now()
        outputs = {task: self.stages[task].scored(s) for task, s in work.scored.items()}
        outputs |= {task: self.stages[task].labels(batch) for task, batch in work.labels.items()}
        clock.lap("label")
        self._linger.took(self.ctx.metrics.now() - started)
        if work.step.topic == TICK:
            outputs = {task: stage.advance(work.step.stop / 1000) for task, stage in self.stages.items()}
        else:
            self.positions[work.step.topic] = work.step.stop
            self.active_at = asyncio.get_running_loop().time()
            self._took_at = self.ctx.now()
        self._number += 1
        if publish:
            await self._out.put(Made(self._number, work, outputs, self._snapshot_if_due()))

    async def _bring(self, work: PendingStep) -> None:
        """Read back what the step will need of rows that were logged long ago."""
        for task, of in (work.scored | work.labels).items():
            wanted = self.stages[task].wanted(of)
            if len(wanted.rows):
                self.stages[task].lend(*await self.reader.logged(task, wanted))
                self.ctx.metrics.inc("weir_logged_rows_read_total", len(wanted.rows), task=task)

    def _snapshot_if_due(self) -> Callable[[], bytes] | None:
        """Makes a snapshot of the state after the step just taken; every so often, and seldom where copying is slow."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        if started < self._snapshot_at:
            return None
        encode = self._capture()
        now = loop.time()
        # At most a fiftieth of the time goes into copying, in which the loop stands still.
        self._snapshot_at = now + max(self.ctx.settings.worker.snapshot_every_s, 50.0 * (now - started))
        return encode

    def _capture(self) -> Callable[[], bytes]:
        """Copy the state; the call of what it returns makes a snapshot of the copy, in any thread."""
        return captured(self.positions, self.stages, self.ctx.partitions)

    async def take_alone(self, step: OffsetRange, piece: Slice) -> None:
        """Take a step without publishing anything, where the lane is not started; nothing is stored of it yet."""
        await self._take(self.reader.decode_step(step, piece), publish=False)

    async def move(self, offset: int) -> None:
        """Go on with the label at ``offset``, where the lane is open and not started: what was taken is published."""
        await self._publish_during(self._move(offset))

    async def settle(self) -> None:
        """Take and publish the predictions that are left, where the lane is open and not started."""
        await self._publish_during(self._settle())

    async def become(self, stages: dict[str, LabellingStage]) -> None:
        """Go on with other stages, and store the lane so, where it is settled."""
        self.stages = stages
        await self._out.store(self._number, self._capture())
        self._snapshot_step = self._number

    async def _publish_during(self, work: Coroutine[None, None, None]) -> None:
        publishing = asyncio.ensure_future(self._out.run(self._stored))
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({publishing, working}, return_when=asyncio.FIRST_COMPLETED)
            await (working if working.done() else publishing)  # publishing ends by an error only
        finally:
            publishing.cancel()
            working.cancel()
            await asyncio.gather(publishing, working, return_exceptions=True)

    async def _move(self, offset: int) -> None:
        await self._recover()
        await self._out.until(self._number)
        self.positions[topics.LABELS] = offset
        await self._out.store(self._number, self._capture())

    async def _settle(self) -> None:
        await self._recover()
        _, end = await self.reader.bounds()
        async for work in self.reader.rest(self.positions[topics.PREDICTIONS], end):
            await self._take(work)
        await self._out.until(self._number)

    async def finish_alone(self) -> None:
        """Store the lane as it is after `take_alone`, also where there was nothing to take: it goes on from there."""
        # It begins its life here: steps in its journal would be published by whoever takes them again.
        self._number = 0
        await self._out.store(self._number, self._capture())
