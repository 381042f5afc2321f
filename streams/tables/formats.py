"""Reads a file of any format, found by its content, into a table of texts, numbers and times of plain Arrow types.

A CSV is read as text: a guessed type would take the zeros off ``007`` and refuse a whole file for one bad amount. It
knows file formats, not what the columns mean.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.ipc as ipc
import pyarrow.json as pjson
import pyarrow.parquet as pq

from streams.errors import UsageError
from streams.tables.csv_dialect import SEPARATORS, dialect_of, encoding_of
from streams.tables.texts import as_text, plain

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
_KINDS = "give CSV, JSONL, a JSON array, Parquet or Arrow, plain or compressed by gzip or zstd"
_HEAD = 1 << 16


@dataclass(slots=True)
class FileTable:
    """The columns of some files, one file after the other."""

    table: pa.Table
    starts: list[tuple[int, Path]]
    """The first row of each file."""
    lost: list[tuple[int, str]] = field(default_factory=list)
    """Rows, by their number in ``table`` were they in it, that have not the header's number of cells."""
    decisions: list[str] = field(default_factory=list)
    semicolons: bool = False
    """Whether ``;`` stands between columns, as where a comma is the decimal mark."""

    def where(self, row: int) -> str:
        """File and number of a row of ``table``."""
        start, path = next((s, p) for s, p in reversed(self.starts) if s <= row)
        gone = sum(start <= at <= row for at, _ in self.lost)
        return f"{path}, row {row - start + 1 + gone}"

    @property
    def files(self) -> str:
        """The files, for a message."""
        return ", ".join(dict.fromkeys(str(path) for _, path in self.starts))


@dataclass(frozen=True, slots=True)
class _Wanted:
    columns: Collection[str]
    texts: Collection[str]
    """Those whose digits have to stay as they are."""
    separator: str | None


def read_files(
    paths: Sequence[Path], columns: Collection[str], texts: Collection[str], separator: str | None = None
) -> FileTable:
    """The named columns of all files; those of ``texts`` keep their digits.

    Raises
    ------
    UsageError
        Naming the file that cannot be read, or that has no such column.
    """
    wanted = _Wanted(set(columns), texts, separator)
    parts = [_guarded(path, wanted) for path in _files(paths)]
    kinds: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for column in part.table.schema:
            if not pa.types.is_null(column.type):
                kinds.setdefault(column.name, set()).add(column.type)
    _check_columns(parts, wanted, kinds)
    # Files that disagree about a column, such as a CSV beside a Parquet file, meet as text.
    mixed = {name for name, types in kinds.items() if len(types) > 1 and not _meet(types, name in texts)}
    tables = [_mixed(part, mixed) for part in parts]
    whole = FileTable(pa.concat_tables(tables, promote_options="permissive"), [])
    start = 0
    for part in parts:
        whole.starts.append((start, part.starts[0][1]))
        whole.lost += [(start + at, text) for at, text in part.lost]
        whole.decisions += part.decisions
        whole.semicolons |= part.semicolons
        start += part.table.num_rows
    return whole


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, those of a folder in order of their names."""
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            if not inside:
                raise UsageError(f"{path} is a folder without data files; {_KINDS}")
            yield from inside
        elif not path.exists():
            raise UsageError(f"no such file: {path}")
        else:
            yield path


def _hidden(path: Path) -> bool:
    """Such as ``_SUCCESS`` and ``.part-0.crc``, which Spark writes."""
    return any(part[0] in "._" for part in path.parts)


def _guarded(path: Path, wanted: _Wanted) -> FileTable:
    """One file; whatever is wrong with it is one line that names it."""
    try:
        return _read(path, wanted)
    except (pa.ArrowException, OSError, UnicodeError, ValueError, RecursionError, MemoryError) as exc:
        raise UsageError(f"{path}: cannot be read: {(str(exc) or repr(exc)).splitlines()[0]}") from exc


def _read(path: Path, wanted: _Wanted) -> FileTable:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    packed = next((kind for mark, kind in _COMPRESSED.items() if head.startswith(mark)), None)
    if packed:
        with pa.input_stream(path, compression=packed) as stream:
            content = pa.py_buffer(stream.read())
    else:
        content = pa.memory_map(str(path)).read_buffer() if head else pa.py_buffer(b"")
    head = content[:_HEAD].to_pybytes()
    name = path.name.lower().removesuffix(".gz")
    if head.startswith(b"PAR1"):
        return _typed(pq.ParquetFile(content), path, wanted)
    if head.startswith(b"ARROW1"):
        return _made(ipc.open_file(content).read_all(), path, wanted)
    if head.startswith(b"\xff\xff\xff\xff"):
        return _made(ipc.open_stream(content).read_all(), path, wanted)
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UsageError(f"{path} is an Excel or zip file; export the sheet as CSV, or unpack it")
    if name.endswith((".parquet", ".arrow", ".feather")) or not head.strip():
        kind = "is empty" if not head.strip() else f"is no {name.rpartition('.')[2]} file"
        raise UsageError(f"{path}: cannot be read: it {kind}; {_KINDS}")
    encoding = encoding_of(head)
    if encoding not in (None, "utf-8"):
        content = pa.py_buffer(content.to_pybytes().decode(encoding).removeprefix("\ufeff").encode())
        head = content[:_HEAD].to_pybytes()
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first in (b"{", b"[") or name.endswith((".jsonl", ".ndjson", ".json")):
        return _json(content, path, wanted, array=first == b"[")
    if b"\0" in head:
        raise UsageError(f"{path}: cannot be read: unknown kind of file; {_KINDS}")
    return _csv(content, head, path, wanted, encoding)


def _typed(file: pq.ParquetFile, path: Path, wanted: _Wanted) -> FileTable:
    there = file.schema_arrow.names
    _check_doubled(path, there, wanted.columns)
    tops = {name.partition(".")[0] for name in wanted.columns} | set(wanted.columns)
    return _made(file.read([name for name in dict.fromkeys(there) if name in tops]), path, wanted, there)


def _made(table: pa.Table, path: Path, wanted: _Wanted, there: list[str] | None = None) -> FileTable:
    """A table of plain types with the columns that are wanted; ``a.b`` is field b of a struct."""
    there = there or table.column_names
    _check_doubled(path, there, wanted.columns)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in wanted.columns:
        top, _, inner = name.partition(".")
        if name in there:
            columns[name] = plain(table.column(name))
        elif inner and top in there and pa.types.is_struct(table.schema.field(top).type):
            try:
                columns[name] = plain(pc.struct_field(table.column(top), inner.split(".")))
            except (pa.ArrowException, KeyError):
                continue
    if not columns:
        return FileTable(pa.table({"": pa.nulls(table.num_rows)}).select([""]), [(0, path)], decisions=[], lost=[])
    return FileTable(_named(columns, there), [(0, path)])


def _named(columns: dict[str, pa.ChunkedArray], there: Sequence[str]) -> pa.Table:
    """A table that remembers in its metadata which columns its file has."""
    return pa.table(columns).replace_schema_metadata({"there": json.dumps(list(there))})


def _check_doubled(path: Path, there: Sequence[str], wanted: Collection[str]) -> None:
    for name, n in Counter(there).items():
        if n > 1 and name in wanted:
            raise UsageError(f"{path}: {n} columns are named {name!r}, and [source] uses it; rename all but one")


def _check_columns(parts: Sequence[FileTable], wanted: _Wanted, kinds: Collection[str]) -> None:
    """Every wanted column is in a file; that a file lacks one that others have is told."""
    for part in parts:
        lacks = sorted(set(wanted.columns) - set(part.table.column_names))
        gone = [name for name in lacks if name not in kinds and not any(name in p.table.column_names for p in parts)]
        there = json.loads((part.table.schema.metadata or {}).get(b"there", b"[]"))
        if gone:
            paths = ", ".join(str(p.starts[0][1]) for p in parts)
            raise UsageError(
                f"{paths}: no column {', '.join(gone)}; there are: {', '.join(there) or 'none'}. "
                "Correct [source] in the task file"
            )
        if lacks:
            part.decisions.append(f"{part.starts[0][1].name}: no column {', '.join(lacks)}; missing in its rows")


def _meet(types: Collection[pa.DataType], text: bool) -> bool:
    """Whether Arrow finds one type for all without losing digits."""
    whole = all(map(pa.types.is_integer, types))
    return whole or (not text and all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in types))


def _mixed(part: FileTable, names: Collection[str]) -> pa.Table:
    table = part.table
    for name in sorted(set(names) & set(table.column_names)):
        column = as_text(table.column(name), f"{part.starts[0][1]}: column {name!r}")
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _csv(content: pa.Buffer, head: bytes, path: Path, wanted: _Wanted, encoding: str | None) -> FileTable:
    """A CSV as text, whose ragged rows are handed back with their number."""
    said = [] if encoding in (None, "utf-8") else [encoding.upper()]
    codec = "utf-8"
    try:
        head[: max(head.rfind(b"\n"), 0)].decode()  # a name of the header may hold other letters too
        found = _csv_table(content, head, path, wanted, codec)
    except (pa.ArrowInvalid, UnicodeError) as exc:
        if "UTF8" not in str(exc) and not isinstance(exc, UnicodeError):
            raise
        codec = "cp1252"
        try:
            found = _csv_table(content, head, path, wanted, codec)
        except UnicodeError:
            codec = "latin-1"
            found = _csv_table(content, head, path, wanted, codec)
        said.append(f"encoding {codec}, for it is no UTF-8")
    separator = found.decisions.pop()
    if separator != ",":
        said.insert(0, f"{SEPARATORS.get(separator, repr(separator))} between columns")
    found.decisions = [f"{path.name}: {', '.join(said)}"] if said else []
    return found


def _csv_table(content: pa.Buffer, head: bytes, path: Path, wanted: _Wanted, codec: str) -> FileTable:
    text = head.decode(codec, "replace" if codec == "utf-8" else "strict" if codec == "latin-1" else "replace")
    form = dialect_of(text, wanted.columns, wanted.separator)
    _check_doubled(path, form.names, wanted.columns)
    names = [name if form.names.index(name) == i else f"{name}\0{i}" for i, name in enumerate(form.names)]
    used = [name for name in names if name in wanted.columns] or names[:1]
    quoted = re.search(re.escape(form.quote.encode()), content) is not None
    lost, lock = list[tuple[int | None, str]](), threading.Lock()

    def ragged(row: pcsv.InvalidRow) -> str:
        with lock:
            why = f"it has {row.actual_columns} cells, the header {row.expected_columns}: {row.text[:80]!r}"
            lost.append((row.number, why))
        return "skip"

    def read(threads: bool) -> pa.Table:
        lost.clear()
        return pcsv.read_csv(
            pa.BufferReader(content),
            read_options=pcsv.ReadOptions(
                column_names=names, skip_rows=form.header_lines, encoding=codec, use_threads=threads
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=form.separator, quote_char=form.quote, escape_char=form.escape or False,
                newlines_in_values=quoted, invalid_row_handler=ragged,
            ),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False
            ),
        )  # fmt: skip

    try:
        table = read(threads=True)
        if lost:
            table = read(threads=False)  # a thread does not know which row it is at
    except pa.ArrowInvalid as exc:
        if "Empty CSV" not in str(exc) and "Could not skip" not in str(exc):  # a header alone
            raise
        table = pa.table({name: pa.array([], pa.string()) for name in used})
    rows = sorted(((number or 0) - form.header_lines - 1, why) for number, why in lost)
    at = [(row - i, why) for i, (row, why) in enumerate(rows)]
    named = _named({name: table.column(name) for name in used}, form.names)
    return FileTable(named, [(0, path)], at, [form.separator], semicolons=form.separator == ";")


def _json(content: pa.Buffer, path: Path, wanted: _Wanted, *, array: bool) -> FileTable:
    if not array:
        try:
            table = pjson.read_json(pa.BufferReader(content))
            risky = [n for n in wanted.texts if n in table.column_names and _guessed(table.schema.field(n).type)]
            if not risky and len(set(table.column_names)) == table.num_columns:
                return _made(table, path, wanted)
        except pa.ArrowException:
            pass  # a line that is no object, or a column of mixed kinds: rows are judged one by one
    text = content.to_pybytes().decode("utf-8-sig", "replace")
    if array:
        found = json.loads(text)
        rows = [row if isinstance(row, dict) else {} for row in found]
    else:
        rows = [_object(line) for line in text.split("\n") if line.strip()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return _made(pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))}), path, wanted)


def _guessed(kind: pa.DataType) -> bool:
    """Whether Arrow may have taken digits off a text."""
    return bool(pa.types.is_floating(kind) or pa.types.is_temporal(kind))


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _column(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError):
        texts = [c if c is None or isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in cells]
        return pa.array(texts, pa.string())
