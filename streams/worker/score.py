"""The score lane: events of one partition to predictions, with the rows of their primary entities.

Intake, features, score; predictions go to the partition of the same number, updates of other entities' rows to
``entity-updates``, refused records to ``dead-letters``. What it remembers besides rows (ids for dedupe, timers) is
journalled with each step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np

from online.batch import FloatMatrix, Scored
from online.columnplan import union
from online.decode import decode_device_events, decode_user_events
from online.encode import encode_labels, encode_scored
from online.intake import Intake
from online.scoring import FeaturedBatch, PreparedBatch, ScoreOutput, ScoringStage
from online.updates import encode_updates
from streams import topics
from streams.full.remote.port import Asks, rows_of
from streams.log import Record
from streams.stores.redis import Lane, LaneRecord
from streams.transport import FetchedBatch, Sent
from streams.worker.context import Context
from streams.worker.journal import LaneJournal
from streams.worker.lane import RowLane, Step
from streams.worker.letters import Letters, refused_of

DECODERS: Final = {topics.USER_EVENTS: decode_user_events, topics.DEVICE_EVENTS: decode_device_events}
OWN_KEY: Final = {topics.USER_EVENTS: "user_id", topics.DEVICE_EVENTS: "device_id"}
"""The wire column that is each stream's key."""

HandOver = Callable[[list[Sent], dict[str, Scored]], Awaitable[None]]
"""Gives acknowledged predictions, by task in the order sent, to the label lane of the same partition."""


class ScoreLane(RowLane):
    """One partition of an event stream.

    Parameters
    ----------
    lane, ctx : see `RowLane`.
    stages : makes one for each task on the stream, in the order in which their predictions are sent.
    hand_over : where acknowledged predictions go inside the process, if anywhere.
    """

    def __init__(
        self,
        lane: Lane,
        ctx: Context,
        stages: Callable[[], list[ScoringStage]],
        hand_over: HandOver | None = None,
    ) -> None:
        super().__init__(lane, ctx)
        self._make_stages, self._hand_over = stages, hand_over
        self._letters = Letters(ctx)

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids and the timers from the journal."""
        self.stages = self._make_stages()
        self._decode, self._columns = DECODERS[self.lane[0]], union([stage.columns for stage in self.stages])
        self.intake = Intake(self.ctx.settings.worker.intake, journal=True)
        if record is not None:
            self.intake.resume(record.mark)
        self._journal = LaneJournal(self.intake, [stage.timers for stage in self.stages])
        self._journal.restore(journal)

    async def compute(self, batch: FetchedBatch) -> Step:
        """Score one batch."""
        clock = self.ctx.metrics.stages("score")
        decoded = self._decode([r.value for r in batch.records], self._columns)
        clock.lap("decode")
        written = np.fromiter((record.ts for record in batch.records), np.float64, len(batch.records))
        whole = len(decoded.index) == len(written)
        admitted = self.intake.admit(decoded.batch, written if whole else written[decoded.index])
        refused = [(r.index, r.reason) for r in decoded.rejects]
        refused += [(int(decoded.index[r.row]), r.reason) for r in admitted.refused]
        prepared = [stage.prepare(admitted.batch) for stage in self.stages]
        clock.lap("intake")
        wanted: dict[str, list[str]] = {}
        for stage, rows in zip(self.stages, prepared, strict=True):
            wanted |= stage.keys(rows)
        await self.ctx.store.prefetch(self.lane, wanted)
        clock.lap("prefetch")
        asked: list[asyncio.Future[list[Sent]]] = []
        if self.ctx.remote is None:
            outputs = self._score(prepared)
        else:
            outputs = await self._score_remotely(prepared, self.ctx.remote, asked)
        entry, drop = self._journal.entry([rows.moved for rows in prepared])
        writes = self.ctx.store.end_step(self.lane, batch.next_offset - 1)
        clock.lap("features_score")
        scored = {
            s.task.name: out.scored for s, out in zip(self.stages, outputs, strict=True) if out.scored is not None
        }
        predictions, others = self._records(scored, outputs)
        clock.lap("encode")
        sent = await self.ctx.records.send_to(self.ctx.name(topics.PREDICTIONS), self.lane[1], predictions)
        bad = refused_of(batch, refused)
        rest = await self._letters.send(batch.topic, batch.partition, len(batch.records), bad)
        rest += [await self.ctx.records.send(self.ctx.name(topic), records) for topic, records in others]
        clock.lap("send")
        self.ctx.metrics.scored(batch, len(admitted.batch), admitted.duplicates)

        sent.add_done_callback(lambda _: self.ctx.metrics.latency(batch, self.ctx.now(), written))

        async def after() -> None:
            if self._hand_over is not None and scored:
                await self._hand_over(sent.result(), scored)

        return Step(
            batch, self.next_offset, asyncio.gather(sent, *rest, *asked), writes, self.intake.mark(), entry, drop, after
        )

    def _score(self, prepared: list[PreparedBatch]) -> list[ScoreOutput]:
        """Features and scores of every task; nothing else runs meanwhile."""
        self.ctx.store.use(self.lane)
        return [stage.score(rows) for stage, rows in zip(self.stages, prepared, strict=True)]

    async def _score_remotely(
        self, prepared: list[PreparedBatch], remote: Asks, asked: list[asyncio.Future[list[Sent]]]
    ) -> list[ScoreOutput]:
        """Features of every task, then what inference workers say of those whose full model is theirs, then scores.

        Adds the acknowledgement of the requests to ``asked``: a request that is lost would be missing in a state.
        """
        self.ctx.store.use(self.lane)
        made: dict[int, ScoreOutput] = {}
        featured: dict[int, FeaturedBatch] = {}
        for i, (stage, rows) in enumerate(zip(self.stages, prepared, strict=True)):
            if stage.task.full is not None and stage.task.full.remote:
                featured[i] = stage.features_of(rows)
            else:
                made[i] = stage.score(rows)
        wanted = {i: rows_of(self.stages[i].task, f) for i, f in featured.items() if len(f)}
        full: dict[int, FloatMatrix] = {}
        if wanted:
            answers, sent = await remote.ask(self.lane[1], list(wanted.values()), self.ctx.now())
            asked.append(sent)
            full = dict(zip(wanted, answers, strict=True))
        made |= {i: self.stages[i].finish(f, full.get(i)) for i, f in featured.items()}
        return [made[i] for i in range(len(prepared))]

    def _records(
        self, scored: dict[str, Scored], outputs: list[ScoreOutput]
    ) -> tuple[list[Record], list[tuple[str, list[Record]]]]:
        """Predictions of all tasks, and what goes to other topics."""
        now, make = self.ctx.now(), Record._make
        predictions: list[Record] = []
        others: list[tuple[str, list[Record]]] = []
        for stage, out in zip(self.stages, outputs, strict=True):
            name = stage.task.name
            if (s := scored.get(name)) is not None:
                values = encode_scored(s, stage.features, name, now)
                keys = s.predictions.entity_id
                predictions += [make((k.encode(), v, now)) for k, v in zip(keys, values, strict=True)]
            for table, updates in out.updates.items():
                values = encode_updates(updates, name, table)
                keys = updates.entity_id
                records = [make((k.encode(), v, now)) for k, v in zip(keys, values, strict=True)]
                others.append((topics.ENTITY_UPDATES, records))
            if out.timer_labels is not None and len(out.timer_labels):
                values = encode_labels(out.timer_labels, name, source="silence")
                keys = out.timer_labels.entity_id
                others.append((topics.LABELS, [make((k.encode(), v, now)) for k, v in zip(keys, values, strict=True)]))
        return predictions, others
