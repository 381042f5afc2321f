"""What cannot be right in a table is told in one line, with its file, row and column."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.streams.one_table import NAMES, ROWS, TASK, changed, comma, day_first, events, source, text_of, write
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.runner import run_backtest
from weir.streams.backtest.tables.formats import read_files
from weir.streams.backtest.tables.opening import contents
from weir.streams.errors import UsageError


@pytest.mark.parametrize("word", ["(none)", "Not set", "\u2014", "{}", "N/D", "[object Object]", "\u200b", "\u00a0",
                                  "00000000-0000-0000-0000-000000000000"])  # fmt: skip
def test_words_that_are_no_id(tmp_path: Path, word: str) -> None:
    parts = list(source(write(tmp_path, text_of([[*ROWS[0][:2], word, *ROWS[0][3:]], *ROWS[1:]]))).batches(512))
    assert [r.reason for p in parts for r in p.rejects] == [f"user_id: missing ({word!r} in column 'who')"]


def test_an_id_with_a_character_that_is_not_seen_is_refused(tmp_path: Path) -> None:
    rows = changed(zone=lambda v: f"0\u200b{v[1:]}")
    rows[3][2] = "00\u200b3"
    [part] = source(write(tmp_path, text_of(rows))).batches(512)
    [reject] = part.rejects
    assert "user_id: got '00\\u200b3', which holds U+200B" in reject.reason
    assert part.batch.texts["zone"][0] == "0\u200b0", "other texts may hold it"


ERRORS: dict[str, tuple[list[list[str]], str, str]] = {
    "label words": (changed(bad=lambda v: "fraud" if v == "1" else "ok"), "",
                    r"row 1: column 'bad' is 'ok', .*'fraud' \(10\)"),
    "label codes": (changed(bad=lambda v: str(int(v) + 1)), "", r"column 'bad' is '2', which .* positive = \[\.\.\.\]"),
    "positive is not there": (changed(bad=lambda v: "TRUE" if v == "1" else "x"), 'positive = ["1"]', "column 'bad'"),
    "0 and -1": (changed(bad=lambda v: "-1" if v == "1" else "0"), "", "column 'bad' is 0 or -1"),
    "spreadsheet id": (changed(who=lambda _: "8.94902E+19"), "",
                       "row 1: column 'who' is '8.94902E.19': digits of the id"),
    "words": (changed(basket=lambda _: "many"), "", "row 1: column 'basket' is 'many', no number"),
    "units": (changed(basket=lambda v: f"{v} kg" if "3" in v else f"{v} g"), "", "column 'basket' .*units differ"),
    "marks": (changed(basket=lambda v: comma(v) if "3" in v else v), "", "column 'basket' .*the decimal mark differs"),
    "order after a weekday": (changed(at=lambda t: f"Mo 0{int(t[8:10]) % 9 + 1}/02/2026"), "", "'at' .*set time_"),
    "order": (changed(at=lambda t: f"0{int(t[8:10]) % 9 + 1}/02/2026"), "", "column 'at' .*set time_format in"),
    "excel days": (changed(at=lambda t: f"{46000 + int(t[8:10])}.25"), "", "column 'at' is 460.*a spreadsheet's day"),
    "zone": (changed(at=lambda t: f"{t} EST"), "", "row 1: column 'at' is '2026-01-05 00:00:14 EST': EST names no"),
    "no such zone": (changed(at=lambda t: f"{t} Europe/Berln"), "", "row 1: column 'at' .*Europe/Berln names no"),
    "two units": (changed(at=lambda t: str(int(np.datetime64(t, "s").astype(int)) * 1000 ** ("07 " in t))), "",
                  r"row 3: column 'at' is 1767.*, in milliseconds, but 17675.*, in seconds, in .*row 1;"),
    "year first or last": (changed(at=lambda t: f"26/01/{t[8:10]}"), "", "column 'at' .*no value tells whether the"),
    "times rounded": (changed(at=lambda _: "1.77E+12"), "", "row 1: column 'at' is '1.77E.12': digits of the time"),
    "doubled": ([[*row] for row in ROWS], "", "2 columns are named 'eur'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_right_is_one_line_with_file_and_column(tmp_path: Path, name: str) -> None:
    rows, toml, says = ERRORS[name]
    names = NAMES if name != "doubled" else (*NAMES[:5], "eur", "bad")
    path = write(tmp_path, text_of(rows, names=names))
    with pytest.raises(UsageError, match=says) as raised:
        source(path, toml)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_refused_row_of_several_files_is_named_by_its_file(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[12][1] = "never"
    lines = text_of(rows[:9]).splitlines(keepends=True)
    first = write(tmp_path, "".join([*lines[:3], "torn\n", *lines[3:]]), "a.csv")
    second = write(tmp_path, text_of(rows[9:]), "b.csv")
    result = run_backtest(TaskSpec.from_toml(TASK), [first, second], None)
    told = sorted(map(result.told, result.rejects))
    assert [text.partition(":")[0] for text in told] == [f"{first}, row 3", f"{second}, row 4"]


def test_ragged_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    lines = text_of(ROWS).splitlines()
    lines[3], lines[7] = lines[3] + ",x", "e6"
    rows = list(source(write(tmp_path, "\n".join(lines))).batches(4))
    assert {r.index + 1: r.reason[:26] for part in rows for r in part.rejects} == {
        3: "it has 8 cells, the header", 7: "it has 1 cells, the header",
    }  # fmt: skip
    assert sum(part.rows for part in rows) == 20


@pytest.mark.parametrize("text", ['{"id": "e9', '"NA"\n[1, 2]\n3'])
def test_a_file_without_any_object_is_told_by_its_first_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text, "rows.jsonl")
    with pytest.raises(UsageError, match=rf"{path}: no row is a JSON object; the first is "):
        list(source(path).batches(512))


def test_half_a_surrogate_pair_refuses_no_file_and_keeps_ids_apart(tmp_path: Path) -> None:
    cells = ["a\ud800", "a\ud801", "\U0001f600", "b"]
    lines = [json.dumps({"who": cell, "deep": {"in": [cell]}}) for cell in cells]
    found = read_files([write(tmp_path, "\n".join(lines), "rows.jsonl")], ["who", "deep.in"], ["who"]).table
    assert found["who"].to_pylist() == ["a\\ud800", "a\\ud801", "\U0001f600", "b"]
    assert found["deep.in"].to_pylist() == [["a\\ud800"], ["a\\ud801"], ["\U0001f600"], ["b"]]


def test_lines_that_are_no_objects_are_refused_with_their_number(tmp_path: Path) -> None:
    lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS]
    lines[3:3], lines[9:9] = ['{"id": "e9', "[1]"], ["17"]
    rows = list(source(write(tmp_path, "\n".join(lines), "rows.jsonl")).batches(512))
    assert {r.index + 1: r.reason for part in rows for r in part.rejects} == {
        4: "not a JSON object: '{\"id\": \"e9'", 5: "not a JSON object: '[1]'", 10: "not a JSON object: '17'",
    }  # fmt: skip
    assert sum(len(part.batch) for part in rows) == 20


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (text_of(ROWS).replace("e5,", '"e5,').encode(), r"line 7: a quote is opened and not closed, so that 15 lines"),
        (text_of(ROWS).replace("001", '"001', 1).encode(), r"line 3: a quote is opened and not closed"),
        (text_of(ROWS).replace("003", "00\0003", 1).encode(), "no text, for line 5 holds a NUL byte; give CSV"),
        (text_of(ROWS).encode() + b"\0" * 600, "no text, for line 22 holds a NUL byte"),
        (b"Obj\1\4\x16avro.schema" + b"\0" * 50, " is Avro; export it as CSV or Parquet"),
        (b"PK\3\4" + b"\0" * 50, r" is an archive \(zip, 7z, rar, tar\); unpack it"),
        (b"PK\3\4" + b"\x14\0" * 13 + b"xl/workbook.xml", " is a spreadsheet; export the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 50, " is a spreadsheet; export the sheet as CSV"),
        (gzip.compress(gzip.compress(text_of(ROWS).encode())), " is gzip data; unpack it"),
        (b"SQLite format 3\0" + b"\x10\0" * 99, " is a file of SQLite, HDF5, NumPy or ORC; export it"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title>", " is XML or HTML; a login page, perhaps"),
        (text_of(ROWS, names=tuple(map(str.upper, NAMES))).encode(), "Write AT for at, BAD for bad"),
        (b"id at who eur zone basket bad\n", r"one|set separator in it"),
        (json.dumps({"data": [dict(zip(NAMES, ROWS[0], strict=True))]}).encode(), r"as by jq -c '\.data\[\]'"),
        (json.dumps({"n": 1, "payload": dict(zip(NAMES, ROWS[0], strict=True))}).encode(), "Write payload.at for at"),
        (b"PAR1" + b"\0" * 50, "cannot be read: "),
        (b"\n \n", "it is empty; give CSV"),
    ],
)
def test_files_that_are_none_are_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=f"rows.csv.*{says}") as raised:
        source(write(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_ids_that_lost_their_zeros_in_some_files_are_told(tmp_path: Path) -> None:
    first = write(tmp_path, text_of(ROWS[:9]), "a.csv")
    table = pa.table({n: list(c) for n, c in zip(NAMES, zip(*ROWS[9:], strict=True), strict=True)})
    pq.write_table(table.set_column(2, "who", table.column("who").cast(pa.int64())), tmp_path / "b.parquet")
    spec = TaskSpec.from_toml(TASK)
    said = FileSource(spec, columns_of(spec), [first, tmp_path / "b.parquet"]).decisions
    assert any(line.startswith("column 'who': '001' and '1' are two ids: were zeros lost") for line in said)
    assert not any("two ids" in line for line in source(first).decisions)


def test_what_was_decided_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, text_of(changed(eur=comma, at=day_first("."), who=lambda w: "NA" if w == "001" else w), ";"))
    assert source(path, 'time_zone = "Europe/Berlin"\n').decisions == [
        "rows.csv: ';' between columns",
        "column 'at': day, month, year, as in '05.01.2026 00:00:14'",
        "column 'who': 'NA' (3) is missing; `missing` in [source] lists others",
        "column 'eur': ',' is the decimal mark, as in '0,25'",
        "column 'bad': label: 10 true ('1'), 10 false ('0')",
    ]


def test_reasons_name_the_value(tmp_path: Path) -> None:
    rows = [list(row) for row in ROWS]
    rows[2][1], rows[4][1], rows[5][1] = "yesterday", "1999-03-01 00:00", "NA"
    reasons = [r.reason for part in source(write(tmp_path, text_of(rows))).batches(512) for r in part.rejects]
    assert sorted(reasons) == [
        "ts: '1999-03-01 00:00' in column 'at' is read as 1999-03-01: only times of 2000 to 2100 are taken, for "
        "clocks that are not set write others; if it is in another unit or format, set time_format in [source]",
        "ts: 'yesterday' in column 'at' is no time; give ISO 8601 or epoch seconds, "
        "or set time_format (and time_zone) in [source]",
        "ts: missing ('NA' in column 'at')",
    ]  # fmt: skip


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert events(source(write(tmp_path, ",".join(NAMES)))) == []


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("who", [["a"]], "column 'who' is a list<.*>, no single value; give a column of texts or numbers"),
        ("who", [{"id": "a"}], r"column 'who' is a struct<id: string>.*or name one of its fields"),
        ("who", [1.5], "column 'who' is 1.5, of type double: an id of this type may have lost digits"),
        ("who", [b"\xff"], "column 'who' is binary that is no text"),
        ("eur", [[1.0]], "column 'eur' is a list"),
        ("basket", [datetime(2026, 1, 5)], "column 'basket' is timestamp.us., a time and no number"),
        ("at", [time(1, 2)], "column 'at' is time64.us., a time of day without a date"),
        ("at", [timedelta(1)], "column 'at' is duration"),
        ("bad", [0.3], "column 'bad' is '0.3', which is neither true nor false"),
        ("bad", [[1]], "column 'bad' is a list"),
    ],
)
def test_types_of_no_use_are_one_line(tmp_path: Path, name: str, values: list[Any], says: str) -> None:
    columns = dict(zip(NAMES, ([cell] for cell in ROWS[0]), strict=True)) | {name: values}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match=f"rows.parquet, row 1: {says}"):
        source(tmp_path / "rows.parquet")


@pytest.mark.parametrize(("toml", "expected"), [("", 1250.0), ('decimal_mark = "."\n', 1.25)])
def test_a_point_before_three_digits_in_a_file_of_semicolons_is_told(
    tmp_path: Path, toml: str, expected: float
) -> None:
    path = write(tmp_path, text_of(changed(basket=lambda v: "1.250" if "3" in v else "850", eur=lambda _: "1"), ";"))
    read = source(path, toml)
    assert events(read)[3][3]["basket"] == expected
    assert any("between thousands" in said for said in read.decisions) == (toml == "")


def test_a_file_that_is_written_to_meanwhile_changes_no_row_that_was_read(tmp_path: Path) -> None:
    path = write(tmp_path, text_of(ROWS))
    before = path.read_bytes()
    content, _ = contents(path)
    path.write_bytes(b"x")
    assert content.to_pybytes() == before
