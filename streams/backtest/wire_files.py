"""Reads dumps of topics, JSONL in wire format, for a backtest: events, and labels with the delay they had.

It judges every line as a record on a topic is judged. It knows the wire format, not features or models.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from weir.online.batch import FloatVector, LabelBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import decode_device_events, decode_labels, decode_user_events
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import SourceBatch
from weir.streams.backtest.tables.opening import contents, files_of, place, readable
from weir.streams.errors import UsageError


class WireSource:
    """The events of one or more dumps in event-time order.

    Parameters
    ----------
    task : names the stream, and so the kind of record.
    columns : the columns the task's features need.
    paths : JSONL files in wire format, one record a line.
    """

    def __init__(self, task: TaskSpec | NextTask, columns: ColumnRequest, paths: Sequence[Path]) -> None:
        decode = decode_device_events if task.stream == "device-events" else decode_user_events
        lines, self.sizes = _lines(paths)
        decoded = decode(lines, columns)
        self._rejects = decoded.rejects
        # Stable: events of the same time stay in the order of the log.
        self._batch = decoded.batch.take(np.argsort(decoded.batch.ts, kind="stable"))

    def __len__(self) -> int:
        return len(self._batch) + len(self._rejects)

    def batches(self, size: int) -> Iterator[SourceBatch]:
        """The events in order, ``size`` at a time; what was rejected comes with the last."""
        n = len(self._batch)
        whole = SourceBatch(self._batch, None, np.zeros(n, dtype=np.bool_), self._rejects)
        for at in range(0, max(n, 1), size):
            yield whole.slice(at, None if at + size >= n else at + size)


def timed_events(task: TaskSpec, columns: ColumnRequest, paths: Sequence[Path]) -> tuple[list[bytes], FloatVector]:
    """The lines of events that fit, and the time of each."""
    lines = _lines(paths)[0]
    decoded = (decode_device_events if task.stream == "device-events" else decode_user_events)(lines, columns)
    return [lines[i] for i in decoded.index.tolist()], decoded.batch.ts


def timed_labels(task: str, paths: Sequence[Path]) -> tuple[list[bytes], FloatVector]:
    """The lines of labels of ``task`` that fit, and the time that each speaks of; raises as `read_labels`."""
    read_labels(task, paths)
    lines = _lines(paths, "labels")[0]
    decoded = decode_labels(lines)
    mine = np.flatnonzero(np.array([t == task for t in decoded.tasks], dtype=np.bool_))
    return [lines[i] for i in decoded.index[mine].tolist()], decoded.batch.ts[mine]


def read_labels(task: str, paths: Sequence[Path]) -> tuple[LabelBatch, str]:
    """The labels of ``task`` in wire-format dumps, by the time they speak of, and what was refused ("" for nothing)."""
    lines, sizes = _lines(paths, "labels")
    decoded = decode_labels(lines)
    mine = np.flatnonzero(np.array([t == task for t in decoded.tasks], dtype=np.bool_))
    bad = decoded.rejects
    first = f"{place(sizes, bad[0].index)}: {bad[0].reason}" if bad else ""
    if len(mine) == 0:
        others = ", ".join(sorted(set(decoded.tasks))) or "none"
        why = f"no label of task {task!r}; there are labels of: {others}" if lines else "no line in it"
        why += f", and {len(bad):,} lines were refused; the first, {first}" if bad else ""
        raise UsageError(f"{', '.join(map(str, paths))}: {why}")
    refused = f"{len(bad):,} lines of labels were refused; the first: {first}" if bad else ""
    return decoded.batch.take(mine[np.argsort(decoded.batch.ts[mine], kind="stable")]), refused


def _lines(
    paths: Sequence[Path], what: str = "without a [source] table files"
) -> tuple[list[bytes], list[tuple[Path, int]]]:
    """Every line that is not blank, and how many each file has; raises ``UsageError`` naming the file."""
    lines: list[bytes] = []
    sizes = []
    for path in files_of(paths):
        with readable(path):
            raw = contents(path)[0].to_pybytes().removeprefix(codecs.BOM_UTF8)
        if raw[:200].lstrip()[:1] == b"[":
            raise UsageError(f"{path}: a JSON array; write one record a line: jq -c '.[]' {path} > lines.jsonl")
        if raw[:200].lstrip()[:1] not in (b"{", b""):
            raise UsageError(
                f"{path}: {what} must be wire-format JSONL, as `weir simulate` and `weir tail --json | jq -c .value` "
                "write; for other files of events add [source], see docs/TASKS.md"
            )
        # Not splitlines, which also cuts at a carriage return; JSON allows one between tokens.
        mine = [line for line in raw.split(b"\n") if line.strip()]
        lines += mine
        sizes.append((path, len(mine)))
    return lines, sizes
