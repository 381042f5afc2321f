"""Histories cut into chunks of one entity each: what a truncated back-propagation through time is made of.

A chunk is a run of positions in an order that puts the events of each entity together. Its first events only bring up
the state (warm-up); the loss counts from ``start``. Knows positions and lengths, not features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weir.models.dataset.sequences import by_entity
from weir.models.types import BoolVector, History, IntVector

_SORTED_BATCHES = 32
"""Batches among which chunks are sorted by length, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rows of a history, grouped by entity, each group in the order in which its events were scored."""

    order: IntVector
    """``(n,)`` rows of the history, by position in the timeline."""
    starts: IntVector
    """``(m + 1,)`` positions where the groups begin, then n."""

    @classmethod
    def of(cls, history: History) -> Timeline:
        """Group the rows of a history."""
        rows, first = by_entity(history)
        return cls(rows, np.append(np.flatnonzero(first), len(history)))


@dataclass(frozen=True, slots=True)
class Chunks:
    """c runs of positions: ``first`` to ``stop``, of which those from ``start`` count."""

    first: IntVector
    start: IntVector
    stop: IntVector

    def __len__(self) -> int:
        return len(self.first)

    def take(self, index: NDArray[np.int64]) -> Chunks:
        """Select the chunks at ``index``."""
        return Chunks(self.first[index], self.start[index], self.stop[index])

    def positions(self) -> tuple[IntVector, BoolVector, BoolVector]:
        """Positions ``(c, T)`` padded on the right, which of them there are, and which count."""
        width = int((self.stop - self.first).max()) if len(self) else 0
        at = self.first[:, None] + np.arange(width)
        there = at < self.stop[:, None]
        return np.where(there, at, self.first[:, None]), there, there & (at >= self.start[:, None])


def cut(timeline: Timeline, wanted: BoolVector, length: int, warmup: int) -> Chunks:
    """Chunks of ``length`` that hold every wanted position once, and of the others no more than need be.

    Parameters
    ----------
    wanted : ``(n,)`` by position (not row): whether its loss or score is asked for.
    length, warmup : events of a chunk that count, and events before them.
    """
    starts = timeline.starts
    group = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    at = np.flatnonzero(wanted)
    if len(at) == 0:
        return Chunks(at, at, at)
    begin = starts[group[at]]
    # Counted from the entity's first event, not from the first wanted one: an event is in the same piece whatever else
    # is asked for.
    piece = (at - begin) // length
    new = np.r_[True, (piece[1:] != piece[:-1]) | (group[at][1:] != group[at][:-1])]
    ends = np.r_[np.flatnonzero(new)[1:], len(at)] - 1
    start = at[new]
    return Chunks(np.maximum(start - warmup, begin[new]), start, at[ends] + 1)  # no warm-up in another entity's events


def batches(chunks: Chunks, size: int, rng: np.random.Generator | None) -> Iterator[Chunks]:
    """Batches of at most ``size`` chunks of similar length; shuffled when ``rng`` is given, longest first otherwise."""
    n = len(chunks)
    lengths = chunks.stop - chunks.first
    if rng is None:
        order = np.argsort(-lengths, kind="stable")
    else:
        order = rng.permutation(n)
        span = size * _SORTED_BATCHES
        parts = [p[np.argsort(lengths[p], kind="stable")] for p in np.split(order, range(span, n, span))]
        order = np.concatenate(parts) if parts else order
    groups = [order[k : k + size] for k in range(0, n, size)]
    turn = np.arange(len(groups)) if rng is None else rng.permutation(len(groups))
    for k in turn:
        yield chunks.take(groups[int(k)])
