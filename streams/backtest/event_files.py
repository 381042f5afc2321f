"""Reads event files of any format for a backtest, mapped to wire events by a task's ``[source]``.

A row becomes a wire event and is judged exactly as a record on a topic is; a row that does not fit is handed back with
its reason. It knows files and columns, not features or models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import BoolVector, EventBatch, FloatVector, IntVector
from weir.online.codec.accept import Reject
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import events_from_rows
from weir.online.codec.wire import VERSION, DeviceEvent, UserEvent, WireModel
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import SourceSpec, TaskSpec
from weir.streams.backtest.tables.event_times import read_times
from weir.streams.backtest.tables.formats import read_files
from weir.streams.backtest.tables.label_words import read_labels
from weir.streams.backtest.tables.numbers import NumberColumn, read_numbers
from weir.streams.backtest.tables.texts import BLANK, MISSING, MISSING_TEXTS, Cells, read_ids
from weir.streams.errors import UsageError

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
    known_at: FloatVector | None = None
    """When each label became known, where a column says it; NaN for those without a time."""
    fresh: BoolVector | None = None
    """Which events have an ``event_id`` that did not come before of the same user or device; ``None`` for all.

    Repeats stay, marked: an older export may lack the labels that a newer one brings with the same events.
    """

    @property
    def rows(self) -> int:
        """Rows read, bad ones too."""
        return len(self.batch) + len(self.rejects)

    @property
    def events(self) -> EventBatch:
        """Those that did not come before."""
        # Without repeats it is the same object: `distinct` passes such a batch on as it is.
        return self.batch if self.fresh is None else self.batch.where(self.fresh)

    def slice(self, start: int, stop: int | None) -> SourceBatch:
        """Events ``start`` to ``stop``; the rejects stay with the last slice (``stop`` is None)."""
        part = self.batch.slice(start, len(self.batch) if stop is None else stop)
        parts: list[Any] = [
            None if column is None else column[start:stop] for column in (self.label, self.known_at, self.fresh)
        ]
        label, known_at, fresh = parts
        rejects = self.rejects if stop is None else []
        return SourceBatch(part, label, self.labelled[start:stop], rejects, known_at, fresh)


class FileSource:
    """The rows of one or more files as event batches in event-time order.

    Parameters
    ----------
    task : names the stream (and so the wire model) and the source mapping.
    columns : the columns the task's features need.
    paths : the files or folders, merged by event time.

    Raises
    ------
    UsageError
        When a file cannot be read, or a column is missing or of no use in its place.
    """

    def __init__(self, task: TaskSpec | NextTask, columns: ColumnRequest, paths: Sequence[Path]) -> None:
        self.spec = s = task.source if task.source is not None else SourceSpec()
        self._columns = columns
        self.model: type[WireModel] = DeviceEvent if task.stream == "device-events" else UserEvent
        """What each row becomes."""
        self._words = {*columns.texts, *columns.entities}
        texts = {c for name, c in s.columns.items() if self._is_text(name)} | ({s.event_id} if s.event_id else set())
        others = {c for c in (s.time, s.label, s.label_known) if c is not None}
        self._files = read_files(paths, sorted({*s.columns.values(), *texts, *others}), texts, s.separator)
        self._table, self.sizes = self._files.table, self._files.sizes
        self.decisions: list[str] = self._files.decisions
        """What was decided of the files and their columns, one line each."""
        self.early_labels = 0
        """Labels whose ``label_known`` is before their event: taken to be known with it."""
        # The user's list takes the place of ours, also where it is empty: then a text NA is a text.
        own = None if s.missing is None else frozenset(word.strip().lower() for word in s.missing)
        self._missing, self._missing_texts = MISSING if own is None else own, MISSING_TEXTS if own is None else own
        try:
            self._ts = self._times()
            self._known_at = self._known()
            self._cells = {name: self._column(name, column) for name, column in s.columns.items()}
            self._event_id = None if s.event_id is None else self._ids("event_id", s.event_id)
            self._label = None if s.label is None else read_labels(self._of(s.label), s)
        except pa.ArrowException as exc:  # the one guard: whatever Arrow refuses is one line
            raise UsageError(f"{self._files.files}: a column cannot be read: {exc}") from exc
        self._order = self._arrival_order(task.key)
        self._cells = {name: replace(cells, values=_in_one(cells.values)) for name, cells in self._cells.items()}
        self._event_id = _in_one(self._event_id)

    def __len__(self) -> int:
        return int(self._table.num_rows) + len(self._files.lost)

    def check_once(self) -> None:
        """Raise ``UsageError`` where a file is given twice and no ``event_id`` tells that its rows are the same."""
        if self.spec.event_id is None and len({path.resolve() for path, _ in self.sizes}) < len(self.sizes):
            raise UsageError("a file is given twice, and without `event_id` in [source] its rows would count twice")

    def _is_text(self, name: str) -> bool:
        return name != "amount" and (name in self.model.model_fields or name in self._words)

    def _of(self, column: str, missing: Collection[str] | None = None, said: list[str] | None = None) -> Cells:
        words = self._missing if missing is None else missing
        said = self.decisions if said is None else said
        return Cells(self._table.column(column), column, words, self._files.where, said)

    def _times(self) -> FloatVector:
        """Event time of every row, epoch seconds; NaN where it cannot be read."""
        s = self.spec
        if s.time is None:
            return s.start + s.row_interval * np.arange(self._table.num_rows, dtype=np.float64)
        return read_times(self._of(s.time), s.time_format, s.time_zone)

    def _known(self) -> FloatVector | None:
        """When the label of every row became known, never before its event; NaN for never."""
        s = self.spec
        if s.label_known is None:
            return None
        known = read_times(self._of(s.label_known), s.time_format, s.time_zone)
        self.early_labels = int(np.count_nonzero(known < self._ts))
        return np.maximum(known, self._ts)

    @property
    def steps_back(self) -> float:
        """The share of rows whose time is before that of the row before them in the files."""
        known = self._ts[np.isfinite(self._ts)]
        return float(np.mean(np.diff(known) < 0)) if len(known) > 1 else 0.0

    @property
    def label_delays_s(self) -> tuple[float, float] | None:
        """The median and the longest delay of the labels, where a column says when each became known."""
        delays = np.empty(0) if self._known_at is None else (self._known_at - self._ts)
        delays = delays[np.isfinite(delays)]
        return (float(np.median(delays)), float(delays.max())) if len(delays) else None

    def _column(self, name: str, column: str) -> NumberColumn:
        """A column in its role: text, number, or what it is where no feature asks for it."""
        if self._is_text(name):
            return NumberColumn(self._ids(name, column))
        asked = name == "amount" or name in self._columns.numbers
        if self.model is DeviceEvent and pa.types.is_boolean(self._table.column(column).type):
            return NumberColumn(pc.cast(pc.cast(self._table.column(column), pa.int8()), pa.float64()))  # as a metric
        try:
            # Of a column that no feature reads as numbers nothing is told: its decisions go into a list that is thrown
            # away.
            return read_numbers(
                self._of(column, said=None if asked else []), self.spec.decimal_mark, self._files.semicolons
            )
        except UsageError:
            if asked:
                raise
            # Nobody asks for its numbers, so what was mapped may be a text.
            return NumberColumn(self._of(column, self._missing_texts).texts())

    def _ids(self, name: str, column: str) -> pa.ChunkedArray:
        """Text that keeps every digit; words for missing are told."""
        key = name in {"event_id", *self._columns.entities}
        cells = self._of(column, None if key else self._missing_texts)
        # A key has more words for missing: an entity "not set" would be the busiest of all.
        ids, before = read_ids(cells), cells.values
        if ids.null_count > before.null_count and pa.types.is_string(before.type):
            lost = pc.utf8_trim_whitespace(before.filter(pc.is_null(ids)).drop_null())
            found = sorted(pc.value_counts(lost).to_pylist(), key=lambda v: -int(v["counts"]))
            if shown := [f"{v['values']!r} ({v['counts']:,})" for v in found if v["values"]]:
                cells.say(f"{', '.join(shown[:4])} is missing; `missing` in [source] lists others")
        return ids

    def unreadable(self) -> Iterator[str]:
        """Of each column that features take numbers from, how many values are none, and the first."""
        for name, cells in self._cells.items():
            if name in self._columns.numbers and name != "amount" and cells.raw:
                row, text = next(iter(cells.raw.items()))
                n, column = f"{len(cells.raw):,} of {len(cells.values):,} values", self.spec.columns[name]
                yield f"{n} of column {column!r} are no numbers, the first {text!r} ({self._files.where(row)})"

    def _arrival_order(self, key: str) -> IntVector:
        """A stable order by event time; with ``order = "arrival"`` an entity's rows never change places."""
        # The running maximum below would carry a NaN on to all later rows of its entity.
        ts = np.where(np.isnan(self._ts), -np.inf, self._ts)
        if self.spec.order == "arrival" and key in self._cells:
            ids = pc.dictionary_encode(self._cells[key].values.combine_chunks()).indices
            entity = np.asarray(pc.fill_null(ids, -1), dtype=np.int64)
            by_entity = np.argsort(entity, kind="stable")
            for rows in np.split(by_entity, np.flatnonzero(np.diff(entity[by_entity])) + 1):
                ts[rows] = np.maximum.accumulate(ts[rows])
        return np.argsort(ts, kind="stable")

    def batches(self, size: int) -> Iterator[SourceBatch]:
        """The rows in order, ``size`` valid ones at a time; rejected rows come with the last batch read with them."""
        chunk = size * max(_CHUNK_ROWS // size, 1)  # decoding many rows together is what makes it quick
        lost = [Reject(at + i, b"", why) for i, (at, why) in enumerate(self._files.lost)]
        for start in range(0, max(len(self._order), 1), chunk):
            whole = self._batch(self._order[start : start + chunk])
            whole, lost = replace(whole, rejects=[*lost, *whole.rejects]), []
            n = len(whole.batch)
            for at in range(0, max(n, 1), size):
                yield whole.slice(at, None if at + size >= n else at + size)

    def wire_rows(self, size: int) -> Iterator[tuple[list[dict[str, Any]], list[bool | None], list[float | None]]]:
        """The rows as wire records in the same order, ``size`` at a time and not judged.

        With each its label if any, and when that became known, ``None`` where no column says it.
        """
        for start in range(0, len(self._order), size):
            order = self._order[start : start + size]
            rows = [{"v": VERSION, **row} for row in self._rows(order)]
            labels = [-1] * len(rows) if self._label is None else self._label[order].tolist()
            told = [None if v < 0 else v > 0 for v in labels]
            if self._known_at is None:
                yield rows, told, [None] * len(rows)
            else:
                known = self._known_at[order].tolist()
                # NaN: never known.
                yield rows, [None if at != at else v for v, at in zip(told, known, strict=True)], known

    def _batch(self, order: IntVector) -> SourceBatch:
        rows = self._rows(order)
        decoded = events_from_rows(rows, self._columns, model=self.model)
        label: BoolVector | None = None
        labelled = np.zeros(len(decoded.batch), dtype=np.bool_)
        at = order[decoded.index]
        known_at = None if self._known_at is None else self._known_at[at]
        if self._label is not None:
            label, labelled = self._label[at] > 0, self._label[at] >= 0
            if known_at is not None:
                # A label that never becomes known is none, whatever its value.
                labelled &= ~np.isnan(known_at)
        rejects = [self._refused(r, int(order[r.index])) for r in decoded.rejects]
        return SourceBatch(decoded.batch, label, labelled, rejects, known_at)

    def _refused(self, reject: Reject, row: int) -> Reject:
        """The same with the row of the input, and with the value as it stands in the file."""
        name, reason = reject.reason.partition(":")[0], reject.reason
        column = {**self.spec.columns, "ts": self.spec.time, "event_id": self.spec.event_id}.get(name)
        if column is not None:
            value = self._table.column(column)[row].as_py()
            what = f"{value if value is None else str(value)!r} in column {column!r}"
            reason = f"{reason} ({what if name == 'ts' else f'column {column!r}'})"
            if value is None or str(value).strip(BLANK).lower() in {"", *self._missing}:
                reason = f"{name}: missing ({what})"
            elif name == "ts" and np.isnan(self._ts[row]):
                fix = "give ISO 8601 or epoch seconds, or set time_format (and time_zone) in [source]"
                reason = f"ts: {what} is no time; {fix}"
            elif name == "ts":  # before 2000 or after 2100
                # Clipped, because int() refuses an infinite time, and the day of one beyond cannot be written.
                day = np.datetime64(int(np.clip(self._ts[row], -6e10, 1e15)), "s").astype("datetime64[D]")
                reason = f"ts: {what} is read as {day}: only times of 2000 to 2100 are taken, for clocks that are not "
                reason += "set write others; if it is in another unit or format, set time_format in [source]"
        return replace(reject, index=self._files.number(row), reason=reason)

    def _rows(self, order: IntVector) -> list[dict[str, Any]]:
        """Rows as Python dicts under wire names; what is missing is left out."""
        spec, fields = self.spec, self.model.model_fields
        rows: list[dict[str, Any]] = [{**spec.constants, "ts": t} for t in self._ts[order].tolist()]
        if self.model is DeviceEvent:
            for row in rows:
                row["metrics"] = {}
        if self.model is UserEvent and "type" not in spec.constants and "type" not in spec.columns:
            for row in rows:
                row["type"] = "event"
        at = pa.array(order)
        if self._event_id is None:
            for row, i in zip(rows, order.tolist(), strict=True):
                # By its place in the files, not in the batch: the same files give the same ids however they are
                # batched.
                row["event_id"] = f"row-{i}"
        else:
            _put(rows, "event_id", self._event_id.take(at).to_pylist())
        for name, column in self._cells.items():
            cells = column.values.take(at).to_pylist()
            if column.raw:
                # The text itself and no null: the wire's judge then refuses the row for it, or counts the number as
                # missing, and can say what it was.
                cells = [column.raw.get(i, cell) for i, cell in zip(order.tolist(), cells, strict=True)]
            if name in fields:
                _put(rows, name, cells)
            else:  # a device's texts are properties; its metrics are numbers
                bag = "metrics" if "metrics" in fields and name not in self._words else "properties"
                _put([row.setdefault(bag, {}) for row in rows], name, cells)
        return rows


def _in_one(column: Any) -> Any:
    """An Arrow column in one piece, from which rows are taken without going over all pieces each time."""
    if not isinstance(column, pa.ChunkedArray) or column.num_chunks < 2:
        return column
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())  # whose offsets go beyond 2 GB
    return column.combine_chunks()


def _put(rows: list[dict[str, Any]], name: str, cells: list[Any]) -> None:
    for row, value in zip(rows, cells, strict=True):
        # Left out where it is missing, as a producer would: JSON has no NaN, and the judge refuses one.
        if value is not None and value == value:
            row[name] = value
