"""Puts the rows of several lanes into one call of a model: few GPUs serve many partitions.

What is waiting when a call begins goes into it, lane by lane; while it runs, more gathers. The rows of each lane are
loaded from and saved to that lane, so that the position it flushes covers them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.models.types import Float32Matrix
from weir.online.batch import FloatMatrix, FloatVector
from weir.online.stages.full_states import score_full
from weir.online.task.full_spec import FullScorer
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.partitions.partition_store import Lane, LaneStore

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
