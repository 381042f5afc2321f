"""Reads event files for a backtest: CSV, CSV.gz, Parquet and JSONL, mapped to wire events by a task's ``[source]``.

A row becomes a wire event and is judged exactly as a record on a topic is; a row that does not fit is handed back with
its reason. It knows files and columns, not features or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from online.batch import BoolVector, EventBatch, FloatVector, IntVector
from online.columns import ColumnRequest
from online.decode import Reject, events_from_rows
from online.task import SourceSpec, TaskSpec
from online.wire import VERSION, DeviceEvent, UserEvent, WireModel
from streams.errors import UsageError
from streams.tables import read_tables, seconds, texts, values

_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Consecutive rows of the merged input."""

    batch: EventBatch
    label: BoolVector | None
    """The label of each event of ``batch``, not to be seen before its delay."""
    labelled: BoolVector
    """Which events have a label at all."""
    rejects: list[Reject]
    rows: int
    """Rows read, bad ones too."""

    def slice(self, start: int, stop: int | None) -> SourceBatch:
        """Events ``start`` to ``stop``; the rejects stay with the last slice (``stop`` is None)."""
        part = self.batch.slice(start, len(self.batch) if stop is None else stop)
        label = None if self.label is None else self.label[start:stop]
        rejects = self.rejects if stop is None else []
        return SourceBatch(part, label, self.labelled[start:stop], rejects, len(part) + len(rejects))


class FileSource:
    """The rows of one or more files as event batches in event-time order.

    Parameters
    ----------
    task : names the stream (and so the wire model) and the source mapping.
    columns : the columns the task's features need.
    paths : the files, merged by event time.
    """

    def __init__(self, task: TaskSpec, columns: ColumnRequest, paths: Sequence[Path]) -> None:
        self.spec = task.source if task.source is not None else SourceSpec()
        self._columns = columns
        self._model: type[WireModel] = DeviceEvent if task.stream == "device-events" else UserEvent
        self._bag = "metrics" if self._model is DeviceEvent else "properties"
        if not paths:
            raise UsageError("no data; give at least one --data FILE")
        self._table = read_tables(paths)
        self._check_columns(paths)
        self._ts = self._times()
        self._order = self._arrival_order(task.key)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def _check_columns(self, paths: Sequence[Path]) -> None:
        s = self.spec
        wanted = {*s.columns.values(), *(c for c in (s.time, s.event_id, s.label) if c is not None)}
        absent = sorted(wanted - set(self._table.column_names))
        if absent:
            raise UsageError(
                f"{', '.join(str(p) for p in paths)}: no column {', '.join(absent)}; there are: "
                f"{', '.join(self._table.column_names)}. Correct [source] in the task file"
            )

    def _times(self) -> FloatVector:
        """Event time of every row, epoch seconds; NaN where it cannot be read."""
        if self.spec.time is None:
            return self.spec.start + self.spec.row_interval * np.arange(len(self), dtype=np.float64)
        return seconds(self._table.column(self.spec.time), self.spec.time_format)

    def _arrival_order(self, key: str) -> IntVector:
        """A stable order by event time; with ``order = "arrival"`` an entity's rows never change places."""
        ts = np.where(np.isnan(self._ts), -np.inf, self._ts)
        name = self.spec.columns.get(key)
        if self.spec.order == "arrival" and name is not None:
            ids = pc.dictionary_encode(self._table.column(name).combine_chunks()).indices
            entity = np.asarray(pc.fill_null(ids, -1), dtype=np.int64)
            by_entity = np.argsort(entity, kind="stable")
            grouped, starts = ts[by_entity], np.flatnonzero(np.diff(entity[by_entity], prepend=-2))
            for a, b in zip(starts, [*starts[1:], len(ts)], strict=True):
                grouped[a:b] = np.maximum.accumulate(grouped[a:b])
            ts = np.empty_like(ts)
            ts[by_entity] = grouped
        return np.argsort(ts, kind="stable")

    def batches(self, size: int) -> Iterator[SourceBatch]:
        """The rows in order, ``size`` valid ones at a time; rejected rows come with the last batch read with them."""
        chunk = size * max(_CHUNK_ROWS // size, 1)  # decoding many rows together is what makes it quick
        for start in range(0, len(self), chunk):
            whole = self._batch(self._order[start : start + chunk])
            n = len(whole.batch)
            for at in range(0, max(n, 1), size):
                yield whole.slice(at, None if at + size >= n else at + size)

    def wire_rows(self, size: int) -> Iterator[tuple[list[dict[str, Any]], list[bool | None]]]:
        """The rows as wire records in the same order, ``size`` at a time and not judged, each with its label if any."""
        for start in range(0, len(self), size):
            order = self._order[start : start + size]
            rows = [{"v": VERSION, **row} for row in self._rows(order)]
            if self.spec.label is None:
                yield rows, [None] * len(rows)
            else:
                found = self._table.column(self.spec.label).take(pa.array(order)).to_pylist()
                yield rows, [str(v) in self.spec.positive if _is_label(v) else None for v in found]

    def _batch(self, order: IntVector) -> SourceBatch:
        rows = self._rows(order)
        decoded = events_from_rows(rows, self._columns, model=self._model)
        label: BoolVector | None = None
        labelled = np.zeros(len(decoded.batch), dtype=np.bool_)
        if self.spec.label is not None:
            found = self._table.column(self.spec.label).take(pa.array(order[decoded.index])).to_pylist()
            label = np.array([str(v) in self.spec.positive for v in found], dtype=np.bool_)
            labelled = np.array([_is_label(v) for v in found], dtype=np.bool_)
        rejects = [
            replace(r, index=int(order[r.index])) for r in decoded.rejects
        ]  # rows of the input, not of the batch
        return SourceBatch(decoded.batch, label, labelled, rejects, len(order))

    def _rows(self, order: IntVector) -> list[dict[str, Any]]:
        """Rows as Python dicts under wire names; what is missing is left out."""
        spec, fields = self.spec, self._model.model_fields
        rows: list[dict[str, Any]] = [{**spec.constants, "ts": t} for t in self._ts[order].tolist()]
        if self._model is UserEvent and "type" not in spec.constants and "type" not in spec.columns:
            for row in rows:
                row["type"] = "event"
        at = pa.array(order)
        if spec.event_id is None:
            for row, i in zip(rows, order.tolist(), strict=True):
                row["event_id"] = f"row-{i}"
        else:
            _put(rows, "event_id", texts(self._table.column(spec.event_id).take(at)))
        bag: list[dict[str, Any]] = [{} for _ in rows]
        said: list[dict[str, Any]] = [{} for _ in rows]  # a device's texts are properties; its metrics are numbers
        words = {*self._columns.texts, *self._columns.entities}
        for name, column in spec.columns.items():
            cells = self._table.column(column).take(at)
            if name in fields:
                _put(rows, name, values(cells) if name == "amount" else texts(cells))
            elif name in words:
                _put(said if self._model is DeviceEvent else bag, name, texts(cells))
            else:
                _put(bag, name, values(cells))
        if self._model is DeviceEvent or any(bag):
            for row, extra in zip(rows, bag, strict=True):
                row[self._bag] = extra
        if any(said):
            for row, extra in zip(rows, said, strict=True):
                row["properties"] = extra
        return rows


def _put(rows: list[dict[str, Any]], name: str, cells: list[Any]) -> None:
    for row, value in zip(rows, cells, strict=True):
        if value is not None and value == value:
            row[name] = value


def _is_label(value: Any) -> bool:
    return value is not None and value != "" and value == value
