"""Cuts the rows of a source into the batches that are scored together, and marks those whose event id came before.

It knows events and their times, not tasks or what becomes of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from weir.online.batch import EventBatch
from weir.online.stages.admission import entities_of
from weir.online.stages.dedupe import Deduper
from weir.streams.backtest.event_files import SourceBatch


def distinct(batches: Iterator[SourceBatch], size: int, ids: Deduper) -> Iterator[SourceBatch]:
    """The batches of a source with repeats marked: from the first repeat on cut anew, ``size`` fresh events each.

    So the same rows give the same batches, whatever repeats are between them. ``ids`` is empty at first.
    """
    held = None
    for batch in batches:
        b = batch.batch
        part = replace(batch, fresh=ids.keep(b.event_id, b.ts, entities_of(b)))
        # Until a repeat comes nothing is copied.
        if held is None and part.events is b:
            yield part
            continue
        held = part if held is None else _joined(held, part)
        while len(fresh := np.flatnonzero(np.asarray(held.fresh))) > size:  # a repeat stays with the event before it
            yield held.slice(0, int(fresh[size]))
            held = held.slice(int(fresh[size]), None)
    if held is not None:
        yield held


def _joined(a: SourceBatch, b: SourceBatch) -> SourceBatch:
    columns = ("label", "labelled", "known_at", "fresh")
    pairs = [(getattr(a, name), getattr(b, name)) for name in columns]
    label, labelled, known_at, fresh = (None if x is None or y is None else np.append(x, y) for x, y in pairs)
    batch, rejects = EventBatch.concat([a.batch, b.batch]), [*a.rejects, *b.rejects]
    return SourceBatch(batch, label, np.asarray(labelled), rejects, known_at, fresh)


def within(batches: Iterator[SourceBatch], span_s: float) -> Iterator[SourceBatch]:
    """The batches, cut where one spans more event time than ``span_s`` (0 for no limit)."""
    for part in batches:
        # With `order = "arrival"` times may step back, and a search needs them sorted.
        ts = np.maximum.accumulate(part.batch.ts)
        start = 0
        while span_s > 0 and len(ts) and ts[-1] - ts[start] > span_s:
            stop = int(np.searchsorted(ts, ts[start] + span_s, side="right"))
            yield part.slice(start, stop)
            start = stop
        yield part.slice(start, None) if start else part
