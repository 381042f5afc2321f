"""The inference lane: one partition of ``inference-requests``, with the states of its entities.

A request that comes twice, because a score lane was repeated after a crash, is known by its events' ids: its rows are
not taken in again, and are answered from memory, or with zeros where that is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.types import Float32Matrix
from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.durations import format_duration
from weir.online.stages.full_states import score_full
from weir.online.task.full_spec import FullScorer
from weir.streams.config import topics
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record
from weir.streams.redis.partitions.partition_store import Lane, LaneRecord, LaneStore
from weir.streams.worker.context import Context
from weir.streams.worker.inference.inference_wire import Request, decode_request, encode_answer
from weir.streams.worker.lanes.lane import SerialLane
from weir.streams.worker.lanes.lane_outputs import refused_of
from weir.streams.worker.lanes.step_writer import PendingWrite

# Puts the rows of several lanes into one call of a model: few GPUs serve many partitions.
#
# What is waiting when a call begins goes into it, lane by lane; while it runs, more gathers. The rows of each lane are
# loaded from and saved to that lane, so that the position it flushes covers them.

LINGER_S: Final = 0.001
"""How long a call waits for other lanes."""


@dataclass(slots=True)
class _Part:
    """Rows of one lane that wait for the next call."""

    lane: Lane
    keys: list[str]
    ts: FloatVector
    x: Float32Matrix
    done: asyncio.Future[FloatMatrix]


class Pool:
    """Scores rows of lanes together.

    Parameters
    ----------
    store : of all lanes.
    scorers : by task.
    kept_s : by task, how long an entity may be away that has a state.
    metrics : where the sizes of calls are counted.
    linger_s : how long a call waits for other lanes.
    """

    def __init__(
        self,
        store: LaneStore,
        scorers: Mapping[str, FullScorer],
        kept_s: Mapping[str, float],
        metrics: Metrics,
        linger_s: float = LINGER_S,
    ) -> None:
        self._store, self._scorers, self._kept_s = store, scorers, kept_s
        self._metrics, self._linger_s = metrics, linger_s
        self._waiting: dict[str, list[_Part]] = {}

    async def score(self, lane: Lane, task: str, keys: list[str], ts: FloatVector, x: Float32Matrix) -> FloatMatrix:
        """``(n, width)`` of ``n`` rows of a lane, in order; their rows in the store were prefetched."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[FloatMatrix] = loop.create_future()
        parts = self._waiting.setdefault(task, [])
        if not parts:
            loop.call_later(self._linger_s, self._run, task)  # the first of a call sets its time
        parts.append(_Part(lane, keys, ts, x, done))
        return await done

    def _run(self, task: str) -> None:
        """Score what waits, in one go: nothing else runs meanwhile."""
        # A lane that closed while it waited has no step any more that its rows could be saved in.
        parts = [part for part in self._waiting.pop(task) if not part.done.cancelled()]
        if not parts:
            return
        self._metrics.observe("weir_full_rows", sum(len(part.keys) for part in parts), task=task)
        try:
            made = self._score(f"{task}.full", self._scorers[task], self._kept_s[task], parts)
        except Exception as error:  # noqa: BLE001 - it is raised in its lane
            if len(parts) == 1:
                parts[0].done.set_exception(error)
                return
            for part in parts:  # by itself, each: that tells whose it is
                self._waiting[task] = [part]
                self._run(task)
            return
        at = 0
        for part in parts:
            part.done.set_result(made[at : at + len(part.keys)])
            at += len(part.keys)

    def _score(self, table: str, scorer: FullScorer, kept_s: float, parts: list[_Part]) -> FloatMatrix:
        if len(parts) == 1:
            (part,) = parts
            # One lane needs no names before its keys: the common case, on a worker of few partitions.
            self._store.use(part.lane)
            return score_full(scorer, table, self._store, part.keys, part.ts, _wide(part.x), kept_s)
        lanes = _Lanes(self._store, parts)
        ts, x = np.concatenate([part.ts for part in parts]), np.concatenate([part.x for part in parts])
        keys = [f"{lanes.number(part.lane)}:{key}" for part in parts for key in part.keys]
        return score_full(scorer, table, lanes, keys, ts, _wide(x), kept_s)


def _wide(x: Float32Matrix) -> FloatMatrix:
    # The runner takes what features are, float64; the wire carries float32, as the model computes.
    return x.astype(np.float64)


class _Lanes:
    """Several lanes as one ``FeatureStore``: a key begins with the number of its lane, and a colon."""

    def __init__(self, store: LaneStore, parts: Sequence[_Part]) -> None:
        self._store, self._lanes = store, list(dict.fromkeys(part.lane for part in parts))

    def number(self, lane: Lane) -> int:
        """Return the number of a lane, which its keys begin with."""
        return self._lanes.index(lane)

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Declare a table."""
        self._store.create(table, row_bytes, schema, kept_s)

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Rows of all lanes, in the order of the keys."""
        rows: NDArray[np.uint8] | None = None
        for lane, places, names in self._by_lane(keys):
            self._store.use(self._lanes[lane])
            found = self._store.load(table, names)
            # Only the first answer tells how wide a row is.
            if rows is None:
                rows = np.empty((len(keys), found.shape[1]), dtype=np.uint8)
            rows[places] = found
        return rows if rows is not None else np.empty((0, 0), dtype=np.uint8)

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        """Event time of the last change of each row, in the order of the keys."""
        seen = np.empty(len(keys))
        for lane, places, names in self._by_lane(keys):
            self._store.use(self._lanes[lane])
            seen[places] = self._store.last_seen(table, names)
        return seen

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        """Keep the rows of all lanes."""
        each = np.broadcast_to(seen, len(keys))
        for lane, places, names in self._by_lane(keys):
            self._store.use(self._lanes[lane])
            self._store.save(table, names, rows[places], each[places])

    def _by_lane(self, keys: Sequence[str]) -> list[tuple[int, list[int], list[str]]]:
        """Lane, places in ``keys`` and names, lane by lane."""
        found: dict[int, tuple[list[int], list[str]]] = {}
        for place, key in enumerate(keys):
            lane, _, name = key.partition(":")
            places, names = found.setdefault(int(lane), ([], []))
            places.append(place)
            names.append(name)
        return [(lane, places, names) for lane, (places, names) in sorted(found.items())]


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
