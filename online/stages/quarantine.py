"""Examples taken back: records of ``examples`` that name offsets which no model is to have learned.

A model is a fold over its log, so what it should never have learned can be taken out exactly: fold again without it.
The order to do so is a record of the same log. Versions before it are models that learned everything, those from it
on are models that did not, so a score can still be made again from its version alone. An example that is taken back
keeps its number: versions count records, whether they were learned or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weir.online.batch import BoolVector, ExampleBatch, IntVector
from weir.online.codec.accept import accept_records
from weir.online.codec.wire import ExampleQuarantine

_MARK = b'"quarantine"'


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One such record."""

    task: str
    offset: int
    """Its own, behind all that it names."""
    ranges: tuple[tuple[int, int], ...]
    """Offsets ``[start, stop)``, in order."""

    @property
    def first(self) -> int:
        """The first offset that is taken back."""
        return self.ranges[0][0]


def find_quarantines(raw: Sequence[bytes | None], offsets: Sequence[int]) -> list[Quarantine]:
    """The quarantines among records at ``offsets``, in order; one that names what comes behind it is none."""
    # A look at bytes: of millions of examples hardly any is a quarantine, and each would be parsed twice.
    at = [i for i, record in enumerate(raw) if record is not None and _MARK in record]
    if not at:
        return []
    accepted = accept_records(ExampleQuarantine, [raw[i] for i in at])
    found: list[Quarantine] = []
    for i, struct in zip(accepted.index.tolist(), accepted.structs, strict=True):
        offset, edges = offsets[at[i]], struct.quarantine
        # The codec knows no offsets. What lies behind the record was not there when it was asked for.
        if len(edges) % 2 == 0 and edges[-1] <= offset and all(a < b for a, b in pairwise(edges)):
            ranges = tuple(zip(edges[::2], edges[1::2], strict=True))
            found.append(Quarantine(struct.task, offset, ranges))
    return found


def taken_back(quarantines: Iterable[Quarantine], offsets: IntVector) -> BoolVector:
    """Which of ``offsets (n,)`` any of the quarantines names, ``(n,)``.

    >>> taken_back([Quarantine("fraud", 99, ((2, 4), (7, 8)))], np.arange(9)).nonzero()[0].tolist()
    [2, 3, 7]
    """
    held = np.zeros(len(offsets), np.bool_)
    for quarantine in quarantines:
        edges = np.array(quarantine.ranges, np.int64).ravel()
        held |= np.searchsorted(edges, offsets, side="right") % 2 == 1
    return held


def ranges_of(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive offsets as ranges ``[start, stop)``.

    >>> ranges_of([5, 3, 4, 9])
    [(3, 6), (9, 10)]
    """
    ranges: list[tuple[int, int]] = []
    for offset in sorted(set(offsets)):
        if ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return ranges


def between(
    batch: ExampleBatch, offsets: IntVector, quarantines: Sequence[Quarantine]
) -> Iterator[tuple[ExampleBatch, IntVector, Quarantine | None]]:
    """The examples of one task up to each of its quarantines, and then that; the rest with none."""
    start = 0
    for quarantine in quarantines:
        stop = int(np.searchsorted(offsets, quarantine.offset))
        yield batch.slice(start, stop), offsets[start:stop], quarantine
        start = stop
    yield batch.slice(start, len(batch)), offsets[start:], None
