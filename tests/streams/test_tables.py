"""The same rows as spreadsheets, R, pandas and databases write them: the same events."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.streams.one_table import NAMES, ROWS, TASK, changed, comma, day_first, events, source, text_of, write
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.backtest.runner import run_backtest
from weir.streams.backtest.tables.csv_dialect import dialect_of
from weir.streams.errors import UsageError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return events(source(write(tmp_path_factory.mktemp("plain"), text_of(ROWS))))


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


def test_no_thread_of_arrow_is_left_with_what_is_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who gives that back while the process ends dies of it: one in eight `weir send` of a header alone ended so.
    paths = [write(tmp_path, made(), name.replace(" ", "_")) for name, made in FILES.items() if "json " not in name]
    read_csv = pcsv.read_csv

    def refused(_: object) -> pa.Buffer:
        raise AssertionError("a buffer of Python's is given to Arrow")

    def read(content: Any, read_options: Any, parse_options: Any, **more: Any) -> pa.Table:
        assert not (read_options.use_threads and parse_options.invalid_row_handler), "a function of Python's is given"
        return read_csv(content, read_options=read_options, parse_options=parse_options, **more)

    monkeypatch.setattr(pa, "py_buffer", refused)
    monkeypatch.setattr(pcsv, "read_csv", read)
    for path in paths:
        assert len(source(path)) == len(ROWS), path.name
    assert len(source(write(tmp_path, text_of(ROWS[:0]), "header.csv"))) == 0
    ragged = source(write(tmp_path, text_of([*ROWS, ["one cell"]]), "ragged.csv"))
    assert "it has 1 cells" in str([bad.reason for part in ragged.batches(512) for bad in part.rejects])


@pytest.mark.parametrize("wanted", [(), ("id", "at"), ("amount\nin EUR", "id", "at")])
@pytest.mark.parametrize(
    "title", ["", "Payments of\n\n", '"Payments of ""all"" shops\nof January"\n', 'The 3" disks\n']
)
@pytest.mark.parametrize("header", ['"amount\nin EUR",id,at', 'id,"amount\nin EUR",at', 'id,at,"amount\nin EUR"'])
def test_a_header_cell_may_go_over_several_lines(header: str, title: str, wanted: tuple[str, ...]) -> None:
    found = dialect_of(f"{title}{header}\n" + "1,2,3\n" * 40, wanted)
    assert (found.separator, found.names) == (",", header.replace('"', "").split(","))
    assert found.header_lines == (title + header).count("\n") + 1


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("title", ["", "Umsatz\n"])
def test_a_separator_in_quotes_and_a_decimal_comma_make_no_title_of_the_header(title: str, every: int) -> None:
    lines = [f"p{i};2,50;" + ('"late;\nrung"' if i % every == 0 else "ok") for i in range(40)]
    found = dialect_of(title + "\n".join(["id;eur;note", *lines, ""]), ())
    assert (found.separator, found.names) == (";", ["id", "eur", "note"])


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


@pytest.mark.parametrize("code", ["HUB03", "ABC1", "XYZ 12", "SKU-7", "A320"])
def test_letters_that_are_no_currency_make_a_code_and_no_number(tmp_path: Path, code: str) -> None:
    """Else a hub or an airport would be learned as a number, and nobody would be told."""
    with pytest.raises(UsageError, match="no number"):
        events(source(write(tmp_path, text_of(changed(basket=lambda _: code)))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_ids_keep_their_digits(tmp_path: Path) -> None:
    big = [89490200001234500000 + i for i in range(20)]
    rows = [dict(zip(NAMES, row, strict=True)) | {"who": who} for row, who in zip(ROWS, big, strict=True)]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    assert [e[2]["user_id"] for e in events(source(path))] == list(map(str, big))
    floats = pa.table({n: list(c) for n, c in zip(NAMES, zip(*ROWS, strict=True), strict=True)})
    pq.write_table(floats.set_column(2, "who", pa.array(np.arange(20.0) + 12345)), tmp_path / "f.parquet")
    assert events(source(tmp_path / "f.parquet"))[0][2]["user_id"] == "12345"


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
