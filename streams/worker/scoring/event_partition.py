"""The score lane: what one partition of an event stream keeps, and how its batches begin and end.

Predictions go to the partition of the same number, updates of other entities' rows to ``entity-updates``, refused
records to ``dead-letters``. What the lane remembers besides rows (ids for dedupe, timers) is journalled with each step.
What lies between is done for several lanes at once, by `Scoring`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from weir.online.batch import FloatVector, ScoredBatch
from weir.online.codec.decode import DecodedEvents
from weir.online.features.kernel import EVENT
from weir.online.stages.admission import DECODERS, Admission
from weir.online.stages.scoring import PreparedBatch, ScoringStage
from weir.online.task.column_plan import union
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.consume.offset_tracker import Ticket
from weir.streams.kafka.produce.producer import Sent
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord, Writes
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.worker.context import Context
from weir.streams.worker.lanes.journal import LaneJournal
from weir.streams.worker.lanes.lane import RowLane
from weir.streams.worker.lanes.lane_outputs import DeadLetters, refused_of, timer_records
from weir.streams.worker.lanes.step_writer import PendingWrite
from weir.streams.worker.scoring.batch_scoring import Scoring
from weir.streams.worker.scoring.lane_batch import LaneBatch
from weir.streams.worker.scoring.misplaced import Astray

_LOOK_EVERY: Final = 8
"""Inputs that are missing are counted in one batch of so many: ever the same columns are."""

HandOver = Callable[[list[Sent], dict[str, ScoredBatch]], Awaitable[None]]
"""Gives acknowledged predictions, by task in the order sent, to the label lane of the same partition."""


class ScoreLane(RowLane):
    """One partition of an event stream.

    Parameters
    ----------
    lane, ctx : see `RowLane`.
    stages : makes one for each task on the stream, in the order in which their predictions are sent.
    scoring : computes, for all lanes of the stream.
    hand_over : where acknowledged predictions go inside the process, if anywhere.
    """

    def __init__(
        self,
        lane: Lane,
        ctx: Context,
        stages: Callable[[], list[ScoringStage]],
        scoring: Scoring,
        hand_over: HandOver | None = None,
    ) -> None:
        super().__init__(lane, ctx)
        self._make_stages, self._scoring, self._hand_over = stages, scoring, hand_over
        self._letters = DeadLetters(ctx)
        self.live = False
        """Whether its newest events came no later than they may be late."""
        self.active_at = -math.inf
        """When it last got something to do, by the loop's clock."""
        self._looks = 0

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids and the timers from the journal."""
        # Anew at each opening: stages keep timers, which are of the place in the log.
        self.stages = self._make_stages()
        self._decode, self._columns = DECODERS[self.lane[0]], union([stage.columns for stage in self.stages])
        policy, most = self.ctx.settings.worker.intake, self.ctx.id_bytes
        self.intake = Admission(policy, journal=True, key=self.ctx.new_key(), most_bytes=most)
        if record is not None:
            self.intake.resume(record.mark)
        self._journal = LaneJournal(self.intake, {stage.task.name: stage.timers for stage in self.stages})
        self._journal.restore(journal)

    def start(self) -> None:
        """See `RowLane`."""
        super().start()
        self._scoring.start()

    async def finish(self, limit_s: float) -> None:
        """See `RowLane`; what waits to be computed is forgotten."""
        # First: a batch that waits would be computed while the lane is being written to its end.
        self._scoring.drop(self)
        await super().finish(limit_s)

    @property
    def where(self) -> tuple[int | None, float | None] | None:
        """See `RowLane`."""
        return (self.next_offset, self.intake.watermark) if self.started else None

    def mark(self) -> bytes:
        """Event time and counts."""
        return self.intake.mark()

    async def set_watermark(self, ts: float) -> None:
        """Take ``ts``, epoch seconds, for the newest event time, where the lane is open and not started."""
        self.intake.set_watermark(ts)
        if self.next_offset is not None:
            await self.move(self.next_offset)

    @property
    def id_bytes(self) -> int:
        """See `RowLane`."""
        return self.intake.ids.nbytes

    def put(self, batch: FetchedBatch) -> None:
        """Take a batch; the consumer bounds how many wait."""
        self.active_at = asyncio.get_running_loop().time()
        self._scoring.put(self, batch)

    # -- time without events; see `IdleTime` -------------------------------------------------------------------

    @property
    def watermark(self) -> float:
        """Event time of the partition."""
        return self.intake.watermark

    def due(self, at: float) -> bool:
        """Whether a timer fires by event time ``at``, if no event comes, and nothing waits before that."""
        idle = self.next_offset is not None and not self.writer.steps and not self._scoring.has(self)
        return idle and any(stage.timers is not None and stage.timers.due(at) for stage in self.stages)

    def pass_time(self, at: float) -> None:
        """Score and label what is due by then."""
        tp = self.ctx.topic_partition(self.lane)
        # Through the queue, as a batch, so that it has a step and a place of its own; the ticket is one that nobody
        # gave.
        self.put(FetchedBatch(*tp, 0, 0, (), Ticket(tp, 0, 0, -1), tick=at))

    # -- timers between two lives of the lane; see `TimerMove` ---------------------------------------------------

    def pass_by(self, batch: FetchedBatch) -> None:
        """Let timers see a batch of which nothing is made; behind it the lane has to be opened anew."""
        self._scoring.pass_by(self, batch)

    def timers(self) -> dict[str, bytes]:
        """By task, a snapshot of its timers, where they have seen anything."""
        with_timers = [(stage.task.name, stage.timers) for stage in self.stages if stage.timers is not None]
        return {task: of.snapshot() for task, of in with_timers if len(of) or of.watermark > -math.inf}

    async def hold(self, timers: Mapping[str, bytes], offset: int) -> None:
        """Have timers hold what these snapshots do, by the lane's own time, where it is open and not started.

        ``offset`` is where it begins, if it never did.
        """
        for stage in self.stages:
            if stage.timers is not None and stage.task.name in timers:
                stage.timers.restore(timers[stage.task.name], timed=False)
        await self.move(offset if self.next_offset is None else self.next_offset, *self._journal.entry([], whole=True))

    async def compute(self, batch: FetchedBatch) -> PendingWrite:
        """Score one batch."""
        (made,) = await self._scoring.compute([(self, batch)])
        if isinstance(made, LaneMoved):
            raise made
        return made

    def decode(self, raw: Sequence[bytes]) -> DecodedEvents:
        """Records of any partition of the stream as columns."""
        return self._decode(raw, self._columns, limits=self.ctx.settings.limits)

    def admit(self, batch: FetchedBatch, decoded: DecodedEvents, astray: Sequence[Astray] = ()) -> LaneBatch:
        """Let intake and timers see a batch; from here on it has to be scored, or the lane opened again.

        ``astray`` are records that another partition owns: they are left out here, and passed on with the step.
        """
        self.unmade = True
        if batch.tick is not None:
            return self._let_pass(batch, batch.tick)
        # Before intake, which would have them scored here, from a second row of their entities.
        decoded = decoded.without([a.place for a in astray])
        written = np.fromiter((record.ts for record in batch.records), np.float64, len(batch.records))
        now = self.ctx.now()
        admitted, refused = self.intake.admit_decoded(decoded, batch.arrived(written, now))
        self.live = now - self.intake.watermark <= self.intake.policy.allowed_lateness
        part = self._part(batch, written, [stage.prepare(admitted.batch) for stage in self.stages])
        part.refused, part.astray = refused, astray
        part.events, part.duplicates = len(admitted.batch), admitted.duplicates
        return part

    def _let_pass(self, batch: FetchedBatch, at: float) -> LaneBatch:
        """What is due at ``at``, as a batch that holds no records and leaves the offset where it is."""
        offset = self.next_offset or 0
        batch = replace(batch, base_offset=offset, next_offset=offset)
        return self._part(batch, np.empty(0), [stage.prepare_advance(at) for stage in self.stages])

    def _part(self, batch: FetchedBatch, written: FloatVector, prepared: list[PreparedBatch]) -> LaneBatch:
        wanted: dict[str, list[str]] = {}
        for stage, rows in zip(self.stages, prepared, strict=True):
            wanted |= stage.keys(rows)
        journal, drop = self._journal.entry([rows.moved for rows in prepared])
        return LaneBatch(self, batch, prepared, wanted, written, self.intake.mark(), journal, drop)

    async def step(
        self, part: LaneBatch, writes: Writes, sent: asyncio.Future[list[Sent]], others: list[asyncio.Future[Any]]
    ) -> PendingWrite:
        """Put the rest of a scored part on its way, whose predictions were ``sent``.

        ``others`` are acknowledgements that it waits for, too.
        """
        batch, m = part.batch, self.ctx.metrics
        copies, kept_back = await self.ctx.placement.pass_on(batch.topic, batch.partition, batch.records, part.astray)
        others += copies
        bad = refused_of(batch, [*part.refused, *kept_back])
        others += await self._letters.send(batch.topic, batch.partition, batch.count, bad)
        for stage, rows in zip(self.stages, part.prepared, strict=True):
            if rows.fired is not None and len(rows.fired.labels):
                told = timer_records(stage.task.name, rows.fired.labels, self.ctx.now())
                others.append(await self.ctx.records.send_to(self.ctx.name(topics.LABELS), self.lane[1], told))
            if others_events := part.events - int(np.count_nonzero(rows.modes == EVENT)):
                m.inc("weir_passed_over_total", others_events, task=stage.task.name)
            if self._looks % _LOOK_EVERY == 0:
                m.inputs(stage.task.name, rows.events)
        self._looks += 1
        m.scored(batch, part.events, part.duplicates)
        # When it is acknowledged, not when it is sent: that is when somebody can read it.
        sent.add_done_callback(lambda _: m.latency(batch, self.ctx.now(), part.written))

        async def after() -> None:
            if self._hand_over is not None and part.scored:
                await self._hand_over(sent.result(), part.scored)

        # Refused records and timers, too: the position must not pass a letter that was never there.
        acknowledged = asyncio.gather(sent, *others)
        return PendingWrite(batch, self.next_offset, acknowledged, writes, part.mark, part.journal, part.drop, after)
