"""Finds how a CSV file is written from its first lines: encoding, separator, quotes, and where its header is.

It knows text, not what the columns mean.
"""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from weir.streams.backtest.tables.texts import BLANK

SEPARATORS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'", "\x01": "Ctrl-A", "~": "'~'", "^": "'^'"}
_SUMS = frozenset(
    ("total", "totals", "grand total", "sum", "summe", "gesamt", "gesamtsumme", "insgesamt", "somme", "suma", "totale")
)
_BOMS = (
    # UTF-32 before UTF-16: its mark begins with the other's.
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CsvDialect:
    """How a file is written."""

    separator: str
    quote: str
    escape: str | None
    names: list[str]
    """Of the columns, blanks around them left off; an empty one is ``column N``."""
    header_lines: int
    """Lines before the first row."""


def encoding_of(head: bytes) -> str | None:
    """The encoding that a byte order mark or NULs tell; ``None`` where it is probably UTF-8.

    >>> encoding_of("a,b".encode("utf-16")), encoding_of("a,b".encode("utf-16-be")), encoding_of(b"a,b")
    ('utf-16-le', 'utf-16-be', None)
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    even, odd = head[0:400:2].count(0), head[1:400:2].count(0)
    if max(even, odd) * 4 > min(len(head), 400) and min(even, odd) * 8 < max(even, odd):  # and no padding
        return "utf-16-be" if even > odd else "utf-16-le"
    return None


def dialect_of(text: str, wanted: Collection[str], separator: str | None = None) -> CsvDialect:
    r"""How the file is written whose first lines are ``text``; ``wanted`` are names that its header may hold.

    >>> dialect_of("sep=;\nid;eur\n1;2,50\n", ()).names
    ['id', 'eur']
    """
    body, skipped = text.lstrip("\ufeff"), 0
    while body:
        line, end, rest = body.partition("\n")
        bare = line.strip().lower()
        if bare.startswith("sep=") and len(bare) <= 5:
            separator = separator or line.strip()[4:] or "\t"
        elif bare and not (bare.startswith("#") and end):
            break
        body, skipped = rest, skipped + bool(end)
    titles = _title_lines(body, wanted)
    body, skipped = "\n".join(body.split("\n")[titles:]), skipped + titles
    quote = "'" if body.startswith("'") else '"'
    escape = "\\" if f"\\{quote}" in body and quote * 2 not in body.replace(f"\\{quote}", "") else None
    tried = [_rows(body, mark, quote, escape) for mark in ([separator] if separator else SEPARATORS)]
    marks = [separator] if separator else list(SEPARATORS)
    # Of equals the first is taken: a file of one column fits every separator, and is told with the comma.
    best = max(range(len(marks)), key=lambda i: _fit(tried[i][0], wanted))
    rows, header_lines = tried[best]
    names = [name.strip(BLANK) for name in rows[0]] if rows else []
    if rows[1:] and all(len(row) == len(names) + 1 for row in rows[1:]):  # a separator ends each line, or as R below
        names.append("")
    if names and len(rows) > 1 and all(len(r) == len(names) and r[-1].strip() for r in rows[1:]) and not names[-1]:
        names = ["", *names[:-1]]  # R's write.table gives its row names no header
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    return CsvDialect(marks[best], quote, escape, names, skipped + header_lines)


def sum_below(tail: str, form: CsvDialect) -> str:
    r"""The word with which the last line begins, where a spreadsheet has sums below its columns; else "".

    >>> form = dialect_of("id,who,eur\n1,ann,5\n2,bob,7\nTotal,,12\n", ())
    >>> sum_below("2,bob,7\nTotal,,12\n", form), sum_below("2,bob,7\n", form)
    ('Total', '')
    """
    line = tail.replace("\r", "\n").rstrip("\n").rpartition("\n")[2]  # lines of old Macs end with "\r" alone
    cells = next(csv.reader([line], delimiter=form.separator, quotechar=form.quote), [])
    said = [cell.strip(BLANK) for cell in cells if cell.strip(BLANK)]
    # A row that is known in all its cells is an event, and one with more or fewer is none already.
    if not said or len(said) == len(cells) or len(cells) != len(form.names):
        return ""
    return said[0] if said[0].strip(BLANK + ":").lower() in _SUMS else ""


def _title_lines(body: str, wanted: Collection[str]) -> int:
    """How many lines stand before the header, such as a title: those before the line that names most of ``wanted``.

    Where nothing is known of the header: the lines of one cell before the first one as wide as most.
    """
    quote = "'" if body.startswith("'") else '"'
    lines = _whole_lines(body.split("\n", 30)[:30], quote)
    cells = [[_cells(line, mark, quote) for mark in SEPARATORS] for line in lines]
    if not wanted:
        titles = _lone_lines(cells)
    else:
        named = [max(len({cell.strip(BLANK + "\"'") for cell in row} & set(wanted)) for row in rows) for rows in cells]
        titles = named.index(max(named)) if not named[0] and 2 * max(named) > len(wanted) else 0
    return sum(1 + line.count("\n") for line in lines[:titles])


def _whole_lines(lines: list[str], quote: str) -> list[str]:
    r"""The lines, those together that a cell with line breaks goes over.

    >>> _whole_lines(['a,"b', 'c","d', 'e" "f",g', '5" disks', '1,2'], '"')
    ['a,"b\nc","d\ne" "f",g', '5" disks', '1,2']
    """
    found: list[str] = []
    at = 0
    while at < len(lines):
        heights = range(1, len(lines) - at + 1)
        # A quote that nothing closes is one of a title, not of a cell.
        height = next((h for h in heights if not _is_open("\n".join(lines[at : at + h]), quote)), 1)
        found.append("\n".join(lines[at : at + height]))
        at += height
    return found


def _is_open(line: str, quote: str) -> bool:
    """Whether a cell that begins with a quote goes on behind the line."""
    is_open, begins = False, True
    for char in line:
        if char == quote and (is_open or begins):
            is_open = not is_open
            begins = not is_open  # a second quote at once is one of the cell's text
        else:
            begins = not is_open and char in SEPARATORS
    return is_open


def _cells(line: str, mark: str, quote: str) -> list[str]:
    """The cells of a line; a separator within quotes is none."""
    return next(csv.reader(line.splitlines(keepends=True), delimiter=mark, quotechar=quote), []) or [""]


def _lone_lines(cells: list[list[list[str]]]) -> int:
    """How many lines of one cell stand before the first one that is as wide as most are."""
    columns = [[len(row[k]) for row in cells] for k in range(len(SEPARATORS))]
    usual = [(Counter(w for w in widths if w > 1).most_common(1) or [(0, 0)])[0] for widths in columns]
    # Decimal commas are in as many lines as the semicolons around them, and make fewer cells of them.
    best = max(range(len(columns)), key=lambda k: usual[k][::-1])
    width, lines = usual[best]
    first = columns[best].index(width) if 2 * lines > len(cells) else 0
    return first if all(w == 1 for w in columns[best][:first]) else 0


def _rows(body: str, separator: str, quote: str, escape: str | None) -> tuple[list[list[str]], int]:
    """The first rows, and how many lines the header takes."""
    reader = csv.reader(
        body.splitlines(keepends=True), delimiter=separator, quotechar=quote, escapechar=escape,
        doublequote=escape is None,
    )  # fmt: skip
    rows: list[list[str]] = []
    header_lines = 1
    with suppress(csv.Error):  # a torn last cell of the sample; what was read so far decides
        for row in islice(filter(None, reader), 41):
            header_lines = header_lines if rows else reader.line_num
            rows.append(row)
    # The sample ends anywhere, so its last row may be torn.
    return (rows if len(rows) < 3 or len(rows) > 40 else rows[:-1]), header_lines


def _fit(rows: list[list[str]], wanted: Collection[str]) -> tuple[int, float, int]:
    """How well a separator fits: wanted names in the header, rows as wide as it, and its width."""
    header = [name.strip(BLANK) for name in rows[0]] if rows else []
    like = sum(len(row) == len(header) for row in rows) / len(rows) if len(header) > 1 else 0.0
    return len(set(header) & set(wanted)), like, len(header)
