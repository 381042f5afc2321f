"""What ``weir init`` reads of large files: stretches of their lines, bounded and spread."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.streams.awkward_tables import Rows
from weir.streams.workbench.profile.sampled import samples_of


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_sample_of_a_large_file_is_bounded_and_spread(tmp_path: Path, form: str) -> None:

    n = 200_000
    table: Rows = {"at": list(range(n)), "who": [i % 977 for i in range(n)]}
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        path.write_text("at,who\n" + "".join(f"{a:09d},{w:09d}\n" for a, w in zip(*table.values(), strict=True)))
    else:
        pq.write_table(pa.table(table), path, row_group_size=20_000)
    (tmp_path / "samples").mkdir()
    [sample], _ = samples_of([path], tmp_path / "samples", 4_000)
    at = [int(text) for text in sample.table.table.column("at").to_pylist()]
    assert len(at) < 50_000
    assert at[:50] == list(range(50))
    assert max(b - a for a, b in pairwise(at)) < n / 5
    assert abs(sample.rows - n) < 0.02 * n


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_sample_holds_whole_rows_where_a_cell_goes_over_several_lines(tmp_path: Path, where: int) -> None:
    cells = [f"{n:06d}" for n in range(60_000)]
    note = '"called; ""back""\nand, then\nno more"'
    rows = [[cell, "12,50", "x"] for cell in cells]
    for n, row in enumerate(rows):
        row.insert(where, note if n % 3 else "ok")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([";".join("abcd"), *map(";".join, rows), ""]))
    (tmp_path / "kept").mkdir()
    (sample,), _ = samples_of([path], tmp_path / "kept", most=4_000)
    with sample.read[0].open(newline="") as file:
        read = list(csv.reader(file, delimiter=";"))
    assert sample.read[0] != path
    assert len(read) > 5_000
    assert {len(row) for row in read} == {4}
    assert {row[where] for row in read[1:]} == {"ok", 'called; "back"\nand, then\nno more'}
    assert abs(sample.rows - len(rows)) < 0.02 * len(rows)


def test_a_header_that_is_longer_than_a_stretch_stays_whole(tmp_path: Path) -> None:
    """Of thousands of files in a folder little is read of each."""
    names = [f"temperature_{k}" for k in range(300)]
    lines = [",".join(names), *(",".join(str(n + k) for k in range(300)) for n in range(100))]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "kept").mkdir()
    (sample,), left = samples_of([path], tmp_path / "kept", most=40)
    assert (sample.table.table.column_names, left) == (names, [])
    assert 1 <= sample.table.table.num_rows < 40


def test_an_array_behind_a_byte_order_mark_is_not_cut(tmp_path: Path) -> None:
    rows = [{"id": f"e{n}", "text": "x" * 100} for n in range(200)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "kept").mkdir()
    (sample,), left = samples_of([tmp_path / "rows.json"], tmp_path / "kept", most=40)
    assert (sample.table.table.num_rows, left) == (200, [])
