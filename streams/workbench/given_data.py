"""Data of a notebook as the files that a backtest reads: a table is written as Arrow, rows as JSON lines.

So there is one reader for all, and what a file may hold a table may hold, too: texts, times and numbers in any of their
ways of writing. It knows tables and rows, not tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.ipc as ipc

from weir.streams.errors import UsageError, WeirError


class ArrowTable(Protocol):
    """A table of pandas (2.2 and newer), Polars, DuckDB, Arrow or another library that has Arrow's C stream."""

    def __arrow_c_stream__(self, requested_schema: Any = None, /) -> object:
        """The table as a PyCapsule."""


Row: TypeAlias = Mapping[str, Any]
Data: TypeAlias = str | Path | ArrowTable | Sequence[str | Path | ArrowTable] | Sequence[Row]
"""A file or folder, a table, several of these, or rows as mappings."""


class DataFolder:
    """Where data of memory becomes files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count(2)

    def files(self, data: Data, *, lines: bool = False, common: Row | None = None) -> list[Path]:
        """The files of ``data``; raises ``UsageError`` for what is none, and for a table that Arrow cannot hold.

        Parameters
        ----------
        lines : whether tables become JSON lines, too: records of the wire format.
        common : what lines hold where a row does not say otherwise.
        """
        # A path is a sequence of letters, too.
        parts: Sequence[Any] = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        if parts and all(isinstance(part, Mapping) for part in parts):
            return [self._lines(parts, common or {})]
        return [self._file(part, lines, common or {}) for part in parts]

    def _file(self, part: object, lines: bool, common: Row) -> Path:
        if isinstance(part, str | Path):
            return Path(part)
        if not hasattr(part, "__arrow_c_stream__"):
            what = f"a {type(part).__name__} is no data; give a file, a table of pandas, Polars or Arrow"
            raise UsageError(f"{what}, or a list of dicts")
        try:
            table = pa.table(part)
        except (pa.ArrowException, TypeError, ValueError) as exc:
            raise UsageError(f"a {type(part).__name__} is no table for Arrow: {exc}") from exc
        if lines:
            return self._lines(table.to_pylist(), common)
        path = self._named("table.arrow")
        with ipc.new_file(path, table.schema) as out:
            out.write_table(table)
        return path

    def _lines(self, rows: Sequence[Row], common: Row) -> Path:
        """JSON lines; what is missing is left out, and a time without an offset is UTC."""
        path = self._named("rows.jsonl")
        with path.open("wb") as out:
            for row in rows:
                held = {**common, **{name: value for name, value in row.items() if value is not None}}
                try:
                    out.write(orjson.dumps(held, _as_text, _OPTIONS))
                except TypeError as exc:
                    raise UsageError(f"row {row!r:.120} cannot be written as JSON: {exc}") from exc
        return path

    def _named(self, name: str) -> Path:
        path = self._folder / name
        # Data and labels may both be tables.
        return path if not path.exists() else self._folder / f"{next(self._numbers)}-{name}"


_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NAIVE_UTC | orjson.OPT_SERIALIZE_NUMPY


@contextmanager
def data_folder() -> Iterator[DataFolder]:
    """A folder for as long as data is read; what is told of its files names them without it."""
    with TemporaryDirectory(prefix="weir-") as folder:
        try:
            yield DataFolder(Path(folder))
        except WeirError as exc:
            # The folder is gone when a person reads this, and was never theirs.
            exc.args = tuple(arg.replace(f"{folder}/", "") if isinstance(arg, str) else arg for arg in exc.args)
            raise


def _as_text(value: object) -> str:
    """A time of a class of its own, such as a Timestamp of pandas, as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
