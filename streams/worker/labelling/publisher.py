"""The steps of a label lane: what one is to take, what it made, and its way out.

Every step is journalled, then sent, then told to be done, in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from weir.online.batch import LabelBatch, ScoredBatch
from weir.online.stages.labelling import LabelOutput
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.records import RefusedRecord
from weir.streams.redis.partitions.label_journal import OffsetRange, StepLog, StoredLane
from weir.streams.worker.context import Context
from weir.streams.worker.lanes.lane_outputs import DeadLetters, decided_records, label_records
from weir.streams.worker.scoring.misplaced import Astray


@dataclass(slots=True)
class PendingStep:
    """One step to take, decoded."""

    step: OffsetRange
    scored: dict[str, ScoredBatch] = field(default_factory=dict)
    """By task."""
    labels: dict[str, LabelBatch] = field(default_factory=dict)
    """By task."""
    batch: FetchedBatch | None = None
    """What the consumer is told when the step is published; a step handed over or read again has none."""
    handed: int = 0
    """How many hand-overs it holds."""
    records: int = 0
    """How many it was decoded from; none where it was handed over."""
    unknown: dict[str, int] = field(default_factory=dict)
    """How many of them are of tasks that do not run here, by task: another group's, or nobody's."""
    refused: list[RefusedRecord] = field(default_factory=list)
    """Those of them that go to the dead letters."""
    astray: list[Astray] = field(default_factory=list)
    """Those of them that another partition owns."""
    source: Slice | None = None
    """The records, where some are astray."""


def together(works: Sequence[PendingStep]) -> list[PendingStep]:
    """Each run of predictions that were handed over one after the other as one step; the rest as it is."""
    runs: list[list[PendingStep]] = []
    for work in works:
        if runs and _follows(runs[-1][-1], work):
            runs[-1].append(work)
        else:
            runs.append([work])
    return [run[0] if len(run) == 1 else _joined(run) for run in runs]


def _follows(before: PendingStep, work: PendingStep) -> bool:
    # A step from the consumer is not joined: its batch is to be completed by itself, and its letters told of it.
    handed = work.handed and before.handed and not work.refused and not before.refused
    return bool(handed) and (work.step.topic, work.step.start) == (before.step.topic, before.step.stop)


def _joined(run: list[PendingStep]) -> PendingStep:
    parts: dict[str, list[ScoredBatch]] = {}
    for work in run:
        for task, scored in work.scored.items():
            parts.setdefault(task, []).append(scored)
    step = OffsetRange(run[0].step.topic, run[0].step.start, run[-1].step.stop)
    return PendingStep(
        step, {task: ScoredBatch.concat(of) for task, of in parts.items()}, handed=sum(w.handed for w in run)
    )


MAX_WAITING: Final = 64
"""Steps that wait for a label lane, before it computes or behind it, before whoever brings more has to wait."""


@dataclass(slots=True)
class Made:
    """One step taken, to be published."""

    number: int
    """Steps are numbered from 1 on, for ever."""
    work: PendingStep
    outputs: dict[str, LabelOutput]
    """By task."""
    snapshot: Callable[[], bytes] | None = None
    """Makes a snapshot of the lane behind the step, where it is to be stored; in any thread."""


class StepPublisher:
    """Publishes the steps of the label lane of ``partition``.

    Parameters
    ----------
    partition : its number.
    ctx : what all lanes of the worker share.
    steps : the lane's journal.
    features : by task, the names of its features.
    """

    def __init__(self, partition: int, ctx: Context, steps: StepLog, features: Mapping[str, tuple[str, ...]]) -> None:
        self._partition, self._ctx, self._steps, self._features = partition, ctx, steps, features
        self.published = 0
        """The last step whose outputs are acknowledged."""
        self._made: asyncio.Queue[Made] = asyncio.Queue(MAX_WAITING)
        self._letters, self._moved = DeadLetters(ctx), asyncio.Event()

    async def put(self, made: Made) -> None:
        """Take the next step; waits for room."""
        await self._made.put(made)

    async def until(self, number: int) -> None:
        """Wait until a step is published."""
        while self.published < number:
            self._moved.clear()
            await self._moved.wait()

    async def run(self, stored: StoredLane) -> None:
        """Publish for ever, behind what is ``stored``: steps that are in the journal already were taken again."""
        self.published = stored.done
        while True:
            made = [await self._made.get()]
            # All that wait as one write of the journal, and one wait for the brokers.
            while not self._made.empty():
                made.append(self._made.get_nowait())
            # Before anything is sent: a step that is not in the journal could be made otherwise after a crash.
            if new := [m for m in made if m.number >= stored.next_step]:
                await self._steps.append(new[0].number, [m.work.step for m in new])
            # All are sent before the first is waited for, so that a round trip is for all of them.
            for acknowledged in [await self._send(m) for m in made]:
                await acknowledged
            await self._steps.done(made[-1].number)
            self.published = made[-1].number
            self._moved.set()
            # Behind `done`, so that a commit never passes a step that would be published again.
            self._complete(made)
            await self._store(made)

    def _complete(self, made: Sequence[Made]) -> None:
        for batch in (m.work.batch for m in made):
            if batch is not None:
                self._ctx.consumer.complete(batch)
                self._ctx.completed(batch)

    async def _store(self, made: Sequence[Made]) -> None:
        for m in made:
            if m.snapshot is not None:
                await self.store(m.number, m.snapshot)

    async def store(self, number: int, encode: Callable[[], bytes]) -> None:
        """Store the snapshot that ``encode`` makes of the lane after step ``number``, while other lanes work on.

        Only so many lanes of a worker do so at a time: each holds a copy of its state for as long.
        """
        started = self._ctx.metrics.now()
        async with self._ctx.storing:
            await self._steps.snapshot(number, await asyncio.to_thread(encode))
        self._ctx.metrics.observe("weir_snapshot_seconds", self._ctx.metrics.now() - started)

    async def _send(self, made: Made) -> asyncio.Future[Any]:
        """Queue everything that a step made; ends when all in-sync replicas have it."""
        ctx, work = self._ctx, made.work
        now, pending = ctx.now(), list[asyncio.Future[Any]]()
        for task, out in made.outputs.items():
            self._count(task, out)
            for topic, records in label_records(ctx, task, self._features[task], out, now).items():
                pending.append(await ctx.records.send(ctx.name(topic), records))
            if ctx.settings.worker.decisions and out.scored is not None:
                blocks = decided_records(ctx, task, self._features[task], out, out.scored.predictions, now)
                # A block holds many entities: it goes where their predictions are, so that each has one order.
                pending.append(await ctx.records.send_to(ctx.name(topics.DECISIONS), self._partition, blocks))
        if work.records:
            topic, refused = ctx.name(work.step.topic), list(work.refused)
            if (source := work.source) is not None:
                copies, back = await ctx.placement.pass_on(topic, self._partition, source.records, work.astray)
                pending += copies
                refused += [RefusedRecord(source.offsets[i], why, source.records[i]) for i, why in back]
            pending += await self._letters.send(topic, self._partition, work.records, refused)
        return asyncio.gather(*pending)

    def _count(self, task: str, out: LabelOutput) -> None:
        m = self._ctx.metrics
        if out.scored is not None:
            m.inc("weir_predictions_total", len(out.scored), task=task)
        for alert in out.alerts:
            repeated = alert.status == "open" and alert.events > 1
            m.inc("weir_alerts_total", task=task, status="repeated" if repeated else alert.status)
        if out.refused:
            m.inc("weir_alerts_refused_total", out.refused, task=task)
        if out.detections:
            m.inc("weir_drift_detections_total", len(out.detections), task=task)
        for request in out.requests:
            m.inc("weir_retrain_requests_total", task=task, cause=request.cause)
