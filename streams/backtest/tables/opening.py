"""Opens files of events: folders, compression and encoding are found by what is there, not by names.

It knows bytes and rows of several files, not what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from weir.online.codec.foreign_formats import magic
from weir.streams.backtest.tables.csv_dialect import encoding_of
from weir.streams.errors import UsageError
from weir.streams.whole_files import read_whole

KINDS = "give CSV, JSONL, a JSON array, Parquet or Arrow, plain or compressed by gzip or zstd"
HEAD = 1 << 16
"""Bytes that are looked at to find how a file is written."""
MAPPED = 256 << 20
"""Files of so many bytes and more are mapped, as they may not fit into memory. Others are read: where somebody writes
to a mapped file, or cuts it, its rows change while they are used, or the process dies of it without a word (SIGBUS)."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\x04\x22\x4d\x18": "lz4"}
# The last is how a message of an Arrow stream begins, which has no magic of its own.
_BINARY = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")


def files_of(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, those of a folder in order of their names; raises ``UsageError`` where there is none."""
    if not paths:
        raise UsageError("no data; give at least one --data FILE")
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            inside = [p for p in inside if all(part[0] not in "._" for part in p.relative_to(path).parts)]
            if not inside:  # but what Spark writes beside them: _SUCCESS, .part-0.crc
                raise UsageError(f"{path} is a folder without data files; {KINDS}")
            yield from inside
        elif not path.exists():
            raise UsageError(f"no such file: {path}")
        else:
            yield path


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file is one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, ValueError, RecursionError, MemoryError) as exc:
        raise UsageError(f"{path}: cannot be read: {(str(exc) or repr(exc)).splitlines()[0]}") from exc


def _plain(path: Path) -> pa.Buffer:
    if not 0 < path.stat().st_size < MAPPED:
        return pa.memory_map(str(path)).read_buffer()
    with read_whole(path):
        return pa.OSFile(str(path)).read_buffer()


def of_arrow(content: bytes) -> pa.Buffer:
    """The bytes in memory of Arrow's own.

    A buffer over Python's needs the interpreter where it is given back. That may be in a thread of Arrow's which is
    behind with what it read, and finds the process at its end: it then dies by SIGABRT.
    """
    held = pa.BufferOutputStream()
    held.write(content)
    return held.getvalue()


def contents(path: Path) -> tuple[pa.Buffer, str | None]:
    """What the file holds, unpacked and UTF-16 as UTF-8, and the encoding that it is known to have."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    packed = next((kind for mark, kind in _COMPRESSED.items() if head.startswith(mark)), None)
    if packed:
        with pa.input_stream(path, compression=packed) as stream:
            content = of_arrow(stream.read())
    else:
        content = _plain(path) if head else of_arrow(b"")
    head = content[:HEAD].to_pybytes()
    if not head.startswith(_BINARY) and (known := magic(head)):
        raise UsageError(f"{path} is {known[0]}; {known[1]}")
    encoding = None if head.startswith(_BINARY) else encoding_of(head)
    if encoding not in (None, "utf-8"):
        # The names of the encodings have their byte order, so Python leaves the mark in the text.
        content = of_arrow(content.to_pybytes().decode(encoding).removeprefix("\ufeff").encode())
    return content, encoding


def place(sizes: Sequence[tuple[Path, int]], row: int, *, always: bool = False) -> str:
    """Where a row of files of these sizes is: its number in its file, named where there are several or ``always``.

    >>> place([(Path("a.csv"), 10), (Path("b.csv"), 5)], 12)
    'b.csv, row 3'
    """
    for path, size in sizes:
        if row < size:
            return f"{path}, row {row + 1}" if always or len(sizes) > 1 else f"row {row + 1}"
        row -= size
    return f"{sizes[-1][0]}, row {row + 1 + sizes[-1][1]}"
