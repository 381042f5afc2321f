"""An embedded log in files of a small size, and what it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.records import Record

SMALL = 300
"""Bytes of a segment: a few batches."""


def records(number: int, n: int = 3) -> list[Record]:
    return [Record(b"k%d" % i, b"%d-%d" % (number, i), float(number)) for i in range(n)]


def batches(log: EmbeddedLog, seq: int = 0) -> list[LoggedBatch]:
    return [replace(b, records=tuple(b.records)) for b in log.read(["a", "b"], seq)]


def opened(folder: Path) -> EmbeddedLog:
    return EmbeddedLog(directory=folder, segment_bytes=SMALL)
