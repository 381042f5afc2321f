"""Reads the directory of an embedded log without owning it: nothing is cut off, nothing is locked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from streams.errors import LogError, UsageError
from streams.log import LoggedBatch, Record
from streams.log.segments import _HEADER, _decoder, _payload


class _OnDisk(Sequence[Record]):
    """The records of a frame, read when someone asks for them."""

    def __init__(self, path: Path, position: int, count: int) -> None:
        self._path, self._position, self._count = path, position, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            payload = _payload(file, self._position)
        if payload is None:
            raise LogError(f"{self._path}: no whole batch at byte {self._position}; the file was changed while read")
        return iter([Record(*record) for record in _decoder.decode(payload)[4]])

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | Sequence[Record]:
        return list(self)[at]


def read_segments(directory: Path) -> Iterator[LoggedBatch]:
    """Every whole batch up to the present end, in the log's order.

    Raises
    ------
    UsageError
        There is no log.
    LogError
        A batch is damaged: what stands behind it would be lost in silence.
    """
    path = directory / "records.log"
    if not path.is_file():
        raise UsageError(f"{path}: no such log; give the directory that the embedded host writes")
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at < size:
            payload = _payload(file, at)
            if payload is None:
                _check_torn(path, at, size)
                return
            seq, topic, partition, offset, records = _decoder.decode(payload)
            yield LoggedBatch(seq, topic, partition, offset, _OnDisk(path, at, len(records)))
            at += _HEADER.size + len(payload)


def _check_torn(path: Path, at: int, size: int) -> None:
    """A frame that is not whole may be one that is being written, which is then the last."""
    with path.open("rb") as file:
        file.seek(at)
        header = file.read(_HEADER.size)
    if len(header) == _HEADER.size and at + _HEADER.size + _HEADER.unpack(header)[1] <= size:
        raise LogError(f"{path}: damaged at byte {at} of {size}; restore the file")
