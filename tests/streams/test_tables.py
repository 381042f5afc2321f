"""The same rows as spreadsheets, R, pandas and databases write them: the same events, or one line that says why not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.runner import run_backtest
from weir.streams.backtest.tables.csv_dialect import dialect_of
from weir.streams.backtest.tables.formats import read_files
from weir.streams.errors import UsageError

TASK = """
name = "fraud"
entity = "user"
numbers = ["basket"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["mean"], windows = ["1d"], where = "zone == '01'" }]
[model]
kind = "logistic"
[source]
columns = { user_id = "who", amount = "eur", zone = "zone", basket = "basket" }
event_id = "id"
time = "at"
label = "bad"
"""
NAMES = ("id", "at", "who", "eur", "zone", "basket", "bad")
ROWS: list[list[str]] = [
    [f"e{i}", f"2026-01-{i + 5:02d} {i % 24:02d}:{i:02d}:14", f"00{i % 7}", f"{i}.25", f"0{i % 3}", f"{1000 + i}.5",
     str(i % 2)]
    for i in range(20)
]  # fmt: skip


def source(path: Path, toml: str = "") -> FileSource:
    spec = TaskSpec.from_toml(TASK + toml)
    return FileSource(spec, columns_of(spec), [path])


def events(read: FileSource) -> list[Any]:
    out: list[Any] = []
    for part in read.batches(512):
        assert [r.reason for r in part.rejects] == []
        b = part.batch
        numbers = {n: c.tolist() for n, c in b.numbers.items()}
        assert part.label is not None
        labels = [bool(v) if k else None for v, k in zip(part.label, part.labelled, strict=True)]
        for i in range(len(b)):
            texts = {n: c[i] for n, c in (b.entities | b.texts).items()}
            out.append((b.event_id[i], float(b.ts[i]), texts, {n: c[i] for n, c in numbers.items()}, labels[i]))
    return out


def text_of(rows: list[list[str]], separator: str = ",", names: tuple[str, ...] = NAMES, end: str = "\n") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text or "\n" in text else text

    return "".join(separator.join(map(cell, row)) + end for row in [list(names), *rows])


def write(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def changed(**by: Callable[[str], str]) -> list[list[str]]:
    return [[by.get(name, str)(cell) for name, cell in zip(NAMES, row, strict=True)] for row in ROWS]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return events(source(write(tmp_path_factory.mktemp("plain"), text_of(ROWS))))


def comma(text: str) -> str:
    return text.replace(".", ",")


def german(text: str) -> str:
    return f"{float(text):,.2f}".translate(str.maketrans(",.", ".,"))


FILES: dict[str, Callable[[], bytes]] = {
    "semicolons": lambda: text_of(changed(eur=comma, basket=comma), ";").encode(),
    "tabs": lambda: text_of(ROWS, "\t").encode(),
    "an old Mac": lambda: text_of(ROWS, end="\r").encode(),
    "pipes": lambda: text_of(ROWS, "|").encode(),
    "excel": lambda: ("sep=;\r\n" + text_of(changed(eur=german, basket=german), ";", end="\r\n")).encode("utf-8-sig"),
    "utf-16": lambda: text_of(ROWS, "\t").encode("utf-16"),
    "utf-16 bare": lambda: text_of(ROWS).encode("utf-16-be"),
    "comments": lambda: ("# made by a gateway\n\n" + text_of(ROWS)).encode(),
    "blanks": lambda: text_of([[f" {c} " for c in row] for row in ROWS], names=tuple(f" {n} " for n in NAMES)).encode(),
    "quotes": lambda: b"\n".join(b",".join(b'"%b"' % c.encode() for c in row) for row in [list(NAMES), *ROWS]),
    "single quotes": lambda: "\n".join(",".join(f"'{c}'" for c in row) for row in [list(NAMES), *ROWS]).encode(),
    "row names": lambda: text_of([[str(i), *row] for i, row in enumerate(ROWS)]).encode(),
    "a comma at the end": lambda: text_of([[*row, ""] for row in ROWS]).encode(),
    "newlines": lambda: text_of([[*row, "a\nb"] for row in ROWS], names=(*NAMES, "note\n2")).encode(),
    "doubled": lambda: text_of([[*row, "x", "y"] for row in ROWS], names=(*NAMES, "note", "note")).encode(),
    "latin-1": lambda: text_of([[*row, "é"] for row in ROWS], names=(*NAMES, "naïf")).encode("latin-1"),
    "gzip": lambda: gzip.compress(text_of(ROWS).encode()),
    "zstd": lambda: pa.compress(text_of(ROWS).encode(), "zstd", asbytes=True),
    "ctrl-a": lambda: text_of(ROWS, "\x01").encode(),
    "tildes": lambda: text_of(ROWS, "~").encode(),
    "a title": lambda: ("Payments of January\n\n" + text_of(ROWS)).encode(),
    "two marks of a start": lambda: ("\ufeff\ufeff" + text_of(ROWS)).encode(),
    "invisible": lambda: text_of(
        changed(who=lambda v: f"\u200b{v}\ufeff", bad=lambda v: f"{v}\u200e"), names=("id", "\u200bat", *NAMES[2:])
    ).encode(),
    "blanks before quotes": lambda: b"\n".join(
        b", ".join(b'"%b"' % c.encode() for c in row) for row in [list(NAMES), *ROWS]
    ),
    "json, commas at the ends": lambda: "".join(
        f"{json.dumps(dict(zip(NAMES, row, strict=True)))},\n" for row in ROWS
    ).encode(),
    "json as text": lambda: "".join(
        json.dumps(json.dumps(dict(zip(NAMES, row, strict=True)))) + "\n" for row in ROWS
    ).encode(),
    "json sequence": lambda: "".join(
        f"\x1e{json.dumps(dict(zip(NAMES, row, strict=True)))}\n" for row in ROWS
    ).encode(),
    "latin-1 json": lambda: "".join(
        json.dumps(dict(zip(NAMES, row, strict=True)) | {"n": "é"}, ensure_ascii=False) + "\n" for row in ROWS
    ).encode("latin-1"),
    "json": lambda: json.dumps([dict(zip(NAMES, row, strict=True)) for row in ROWS], indent=1).encode(),
    "json lines": lambda: "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_are_found_by_content(tmp_path: Path, plain: list[Any], name: str) -> None:
    ending = "jsonl" if "json as" in name or "sequence" in name else "data"
    assert events(source(write(tmp_path, FILES[name](), f"rows.{ending}"))) == plain


@pytest.mark.parametrize("wanted", [(), ("id", "at"), ("amount\nin EUR", "id", "at")])
@pytest.mark.parametrize(
    "title", ["", "Payments of\n\n", '"Payments of ""all"" shops\nof January"\n', 'The 3" disks\n']
)
@pytest.mark.parametrize("header", ['"amount\nin EUR",id,at', 'id,"amount\nin EUR",at', 'id,at,"amount\nin EUR"'])
def test_a_header_cell_may_go_over_several_lines(header: str, title: str, wanted: tuple[str, ...]) -> None:
    found = dialect_of(f"{title}{header}\n" + "1,2,3\n" * 40, wanted)
    assert (found.separator, found.names) == (",", header.replace('"', "").split(","))
    assert found.header_lines == (title + header).count("\n") + 1


def test_gzip_of_several_members_and_folders(tmp_path: Path, plain: list[Any]) -> None:
    lines = text_of(ROWS).splitlines(keepends=True)
    content = gzip.compress("".join(lines[:9]).encode()) + gzip.compress("".join(lines[9:]).encode())
    assert events(source(write(tmp_path, content))) == plain
    folder = tmp_path / "day"
    folder.mkdir()
    write(folder, text_of(ROWS[:7]), "a.csv")
    write(folder, text_of(ROWS[7:], ";"), "b.csv")
    write(folder, b"", "_SUCCESS")
    assert events(source(folder)) == plain


def am_pm(text: str) -> str:
    year, month, day, clock = text[:4], text[5:7], text[8:10], text[11:]
    hour = int(clock[:2])
    return f"{int(month)}/{int(day)}/{year} {(hour - 1) % 12 + 1}:{clock[3:]} {'PM' if hour >= 12 else 'AM'}"


def day_first(mark: str) -> Callable[[str], str]:
    return lambda t: f"{t[8:10]}{mark}{t[5:7]}{mark}{t[:4]} {t[11:]}"


SPELLINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "1/-1": ("bad", lambda v: "1" if v == "1" else "-1"),
    "WAHR": ("bad", lambda v: "WAHR" if v == "1" else "FALSCH"),
    "Non": ("bad", lambda v: "Oui" if v == "1" else "Non"),
    "formula": ("who", lambda w: f'="{w}"'),
    "TRUE": ("bad", lambda v: "TRUE" if v == "1" else "FALSE"),
    "Yes": ("bad", lambda v: "Yes" if v == "1" else "no "),
    "1.00": ("bad", lambda v: f" {v}.00"),
    "1,0": ("bad", lambda v: f"{v},0"),
    "1.": ("bad", lambda v: f"{v}."),
    "'1'": ("bad", lambda v: f"'{v}'"),
    "t/f": ("bad", lambda v: "t" if v == "1" else "f"),
    "BigQuery": ("at", lambda t: f"{t} UTC"),
    "zulu": ("at", lambda t: t.replace(" ", "T") + ".000000000Z"),
    "offset": ("at", lambda t: f"{t}+0000"),
    "short offset": ("at", lambda t: f"{t}.0+00"),
    "log4j": ("at", lambda t: f"{t},000"),
    "slashes": ("at", lambda t: t.replace("-", "/")),
    "german": ("at", day_first(".")),
    "british": ("at", day_first("/")),
    "american": ("at", am_pm),
    "compact": ("at", lambda t: t.replace("-", "").replace(" ", "T").replace(":", "")),
    "digits": ("at", lambda t: t.replace("-", "").replace(" ", "").replace(":", "")),
    "words": ("at", lambda t: f"Jan {int(t[8:10])}, 2026 {t[11:]}"),
    "mail": ("at", lambda t: f"Mon, {t[8:10]} Jan 2026 {t[11:]} +0000"),
    "apache": ("at", lambda t: f"[{t[8:10]}/Jan/2026:{t[11:]} +0000]"),
    "oracle": ("at", lambda t: f"{t[8:10]}-JAN-2026 {t[11:]}"),
    "ctime": ("at", lambda t: f"Mon Jan {int(t[8:10]):2d} {t[11:]} 2026"),
    "ms": ("at", lambda t: str(int(np.datetime64(t, "ms").astype(int)))),
    "us": ("at", lambda t: str(int(np.datetime64(t, "us").astype(int)))),
    "ns": ("at", lambda t: str(int(np.datetime64(t, "ns").astype(int)))),
    "comma": ("basket", comma),
    "1,250.00": ("basket", lambda v: f"{float(v):,.2f}"),
    "1.250,00": ("basket", german),
    "1 250,00": ("basket", lambda v: f"{float(v):,.2f}".replace(",", "\u202f").replace(".", ",")),
    "1'250.00": ("basket", lambda v: f"{float(v):,.2f}".replace(",", "'")),
    "euro": ("basket", lambda v: f"EUR {v}"),
    "dollar": ("basket", lambda v: f"${float(v):,.2f}"),
    "after": ("basket", lambda v: f"{comma(v)} €"),
    "percent": ("basket", lambda v: f"{v} %"),
    "plus": ("basket", lambda v: f"+{v}"),
    "two digits": ("at", lambda t: day_first(".")(t).replace("2026", "26")),
    "american, two digits": ("at", lambda t: am_pm(t).replace("2026", "26")),
    "zulu, java": ("at", lambda t: f"{t.replace(' ', 'T')}Z[UTC]"),
    "true minus": ("at", lambda t: f"{t}\u221200:00"),
    "at": ("at", lambda t: f"January {int(t[8:10])}, 2026 at {t[11:]}"),
    "weekday": ("at", lambda t: f"Mo {day_first('.')(t)}"),
    "zone by name": ("at", lambda t: f"{t} Etc/UTC"),
    "java": ("at", lambda t: f"{t.replace(' ', 'T')}+00:00[Etc/UTC]"),
    "javascript": ("at", lambda t: f"Mon Jan {t[8:10]} 2026 {t[11:]} GMT+0000 (Coordinated Universal Time)"),
    "db2": ("at", lambda t: f"{t[:10]}-{t[11:].replace(':', '.')}.000000"),
    "sas": ("at", lambda t: f"{t[8:10]}JAN2026:{t[11:]}"),
    "sql server": ("at", lambda t: f"Jan {int(t[8:10]):2d} 2026 {t[11:]}"),
    "degrees": ("basket", lambda v: f"{v}°C"),
    "power": ("basket", lambda v: f"{float(v):.6e}"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_column(tmp_path: Path, plain: list[Any], name: str) -> None:
    column, by = SPELLINGS[name]
    assert events(source(write(tmp_path, text_of(changed(**{column: by}))))) == plain


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(SPELLINGS)), max_size=3), st.sampled_from(";\t|,"))
def test_any_spellings_together(tmp_path: Path, plain: list[Any], names: list[str], separator: str) -> None:
    by = {SPELLINGS[name][0]: SPELLINGS[name][1] for name in names}
    assert events(source(write(tmp_path, text_of(changed(**by), separator)))) == plain


def scores(path: Path) -> list[tuple[str, float]]:
    out = path.with_suffix(".scores")
    run_backtest(TaskSpec.from_toml(TASK + 'label_delay = "1d"\nbatch_size = 2\n'), [path], out)
    table = pq.read_table(out)
    return list(zip(table.column("event_id").to_pylist(), table.column("score").to_pylist(), strict=True))


def scores_or_error(path: Path) -> list[tuple[str, float]] | str:
    try:
        return scores(path)
    except UsageError as error:
        return str(error)


@pytest.fixture(scope="module")
def plain_scores(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, float]]:
    found = scores(write(tmp_path_factory.mktemp("scores"), text_of(ROWS)))
    assert len({score for _, score in found}) > 10, "the labels are learned"
    return found


CELLS = st.sampled_from(
    ["NA", "", "many", "12,5", "1e3", "EST", "8.9E+19", "-", "0.3", "\u00bd", "24:00", "TRUE", "x\ny"]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(sorted(SPELLINGS)), max_size=3),
    st.sampled_from(";\t|,"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.none() | st.tuples(st.integers(0, len(ROWS) - 1), st.sampled_from(NAMES), CELLS),
)
def test_any_spelling_has_the_scores_of_the_plain_one_or_an_error_that_names_the_column(
    tmp_path: Path,
    plain_scores: list[tuple[str, float]],
    names: list[str],
    separator: str,
    encoding: str,
    odd: tuple[int, str, str] | None,
) -> None:
    """An odd cell may also lose its row, or its number: then rows before it have the scores of the plain ones."""
    by = {SPELLINGS[name][0]: SPELLINGS[name][1] for name in names}
    rows = changed(**by)
    if odd is not None:
        rows[odd[0]][NAMES.index(odd[1])] = odd[2]
    path = write(tmp_path, text_of(rows, separator).encode(encoding))
    found = scores_or_error(path)
    if isinstance(found, str):
        assert odd is not None
        assert f"column {odd[1]!r}" in found
    elif odd is None:
        assert found == plain_scores
    else:
        assert found[: odd[0] // 2 * 2] == plain_scores[: odd[0] // 2 * 2] or odd[1] == "at"


@pytest.mark.parametrize("kind", ["dictionary", "view", "large", "decimal", "float16", "stamp", "bool", "ree"])
def test_types_of_parquet_and_arrow(tmp_path: Path, plain: list[Any], kind: str) -> None:
    table = pa.table({n: pa.array(list(c)) for n, c in zip(NAMES, zip(*ROWS, strict=True), strict=True)})

    def put(name: str, values: Any) -> None:
        nonlocal table
        table = table.set_column(table.schema.get_field_index(name), name, values)

    if kind == "dictionary":
        for name in NAMES:
            put(name, table.column(name).dictionary_encode())
    elif kind in ("view", "large"):
        for name in NAMES:
            put(name, table.column(name).cast(pa.string_view() if kind == "view" else pa.large_string()))
    elif kind == "decimal":
        put("eur", table.column("eur").cast(pa.decimal128(38, 2)))
        put("bad", table.column("bad").cast(pa.decimal256(40, 1)))
    elif kind == "float16":
        put("eur", pa.array(np.array([float(v[3]) for v in ROWS], np.float16)))
    elif kind == "stamp":
        put("at", table.column("at").cast(pa.timestamp("ns")))
    elif kind == "bool":
        put("bad", pa.array([row[-1] == "1" for row in ROWS]))
    elif kind == "ree":
        put("zone", pa.chunked_array([pa.compute.run_end_encode(table.column("zone").combine_chunks())]))
    path = tmp_path / "rows.bin"
    if kind in ("view", "ree"):
        with ipc.new_stream(path, table.schema) as out:
            out.write_table(table)
    else:
        pq.write_table(table, path)
    assert events(source(path)) == plain


@pytest.mark.parametrize("word", ["NA", "null", "None", "#N/A", "\\N", " n/a ", "<NA>", "(null)", "NaN", "[NULL]"])
def test_words_for_missing_are_the_same_in_every_column(tmp_path: Path, word: str) -> None:
    rows = [list(row) for row in ROWS]
    for at, name in enumerate(("who", "eur", "zone", "basket", "bad")):
        rows[at][NAMES.index(name)] = word
    parts = list(source(write(tmp_path, text_of(rows))).batches(512))
    assert [r.reason for p in parts for r in p.rejects] == [f"user_id: missing ({word!r} in column 'who')"]
    [part] = parts
    assert (np.isnan(part.batch.numbers["amount"][0]), np.isnan(part.batch.numbers["basket"][2])) == (True, True)
    assert (part.batch.texts["zone"][1], bool(part.labelled[3])) == (None, False)
    kept = list(source(write(tmp_path, text_of(rows)), 'missing = ["gone"]\npositive = ["1"]\n').batches(512))
    assert kept[0].batch.entities["user_id"][0] == word.strip()


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


def test_ids_keep_their_digits(tmp_path: Path) -> None:
    big = [89490200001234500000 + i for i in range(20)]
    rows = [dict(zip(NAMES, row, strict=True)) | {"who": who} for row, who in zip(ROWS, big, strict=True)]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    assert [e[2]["user_id"] for e in events(source(path))] == list(map(str, big))
    floats = pa.table({n: list(c) for n, c in zip(NAMES, zip(*ROWS, strict=True), strict=True)})
    pq.write_table(floats.set_column(2, "who", pa.array(np.arange(20.0) + 12345)), tmp_path / "f.parquet")
    assert events(source(tmp_path / "f.parquet"))[0][2]["user_id"] == "12345"


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


def test_own_words_for_labels(tmp_path: Path, plain: list[Any]) -> None:
    rows = changed(bad=lambda v: "Fraud" if v == "1" else "ok")
    path = write(tmp_path, text_of(rows))
    assert events(source(path, 'positive = ["fraud"]\n')) == plain
    assert events(source(path, 'positive = ["fraud"]\nnegative = ["OK"]\n')) == plain
    read = source(path, 'positive = ["fraud"]\nunlabelled = ["ok"]\n')
    assert {e[-1] for e in events(read)} == {True, None}
    assert [label for _, labels, _ in read.wire_rows(7) for label in labels] == [e[-1] for e in events(read)]


def test_a_date_or_nothing_is_a_label(tmp_path: Path, plain: list[Any]) -> None:
    """The date of a chargeback, in a CSV and where there is a null."""
    rows = changed(bad=lambda v: "2026-02-01" if v == "1" else "")
    words = 'positive = ["*"]\nnegative = [""]\n'
    assert events(source(write(tmp_path, text_of(rows)), words)) == plain
    columns = {name: [row[at] or None for row in rows] for at, name in enumerate(NAMES)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    assert events(source(tmp_path / "rows.parquet", words)) == plain
    assert {e[-1] for e in events(source(tmp_path / "rows.parquet", 'positive = ["*"]\n'))} == {True, None}


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


def test_a_field_of_a_struct_can_be_named(tmp_path: Path, plain: list[Any]) -> None:
    rows = [dict(zip(NAMES, row, strict=True)) | {"who": {"id": row[2]}} for row in ROWS]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    spec = TaskSpec.from_toml(TASK.replace('user_id = "who"', 'user_id = "who.id"'))
    assert events(FileSource(spec, columns_of(spec), [path])) == plain


def test_files_of_other_types_meet(tmp_path: Path, plain: list[Any]) -> None:
    """Text in one file, whole numbers, floats and times in another."""
    first = write(tmp_path, text_of(ROWS[:9], ";"))
    table = pa.table({n: list(c) for n, c in zip(NAMES, zip(*ROWS[9:], strict=True), strict=True)})
    for name, kind in (("eur", pa.float64()), ("at", pa.timestamp("ms")), ("bad", pa.int8())):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table.column(name).cast(kind))
    pq.write_table(table, tmp_path / "rows.parquet")
    spec = TaskSpec.from_toml(TASK)
    assert events(FileSource(spec, columns_of(spec), [first, tmp_path / "rows.parquet"])) == plain


def test_a_column_whose_name_is_no_utf_8_is_found(tmp_path: Path, plain: list[Any]) -> None:
    names = tuple("größe" if name == "eur" else name for name in NAMES)
    path = write(tmp_path, text_of(ROWS, names=names).encode("cp1252"))
    spec = TaskSpec.from_toml(TASK.replace('"eur"', '"größe"'))
    read = FileSource(spec, columns_of(spec), [path])
    assert events(read) == plain
    assert read.decisions[0] == "rows.csv: encoding cp1252, for it is no UTF-8"


@pytest.mark.parametrize(("toml", "expected"), [("", 1250.0), ('decimal_mark = "."\n', 1.25)])
def test_a_point_before_three_digits_in_a_file_of_semicolons_is_told(
    tmp_path: Path, toml: str, expected: float
) -> None:
    path = write(tmp_path, text_of(changed(basket=lambda v: "1.250" if "3" in v else "850", eur=lambda _: "1"), ";"))
    read = source(path, toml)
    assert events(read)[3][3]["basket"] == expected
    assert any("between thousands" in said for said in read.decisions) == (toml == "")
