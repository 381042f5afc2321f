"""Reads a file of any format, found by its content, into a table of texts, numbers and times of plain Arrow types.

A CSV is read as text: a guessed type would take the zeros off ``007`` and refuse a whole file for one bad amount. It
knows file formats, not what the columns mean.
"""

from __future__ import annotations

import json
import re
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

from weir.online.mistakes import name_of, near
from weir.streams.backtest.tables.csv_dialect import SEPARATORS, dialect_of, sum_below
from weir.streams.backtest.tables.opening import HEAD, KINDS, contents, files_of, of_arrow, place, readable
from weir.streams.backtest.tables.texts import BLANK, as_text, plain
from weir.streams.errors import UsageError

_BLANK_THEN_QUOTE = re.compile(rb'([,;\t|]) +"')
_NO_UTF_8 = "encoding cp1252, for it is no UTF-8"
_LISTED = 40
"""Names of columns in a message, at most."""


@dataclass(slots=True)
class FileTable:
    """The columns of some files, one file after the other."""

    table: pa.Table
    sizes: list[tuple[Path, int]]
    """The rows of each file, those of ``lost`` among them."""
    lost: list[tuple[int, str]] = field(default_factory=list)
    """Rows, by their number in ``table`` were they in it, that have not the header's number of cells."""
    decisions: list[str] = field(default_factory=list)
    semicolons: bool = False
    """Whether ``;`` stands between columns, as where a comma is the decimal mark."""
    there: list[str] = field(default_factory=list)
    """All columns of the (first) file."""

    def number(self, row: int) -> int:
        """Which row of the files a row of ``table`` is, the first being 0."""
        return row + sum(at <= row for at, _ in self.lost)

    def where(self, row: int) -> str:
        """File and number of a row of ``table``."""
        return place(self.sizes, self.number(row), always=True)

    @property
    def files(self) -> str:
        """The files, for a message."""
        return ", ".join(str(path) for path, _ in self.sizes)


@dataclass(frozen=True, slots=True)
class _ReadRequest:
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
    wanted = _ReadRequest(set(columns), texts, separator)
    parts = []
    for path in files_of(paths):
        with readable(path):
            parts.append(_read(path, wanted))
    kinds: dict[str, set[pa.DataType]] = {}
    for column in (column for part in parts for column in part.table.schema):
        kinds.setdefault(column.name, set()).update({column.type} - {pa.null()})
    # Of all files together: a column that one of them lacks is missing in its rows, one that all lack is a mistake.
    _check_columns(parts, sorted(wanted.columns), kinds)
    # Files that disagree about a column, such as a CSV beside a Parquet file, meet as text: it keeps every digit.
    tables = [_mixed(part, {name for name, types in kinds.items() if len(types) > 1}) for part in parts]
    whole = FileTable(pa.concat_tables(tables, promote_options="permissive"), [], there=parts[0].there)
    start = 0
    for part in parts:
        whole.sizes += part.sizes
        whole.lost += [(start + at, text) for at, text in part.lost]
        whole.decisions += part.decisions
        whole.semicolons |= part.semicolons
        start += part.table.num_rows
    return whole


def _read(path: Path, wanted: _ReadRequest) -> FileTable:
    content, encoding = contents(path)
    head = content[:HEAD].to_pybytes()
    name = path.name.lower().removesuffix(".gz")
    if head.startswith(b"PAR1"):
        return _typed(pq.ParquetFile(content), path, wanted)
    if head.startswith(b"ARROW1"):
        return _made(ipc.open_file(content).read_all(), path, wanted)
    if head.startswith(b"\xff\xff\xff\xff"):
        return _made(ipc.open_stream(content).read_all(), path, wanted)
    if name.endswith((".parquet", ".arrow", ".feather")) or not head.strip():
        kind = "is empty" if not head.strip() else f"is no {name.rpartition('.')[2]} file"
        raise UsageError(f"{path}: cannot be read: it {kind}; {KINDS}")
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first in (b"{", b"[") or name.endswith((".jsonl", ".ndjson", ".json")):
        return _json(content, path, wanted, array=first == b"[")
    if b"\0" in head:
        line = head.count(b"\n", 0, head.index(b"\0")) + 1
        raise UsageError(f"{path}: cannot be read: no text, for line {line} holds a NUL byte; {KINDS}")
    return _csv(content, head, path, wanted, encoding)


def _typed(file: pq.ParquetFile, path: Path, wanted: _ReadRequest) -> FileTable:
    names = file.schema_arrow.names
    there = [leaf for each in file.schema_arrow for leaf in _leaves(each.name, each.type)]
    tops = {name.partition(".")[0] for name in wanted.columns} | set(wanted.columns)
    return _made(file.read([name for name in dict.fromkeys(names) if name in tops]), path, wanted, there)


def _made(table: pa.Table, path: Path, wanted: _ReadRequest, there: list[str] | None = None) -> FileTable:
    """A table of plain types with the columns that are wanted; ``a.b`` is field b of a struct."""
    there = there or [leaf for each in table.schema for leaf in _leaves(each.name, each.type)]
    _check_doubled(path, there, wanted.columns)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in wanted.columns:
        top, _, inner = name.partition(".")
        if name in table.column_names:
            columns[name] = plain(table.column(name))
        elif inner and top in table.column_names and pa.types.is_struct(table.schema.field(top).type):
            try:
                columns[name] = plain(pc.struct_field(table.column(top), inner.split(".")))
            except (pa.ArrowException, KeyError):
                continue
    # A table without columns has no rows for Arrow; one of nulls keeps their number.
    found = pa.table(columns) if columns else pa.table({"": pa.nulls(table.num_rows)}).select([""])
    return FileTable(found, [(path, table.num_rows)], there=there)


def _check_doubled(path: Path, there: Sequence[str], wanted: Collection[str]) -> None:
    for name, n in Counter(there).items():
        if n > 1 and name in wanted:
            raise UsageError(f"{path}: {n} columns are named {name!r}, and [source] uses it; rename all but one")


def _check_columns(parts: Sequence[FileTable], wanted: Sequence[str], known: Collection[str]) -> None:
    """Every wanted column is in a file; that a file lacks one that others have is told."""
    if gone := [name for name in wanted if name not in known]:
        there = [name_of(name) for name in parts[0].there]
        listed = ", ".join(there[:_LISTED]) + (f" and {len(there) - _LISTED:,} more" if there[_LISTED:] else "")
        why = f"no column {', '.join(gone)}; there are: {listed or 'none'}. {_meant(gone, parts[0].there)}"
        raise UsageError(f"{', '.join(p.files for p in parts)}: {why}")
    for part in parts:
        if lacks := [name for name in wanted if name not in part.table.column_names]:
            part.decisions.append(f"{part.files}: no column {', '.join(lacks)}; missing in its rows")


def _meant(gone: Sequence[str], there: Sequence[str]) -> str:
    """What to correct, where ``gone`` are not among the columns ``there``."""
    inside = {name.rpartition(".")[2]: name for name in there if "." in name}
    meant = {name: inside.get(name) or next(iter(near(name, there)), None) for name in gone}
    if lists := [found.partition("[]")[0] for found in meant.values() if found and "[]" in found]:
        return f"The rows are a list inside {lists[0]}: write one a line, as by jq -c '.{lists[0]}[]'"
    if likely := [f"{found} for {name}" for name, found in meant.items() if found]:
        return f"Write {', '.join(likely)} in [source], if that is meant"
    one = "; if that is several columns, set separator in it" if len(there) == 1 else ""
    return f"Correct [source] in the task file{one}"


def _leaves(name: str, kind: pa.DataType) -> Iterator[str]:
    """Names of a column as ``[source]`` takes them, of a struct those of its fields; ``[]`` marks a list of structs."""
    is_list = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    name, kind = (f"{name}[]", kind.value_type) if is_list else (name, kind)
    if not pa.types.is_struct(kind):
        yield name
        return
    for inner in kind:
        yield from _leaves(f"{name}.{inner.name}", inner.type)


def _mixed(part: FileTable, names: Collection[str]) -> pa.Table:
    columns = zip(part.table.column_names, part.table.columns, strict=True)
    return pa.table({n: as_text(c, f"{part.files}: column {n!r}") if n in names else c for n, c in columns})


def _csv(content: pa.Buffer, head: bytes, path: Path, wanted: _ReadRequest, encoding: str | None) -> FileTable:
    """A CSV as text, whose ragged rows are handed back with their number."""
    said = [] if encoding in (None, "utf-8") else [encoding.upper()]
    if _BLANK_THEN_QUOTE.search(head.partition(b"\n")[0]):  # Arrow knows a quote only where a cell begins
        content = of_arrow(_BLANK_THEN_QUOTE.sub(rb'\1"', content.to_pybytes()))
        head = content[:HEAD].to_pybytes()
    try:
        head[: max(head.rfind(b"\n"), 0)].decode()  # a name of the header may hold other letters too
        found = _csv_table(content, head, path, wanted)
    except (pa.ArrowInvalid, UnicodeError) as exc:
        if "UTF8" not in str(exc) and not isinstance(exc, UnicodeError):
            raise
        content = of_arrow(content.to_pybytes().decode("cp1252", "replace").encode())
        found = _csv_table(content, content[:HEAD].to_pybytes(), path, wanted)
        said.append(_NO_UTF_8)
    separator, *below = found.decisions
    if separator != ",":
        said.insert(0, f"{SEPARATORS.get(separator, repr(separator))} between columns")
    said += [f"its last row, {word!r}, is a sum and no event; it is left out" for word in below]
    found.decisions = [f"{path.name}: {', '.join(said)}"] if said else []
    return found


def _csv_table(content: pa.Buffer, head: bytes, path: Path, wanted: _ReadRequest) -> FileTable:
    form = dialect_of(head.decode(errors="replace"), wanted.columns, wanted.separator)
    _check_doubled(path, form.names, wanted.columns)
    # Arrow wants names that differ; a NUL is in no name, as a file that holds one was refused.
    names = [name if form.names.index(name) == i else f"{name}\0{i}" for i, name in enumerate(form.names)]
    # Arrow takes an empty list for all columns; one of them is enough to count the rows.
    used = [name for name in names if name in wanted.columns] or names[:1]
    quoted = re.search(re.escape(form.quote.encode()), content) is not None
    lost, unclosed = list[tuple[int | None, str]](), list[str]()

    def ragged(row: pcsv.InvalidRow) -> str:
        # An open quote takes in lines until the next quote, so one bad cell would be told as thousands of lost rows.
        if "\n" in row.text and row.text.count(form.quote) % 2:
            unclosed.append(row.text)
        why = f"it has {row.actual_columns} cells, the header {row.expected_columns}: {row.text[:80]!r}"
        lost.append((row.number, why))
        return "skip"

    def read(alone: bool) -> pa.Table:
        # A thread does not know which row it is at, and is given nothing of Python's (`of_arrow`).
        return pcsv.read_csv(
            pa.BufferReader(content),
            read_options=pcsv.ReadOptions(column_names=names, skip_rows=form.header_lines, use_threads=not alone),
            parse_options=pcsv.ParseOptions(
                delimiter=form.separator, quote_char=form.quote, escape_char=form.escape or False,
                newlines_in_values=quoted, invalid_row_handler=ragged if alone else None,
            ),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False
            ),
        )  # fmt: skip

    try:
        try:
            table = read(alone=False)
        except pa.ArrowInvalid:
            table = read(alone=True)
    except pa.ArrowInvalid as exc:
        if "Empty CSV" not in str(exc) and "Could not skip" not in str(exc):  # a header alone
            raise
        table = pa.table({name: pa.array([], pa.string()) for name in used})
    if unclosed:
        line = content.to_pybytes().partition(unclosed[0].encode())[0].count(b"\n") + 1
        raise UsageError(
            f"{path}, line {line}: a quote is opened and not closed, so that {unclosed[0].count(chr(10)) + 1:,} lines "
            f"are one row: {unclosed[0][:80]!r}; close it, or remove it"
        )
    # Numbers count from the file's first line; the rows of the table have no place for those that are lost.
    rows = sorted(((number or 0) - form.header_lines - 1, why) for number, why in lost)
    at = [(row - i, why) for i, (row, why) in enumerate(rows)]
    table = pa.table({name: table.column(name) for name in used})
    said = [form.separator]
    if table.num_rows and (word := sum_below(content[-HEAD:].to_pybytes().decode(errors="replace"), form)):
        table = table.slice(0, table.num_rows - 1)
        at.append((table.num_rows, f"a sum below the columns, {word!r}, and no event; take it out of the file"))
        said.append(word)
    sizes = [(path, table.num_rows + len(at))]
    return FileTable(table, sizes, at, said, semicolons=form.separator == ";", there=form.names)


def _json(content: pa.Buffer, path: Path, wanted: _ReadRequest, *, array: bool) -> FileTable:
    if not array:
        try:
            table = _lines_of_json(content)
            table.validate(full=True)  # Arrow does not look whether texts are UTF-8
            kinds = [each.type for each in table.schema if each.name in wanted.texts]
            risky = any(pa.types.is_floating(kind) or pa.types.is_temporal(kind) for kind in kinds)  # lost digits
            if not risky and len(set(table.column_names)) == table.num_columns:
                return _made(table, path, wanted)
        except pa.ArrowException:
            pass  # a line that is no object, or a column of mixed kinds: rows are judged one by one
    said, raw = [], content.to_pybytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, said = raw.decode("cp1252", "replace"), [f"{path.name}: {_NO_UTF_8}"]
    found = json.loads(text) if array else [_parsed(line) for line in text.split("\n") if line.strip()]
    rows = [row for row in found if isinstance(row, dict)]
    if found and not rows:
        first = f"no row is a JSON object; the first is {str(found[0])[:80]!r}"
        raise UsageError(f"{path}: {first}; give one object a line, or an array of them")
    whole = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in whole}
    made = _made(pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))}), path, wanted)
    odd = [(i, str(row)) for i, row in enumerate(found) if not isinstance(row, dict)]
    made.lost = [(row - i, f"not a JSON object: {text[:80]!r}") for i, (row, text) in enumerate(odd)]
    made.sizes, made.decisions = [(path, len(found))], said
    return made


def _lines_of_json(content: pa.Buffer) -> pa.Table:
    """Objects, one a line; texts that are times stay texts.

    Arrow would make ``2026-07-01T10:00+02:00`` a time of UTC and drop that it said so: read in another zone, as times
    without an offset are, it would be hours off.
    """
    table = pjson.read_json(pa.BufferReader(content))
    told = [_texts_for_times(each) for each in table.schema]
    if told == list(table.schema):
        return table
    return pjson.read_json(pa.BufferReader(content), parse_options=pjson.ParseOptions(explicit_schema=pa.schema(told)))


def _texts_for_times(field: pa.Field) -> pa.Field:
    """The field with texts in place of times, at any depth."""
    kind = field.type
    if pa.types.is_temporal(kind):
        return field.with_type(pa.string())
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([_texts_for_times(kind.field(i)) for i in range(kind.num_fields)]))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(_texts_for_times(kind.value_field)))
    return field


def _parsed(line: str) -> Any:
    """What a line holds, in a text again or as an item of a list perhaps, or itself where that is not JSON."""
    try:
        # U+001E begins each record of a JSON text sequence (RFC 7464); a comma ends one that was cut out of an array.
        held = json.loads(line.strip(BLANK + "\x1e,"))
        return json.loads(held) if isinstance(held, str) else held
    except (json.JSONDecodeError, RecursionError):
        return line


def _column(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except UnicodeError:
        return _column([_without_halves(cell) for cell in cells])
    except (pa.ArrowException, OverflowError):
        texts = [c if c is None or isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in cells]
        return pa.array(texts, pa.string())


def _without_halves(value: Any) -> Any:
    r"""The same with half surrogate pairs, which JSON may hold and Arrow cannot, as the text ``\ud800``.

    Ids stay apart by it, and one such row does not refuse the file.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_without_halves(each) for each in value]
    return {name: _without_halves(each) for name, each in value.items()} if isinstance(value, dict) else value
