"""Cuts the rows of a source into the batches that are scored together, and marks those whose event id came before.

It knows events and their times, not tasks or what becomes of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from online.batch import BoolVector, EventBatch
from online.dedupe import Deduper
from online.intake import entities_of
from streams.sources import SourceBatch


@dataclass(frozen=True, slots=True)
class DistinctBatch:
    """Consecutive rows of a source.

    Repeats stay, marked: an older export may lack the labels that a newer one brings with the same events.
    """

    rows: SourceBatch
    fresh: BoolVector
    """``(n,)``: which events have an ``event_id`` that did not come before of the same user or device."""

    @property
    def events(self) -> EventBatch:
        """Those that did not come before."""
        return self.rows.batch if self.fresh.all() else self.rows.batch.take(np.flatnonzero(self.fresh))

    def slice(self, start: int, stop: int | None) -> DistinctBatch:
        """Events ``start`` to ``stop``; the rejects stay with the last slice (``stop`` is None)."""
        return DistinctBatch(self.rows.slice(start, stop), self.fresh[start:stop])

    def and_then(self, other: DistinctBatch) -> DistinctBatch:
        """Both as one."""
        a, b = self.rows, other.rows
        label = None if a.label is None or b.label is None else np.append(a.label, b.label)
        rows = SourceBatch(
            EventBatch.concat([a.batch, b.batch]), label, np.append(a.labelled, b.labelled), [*a.rejects, *b.rejects],
            a.rows + b.rows,
        )  # fmt: skip
        return DistinctBatch(rows, np.append(self.fresh, other.fresh))


def distinct(batches: Iterator[SourceBatch], size: int, ids: Deduper | None) -> Iterator[DistinctBatch]:
    """The batches of a source with repeats marked: from the first repeat on cut anew, ``size`` fresh events each.

    So the same rows give the same batches, whatever repeats are between them.

    Parameters
    ----------
    ids : empty; ``None`` where events are numbered, and so none is a repeat.
    """
    held = None
    for batch in batches:
        b = batch.batch
        all_fresh = np.ones(len(b), np.bool_)
        part = DistinctBatch(batch, all_fresh if ids is None else ids.keep(b.event_id, b.ts, entities_of(b)))
        if held is None and part.fresh.all():
            yield part
            continue
        held = part if held is None else held.and_then(part)
        while np.count_nonzero(held.fresh) > size:  # a repeat stays with the event before it
            stop = int(np.flatnonzero(held.fresh)[size])
            yield held.slice(0, stop)
            held = held.slice(stop, None)
    if held is not None:
        yield held


def within(batches: Iterator[DistinctBatch], span_s: float) -> Iterator[DistinctBatch]:
    """The batches, cut where one spans more event time than ``span_s`` (0 for no limit)."""
    for part in batches:
        ts = np.maximum.accumulate(part.rows.batch.ts)
        start = 0
        while span_s > 0 and len(ts) and ts[-1] - ts[start] > span_s:
            stop = int(np.searchsorted(ts, ts[start] + span_s, side="right"))
            yield part.slice(start, stop)
            start = stop
        yield part.slice(start, None) if start else part
