"""Times of a table: as the task describes them, with offsets and zones, and in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.streams.one_table import NAMES, ROWS, TASK, changed, day_first, events, source, text_of, write
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource


@pytest.mark.parametrize(
    ("toml", "cell", "expected"),
    [
        ('time_format = "%d/%m/%Y %H:%M"', "05/01/2026 00:00", 1767571200.0),
        ('time_zone = "Europe/Berlin"', "2026-01-05 01:00", 1767571200.0),
        ('time_zone = "Europe/Berlin"', "05.01.2026 01:00", 1767571200.0),
        ('time_zone = "Europe/Berlin"', "Jan 5, 2026 01:00", 1767571200.0),
        ('time_zone = "Europe/Berlin"', "2026-01-05T00:00Z", 1767571200.0),
        ("", "2026-01-04 24:00", 1767571200.0),
        ("", "04.01.2026 24:00:00", 1767571200.0),
        ("", "2026-01-05 01:00 Europe/Berlin", 1767571200.0),
        ("", "202601050000", 1767571200.0),
        ('time_format = "unix_us"', "1767571200000000", 1767571200.0),
    ],
)
def test_times_that_the_task_describes(tmp_path: Path, toml: str, cell: str, expected: float) -> None:
    [row] = events(source(write(tmp_path, text_of(changed(at=lambda _: cell)[:1])), toml + "\n"))
    assert row[1] == expected


@pytest.mark.parametrize("form", ["csv", "lines", "array", "nested"])
@pytest.mark.parametrize(
    "cells", [("2026-07-01T10:00:00+02:00", "2026-07-01 12:00:00"), ("2026-07-01T01:00:00-07:00",)]
)
def test_an_offset_is_obeyed_in_every_format(tmp_path: Path, form: str, cells: tuple[str, ...]) -> None:
    rows = [[f"e{i}", cell, *ROWS[i][2:]] for i, cell in enumerate(cells)]
    records: list[dict[str, Any]] = [dict(zip(NAMES, row, strict=True)) for row in rows]
    if form == "nested":
        records = [record | {"at": {"begun": record["at"]}} for record in records]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    text = {"csv": text_of(rows), "array": json.dumps(records)}.get(form, lines)
    toml = TASK.replace('"at"', '"at.begun"') if form == "nested" else TASK
    spec = TaskSpec.from_toml(toml + 'time_zone = "Europe/Berlin"\n')
    read = FileSource(spec, columns_of(spec), [write(tmp_path, text, "rows.csv" if form == "csv" else "rows.jsonl")])
    assert [event[1] - 1782892800.0 for event in events(read)] == [0.0, 7200.0][: len(cells)]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_times_of_which_some_have_no_offset_are_told(tmp_path: Path, zone: str) -> None:
    cells = ["2026-01-05T01:00:00+01:00", "2026-01-05 01:00:00", "2026-01-05T00:00:00Z"]
    rows = [[f"e{i}", cell, *ROWS[i][2:]] for i, cell in enumerate(cells)]
    read = source(write(tmp_path, text_of(rows)), f'time_zone = "{zone}"\n')
    later = 3600.0 if zone == "UTC" else 0.0
    assert sorted(e[1] - 1767571200.0 for e in events(read)) == [0.0, 0.0, later]
    word = f"column 'at': 1 of 3 times have no offset, as '2026-01-05 01:00:00': taken to be of {zone}"
    assert word in read.decisions
    alike = source(write(tmp_path, text_of(rows[::2])), f'time_zone = "{zone}"\n')
    assert not any("offset" in line for line in alike.decisions)


@pytest.mark.parametrize(
    ("toml", "by"),
    [
        ("", str),
        ("", day_first(".")),
        ("", lambda t: f"{t} Europe/Berlin"),
        ('time_format = "%d/%m/%Y %H:%M:%S"\n', day_first("/")),
    ],
)
def test_hours_that_a_clock_skips_and_repeats_are_the_same_however_they_are_written(
    tmp_path: Path, toml: str, by: Callable[[str], str]
) -> None:
    cells = ["2026-03-29 01:30:00", "2026-03-29 02:30:00", "2026-10-25 02:30:00", "2026-10-25 03:30:00"]
    rows = [[f"e{i}", by(cell), *ROWS[i][2:]] for i, cell in enumerate(cells)]
    read = source(write(tmp_path, text_of(rows)), 'time_zone = "Europe/Berlin"\n' + toml)
    assert [e[1] - 1774742400.0 for e in events(read)] == [1800.0, 3600.0, 18145800.0, 18153000.0]
    assert [row["ts"] for wire, _, _ in read.wire_rows(7) for row in wire] == [e[1] for e in events(read)]


def test_times_of_a_type_that_rounds_them_are_told(tmp_path: Path) -> None:
    table = pa.table({n: list(c) for n, c in zip(NAMES, zip(*ROWS, strict=True), strict=True)})
    pq.write_table(table.set_column(1, "at", pa.array(np.arange(20.0) + 1.77e9, pa.float32())), tmp_path / "f.parquet")
    assert any(
        "'at': of type float, which holds such times to 128 only" in line
        for line in source(tmp_path / "f.parquet").decisions
    )
