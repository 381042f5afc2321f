"""What is remembered of the baskets of entities, and what candidates for the next one look like, as compiled folds.

A basket counts when it is closed. What is told while one is open is of a copy of the row in which it is closed already.
Items are numbers here. It knows no texts, no learner and no metric.

The part that an item is of a basket, 1 / min(k, items of the basket), is what recall@k gives for a hit: who ranks by
the expected part has the best expected recall, and who ranks by probability has not, as items of large baskets then
crowd out those of small ones. So parts are counted beside baskets, and are what is learned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.jit import njit

Ints = NDArray[np.int32]
Float32Matrix = NDArray[np.float32]

FEATURES = (
    "part", "share", "share_4", "part_8", "part_32", "popularity", "in_last", "baskets_since", "days_since",
    "follows", "follows_part",
)  # fmt: skip
"""Of an item for an entity, most as logarithms: its part of the baskets so far, the share of baskets with it, both by
the last 4, 8 and 32, how popular it is with all, whether the last basket had it, since when it was not bought, and how
often, and as what part, baskets have it whose one before had the items of this entity's last."""
PLAIN = ("frequency", "popularity", "last_basket")
"""Lists that need no learner: the entity's own most frequent items, those of all, and the items of its last basket,
each filled up by popularity."""
COUNT, PART, SHARE_4, PART_8, PART_32, LAST_TS, LAST_BASKET = range(7)
BASKETS, CLOSED_TS, OPEN, OPEN_TS = range(4)
_DAY_S = 86_400.0
# As many baskets of all entities are mixed with what is known of one, and of what follows an item.
_PRIOR = 5.0


class Rows(NamedTuple):
    """What is remembered of N entities with R items each, changed in place."""

    items: Ints
    """``(N, R)``, -1 where there is none."""
    stats: NDArray[np.float64]
    """``(N, R, 7)``: by item, see ``COUNT`` and those behind it; of means over the last n baskets the sums."""
    head: FloatMatrix
    """``(N, 4)``: baskets closed, time of the last event in them, items of the open one, time of its last event."""
    open: Ints
    """``(N, R)``: the items of the open basket; of a larger one the first R."""


class World(NamedTuple):
    """What is counted over all entities, for C items."""

    baskets: FloatVector
    """``(C,)``: baskets with the item."""
    part: FloatVector
    """``(C,)``: its parts of them."""
    total: FloatVector
    """``(1,)``: baskets."""
    before: FloatVector
    """``(C,)``: baskets with the item that another basket of the same entity came after."""
    after: Float32Matrix
    """``(C, C)``: how many of those that came after had the second item."""
    after_part: Float32Matrix
    """``(C, C)``: its parts of them."""


@njit(cache=True, nogil=True)
def add_item(rows: Rows, at: int, item: int, ts: float) -> None:
    """Put ``item`` into the open basket of row ``at``, once."""
    head, inside = rows.head[at], rows.open[at]
    head[OPEN_TS] = max(ts, head[OPEN_TS])
    n = int(head[OPEN])
    for i in range(n):
        if inside[i] == item:
            return
    if n < inside.size:
        inside[n] = item
        head[OPEN] = n + 1


@njit(cache=True, nogil=True)
def close_row(rows: Rows, at: int, k: int) -> None:
    """Count the open basket of row ``at`` and begin the next; without room the item bought longest ago goes."""
    items, stats, head = rows.items[at], rows.stats[at], rows.head[at]
    part = 1.0 / max(1.0, min(float(k), head[OPEN]))
    head[BASKETS] += 1.0
    for j in range(items.size):
        # Faded by baskets, not by time: an entity that was away took nothing else meanwhile.
        stats[j, SHARE_4] *= 0.5**0.25
        stats[j, PART_8] *= 0.5**0.125
        stats[j, PART_32] *= 0.5**0.03125
    for i in range(int(head[OPEN])):
        item, place, oldest = rows.open[at, i], -1, 0
        for j in range(items.size):
            if items[j] == item or items[j] < 0:
                place = j
                break
            if stats[j, LAST_BASKET] < stats[oldest, LAST_BASKET]:
                oldest = j
        if place < 0:
            place = oldest
        if items[place] != item:
            items[place] = item
            stats[place, :] = 0.0
        stats[place, COUNT] += 1.0
        stats[place, SHARE_4] += 1.0
        stats[place, PART] += part
        stats[place, PART_8] += part
        stats[place, PART_32] += part
        stats[place, LAST_TS] = head[OPEN_TS]
        stats[place, LAST_BASKET] = head[BASKETS]
    head[CLOSED_TS] = head[OPEN_TS]
    head[OPEN] = 0.0


@njit(cache=True, nogil=True)
def close_world(world: World, rows: Rows, at: int, k: int) -> None:
    """Count the open basket of row ``at`` among those of all, before the row itself closes it."""
    m = int(rows.head[at, OPEN])
    part = 1.0 / max(1, min(k, m))
    world.total[0] += 1.0
    for i in range(m):
        world.baskets[rows.open[at, i]] += 1.0
        world.part[rows.open[at, i]] += part
    for j in range(rows.items.shape[1]):
        a = rows.items[at, j]
        if a >= 0 and rows.stats[at, j, LAST_BASKET] == rows.head[at, BASKETS]:
            world.before[a] += 1.0
            for i in range(m):
                world.after[a, rows.open[at, i]] += 1.0
                world.after_part[a, rows.open[at, i]] += part


@njit(cache=True, nogil=True)
def _followers(
    items: Ints, stats: FloatMatrix, baskets: float, found: Ints, n: int, world: World, x: FloatMatrix
) -> None:
    """Set the last two features of ``n`` candidates: means over the last basket's items of what follows each."""
    total, last = max(world.total[0], 1.0), 0
    x[:n, 9:] = 0.0
    for j in range(items.size):
        a = items[j]
        if a < 0 or stats[j, LAST_BASKET] != baskets:
            continue
        last += 1
        weight = 1.0 / (world.before[a] + _PRIOR)
        for i in range(n):
            c = found[i]
            x[i, 9] += weight * (world.after[a, c] + _PRIOR * world.baskets[c] / total)
            x[i, 10] += weight * (world.after_part[a, c] + _PRIOR * world.part[c] / total)
    for i in range(n):
        x[i, 9] = math.log(x[i, 9] / max(last, 1) + 1e-3)
        x[i, 10] = math.log(x[i, 10] / max(last, 1) + 1e-4)


@njit(cache=True, nogil=True)
def candidates(
    rows: Rows, at: int, world: World, popular: Ints, found: Ints, x: FloatMatrix, plain: FloatMatrix
) -> int:
    """The candidates for the basket after the last closed one of row ``at``: its own items, then popular ones.

    Returns how many; sets their numbers ``found (M,)``, features ``x (M, F)`` and, in ``plain (M, 3)``, the scores by
    which they would be in the lists of ``PLAIN``.
    """
    items, stats, head = rows.items[at], rows.stats[at], rows.head[at]
    baskets, total = head[BASKETS], max(world.total[0], 1.0)
    n = 0
    for j in range(items.size + popular.size):
        own = j < items.size
        c = items[j] if own else popular[j - items.size]
        if c < 0:
            continue
        if not own:
            for i in range(n):
                if found[i] == c:
                    c = -1
                    break
            if c < 0:
                continue
        count, part = world.baskets[c] / total, world.part[c] / total
        of = stats[j] if own else np.zeros(7)
        in_last = own and of[LAST_BASKET] == baskets
        found[n] = c
        x[n, 0] = math.log((of[PART] + _PRIOR * part) / (baskets + _PRIOR) + 1e-4)
        x[n, 1] = math.log((of[COUNT] + _PRIOR * count) / (baskets + _PRIOR) + 1e-3)
        x[n, 2] = math.log(of[SHARE_4] * _mean(4.0, baskets) + 1e-2)
        x[n, 3] = math.log(of[PART_8] * _mean(8.0, baskets) + 3e-4)
        x[n, 4] = math.log(of[PART_32] * _mean(32.0, baskets) + 3e-4)
        x[n, 5] = math.log(part + 1e-4)
        x[n, 6] = 1.0 if in_last else 0.0
        x[n, 7] = math.log1p(baskets - of[LAST_BASKET]) if own else math.log1p(999.0)
        x[n, 8] = math.log1p(max(head[CLOSED_TS] - of[LAST_TS], 0.0) / _DAY_S) if own else math.log1p(999.0)
        plain[n, 0] = of[COUNT] + 1e-3 * count
        plain[n, 1] = count
        plain[n, 2] = (2.0 if in_last else 0.0) + count
        n += 1
    _followers(items, stats, baskets, found, n, world, x)
    return n


@njit(cache=True, nogil=True)
def _mean(half: float, baskets: float) -> float:
    """What makes of a sum that halves in ``half`` baskets a mean over the ``baskets`` there were."""
    return float((1.0 - 0.5 ** (1.0 / half)) / (1.0 - 0.5 ** (max(baskets, 1.0) / half)))
