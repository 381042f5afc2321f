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
from weir.online.task.spec import SourceSpec, TaskSpec
from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.formats import FileTable, read_files
from weir.streams.backtest.tables.texts import MISSING, Cells
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


def cut(task: TaskSpec, data: Sequence[Path], share: float, into: Path) -> TimeCut:
    """Write all rows before the last ``share`` of them into the folder ``into``.

    Raises
    ------
    UsageError
        Where the task has no ``[source]`` with a label or silence, or nothing is left on a side.
    """
    spec = task.source
    if spec is None:
        raise UsageError("the task has no [source]: weir tune reads tables; see docs/TASKS.md")
    if spec.label is None and task.labels.silence is None:
        raise UsageError("the task has no labels to tune by: name the `label` column in [source]")
    files = read_files(data, *_columns(spec, task), spec.separator)
    ts = _times(spec, files)
    known = np.sort(ts[~np.isnan(ts)])
    at = float(known[min(int(len(known) * (1 - share)), len(known) - 1)]) if len(known) else np.nan
    kept = np.flatnonzero(ts < at)
    judged = int((known >= at).sum()) if len(known) else 0
    if len(kept) == 0 or judged == 0:
        raise UsageError(f"{files.files}: {len(kept):,} rows to tune on, {judged:,} to judge: give more data")
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
    into.mkdir(parents=True, exist_ok=True)
    if files.semicolons:  # which is what tells that a comma is the decimal mark
        pcsv.write_csv(table, path, pcsv.WriteOptions(delimiter=";"))
        source["separator"] = ";"
    else:
        pq.write_table(table, path)
    return TimeCut(at, len(kept), judged, path, source, hashlib.sha256(path.read_bytes()).hexdigest())


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
