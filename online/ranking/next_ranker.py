"""Tells what each entity takes next, and learns from what it took: a fold over events, one by one.

An event belongs to a basket. When an entity's next basket begins the one before is closed: what was told before it is
judged, then candidates are learned with the part that each was of it, then it is counted. So no basket is known before
it is over, and nothing depends on how events are cut into batches. It knows entities and items by name, no records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.errors import StateError, stored
from weir.online.features.store import SPARE
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.state import Arrays, copy_into, pack_arrays, unpack_arrays
from weir.online.ranking import basket_kernel as kernel
from weir.online.ranking.basket_kernel import FEATURES, PLAIN, Rows, World
from weir.online.ranking.ranking_metrics import LISTS, RankingMetrics

POPULAR: Final = 64
"""Candidates beside an entity's own items: those that most baskets had."""
# What is popular is looked up anew after so many baskets, and so much of all counts is then forgotten: a basket counts
# half after 177,000 others.
_EVERY, _KEPT = 256, 0.999
_FIRST = 16


class _State(msgspec.Struct):
    rows: bytes
    entities: list[str]
    baskets: list[str | None]
    items: list[str]
    size: int
    unknown: int
    closed: int
    learner: bytes
    metrics: bytes


class NextRanker:
    """The state of one task.

    Parameters
    ----------
    learner : over ``FEATURES``; it learns the part that a candidate is of the next basket.
    k : how many items are told.
    remember : R, the items remembered of an entity.
    most_items : different items that are told apart.
    ttl : seconds without events after which an entity is forgotten.
    """

    def __init__(self, learner: LearnerSpec, k: int, remember: int, most_items: int, ttl: float) -> None:
        self._spec, self.k, self._ttl, self._most_items = learner, k, ttl, most_items
        self.learner, self.metrics = build_learner(learner, FEATURES), RankingMetrics()
        self._remember, self._newest = remember, -np.inf
        self._closed = self.unknown = 0
        """Baskets so far, and events of items that are not told apart."""
        self._at: dict[str, int] = {}
        self._basket: list[str | None] = []
        self._number: dict[str, int] = {}
        self._names: list[str] = []
        self._make(_FIRST)
        self._spare = _rows(1, remember)
        most = remember + POPULAR
        self._found = np.zeros(most, np.int32)
        self._x, self._plain = np.zeros((most, len(FEATURES))), np.zeros((most, len(PLAIN)))

    def _make(self, entities: int) -> None:
        """Empty arrays for so many."""
        items = self._most_items  # memory that nothing was written to costs none
        self._rows = _rows(entities, self._remember)
        self._told = np.full((2, entities, self.k), -1, np.int32)
        """What was told at the end of the basket before the open one, and what is told now."""
        one = (np.zeros(items), np.zeros(items), np.zeros(1), np.zeros(items))
        self._world = World(*one, np.zeros((items, items), np.float32), np.zeros((items, items), np.float32))
        self._popular = np.full(POPULAR, -1, np.int32)

    @property
    def entities(self) -> int:
        """How many are remembered."""
        return len(self._at)

    @property
    def learned(self) -> int:
        """How many baskets were judged and learned."""
        return self.metrics.judged

    @property
    def items(self) -> int:
        """How many are told apart."""
        return len(self._names)

    def take(self, entity: str, item: str, basket: str | None, gap: float | None, ts: float) -> bool:
        """Take in an event, closing the entity's basket where this one is of another; whether the item is told apart.

        ``basket`` names the one that the event is of; without it an event more than ``gap`` seconds after the one
        before is of another, and without either each is.
        """
        number = self._number_of(item)
        if number < 0:
            self.unknown += 1
            return False
        # A little at a time: one event that is dated far ahead, by a broken clock, must not let all others go.
        self._newest = max(self._newest, min(ts, self._newest + self._ttl / 8)) if self._newest > -np.inf else ts
        at = self._row_of(entity, ts)
        head = self._rows.head[at]
        if head[kernel.OPEN]:
            apart = ts - head[kernel.OPEN_TS]
            if self._basket[at] != basket if basket is not None else gap is None or apart > gap:
                self._close(at)
        self._basket[at] = basket
        kernel.add_item(self._rows, at, number, ts)
        return True

    def tell(self, entity: str) -> tuple[list[str], list[float]]:
        """The items that the entity takes after the basket that is open now, and their scores; after ``take``."""
        at = self._at[entity]
        # A copy is closed, as the basket goes on; the row itself is closed when the next one begins.
        for whole, one in zip(_each(self._rows), _each(self._spare), strict=True):
            one[0] = whole[at]
        kernel.close_row(self._spare, 0, self.k)  # as it would be if the open basket ended here
        n = self._candidates(self._spare, 0)
        score = self.learner.predict_many(self._x[:n])
        # Before anything is learned, the entity's own most frequent items.
        best = np.argsort(-score if self.learned else -self._plain[:n, 0], kind="stable")[: self.k]
        self._told[1, at] = -1
        self._told[1, at, : len(best)] = self._found[best]
        return [self._names[number] for number in self._found[best].tolist()], score[best].tolist()

    def _candidates(self, rows: Rows, at: int) -> int:
        return int(kernel.candidates(rows, at, self._world, self._popular, self._found, self._x, self._plain))

    def _number_of(self, item: str) -> int:
        """The number of an item, new or not; -1 where there are too many."""
        number = self._number.get(item, -1)
        if number >= 0 or len(self._names) >= self._most_items:
            return number
        self._number[item] = len(self._names)
        self._names.append(item)
        return self._number[item]

    def _row_of(self, entity: str, ts: float) -> int:
        """The row of an entity with an event at ``ts``; an empty one where it is new or was away for too long."""
        at = self._at.get(entity)
        if at is None:
            if len(self._at) == len(self._rows.head):
                self._make_room()
            at = self._at[entity] = len(self._at)
            self._basket.append(None)
            self._clear(at)
        elif ts - self._rows.head[at, kernel.OPEN_TS] > self._ttl:
            self._clear(at)
        return at

    def _clear(self, at: int) -> None:
        self._rows.items[at], self._rows.stats[at], self._rows.head[at] = -1, 0.0, 0.0
        self._told[:, at], self._basket[at] = -1, None

    def _make_room(self) -> None:
        """Leave out who is away for too long, also for an event that comes late; where that are few, twice the rows."""
        alive = np.flatnonzero(self._newest - self._rows.head[:, kernel.OPEN_TS] <= SPARE * self._ttl)
        names = list(self._at)
        size = len(names) if len(alive) <= len(names) // 2 else 2 * len(names)
        rows, told = _rows(size, self._remember), np.full((2, size, *self._told.shape[2:]), -1, np.int32)
        for old, new in zip(_each(self._rows), _each(rows), strict=True):
            new[: len(alive)] = old[alive]
        told[:, : len(alive)] = self._told[:, alive]
        self._rows, self._told = rows, told
        self._at = {names[at]: i for i, at in enumerate(alive.tolist())}
        self._basket = [self._basket[at] for at in alive.tolist()]

    def _close(self, at: int) -> None:
        """Judge, learn and count the open basket of a row."""
        rows = self._rows
        if rows.head[at, kernel.BASKETS]:
            self._learn(at)
        kernel.close_world(self._world, rows, at, self.k)
        kernel.close_row(rows, at, self.k)
        self._told[0, at] = self._told[1, at]
        self._closed += 1
        # At every basket at first: a ranker that knows a few hundred would else tell what the first few had.
        if self._closed < _EVERY or self._closed % _EVERY == 0:
            self._refresh()

    def _refresh(self) -> None:
        """Look up what is popular, and let counts fade."""
        most = np.argsort(-self._world.baskets, kind="stable")[:POPULAR].astype(np.int32)
        self._popular[:] = -1
        most = most[self._world.baskets[most] > 0.0]
        self._popular[: len(most)] = most
        if self._closed >= _EVERY:
            for array in self._counted(len(self._names)):
                array *= _KEPT

    def _learn(self, at: int) -> None:
        """Judge what was told for the basket of a row, and learn the candidates for it.

        One in it is a positive by its part and else a negative, so that what is learned is the expected part.
        """
        n = self._candidates(self._rows, at)
        inside = self._rows.open[at, : int(self._rows.head[at, kernel.OPEN])]
        told = np.full((len(LISTS), self.k), -1, np.int32)
        told[0] = self._told[0, at]
        best = self._found[np.argsort(-self._plain[:n], axis=0, kind="stable")[: self.k].T]
        told[1:, : best.shape[1]] = best
        self.metrics.add(told, inside)
        there, part = (self._found[:n, None] == inside).any(1), 1.0 / min(self.k, len(inside))
        # Learners take yes or no: a part p is a positive that weighs p and a negative that weighs 1 - p.
        rows = np.concatenate([np.arange(n), np.flatnonzero(there)]) if part < 1.0 else np.arange(n)
        y = np.zeros(len(rows), np.bool_)
        y[:n] = there
        weight = np.where(y, part, 1.0)
        weight[n:] = 1.0 - part
        self.learner.learn_many(self._x[rows], y, weight)

    def _counted(self, c: int) -> Sequence[NDArray[Any]]:
        """The part of the ``World`` that is of the first ``c`` items."""
        return [array[tuple(slice(c if size > 1 else 1) for size in array.shape)] for array in _each(self._world)]

    def _arrays(self, n: int, c: int) -> Arrays:
        """Those of the first ``n`` entities and ``c`` items, by name."""
        rows = {f"rows.{name}": array[:n] for name, array in self._rows._asdict().items()}
        world = {f"world.{name}": array for name, array in zip(World._fields, self._counted(c), strict=True)}
        return {**rows, **world, "told": self._told[:, :n], "popular": self._popular}

    def snapshot(self) -> bytes:
        """The whole state, as MessagePack."""
        n, c = len(self._at), len(self._names)
        arrays = self._arrays(n, c) | {"newest": np.array([self._newest])}
        counts = (len(self._rows.head), self.unknown, self._closed, self.learner.snapshot(), self.metrics.snapshot())
        state = _State(pack_arrays(arrays), list(self._at), self._basket, self._names, *counts)
        return msgspec.msgpack.encode(state)

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot`` of the same parameters; raises ``StateError`` where it does not fit."""
        read = stored(state, _State, "what is remembered of baskets")
        # Into another ranker first: one that does not fit is refused before anything of this one is lost.
        fresh = NextRanker(self._spec, self.k, self._remember, self._most_items, self._ttl)
        n, c = len(read.entities), len(read.items)
        if not len(read.baskets) == n <= read.size or c > self._most_items:
            raise StateError(f"{len(read.baskets)} baskets of {n} entities and {c} items do not fit; start anew")
        fresh._make(read.size)
        newest = np.zeros(1)
        copy_into(fresh._arrays(n, c) | {"newest": newest}, unpack_arrays(read.rows))
        fresh._newest, fresh.unknown, fresh._closed = float(newest[0]), read.unknown, read.closed
        fresh._at, fresh._basket = {name: at for at, name in enumerate(read.entities)}, read.baskets
        fresh._names, fresh._number = read.items, {name: i for i, name in enumerate(read.items)}
        fresh.learner.restore(read.learner)
        fresh.metrics.restore(read.metrics)
        self.__dict__.update(fresh.__dict__)


def _each(of: Rows | World) -> Sequence[NDArray[Any]]:
    return of


def _rows(entities: int, remember: int) -> Rows:
    """Rows with nothing in them."""
    items, inside = np.full((entities, remember), -1, np.int32), np.zeros((entities, remember), np.int32)
    return Rows(items, np.zeros((entities, remember, 7)), np.zeros((entities, 4)), inside)
