"""Columns of any Arrow type as plain ones, as texts and as ids, and the words that mean missing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.codec import wire
from weir.streams.errors import UsageError

MISSING_TEXTS = frozenset([
    "", "#n/a n/a", "#n/a", "#na", "#value!", "#div/0!", "#ref!", "#name?", "#null!", "#num!", "-1.#ind", "-1.#qnan",
    "1.#ind", "1.#qnan", "-nan", "nan", "<na>", "n/a", "na", "null", "(null)", "[null]", "<null>", "none", "nil", "\\n",
    "nat",
])  # fmt: skip
"""Words that mean missing in every column, in lower case."""
MISSING = MISSING_TEXTS | wire.MISSING
"""Words that mean missing where an id, a number, a time or a label stands; other texts may be such."""

BLANK = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + wire.INVISIBLE
"""Characters that are not seen around a value, and do not belong to it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A column of some files, and how to speak of it."""

    values: pa.ChunkedArray
    name: str
    missing: Collection[str]
    """Words that mean missing in it, in lower case."""
    where: Callable[[int], str]
    """File and number of a row."""
    said: list[str]
    """What is decided of it is added here."""

    def refuse(self, row: int, words: str) -> UsageError:
        """The error that says what one of its values is."""
        return UsageError(f"{self.where(row)}: column {self.name!r} is {words}")

    def say(self, words: str) -> None:
        """Tell a decision."""
        self.said.append(f"column {self.name!r}: {words}")

    def texts(self) -> pa.ChunkedArray:
        """Texts without blanks around them, null where missing; raises ``UsageError`` for what is no text."""
        return without_missing(as_text(self.values, f"{self.where(0)}: column {self.name!r}"), self.missing)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a plain type: no dictionary, view, run length or extension."""
    if not isinstance(column, pa.ChunkedArray):
        column = pa.chunked_array([column])
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return pa.chunked_array([pa.array([v and str(v) for v in column.to_pylist()], pa.string())])
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([c.storage for c in column.chunks], kind.storage_type))
    if pa.types.is_dictionary(kind):
        taken = [plain(c.dictionary).take(c.indices) for c in column.chunks]  # a cast knows no views, as Polars has
        chunks = [part for each in taken for part in each.chunks]
        return plain(pa.chunked_array(chunks, taken[0].type if taken else kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        decoded = [pc.run_end_decode(c) for c in column.chunks]
        return plain(pa.chunked_array(decoded, kind.value_type))
    texts, blobs = (pa.string_view(), pa.large_string()), (pa.binary(), pa.large_binary(), pa.binary_view())
    if kind in texts or kind in blobs:
        try:
            return pc.cast(column if kind in texts else pc.cast(column, pa.binary()), pa.string())
        except pa.ArrowInvalid:
            return column  # no text: refused where it is used
    if pa.types.is_float16(kind):
        return pc.cast(column, pa.float32())
    return column


def as_text(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """Values as text; raises ``UsageError`` where a list, a struct or bytes stand in ``what``."""
    kind = column.type
    if pa.types.is_nested(kind):
        inner = kind.field(0).name if pa.types.is_struct(kind) and kind.num_fields else ""
        more = f', or name one of its fields, such as "COLUMN.{inner}"' if inner else ""
        raise UsageError(f"{what} is a {str(kind)[:80]}, no single value; give a column of texts or numbers{more}")
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowException, UnicodeError):
        raise UsageError(f"{what} is {kind} that is no text; write it as text, such as hex") from None


def without_missing(column: pa.ChunkedArray, words: Collection[str]) -> pa.ChunkedArray:
    """Texts without blanks around them; those of ``words``, in lower case, are null."""
    # None where all are null.
    plain_letters = pc.all(pc.string_is_ascii(column)).as_py() is not False
    trimmed = pc.utf8_trim_whitespace(column) if plain_letters else pc.utf8_trim(column, BLANK)
    if pc.starts_with(trimmed[:1], pattern='="').to_pylist() == [True]:  # a text as Excel keeps it: ="007"
        trimmed = pc.replace_substring_regex(trimmed, r'^="(.*)"$', r"\1")
    # Only short texts can be such words: the others are not looked at twice.
    longest = max(map(len, words), default=0)
    short = pc.less_equal(pc.binary_length(trimmed), longest)
    if not pc.any(short).as_py():
        return trimmed
    known = pc.invert(pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(sorted({"", *words}), pa.string())))
    return pc.if_else(known, trimmed, pa.scalar(None, pa.string()))


def read_ids(cells: Cells) -> pa.ChunkedArray:
    """Ids as text that keeps every digit; raises ``UsageError`` where digits are lost already."""
    kind = cells.values.type
    if pa.types.is_floating(kind):
        return _whole(cells)
    ids = cells.texts()
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(ids, r"\.0+$", "")
    ends = pc.min_max(ids).as_py()
    # ":" follows "9".
    if ends["min"] is None or ends["min"] >= ":" or ends["max"] < "0":
        return ids  # none begins with a digit
    broken = pc.match_substring_regex(ids, r"^\d(?:[.,]\d+)?[eE]\+\d\d$")
    if pc.any(broken).as_py():
        at = int(pc.index(broken, True).as_py())
        lost = "digits of the id are lost, as a spreadsheet does with long numbers; export the column as text"
        raise cells.refuse(at, f"{ids[at].as_py()!r}: {lost}")
    pointed = pc.match_substring_regex(ids, r"^\d+\.0$")
    if pc.any(pointed).as_py() and pc.all(pc.match_substring_regex(ids, r"^\d+(\.0)?$")).as_py():
        cells.say("'.0' is left off the ids")
        ids = pc.replace_substring_regex(ids, r"\.0$", "")
    # A spreadsheet takes the zeros off in the rows that it saved: one customer then has two ids, and half a history
    # each.
    padded = ids.filter(pc.match_substring_regex(ids, r"^0\d+$")).unique()
    if len(padded) and (same := pc.is_in(pc.utf8_ltrim(padded, "0"), ids)) and pc.any(same).as_py():
        one = padded.filter(same)[0].as_py()
        cells.say(f"{one!r} and {one.lstrip('0')!r} are two ids: were zeros lost in some rows? Then write all alike")
    return ids


def _whole(cells: Cells) -> pa.ChunkedArray:
    """Floats that are whole numbers, such as pandas makes of ids beside missing ones, by their digits."""
    kind = cells.values.type
    numbers = np.asarray(pc.cast(cells.values, pa.float64()).fill_null(np.nan), np.float64)
    known = ~np.isnan(numbers)
    # From there on a float no longer tells a whole number from its neighbour: two ids may have become one.
    most = 2.0**24 if kind == pa.float32() else 2.0**53
    bad = known & ~((np.abs(numbers) < most) & (numbers == np.floor(numbers)))
    if bad.any():
        at = int(bad.argmax())
        lost = "an id of this type may have lost digits; write the column as text or as whole numbers"
        raise cells.refuse(at, f"{float(numbers[at])!r}, of type {kind}: {lost}")
    # A NaN has no integer; the mask hides the 0 that stands for it.
    whole = pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known)
    return pa.chunked_array([pc.cast(whole, pa.string())])
