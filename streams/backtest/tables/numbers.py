"""Columns as numbers: decimal marks, thousands, units and signs as people write them.

How a column is written is decided over all its values. It knows one column, not what it means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.streams.backtest.tables.texts import Cells

_CURRENCIES: Final = (
    "AED|AFN|ALL|AMD|AOA|ARS|ATS|AUD|AWG|AZN|BAM|BBD|BDT|BEF|BGN|BHD|BIF|BMD|BND|BOB|BRL|BSD|BTN|BWP|BYN|BZD|CAD|CDF|CHF|"
    "CLP|CNY|COP|CRC|CUP|CVE|CZK|DEM|DJF|DKK|DOP|DZD|EEK|EGP|ERN|ESP|ETB|EUR|FIM|FJD|FKP|FRF|GBP|GEL|GHS|GIP|GMD|GNF|GRD|"
    "GTQ|GYD|HKD|HNL|HRK|HTG|HUF|IDR|IEP|ILS|INR|IQD|IRR|ISK|ITL|JMD|JOD|JPY|KES|KGS|KHR|KMF|KPW|KRW|KWD|KYD|KZT|LAK|LBP|"
    "LKR|LRD|LSL|LTL|LVL|LYD|MAD|MDL|MGA|MKD|MMK|MNT|MOP|MRU|MUR|MVR|MWK|MXN|MYR|MZN|NAD|NGN|NIO|NLG|NOK|NPR|NZD|OMR|PAB|"
    "PEN|PGK|PHP|PKR|PLN|PTE|PYG|QAR|RON|RSD|RUB|RWF|SAR|SBD|SCR|SDG|SEK|SGD|SHP|SIT|SKK|SLE|SOS|SRD|SSP|STN|SYP|SZL|THB|"
    "TJS|TMT|TND|TOP|TRY|TTD|TWD|TZS|UAH|UGX|USD|UYU|UZS|VES|VND|VUV|WST|XAF|XCD|XOF|XPF|YER|ZAR|ZMW|ZWL"
)
"""ISO 4217, and those that the euro replaced: other letters before digits are a code, as in HUB03."""
_NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[-+]?)\s*(?P<before>{_CURRENCIES}|[A-Z]{{0,2}}\$|[^\w\s.,()+-]|kr\.?|Rs\.?|Fr\.|zł)?"
    r"\s*(?P<sign2>[-+]?)"
    r"(?P<body>\d[\d.,' _]*(?<![ _'])|[.,]\d+)(?P<power>[eE][-+]?\d+)?\s*"
    r"(?P<after>°?[^\W\d_][^\W\d_.²³/]{0,7}[.²³]?(?:/[^\W\d_]{1,4})?|[^\w\s.,()+-])?(?P<sign3>-)?\)?"
)
_DECIMAL = {
    mark: re.compile(
        rf".*\{other}.*\{mark}\d*|(?:0?|\d{{4,}})\{mark}\d+|\d+\{mark}(?:\d{{0,2}}|\d{{4,}})|\d+(?:\{other}\d+){{2,}}"
    )
    for mark, other in (".,", ",.")
}
"""By mark, numbers in which it can only stand before the fraction."""
_SPACES = str.maketrans(dict.fromkeys("\xa0\u2007\u2009\u202f", " ") | {"\u2212": "-", "\u2019": "'"})


@dataclass(slots=True)
class NumberColumn:
    """Numbers of any plain numeric type, and what is none."""

    values: pa.ChunkedArray
    raw: dict[int, str] = field(default_factory=dict)
    """By row, texts that are no numbers."""


class _Parts(NamedTuple):
    sign: str
    body: str
    power: str
    unit: str


def read_numbers(cells: Cells, decimal_mark: str, comma_first: bool) -> NumberColumn:
    """A column as numbers; what cannot be read is null and stands in ``raw``.

    Parameters
    ----------
    decimal_mark : "." or ","; "auto" decides over the column.
    comma_first : whether ``1,250`` alone is taken for 1.25.

    Raises
    ------
    UsageError
        Where the type holds no numbers, most values are none, or two ways to write them are mixed.
    """
    column, kind = cells.values, cells.values.type
    if pa.types.is_null(kind):
        return NumberColumn(pc.cast(column, pa.float64()))
    if pa.types.is_duration(kind):
        per_s = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        cells.say("durations, as seconds")
        # By int64: Arrow casts no duration to a float.
        return NumberColumn(pc.divide(pc.cast(pc.cast(column, pa.int64()), pa.float64(), safe=False), per_s))
    if pa.types.is_temporal(kind):
        raise cells.refuse(0, f"{kind}, a time and no number; give a numeric column")
    if pa.types.is_decimal(kind):
        return NumberColumn(pc.cast(pc.cast(column, pa.string()), pa.float64()))  # by its digits: rounded once
    if not pa.types.is_string(kind) and not pa.types.is_nested(kind) and not pa.types.is_fixed_size_binary(kind):
        return NumberColumn(column)
    texts = cells.texts()
    # Where semicolons separate, 1.250 may be a thousand and more, and Arrow would read 1.25 without a word.
    if decimal_mark != "," and not (comma_first and decimal_mark == "auto" and _grouped(texts)):
        try:
            return NumberColumn(pc.cast(texts, pa.float64()))
        except pa.ArrowInvalid:
            pass
    return _parsed(cells, texts, decimal_mark, comma_first)


def _grouped(texts: pa.ChunkedArray) -> bool:
    """Whether a point stands before three digits wherever there is one, and not everywhere: 850, 1.250."""
    pointed = pc.match_substring(texts, ".")
    groups = pc.match_substring_regex(texts, r"^[-+]?[1-9]\d{0,2}\.\d{3}$")
    some, every = pc.any(pointed).as_py(), pc.all(pointed).as_py()
    return bool(some and not every and pc.all(pc.equal(pointed, groups)).as_py())


def _parsed(cells: Cells, texts: pa.ChunkedArray, decimal_mark: str, comma_first: bool) -> NumberColumn:
    """Numbers by their distinct texts."""
    coded = pc.dictionary_encode(texts.combine_chunks())
    distinct: list[str] = coded.dictionary.to_pylist()
    parts = [_parts(text) for text in distinct]

    def row_of(text: str) -> int:
        return int(pc.index(coded.indices, pa.scalar(distinct.index(text), pa.int32())).as_py())

    mark = decimal_mark if decimal_mark != "auto" else _decimal_mark(distinct, parts, comma_first, row_of, cells)
    _check_unit(distinct, parts, row_of, cells)
    # By distinct texts: a regular expression takes far longer than Arrow's cast.
    values = [_value(text, part, mark) for text, part in zip(distinct, parts, strict=True)]
    indices = np.asarray(pc.fill_null(coded.indices, len(values)))
    bad = np.array([*(v is None for v in values), False], np.bool_)[indices]
    raw = {row: distinct[indices[row]] for row in np.flatnonzero(bad).tolist()}
    there = len(texts) - texts.null_count
    if len(raw) * 2 > there > 1:
        row, text = next(iter(raw.items()))
        raise cells.refuse(
            row,
            f"{text!r}, no number, as {len(raw):,} of its {there:,} values; give a numeric column, or read it as text "
            "in the task (hash(), or == 'web' in an expression)",
        )
    return NumberColumn(pa.chunked_array([pa.array([*values, None], pa.float64()).take(pa.array(indices))]), raw)


def _parts(text: str) -> _Parts | None:
    """Sign, digits with their marks, exponent and unit; ``None`` where it is no number.

    >>> _parts("EUR 1.250,00"), _parts("(12.50)")
    (_Parts(sign='', body='1.250,00', power='', unit='EUR'), _Parts(sign='-', body='12.50', power='', unit=''))
    >>> _parts("five"), _parts("HUB03")
    (None, None)
    """
    text = text.translate(_SPACES)
    found = _NUMBER.fullmatch(text)
    if found is None or (found["open"] is not None) != text.endswith(")"):
        return None
    before, after = found["before"] or "", found["after"] or ""
    if (before and after) or (before and len(before) == 1 and unicodedata.category(before) not in {"Sc", "So"}):
        return None
    signs = {found["sign"], found["sign2"], found["sign3"] or "", "-" if found["open"] else ""} - {""}
    if len(signs) > 1:
        return None
    body = re.sub(r"(?<=\d)[ '_](?=\d{3}(?!\d))", "", found["body"])
    if re.search(r"[ '_]", body):
        return None
    return _Parts("-" if "-" in signs else "", body, found["power"] or "", before or after)


def _decimal_mark(
    distinct: list[str], parts: list[_Parts | None], comma_first: bool, row_of: Callable[[str], int], cells: Cells
) -> str:
    """The mark before the fraction, by the values that leave no doubt."""
    sure: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for text, part in zip(distinct, parts, strict=True):
        if part is not None and (first := next((c for c in part.body if c in ".,"), "")):
            mark = next((mark for mark, told in _DECIMAL.items() if told.fullmatch(part.body)), "")
            (sure if mark else doubtful).setdefault(mark or first, text)
    if len(sure) == 2:
        one, other = sure["."], sure[","]
        raise cells.refuse(
            row_of(other),
            f"{other!r}, but {one!r} in {cells.where(row_of(one))}: the decimal mark differs; set "
            'decimal_mark = "." or "," in [source], or write all values alike',
        )
    if sure:
        [mark] = sure
        if mark == ",":
            cells.say(f"',' is the decimal mark, as in {sure[mark]!r}")
        return mark
    mark = "," if "," in doubtful else "."
    if doubtful and (mark == "," or comma_first):
        role = "the decimal mark" if mark == "," and comma_first else "between thousands"
        cells.say(f"{mark!r} in {doubtful[mark]!r} is taken to be {role}; decimal_mark in [source] can say")
    return "," if doubtful and comma_first else "."


def _check_unit(distinct: list[str], parts: list[_Parts | None], row_of: Callable[[str], int], cells: Cells) -> None:
    """The unit that all numbers have; raises ``UsageError`` where they differ."""
    units: dict[str, str] = {}
    for text, part in zip(distinct, parts, strict=True):
        # Nothing of anything is often written without its unit.
        if part is not None and part.body.strip("0.,"):
            units.setdefault(part.unit, text)
    if len(units) > 1:
        (one, a), (other, b) = list(units.items())[:2]
        raise cells.refuse(
            row_of(b),
            f"{b!r}, but {a!r} in {cells.where(row_of(a))}: units differ ({one or 'none'}, {other or 'none'}); write "
            "all values in one unit",
        )
    [unit] = units or [""]
    if unit:
        cells.say(f"{unit!r} is left off, as in {units[unit]!r}")


def _value(text: str, part: _Parts | None, mark: str) -> float | None:
    if part is None:
        low = text.lower()
        if low in ("true", "false"):
            return float(low == "true")
        return float(low) if low.strip("+-") in ("inf", "infinity") else None
    other = "," if mark == "." else "."
    whole, _, fraction = part.body.partition(mark)
    if (
        other in fraction
        or mark in fraction
        # Groups of two are Indian: 1,00,000.
        or not re.fullmatch(rf"\d*|\d{{1,3}}(?:\{other}\d{{2,3}})*\{other}\d{{3}}", whole)
    ):
        return None
    return float(f"{part.sign}{whole.replace(other, '') or '0'}.{fraction or '0'}{part.power}")
