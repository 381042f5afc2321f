"""The inference lane: one partition of ``inference-requests``, with the states of its entities.

A request that comes twice, because a score lane was repeated after a crash, is known by its events' ids: its rows are
not taken in again, and are answered from memory, or with zeros where that is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from weir.online.batch import BoolVector, FloatMatrix
from weir.online.durations import format_duration
from weir.online.task.full_spec import FullScorer
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord
from weir.streams.worker.context import Context
from weir.streams.worker.inference.batch_pool import Pool
from weir.streams.worker.inference.inference_wire import Request, decode_request, encode_answer
from weir.streams.worker.lanes.lane import SerialLane
from weir.streams.worker.lanes.lane_outputs import refused_of
from weir.streams.worker.lanes.step_writer import PendingWrite

ANSWERS: Final = 20_000
"""Answered rows that are remembered for repeats."""
STALE_S: Final = 60.0
"""A request this old gets no answer: nobody waits for it, and its rows are in the states by then."""


class InferenceLane(SerialLane):
    """One partition of ``inference-requests``.

    Parameters
    ----------
    lane, ctx : see `RowLane`.
    scorers : by task.
    inputs : by task, D.
    pool : where lanes are scored together.
    """

    def __init__(
        self, lane: Lane, ctx: Context, scorers: Mapping[str, FullScorer], inputs: Mapping[str, int], pool: Pool
    ) -> None:
        super().__init__(lane, ctx)
        self._scorers, self._inputs, self._pool = scorers, inputs, pool

    def restore(self, record: LaneRecord | None, journal: list[bytes]) -> None:
        """Rebuild the memory of ids, which is that of requests and of the events in them."""
        super().restore(record, journal)
        self._answers = _Answers(ANSWERS)

    async def compute(self, batch: FetchedBatch) -> PendingWrite:
        """Answer the requests of one batch."""
        clock = self.ctx.metrics.stages("inference")
        requests, refused = self._decode(batch)
        clock.lap("decode")
        # In order: of two equal ids the first is taken in.
        fresh = [self._fresh(request, batch.base_offset) for _, request in requests]
        wanted: dict[str, list[str]] = {}
        for task, scorer in self._scorers.items():
            # A model without a state has no rows to bring.
            if scorer.row_bytes:
                keys = [key for _, r in requests if r.task == task for key in r.entity_id]
                if keys:
                    wanted[f"{task}.full"] = list(dict.fromkeys(keys))
        clock.lap("intake")
        await self.ctx.store.prefetch(self.lane, wanted)
        clock.lap("prefetch")
        values = await self._score([request for _, request in requests], fresh)
        writes = self.ctx.store.end_step(self.lane, batch.next_offset - 1)
        clock.lap("features_score")
        sent = await self._answer(batch, requests, values)
        letters = await self._letters.send(batch.topic, batch.partition, batch.count, refused_of(batch, refused))
        clock.lap("send")
        entries, drop = self.ids.entry(batch.next_offset)
        return PendingWrite(
            batch, self.next_offset, asyncio.gather(sent, *letters), writes, self.ids.key, entries, drop
        )

    def _decode(self, batch: FetchedBatch) -> tuple[list[tuple[int, Request]], list[tuple[int, str]]]:
        """Requests of our tasks with their place in the batch, and what is refused; others' tasks are left out."""
        found: list[tuple[int, Request]] = []
        refused: list[tuple[int, str]] = []
        now, most_ahead = self.ctx.now(), self.ctx.settings.worker.intake.max_ahead
        for i, record in enumerate(batch.records):
            try:
                request = decode_request(record.value)
            except ValueError as error:
                refused.append((i, str(error)))
                continue
            width = self._inputs.get(request.task)  # another worker runs the tasks that are not known here
            if width is not None and request.x.shape[1] != width:
                why = f"x: {request.x.shape[1]} columns, task {request.task!r} has {width} here; run one version of it"
                refused.append((i, why))
            elif (ahead := float(request.ts.max()) - max(record.ts, now)) > most_ahead:
                # A time to come would move the lane's clock, and what it keeps would look expired.
                refused.append((i, f"ahead: {ahead:.0f} s ahead, allowed {format_duration(most_ahead)}"))
            elif width is not None:
                found.append((i, request))
        return found, refused

    def _fresh(self, request: Request, offset: int) -> BoolVector:
        """Which rows were not taken in before."""
        return self.ids.keep(request.event_id, offset, [request.task] * len(request.event_id))

    async def _score(self, requests: list[Request], fresh: list[BoolVector]) -> list[FloatMatrix]:
        """The values of each request's rows."""
        values: list[FloatMatrix] = [np.empty((0, 0))] * len(requests)
        by_task: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            by_task.setdefault(request.task, []).append(i)
        await asyncio.gather(*(self._score_task(task, of, requests, fresh, values) for task, of in by_task.items()))
        return values

    async def _score_task(
        self, task: str, of: list[int], requests: list[Request], fresh: list[BoolVector], values: list[FloatMatrix]
    ) -> None:
        """All requests of one task in order, in one call."""
        rows = [np.flatnonzero(fresh[i]) for i in of]
        keys = [requests[i].entity_id[row] for i, kept in zip(of, rows, strict=True) for row in kept.tolist()]
        made = np.empty((0, self._scorers[task].width))
        if keys:
            ts = np.concatenate([requests[i].ts[kept] for i, kept in zip(of, rows, strict=True)])
            x = np.concatenate([requests[i].x[kept] for i, kept in zip(of, rows, strict=True)])
            made = await self._pool.score(self.lane, task, keys, ts, x)
        at = 0
        for i, kept in zip(of, rows, strict=True):
            request, block = requests[i], np.zeros((len(requests[i].event_id), made.shape[1]))
            block[kept] = made[at : at + len(kept)]
            at += len(kept)
            # In the order of the requests, one by one: a repeat may be of a request before it in this very batch.
            for row in np.flatnonzero(~fresh[i]).tolist():
                block[row] = self._answers.get(task, request.event_id[row], block[row])
            self._answers.put(task, [request.event_id[row] for row in kept.tolist()], block[kept])
            values[i] = block

    async def _answer(
        self, batch: FetchedBatch, requests: list[tuple[int, Request]], values: list[FloatMatrix]
    ) -> asyncio.Future[Any]:
        now = self.ctx.now()
        records = [
            Record(request.task.encode(), encode_answer(request.id, request.task, block), now)
            for (i, request), block in zip(requests, values, strict=True)
            if now - batch.records[i].ts < STALE_S  # nobody waits for older ones any more
        ]
        return await self.ctx.records.send_to(self.ctx.name(topics.INFERENCE_RESULTS), self.lane[1], records)


class _Answers:
    """The newest answered rows, by task and event."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: dict[tuple[str, str], FloatMatrix] = {}
        self._order: deque[tuple[str, str]] = deque()

    def put(self, task: str, event_ids: list[str], values: FloatMatrix) -> None:
        """Remember ``values (n, width)``."""
        for event_id, row in zip(event_ids, values, strict=True):
            self._rows[task, event_id] = row
            self._order.append((task, event_id))
        while len(self._order) > self._capacity:
            self._rows.pop(self._order.popleft(), None)

    def get(self, task: str, event_id: str, otherwise: FloatMatrix) -> FloatMatrix:
        """What an event was answered."""
        return self._rows.get((task, event_id), otherwise)
