"""Takes a sample of bounded size from files of any format, and picks those of several that belong together.

Of a large file the head and stretches spread over it are taken, so that rows of one entity stay neighbours. It knows
files and names of columns, not what they mean.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weir.streams.backtest.tables.csv_dialect import CsvDialect, dialect_of
from weir.streams.backtest.tables.formats import FileTable, read_files
from weir.streams.backtest.tables.opening import HEAD, contents, files_of, readable
from weir.streams.errors import UsageError

MOST_ROWS: Final = 200_000
_STRETCHES: Final = 8
_TEXT_BYTES: Final = 40_000_000
"""Bytes of a text file that are read whole; about as many rows as ``MOST_ROWS`` of an ordinary table."""
_NO_DATA: Final = {".md", ".rst", ".html", ".pdf", ".py", ".toml", ".yaml", ".yml", ".png", ".svg", ".ipynb"}
"""Endings of what lies beside data in a folder."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of files that have about the same columns."""

    paths: tuple[Path, ...]
    """The files that a task is to read."""
    read: tuple[Path, ...]
    """What was read of them: themselves, or files that hold their sample."""
    rows: int
    """Of the files, estimated where only a part was read."""
    table: FileTable
    doubled: tuple[str, ...]
    """Names that several columns have: none of them can be used."""


class _File(NamedTuple):
    path: Path
    part: Path
    """Itself, or a file with a part of its rows."""
    share: float
    there: list[str]
    """Names of all columns."""


def samples_of(paths: Sequence[Path], folder: Path, most: int = MOST_ROWS) -> tuple[list[Sample], list[str]]:
    """A sample for each group of files with about the same columns, and what was left out with the reason.

    Parameters
    ----------
    paths : files or folders.
    folder : an empty folder that lives as long as the samples do: those of large files are kept there.
    most : rows of a group at most, about.

    Raises
    ------
    UsageError
        Where no file can be read.
    """
    given = {path.resolve() for path in paths}
    found = [p for p in files_of(paths) if p.resolve() in given or p.suffix.lower() not in _NO_DATA]
    groups, left = list[list[_File]](), list[str]()
    for number, path in enumerate(found):
        try:
            with readable(path):
                part, share = _part(path, folder / str(number), most // len(found))
            file = _File(path, part, share, read_files([part], (), ()).there)
        except UsageError as exc:
            left.append(str(exc))
            continue
        mine = next((group for group in groups if _alike(group[0].there, file.there)), None)
        groups.append([file]) if mine is None else mine.append(file)
    made = []
    for group in groups:
        try:
            made.append(_sample(group))
        except UsageError as exc:
            left.append(str(exc))
    if not made:
        raise UsageError(left[0] if left else "no data file; give a CSV, JSONL, Parquet or Arrow file")
    return made, left


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether most columns of either file are in both."""
    return len({*one} & {*other}) * 5 >= 3 * len({*one} | {*other})


def _sample(group: Sequence[_File]) -> Sample:
    counts = [Counter(name for name in file.there if "[]" not in name) for file in group]
    doubled = {name for there in counts for name, n in there.items() if n > 1}
    names = dict.fromkeys(name for there in counts for name in there if name not in doubled)
    table = read_files([file.part for file in group], list(names), ())
    table.table = table.table.select([name for name in names if name in table.table.column_names])  # in their order
    rows = sum(n / file.share for (_, n), file in zip(table.sizes, group, strict=True))
    paths, parts = tuple(file.path for file in group), tuple(file.part for file in group)
    return Sample(paths, parts, round(rows), table, tuple(sorted(doubled)))


def _part(path: Path, folder: Path, most: int) -> tuple[Path, float]:
    """A file with a part of another's rows, and their share; the file itself where it is small."""
    content, encoding = contents(path)
    head = content[:HEAD].to_pybytes()
    if head.startswith(b"PAR1"):
        return _parquet_part(pq.ParquetFile(content), path, folder, most)
    size, bytes_most = content.size, _TEXT_BYTES * most // MOST_ROWS
    if size <= bytes_most or head.startswith((b"ARROW1", b"\xff\xff\xff\xff")) or _begins(head) == b"[":
        return path, 1.0  # an array cannot be cut, an Arrow file is mapped
    each = bytes_most // _STRETCHES
    starts = np.linspace(2 * each, size - each, _STRETCHES - 1).astype(int).tolist()
    # Two lines at least, header and row: of thousands of files a stretch may be shorter than a wide header.
    first = max(each, head.find(b"\n", head.find(b"\n") + 1) + 1)
    form = None if _begins(head) == b"{" else dialect_of(head.decode(errors="replace"), ())
    kept = [_rows_of(content[:first].to_pybytes(), form, torn=0)]
    kept += [_rows_of(content[start : start + each].to_pybytes(), form, torn=1) for start in starts]
    folder.mkdir()
    # What is written is not packed, and the ending left tells JSON lines.
    made = folder / re.sub(r"\.(gz|zst|bz2|lz4)$", "", path.name)
    text = b"".join(kept)
    # In its own encoding, which is told as that of the file.
    made.write_bytes(text if encoding in (None, "utf-8") else text.decode().encode(encoding))
    return made, sum(map(len, kept)) / size


def _rows_of(stretch: bytes, form: CsvDialect | None, torn: int) -> bytes:
    """The whole rows of a stretch, the first ``torn`` and the last line of which are not whole."""
    lines = stretch.split(b"\n")[torn:-1]
    if form is not None and form.quote.encode() in stretch:
        # It may begin and end within a cell that goes over several lines: with a row that is one line all is in step.
        rows = range(len(lines))
        start = next((i for i in rows if _is_row(lines[i], form)), 0) if torn else 0
        stop = next((i for i in reversed(rows) if _is_row(lines[i], form)), len(lines) - 1)
        lines = lines[start : stop + 1]
    return b"".join(line + b"\n" for line in lines)


def _is_row(line: bytes, form: CsvDialect) -> bool:
    text = line.decode(errors="replace")
    cells = next(csv.reader([text], delimiter=form.separator, quotechar=form.quote), [])
    return len(cells) == len(form.names) and text.count(form.quote) % 2 == 0


def _begins(head: bytes) -> bytes:
    """The first byte that is seen."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def _parquet_part(file: pq.ParquetFile, path: Path, folder: Path, most: int) -> tuple[Path, float]:
    rows = file.metadata.num_rows
    if rows <= most:
        return path, 1.0
    groups = sorted({*np.linspace(0, file.num_row_groups - 1, _STRETCHES).astype(int).tolist()})
    table = pa.concat_tables([_stretches(file.read_row_group(at), most // len(groups)) for at in groups])
    folder.mkdir()
    pq.write_table(table, folder / path.name)
    return folder / path.name, table.num_rows / rows


def _stretches(table: pa.Table, most: int) -> pa.Table:
    """At most so many rows: several runs of neighbours, evenly spread."""
    if table.num_rows <= most:
        return table
    each = max(most // _STRETCHES, 1)
    starts = np.linspace(0, table.num_rows - each, min(_STRETCHES, most)).astype(int).tolist()
    return pa.concat_tables([table.slice(start, each) for start in starts])
