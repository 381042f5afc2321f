"""Trees as bytes and back: a snapshot is its arrays, and whoever made them, they are trees or a ``StateError``.

Compiled code checks no index, so every number that leads to a row is looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.drift.adwin import LEVELS, PER_LEVEL, WIDTH
from weir.online.errors import StateError
from weir.online.learners.hoeffding.grove import (
    ALTERNATE,
    CLASSES,
    DEPTH,
    FEATURE,
    FREE,
    LEAF,
    LEFT,
    NO_TREE,
    NODES,
    RIGHT,
    SEEN,
    UNTAUGHT,
    WATCH,
    WATCHES,
    WINDOW,
    Grove,
    Growth,
    with_room,
)
from weir.online.learners.hoeffding.twister import WORDS
from weir.online.learners.state import pack_arrays, unpack_arrays

_NODE, _WATCH = ("links", "values"), ("columns", "gaussians")
_STORED: Final = set(Grove._fields) - {"used"}
_ANEW: Final = "the state is none of compiled trees, as that of trees of before: remove it, and they learn anew"


def packed(grove: Grove, growth: Growth) -> bytes:
    """All that was learned, in no more rows than are in use."""
    arrays = {name: getattr(grove, name) for name in _STORED}
    nodes, watches = _end(grove.links[:, FEATURE]), _end(grove.columns[:, 0])
    arrays |= {name: arrays[name][:nodes] for name in _NODE + (WINDOW if growth.own_windows else ())}
    arrays |= {name: arrays[name][:watches] for name in _WATCH}
    return pack_arrays(arrays)


def _end(first: NDArray[np.int64]) -> int:
    """Rows up to the last that is in use."""
    return int(np.flatnonzero(first != FREE).max(initial=-1)) + 1


def unpacked(body: bytes, fresh: Grove, growth: Growth) -> Grove:
    """What ``packed`` gave, put into ``fresh`` trees that have learned nothing; ``StateError`` for anything else."""
    try:
        arrays = unpack_arrays(body)
    except StateError as exc:
        raise StateError(f"{_ANEW} ({exc})") from exc
    if missing := sorted(_STORED - arrays.keys()):
        raise StateError(f"{_ANEW} (no {missing[0]})")
    longer = dict.fromkeys(_NODE + (WINDOW if growth.own_windows else ()), _NODE[0])
    longer |= dict.fromkeys(_WATCH, _WATCH[0])
    for name in _STORED:
        have, want = arrays[name], getattr(fresh, name)
        rows = len(arrays[longer[name]]) if name in longer else len(want)
        if have.dtype != want.dtype or have.shape != (rows, *want.shape[1:]):
            told = f"have {have.dtype} {have.shape}, want {want.dtype} {(rows, *want.shape[1:])}"
            raise StateError(f"snapshot array {name!r}: {told}")
        if have.dtype == np.float64 and not np.isfinite(have).all():
            raise StateError(f"snapshot array {name!r} holds a number that is not finite, which no tree learns")
    nodes, watches = len(arrays["links"]), len(arrays["columns"])
    grove = with_room(fresh, max(nodes, watches), windows=growth.own_windows)
    for name in _STORED:
        getattr(grove, name)[: len(arrays[name])] = arrays[name]
    grove.used[NODES] = np.count_nonzero(grove.links[:, FEATURE] != FREE)
    grove.used[WATCHES] = np.count_nonzero(grove.columns[:, 0] != FREE)
    for what, wrong in _mistakes(grove, growth, len(fresh.centre) - 1):
        if wrong:
            raise StateError(f"a snapshot whose {what}: it is of no tree")
    return grove


def _mistakes(grove: Grove, growth: Growth, width: int) -> Iterator[tuple[str, bool]]:
    """What is wrong with the numbers of a snapshot, in words, and whether it is."""
    links, columns = grove.links, grove.columns
    feature, watch, roots = links[:, FEATURE], links[:, WATCH], grove.roots
    yield "features are not among its columns", bool(((feature < FREE) | (feature >= width)).any())
    yield "columns are not among its columns", bool(((columns < FREE) | (columns >= width)).any())
    drawn = columns[columns[:, 0] >= 0]
    yield "leaves watch columns that are none", bool((drawn < 0).any())
    branches = np.flatnonzero(feature >= 0)
    alternates = branches[links[branches, ALTERNATE] != -1]
    places = [(alternates, ALTERNATE, 0), (branches, LEFT, 1), (branches, RIGHT, 1)]
    # Each node hangs in one place, deeper than what it hangs from: no walk goes in a circle, nothing is freed twice.
    below = [roots[roots >= 0], *(links[at, column] for at, column, _ in places)]
    hanging = np.sort(np.concatenate(below))
    yield "nodes do not hang together", not np.array_equal(hanging, np.flatnonzero(feature != FREE))
    for at, column, deeper in places:
        yield (
            "nodes lie at other depths than their places",
            bool((links[links[at, column], DEPTH] != links[at, DEPTH] + deeper).any()),
        )
    yield "roots do not lie at the top", bool((links[roots[roots >= 0], DEPTH] != 0).any())
    yield "roots are none", bool((roots < UNTAUGHT).any() or (roots[:, 0] == NO_TREE).any())
    yield "alternates are no leaves", bool((feature[links[alternates, ALTERNATE]] != LEAF).any())
    yield "nodes lie too deep", bool((links[:, DEPTH] > growth.max_depth).any())
    held = np.sort(watch[(feature == LEAF) & (watch != -1)])
    yield "leaves do not watch what is watched", not np.array_equal(held, np.flatnonzero(columns[:, 0] != FREE))
    classes = links[feature != FREE][:, [CLASSES, SEEN]]
    yield "classes are more than two", bool(((classes < 0) | (classes > 7)).any())
    yield "windows hold too much", bool(((grove.held < 0) | (grove.held > PER_LEVEL)).any())
    widths = (grove.held << np.arange(LEVELS)).sum(axis=1)
    yield "windows are none", bool((widths != grove.sums[:, WIDTH]).any())
    words = grove.random
    yield "random numbers are none", bool((words < 0).any() or (words >> 32).any() or words[WORDS] > WORDS)
