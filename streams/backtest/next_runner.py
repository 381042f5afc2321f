"""Runs a task of ``kind = "next"`` over files as it would have run live: one pass, in event time.

What an entity takes next is told with each of its events, and judged by its next basket. Run it with ``weir backtest``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from weir.online.batch import RankedBatch
from weir.online.stages.dedupe import Deduper, bytes_for
from weir.online.stages.next_pipeline import NextPipeline
from weir.online.task.next_spec import NextTask
from weir.streams.backtest.distinct_ids import distinct
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.notes import Note
from weir.streams.backtest.run_outputs import IDS, RowFile
from weir.streams.backtest.run_result import RunCounts
from weir.streams.backtest.wire_files import WireSource
from weir.streams.errors import TooManyRejects, UsageError

_TOLD = {"items": pa.list_(pa.string()), "scores": pa.list_(pa.float64()), "model_version": pa.int64()}
_SCHEMA = pa.schema(IDS | _TOLD)


@dataclass
class NextResult(RunCounts):
    """What a run did; ``report()`` is what ``--report`` writes."""

    task: NextTask
    pipeline: NextPipeline

    @property
    def notes(self) -> list[Note]:
        """What is odd, the gravest first."""
        p, found = self.pipeline, list[Note]()
        if not p.told:
            of = f" and one of the types {', '.join(self.task.types)}" if self.task.types else ""
            what = f"no row has both {self.task.entity!r} and {self.task.item!r}{of}"
            found.append(Note("not scored", what, "correct types, entity, item or [source]"))
        elif not p.ranker.learned:
            what, fix = "no entity has two baskets, so nothing was learned", "give more rows, or correct basket or gap"
            found.append(Note("no labels", what, fix))
        if self.rejected:
            what = f"{self.rejected:,} rows were refused; the first: {self.told(self.rejects[0])}"
            found.append(Note("rows refused", what, "correct the records, or [source]"))
        if self.repeats:
            what = f"{self.repeats:,} rows repeat an event_id and were dropped, as live"
            found.append(Note("repeats", what, "leave `event_id` out where rows share an id on purpose"))
        if p.ranker.unknown:
            what = f"{p.ranker.unknown:,} rows name items that came after the first {self.task.most_items:,}"
            found.append(Note("missing", f"{what}, and were left out", "raise most_items, or take coarser items"))
        return found

    def report(self) -> dict[str, Any]:
        """Everything a reader of the run may want, JSON-ready."""
        p = self.pipeline
        return {
            "task": self.task.name,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "told": p.told,
            "baskets_judged": p.ranker.learned,
            "entities": p.ranker.entities,
            "items": p.ranker.items,
            "rejected": self.rejected,
            "repeats": self.repeats,
            "decisions": self.decisions,
            "notes": [asdict(note) for note in self.notes],
            "metrics": p.ranker.metrics.get(self.task.k),
        }


def run_next(
    task: NextTask,
    paths: Sequence[Path],
    scores: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    started: Callable[[Sequence[str]], None] | None = None,
    stop: Callable[[], bool] = bool,
) -> NextResult:
    """Run ``task`` over ``paths``; items go to a Parquet file that is complete even when the run is interrupted.

    Parameters and errors are those of ``run_backtest``; ``stop`` is asked after each batch whether to end. The file has
    a row for each event that was told: ``items`` and their ``scores`` are lists of up to k.
    """
    pipeline = NextPipeline(task)
    fed = None if task.source is None else {*task.source.columns, *task.source.constants}
    for name in pipeline.columns.entities:
        if fed is not None and name not in fed:
            raise UsageError(f'nothing in [source] feeds {name!r}: add {name} = "COLUMN" to its columns')
    source = (WireSource if task.source is None else FileSource)(task, pipeline.columns, paths)
    result = NextResult(task, pipeline, sizes=source.sizes)
    if isinstance(source, FileSource):
        source.check_once()
        result.decisions += source.decisions
    if started is not None:
        started(result.decisions)
    batches = source.batches(512 if task.source is None else task.source.batch_size)
    # Without ids of its own a file's rows are told apart by their numbers, and none repeats.
    if task.source is None or task.source.event_id is not None:
        batches = distinct(batches, 512, Deduper(math.inf, most_bytes=bytes_for(len(source))))
    lists = RowFile(scores, _SCHEMA) if scores is not None else None
    start = time.perf_counter()
    try:
        for rows in batches:
            told = pipeline.events(rows.events)
            if told is not None and lists is not None:
                lists.write(_table(told, task.name))
            result.count(rows)
            if progress is not None:
                progress(result.rows, len(source))
            result.stopped = stop()
            if result.stopped:
                break
    finally:
        result.seconds = time.perf_counter() - start
        if lists is not None:
            lists.close()
    if result.rejected > result.rows / 2:
        what = f"{result.rejected:,} of {result.rows:,} rows were refused, the limit is 50%"
        raise TooManyRejects(f"{what}; the first: {result.told(result.rejects[0])}")
    return result


def _table(told: RankedBatch, task: str) -> pa.Table:
    """What was told, as rows of the file."""
    columns = [told.event_id, told.entity_id, told.ts, [task] * len(told), told.items, told.scores, told.model_version]
    return pa.Table.from_arrays([pa.array(c, of.type) for c, of in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
