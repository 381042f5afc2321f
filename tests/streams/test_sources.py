"""Event files as sources: the same rows give the same events whatever the format, and a bad row is one bad row."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource, SourceBatch
from weir.streams.errors import UsageError

TASK = """
name = "fraud"
entity = "user"
numbers = ["score"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["mean"], windows = ["1d"], where = "zone == '01'" }]
[[entities]]
name = "merchant"
key = "merchant_id"
[model]
kind = "logistic"
[source]
columns = { user_id = "USER", merchant_id = "SHOP", amount = "EUR", zone = "ZONE", score = "SCORE" }
constants = { type = "purchase" }
event_id = "ID"
time = "AT"
label = "BAD"
label_delay = "1d"
"""
COLUMNS = ("ID", "AT", "USER", "SHOP", "EUR", "ZONE", "SCORE", "BAD")
Row = tuple[Any, ...]
ROWS: list[Row] = [
    ("1", "2024-03-01 10:00:00", "007", "s1", 5.0, "01", 1.0, 0),
    ("2", "2024-03-01 10:00:00", "7", None, 12.25, "1", None, 1),
    ("3", "2024-03-01 09:00:00", "07", "s2", 3.0, None, 3.5, None),
    ("4", "2024-03-02 00:00:00.5", "Nora", "s1", None, "02", 4.0, 1),
]
"""Ids that a guessing reader would turn into numbers, missing cells of each kind, and times that step back."""


def task(**source: Any) -> TaskSpec:
    spec = TaskSpec.from_toml(TASK)
    assert spec.source is not None
    return spec.model_copy(update={"source": spec.source.model_copy(update=source)})


def csv_text(rows: Sequence[Row], names: Sequence[str] = COLUMNS) -> str:
    lines = [",".join(names)]
    lines += [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    return "\n".join(lines) + "\n"


def write_csv(folder: Path, rows: Sequence[Row], name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(csv_text(rows))
    return path


def write_gz(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.csv.gz"
    path.write_bytes(gzip.compress(csv_text(rows).encode()))
    return path


def write_parquet(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(
        pa.table({name: list(cells) for name, cells in zip(COLUMNS, zip(*rows, strict=True), strict=True)}), path
    )
    return path


def write_jsonl(folder: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> Path:
    path = folder / name
    cells = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in cells))
    return path


WRITERS: dict[str, Callable[[Path, Sequence[Row]], Path]] = {
    "csv": write_csv, "csv.gz": write_gz, "parquet": write_parquet, "jsonl": write_jsonl,
}  # fmt: skip


def read(spec: TaskSpec, *paths: Path, size: int = 512) -> list[SourceBatch]:
    return list(FileSource(spec, columns_of(spec), paths).batches(size))


def plain(batches: list[SourceBatch]) -> list[Any]:
    """Every event as Python values, missing numbers as ``None``, with its label (``None`` where it has none)."""
    out: list[Any] = []
    for part in batches:
        b = part.batch
        numbers = {n: [None if np.isnan(v) else v for v in c.tolist()] for n, c in b.numbers.items()}
        assert part.label is not None
        known = zip(part.label.tolist(), part.labelled.tolist(), strict=True)
        labels = [value if there else None for value, there in known]
        for i in range(len(b)):
            cells = {n: c[i] for n, c in (b.entities | b.texts | numbers).items()}
            out.append((b.event_id[i], float(b.ts[i]), b.type[i], cells, labels[i]))
    return out


def rejected(batches: list[SourceBatch]) -> dict[int, str]:
    return {r.index: r.reason for part in batches for r in part.rejects}


@pytest.mark.parametrize("write", list(WRITERS.values()), ids=list(WRITERS))
def test_each_format_gives_the_same_events(tmp_path: Path, write: Callable[[Path, Sequence[Row]], Path]) -> None:
    batches = read(task(), write(tmp_path, ROWS))
    assert rejected(batches) == {}
    day = 1_709_251_200.0
    names = ("user_id", "merchant_id", "zone", "amount", "score")
    assert plain(batches) == [
        (event, day + at, "purchase", dict(zip(names, cells, strict=True)), known)
        for event, at, cells, known in [
            ("3", 9 * 3600, ("07", "s2", None, 3.0, 3.5), None),
            ("1", 36_000, ("007", "s1", "01", 5.0, 1.0), False),
            ("2", 36_000, ("7", None, "1", 12.25, None), True),
            ("4", 86_400.5, ("Nora", "s1", "02", None, 4.0), True),
        ]
    ]


cells = st.tuples(
    st.integers(0, 2000),
    st.sampled_from(["u1", "01", "1", "ü,", "true", "nulla", "1e5"]),
    st.one_of(st.none(), st.sampled_from(["s1", "001"])),
    st.one_of(st.none(), st.floats(0, 1e6).map(lambda v: round(v, 3))),
    st.one_of(st.none(), st.sampled_from(["01", "x"])),
    st.one_of(st.none(), st.floats(-1e9, 1e9)),
    st.one_of(st.none(), st.integers(0, 1)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(cells, min_size=1, max_size=12))
def test_any_rows_give_the_same_events_in_each_format(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Row]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = [(f"e{i}", 1_700_000_000 + row[0], *row[1:]) for i, row in enumerate(drawn)]
    quoted = [tuple(f'"{c}"' if isinstance(c, str) and "," in c else c for c in row) for row in rows]
    written = [write(folder, quoted if name.startswith("csv") else rows) for name, write in WRITERS.items()]
    first, *others = [read(task(), path) for path in written]
    assert rejected(first) == {}
    for other in others:
        assert plain(other) == plain(first)
        assert rejected(other) == {}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_files_are_merged_by_event_time(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"e{i}", int(t), "u1", "s1", 1.0, "01", 1.0, 0) for i, t in enumerate(1.7e9 + rng.permutation(50))]
    whole = plain(read(task(), write_csv(tmp_path, rows), size=size))
    halves = [write_csv(tmp_path, rows[:20], "a.csv"), write_parquet(tmp_path, rows[20:])]
    parts = read(task(), *halves, size=size)
    assert plain(parts) == whole
    assert [t for _, t, *_ in whole] == sorted(t for _, t, *_ in whole)
    assert sum(part.rows for part in parts) == 50
    assert all(len(part.batch) <= size for part in parts)


def test_rows_of_one_moment_keep_their_order(tmp_path: Path) -> None:
    rows = [(f"e{i}", 1_700_000_000, "u1", None, 1.0, None, None, 0) for i in range(30)]
    assert [e for e, *_ in plain(read(task(), write_csv(tmp_path, rows), size=7))] == [f"e{i}" for i in range(30)]


def test_arrival_order_keeps_each_entitys_rows_in_file_order(tmp_path: Path) -> None:
    times = [("a", 10), ("b", 11), ("a", 5), ("b", 12), ("a", 20)]
    rows = [(f"e{i}", 1_700_000_000 + t, u, None, 1.0, None, None, 0) for i, (u, t) in enumerate(times)]
    made = plain(read(task(order="arrival"), write_csv(tmp_path, rows)))
    assert [e for e, _, _, c, _ in made if c["user_id"] == "a"] == ["e0", "e2", "e4"]
    assert [e for e, _, _, c, _ in made if c["user_id"] == "b"] == ["e1", "e3"]


@pytest.mark.parametrize("write", list(WRITERS.values()), ids=list(WRITERS))
@pytest.mark.parametrize(
    ("column", "bad", "reason"),
    [
        ("EUR", -5e12, r"out of range: amount is -5e\+12, allowed 1e\+12"),
        ("USER", "x" * 65, "user_id: .*1 to 64 char"),
        ("USER", None, "user_id: "),
        ("ID", None, "event_id: "),
        ("AT", "yesterday", "ts: "),
        ("AT", None, "ts: "),
        ("AT", "1969-01-01 00:00:00", "ts: "),
    ],
)  # fmt: skip
def test_a_bad_row_is_rejected_with_its_number_and_the_rest_read(
    tmp_path: Path, write: Callable[[Path, Sequence[Row]], Path], column: str, bad: Any, reason: str
) -> None:
    rows = [list(row) for row in ROWS]
    rows[1][COLUMNS.index(column)] = bad
    batches = read(task(), write(tmp_path, [tuple(row) for row in rows]))
    assert list(rejected(batches)) == [1]
    assert re.match(reason, rejected(batches)[1]), rejected(batches)[1]
    assert [e for e, *_ in plain(batches)] == ["3", "1", "4"]
    assert sum(part.rows for part in batches) == 4


@pytest.mark.parametrize("write", [write_csv, write_gz, write_jsonl], ids=["csv", "csv.gz", "jsonl"])
def test_a_number_that_is_none_rejects_one_row_not_the_file(
    tmp_path: Path, write: Callable[[Path, Sequence[Row]], Path]
) -> None:
    rows = [(*row[:4], "five" if row[0] == "2" else row[4], *row[5:]) for row in ROWS]
    batches = read(task(), write(tmp_path, rows))
    assert list(rejected(batches)) == [1]
    assert [c["amount"] for _, _, _, c, _ in plain(batches)] == [3.0, 5.0, None]


def test_a_line_that_is_no_json_rejects_one_row_not_the_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, ROWS)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b'{"ID": "2", "AT"', *lines[2:]]))
    batches = read(task(), path)
    assert list(rejected(batches)) == [1]
    assert [e for e, *_ in plain(batches)] == ["3", "1", "4"]


def test_a_csv_whose_numbers_change_their_kind_far_down_is_read(tmp_path: Path) -> None:
    """Whole numbers for a megabyte, then one with a fraction."""
    rows: list[Row] = [(f"e{i:06d}", 1_700_000_000 + i, "user-0001", "shop-0001", 5, "01", 1, 0) for i in range(30_000)]
    rows.append(("last", 1_800_000_000, "user-0001", "shop-0001", 5.5, "x", 1.5, 1))
    spec = task()
    source = FileSource(spec, columns_of(spec), [write_csv(tmp_path, rows)])
    *_, last = source.batches(4096)
    assert len(source) == 30_001
    assert last.batch.numbers["amount"].tolist()[-1] == 5.5


@pytest.mark.parametrize(
    ("time_format", "cell", "expected"),
    [
        ("auto", "1700000000.5", 1_700_000_000.5),
        ("unix", "1700000000.5", 1_700_000_000.5),
        ("unix_ms", "1700000000500", 1_700_000_000.5),
        ("auto", "2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("iso", "2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("iso", "2023-11-14T23:13:20.25+01:00", 1_700_000_000.25),
        ("iso", "2023-11-14 22:13:20", 1_700_000_000.0),
        ("iso", "2023-11-14", 1_699_920_000.0),
        ("iso", "1700000000", None),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_time_formats(
    tmp_path: Path, time_format: str, cell: str, expected: float | None, mixed: bool, kind: str
) -> None:
    """A column of one kind of times, or with one bad one among them, which changes nothing for the others."""
    rows = [("1", cell, "u1", None, 1.0, None, None, 0)]
    if mixed:
        rows.append(("2", "never", "u1", None, 1.0, None, None, 0))
    batches = read(task(time_format=time_format), WRITERS[kind](tmp_path, rows))
    assert [t for _, t, *_ in plain(batches)] == ([] if expected is None else [expected])
    assert set(rejected(batches)) == ({0} if expected is None else set()) | ({1} if mixed else set())


def test_parquet_times_of_any_unit_are_read(tmp_path: Path) -> None:
    for unit in ("s", "ms", "us", "ns"):
        table = pa.table({n: [c] for n, c in zip(COLUMNS, ROWS[0], strict=True)})
        stamp = pa.array([1_700_000_000], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
        for kind in (pa.timestamp(unit), pa.timestamp(unit, tz="Europe/Paris")):
            path = tmp_path / "t.parquet"
            pq.write_table(table.set_column(1, "AT", stamp.cast(kind)), path)
            assert [t for _, t, *_ in plain(read(task(), path))] == [1_700_000_000.0]


def test_without_a_time_column_rows_are_an_interval_apart(tmp_path: Path) -> None:
    made = plain(read(task(time=None, row_interval=60.0, start=1.6e9, event_id=None), write_csv(tmp_path, ROWS)))
    assert [(e, t) for e, t, *_ in made] == [(f"row-{i}", 1.6e9 + 60 * i) for i in range(4)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", r"no such file: .*gone.csv"),
        ("x.xlsx", b"PK\3\4", r"x.xlsx is an archive \(zip, 7z, rar, tar\); unpack it"),
        ("x.csv", b"", r"x.csv: cannot be read: it is empty; give CSV"),
        ("x.jsonl", b"", r"x.jsonl: cannot be read: "),
        ("x.parquet", b"", r"x.parquet: cannot be read: "),
        ("x.parquet", b"not parquet at all", r"x.parquet: cannot be read: "),
        ("x.csv.gz", b"not gzip", r"x.csv.gz: no column AT, .*; there are: not gzip"),
        ("x.csv", b"a,b\n1,2,3\n", r"x.csv: no column AT, .*; there are: column 1, a, b"),
        ("x.csv", b"ID,USER,SHOP,EUR,ZONE,SCORE\n1,2,3,4,5,6\n",
         r"x.csv: no column AT, BAD; there are: ID, USER, SHOP, EUR, ZONE, SCORE. Correct \[source\] in the task file"),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_problem_and_the_way_out(
    tmp_path: Path, name: str | None, content: bytes, message: str
) -> None:
    path = tmp_path / (name or "gone.csv")
    if name is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read(task(), path)


def test_no_file_at_all_is_an_error() -> None:
    with pytest.raises(UsageError, match="give at least one --data FILE"):
        read(task())


def test_a_csv_with_only_its_header_has_no_rows(tmp_path: Path) -> None:
    assert plain(read(task(), write_csv(tmp_path, []))) == []


@pytest.mark.parametrize("write", list(WRITERS.values()), ids=list(WRITERS))
def test_device_rows_become_metrics(tmp_path: Path, write: Callable[[Path, Sequence[Row]], Path]) -> None:
    toml = """
name = "heat"
stream = "device-events"
entity = "device"
numbers = ["temperature"]
[[entities]]
name = "device"
key = "device_id"
aggregates = [{ name = "hot", ops = ["count"], windows = ["1d"], where = "zone == '01'" }]
[model]
kind = "logistic"
[source]
columns = { device_id = "USER", temperature = "SCORE", zone = "ZONE" }
event_id = "ID"
time = "AT"
"""
    batches = read(TaskSpec.from_toml(toml), write(tmp_path, ROWS))
    assert rejected(batches) == {}
    (part,) = batches
    assert part.batch.entities["device_id"] == ["07", "007", "7", "Nora"]
    np.testing.assert_array_equal(part.batch.numbers["temperature"], [3.5, 1.0, np.nan, 4.0])
    assert part.batch.texts["zone"] == [None, "01", "1", "02"]
