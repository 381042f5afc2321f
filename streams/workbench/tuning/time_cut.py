"""Cuts data in time: the rows to tune on, in a file of their own, and the last rows, judged once at the end.

What is cut off is not in the file, so no trial can read it: neither a value, nor a word by which a column's format is
decided, nor a label that became known later. Only the times of the rows beyond the cut are looked at, to place it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from weir.online.batch import FloatVector
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import SourceSpec, TaskSpec
from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.formats import FileTable, read_files
from weir.streams.backtest.tables.texts import MISSING, Cells
from weir.streams.backtest.wire_files import timed_events, timed_labels
from weir.streams.errors import UsageError

_TIME, _KNOWN = "weir_time", "weir_known"
"""Columns of the file to tune on: times in epoch seconds, so that no format has to be found again in fewer rows."""


@dataclass(frozen=True, slots=True)
class TimeCut:
    """Where the data is cut, and the part to tune on."""

    at: float
    """Event time of the first row that is judged, epoch seconds."""
    rows: int
    """To tune on."""
    judged: int
    path: Path
    source: dict[str, Any]
    """What ``[source]`` says in place of the task's own, to read that file."""
    digest: str
    """Of what there is to tune on."""
    labels: tuple[Path, ...] = ()
    """Those known before the cut, where they are no column."""


def cut(
    task: TaskSpec, data: Sequence[Path], share: float, into: Path, labels: Sequence[Path] = (), delay_s: float = 0.0
) -> TimeCut:
    """Write all rows before the last ``share`` of them into the folder ``into``.

    Parameters
    ----------
    labels : dumps of the ``labels`` topic, where labels are no column; ``delay_s`` after their time they are known.

    Raises
    ------
    UsageError
        Where the task has no labels, or nothing is left on a side.
    """
    spec = task.source
    assumed = task.labels.silence is not None
    if not assumed and not labels and (spec is None or spec.label is None):
        raise UsageError("the task has no labels to tune by: name the `label` column in [source], or give --labels")
    into.mkdir(parents=True, exist_ok=True)
    if spec is None:
        return _lines_cut(task, data, share, into, labels, delay_s)
    files = read_files(data, *_columns(spec, task), spec.separator)
    ts = _times(spec, files)
    known = ts[~np.isnan(ts)]
    at = _place(known, share)
    kept = np.flatnonzero(ts < at)
    judged = int((known >= at).sum()) if len(known) else 0
    _check_sides(files.files, len(kept), judged)
    # In one order whatever a set of texts has in this process, or the digest is another when a study goes on.
    table, source = files.table.select(sorted(files.table.column_names)).take(pa.array(kept)), dict[str, Any]()
    if spec.time is not None:
        table, source = table.append_column(_TIME, pa.array(ts[kept])), {"time": _TIME, "time_format": "unix"}
    if spec.label_known is not None:
        part = Cells(table.column(spec.label_known), spec.label_known, _missing(spec), files.where, [])
        when = read_times(part, spec.time_format, spec.time_zone)
        # A label that became known after the cut is none: nobody could have tuned by it.
        when = np.where(when < at, when, np.nan)
        table = table.append_column(_KNOWN, pa.array(when, mask=np.isnan(when)))
        source["label_known"] = _KNOWN
    path = into / ("tuning.csv" if files.semicolons else "tuning.parquet")
    if files.semicolons:  # which is what tells that a comma is the decimal mark
        pcsv.write_csv(table, path, pcsv.WriteOptions(delimiter=";"))
        source["separator"] = ";"
    else:
        pq.write_table(table, path)
    told = _labels_cut(task, labels, delay_s, at, into)
    return TimeCut(at, len(kept), judged, path, source, _digest(path, *told), told)


def _lines_cut(
    task: TaskSpec, data: Sequence[Path], share: float, into: Path, labels: Sequence[Path], delay_s: float
) -> TimeCut:
    """The same of a task without [source]: events of the wire format."""
    lines, ts = timed_events(task, columns_of(task), data)
    at = _place(ts, share)
    kept = np.flatnonzero(ts < at)
    _check_sides(", ".join(map(str, data)), len(kept), len(lines) - len(kept))
    path = _written(into / "tuning.jsonl", [lines[i] for i in kept.tolist()])
    told = _labels_cut(task, labels, delay_s, at, into)
    return TimeCut(at, len(kept), len(lines) - len(kept), path, {}, _digest(path, *told), told)


def _labels_cut(task: TaskSpec, labels: Sequence[Path], delay_s: float, at: float, into: Path) -> tuple[Path, ...]:
    """The labels of dumps that became known before the cut: nobody could have tuned by the others."""
    if not labels:
        return ()
    lines, ts = timed_labels(task.name, labels)
    known = np.flatnonzero(ts + delay_s < at).tolist()
    if not known:
        raise UsageError(f"none of {len(lines):,} labels of task {task.name} is known before the cut: give more data")
    return (_written(into / "tuning-labels.jsonl", [lines[i] for i in known]),)


def _place(ts: FloatVector, share: float) -> float:
    """The time of the first row that is judged."""
    known = np.sort(ts)
    return float(known[min(int(len(known) * (1 - share)), len(known) - 1)]) if len(known) else float("nan")


def _check_sides(files: str, rows: int, judged: int) -> None:
    if rows == 0 or judged == 0:
        raise UsageError(f"{files}: {rows:,} rows to tune on, {judged:,} to judge: give more data")


def _written(path: Path, lines: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _columns(spec: SourceSpec, task: TaskSpec) -> tuple[list[str], set[str]]:
    """The columns that the task reads, and those of them whose digits have to stay: all but times and its numbers."""
    others = {c for c in (spec.time, spec.label, spec.label_known, spec.event_id) if c is not None}
    numbers = {*task.numbers, "amount"}
    texts = {column for name, column in spec.columns.items() if name not in numbers}
    return sorted({*spec.columns.values(), *others}), texts - {spec.time, spec.label, spec.label_known}


def _times(spec: SourceSpec, files: FileTable) -> FloatVector:
    if spec.time is None:
        return spec.start + spec.row_interval * np.arange(files.table.num_rows, dtype=np.float64)
    cells = Cells(files.table.column(spec.time), spec.time, _missing(spec), files.where, [])
    return read_times(cells, spec.time_format, spec.time_zone)


def _missing(spec: SourceSpec) -> frozenset[str]:
    return MISSING if spec.missing is None else frozenset(word.strip().lower() for word in spec.missing)
