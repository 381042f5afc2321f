"""Reads event files into tables, and columns of text into numbers and times, one bad value at a time.

A CSV is read as text: a guessed type would take the zeros off ``007`` and refuse a whole file for one bad amount. It
knows file formats, not what the columns mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.json as pjson
import pyarrow.parquet as pq

from online.batch import FloatVector
from streams.errors import UsageError

_SUFFIXES = ".csv, .csv.gz, .parquet, .jsonl or .ndjson"
_MISSING = tuple(pcsv.ConvertOptions().null_values)
_WORDS: dict[str, bool] = {"true": True, "false": False, "True": True, "False": False}


def read_tables(paths: Sequence[Path]) -> pa.Table:
    """The rows of all files, one file behind the other; raises ``UsageError`` naming the file that cannot be read."""
    tables = [_read(path) for path in paths]
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for column in table.schema:
            if not pa.types.is_null(column.type):
                kinds.setdefault(column.name, set()).add(column.type)
    # Files that disagree about a column, such as a CSV beside a Parquet file, meet as text.
    mixed = {name for name, types in kinds.items() if len(types) > 1 and not all(map(_is_number, types))}
    return pa.concat_tables([_as_text(t, mixed) for t in tables], promote_options="permissive")


def texts(column: pa.ChunkedArray) -> list[str | None]:
    """Values as text; empty text is missing."""
    values: list[str | None] = pc.cast(column, pa.string()).to_pylist()
    return [value or None for value in values]


def values(column: pa.ChunkedArray) -> list[Any]:
    """Values as numbers or bools, ``None`` where missing; what is neither stays as it is."""
    text = _is_text(column.type)
    column = _without_missing(column) if text else column
    try:
        found: list[Any] = (pc.cast(column, pa.float64()) if text else column).to_pylist()
    except pa.ArrowInvalid:
        return [None if value is None else _value(value) for value in column.to_pylist()]
    return found


def seconds(column: pa.ChunkedArray, time_format: str) -> FloatVector:
    """Event times ``(n,) float64`` in epoch seconds, NaN where one cannot be read; a time without an offset is UTC."""
    if _is_text(column.type):
        column = _without_missing(column)
        column = _numeric(column) if time_format != "iso" else column
    if _is_text(column.type):
        column = _timestamps(column) if not time_format.startswith("unix") else column
    if _is_text(column.type):
        of = {text: _moment(text, time_format) for text in pc.unique(column).to_pylist()}
        return np.array([of[text] for text in column.to_pylist()], dtype=np.float64)
    kind = column.type
    if pa.types.is_date(kind):
        column = pc.cast(column, pa.timestamp("us"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        column = pc.cast(pc.cast(column, pa.timestamp("us", tz=kind.tz), safe=False), pa.int64())
    number = np.asarray(pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).combine_chunks(), dtype=np.float64)
    if pa.types.is_timestamp(kind):
        return number / 1e6
    return number / 1000.0 if time_format == "unix_ms" else number


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in sorted(names & set(table.column_names)):
        column = pc.cast(table.column(name), pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _without_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    known = pc.invert(pc.is_in(column, value_set=pa.array(_MISSING, column.type)))
    return pc.if_else(known, column, pa.scalar(None, column.type))


def _numeric(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.cast(column, pa.float64())
    except pa.ArrowInvalid:
        return column


def _timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as timestamps where all of it is of one kind, with offsets or without."""
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
    return column


def _value(text: str) -> float | bool | str:
    if text in _WORDS:
        return _WORDS[text]
    try:
        return float(text)
    except ValueError:
        return text


def _moment(text: str | None, time_format: str) -> float:
    value = text if text is None else _value(text)
    if time_format != "iso" and isinstance(value, float):
        return value / 1000.0 if time_format == "unix_ms" else value
    if time_format.startswith("unix"):
        return np.nan
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return np.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _read(path: Path) -> pa.Table:
    """One file as a table; raises ``UsageError`` naming the file."""
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            return pq.read_table(path)
        if name.endswith((".csv", ".csv.gz")):
            with pcsv.open_csv(path) as reader:
                kinds = dict.fromkeys(reader.schema.names, pa.string())
            return pcsv.read_csv(path, convert_options=pcsv.ConvertOptions(column_types=kinds))
        if name.endswith((".jsonl", ".ndjson")):
            return _read_json(path)
    except (pa.ArrowException, OSError) as exc:
        raise UsageError(f"{path}: cannot be read: {exc}") from exc
    raise UsageError(f"{path}: unknown kind of file; give {_SUFFIXES}")


def _read_json(path: Path) -> pa.Table:
    try:
        return pjson.read_json(path)
    except pa.ArrowInvalid:
        if path.stat().st_size == 0:
            raise
    # A line that is no object, or a column of mixed kinds: read what can be read; rows are judged one by one later.
    with path.open("rb") as file:
        rows = [_object(line) for line in file if line.strip()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def _column(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except pa.ArrowException:
        return pa.array(
            [c if c is None or isinstance(c, str) else orjson.dumps(c).decode() for c in cells], pa.string()
        )
