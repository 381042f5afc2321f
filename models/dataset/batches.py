"""Batches of chunks in an order that a seed decides: of like length, each behind the one it carries state on from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from weir.models.dataset.sequences import IntMatrix, Sequences
from weir.models.types import BoolVector, IntVector


@dataclass(frozen=True, slots=True)
class Batch:
    """B chunks, cut to the longest of them: T steps."""

    chunk: IntVector
    """``(B,)`` index into the sequences."""
    rows: IntMatrix
    """``(B, T)`` index into the history; padding is row 0, so that it can index: see ``there``."""
    there: BoolVector
    """``(B, T)`` false for padding."""
    slot: IntVector
    """``(B,)`` of each entity, all different: the state to begin with is what its last chunk left there."""
    first: BoolVector
    """``(B,)`` whether the state to begin with is zero."""

    def __len__(self) -> int:
        return len(self.chunk)


def batches(
    of: Sequences, size: int, seed: int | Sequence[int], *, carried: bool = True, shuffle: bool = True
) -> Iterator[Batch]:
    """Every chunk once, up to ``size`` at a time; the same seed gives the same batches.

    Parameters
    ----------
    seed : of the order; give another one each epoch, such as ``(seed, epoch)``.
    carried : keep a chunk behind the one before it of the same entity, so that its state is there. Else all are mixed,
        and every chunk begins with a zero state (``first`` is true).
    shuffle : else batches come in order of rank and length, for validation.
    """
    if size < 1:
        raise ValueError(f"size is {size}; a batch has at least one chunk")
    rng = np.random.default_rng(seed)
    wave = of.rank if carried else np.zeros(len(of), np.int64)
    for chunks in _waves(wave):
        tie = rng.random(len(chunks)) if shuffle else np.arange(len(chunks))
        by_length = chunks[np.lexsort((tie, of.length[chunks]))]
        starts = np.arange(0, len(chunks), size)
        for start in (rng.permutation(starts) if shuffle else starts).tolist():
            yield _batch(of, by_length[start : start + size], carried)


def _waves(wave: IntVector) -> Iterator[IntVector]:
    order = np.argsort(wave, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(wave[order])) + 1) if len(order) else ()


def _batch(of: Sequences, chunk: IntVector, carried: bool) -> Batch:
    longest = int(of.length[chunk].max())
    rows = of.rows[chunk, :longest]
    there = rows >= 0
    first = of.rank[chunk] == 0 if carried else np.ones(len(chunk), np.bool_)
    return Batch(chunk, np.where(there, rows, 0), there, of.slot[chunk], first)
