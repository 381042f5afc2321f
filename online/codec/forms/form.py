"""Forms: JSON records of one shape with blanks for what differs, written and read much faster than any record can be.

A form knows layout, not meaning: ranges of values are its caller's to check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, pairwise
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, IntVector
from weir.online.codec.forms import form_kernel
from weir.online.codec.forms.floats import MAX_FLOAT_CHARS, SLACK
from weir.online.codec.forms.form_kernel import Ints

# Records written at a time, so that they stay in the processor's cache.
_CHUNK_ROWS = 256
_MOST_CHARS = {
    form_kernel.NUMBER: MAX_FLOAT_CHARS,
    form_kernel.MAYBE_NUMBER: MAX_FLOAT_CHARS,
    form_kernel.COUNT: 20,
    form_kernel.FLAG: 5,
    form_kernel.TEXT: 2,
    form_kernel.MAYBE_TEXT: 3,
}
# At most, for a byte of a text.
_ESCAPED_CHARS = 6
_PAD = b" " * SLACK


@dataclass(frozen=True, slots=True)
class TemplateField:
    """A place in a form; made by the functions and constants below."""

    op: int
    limit: int = 0


def text(limit: int) -> TemplateField:
    """A text of 1 to ``limit`` characters."""
    return TemplateField(form_kernel.TEXT, limit)


def maybe_text(limit: int) -> TemplateField:
    """A member of an object that may be absent; the others of that object have to be such, too."""
    return TemplateField(form_kernel.MAYBE_TEXT, limit)


NUMBER = TemplateField(form_kernel.NUMBER)
MAYBE_NUMBER = TemplateField(form_kernel.MAYBE_NUMBER)
"""Null for NaN."""
COUNT = TemplateField(form_kernel.COUNT)
"""A whole number that is not negative."""
FLAG = TemplateField(form_kernel.FLAG)


@dataclass(frozen=True, slots=True)
class ParsedColumns:
    """The records of an input that are filled-in forms, in input order."""

    index: IntVector
    """``(m,) int64``, the position in the input of each."""
    texts: list[list[str | None]]
    """A column for each text blank, of m texts."""
    numbers: FloatMatrix
    """``(m, C)``, NaN for null."""
    counts: Ints
    """``(m, I)``, with 0 and 1 for flags."""

    def __len__(self) -> int:
        return len(self.index)

    def without(self, joined: InputBuffer, bad: BoolVector) -> ParsedColumns:
        """Give the records ``bad (m,)`` back to ``joined``."""
        if not bad.any():
            return self
        joined.taken[self.index[bad]] = False
        keep = ~bad
        texts = [list(compress(column, keep.tolist())) for column in self.texts]
        return ParsedColumns(self.index[keep], texts, self.numbers[keep], self.counts[keep])


class EncodedRecords(NamedTuple):
    """Filled-in forms, one behind the other."""

    joined: bytes
    ends: Ints
    """``(n,) int64``, where each ends."""

    def records(self) -> list[bytes]:
        """Each by itself."""
        return [self.joined[a:b] for a, b in pairwise([0, *self.ends.tolist()])]


class InputBuffer:
    """Records to read, and which of them were read."""

    def __init__(self, records: Sequence[bytes]) -> None:
        self.bytes = b",".join([*records, _PAD])
        self.sizes = np.fromiter(map(len, records), np.int64, len(records))
        self.taken: BoolVector = np.zeros(len(records), np.bool_)

    def rest(self) -> IntVector:
        """Positions of the records that were not read."""
        return np.flatnonzero(~self.taken)


class JsonTemplate:
    """A record with blanks.

    Parameters
    ----------
    record : what is the same in every record, and a ``TemplateField`` for what is not; objects and arrays may be
    nested.

    Examples
    --------
    >>> fields = {"v": 1, "id": text(8), "x": [NUMBER, MAYBE_NUMBER], "of": {"a": maybe_text(8)}, "ok": FLAG}
    >>> form = JsonTemplate(fields)
    >>> filled = form.fill([["e1", "e2"], [None, "u"]], np.array([[0.5, 2.0], [1e9, np.nan]]), np.array([[1], [0]]))
    >>> (records := filled.records())[1]
    b'{"v":1,"id":"e2","x":[1000000000.0,null],"of":{"a":"u"},"ok":false}'
    >>> form.read(InputBuffer([b"hello", *records])).texts
    [['e1', 'e2'], [None, 'u']]
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        literals, ops = bytearray(), list[tuple[int, int, int, int]]()
        for part in _parts(record):
            constant, blank = part if isinstance(part, tuple) else (part, None)
            op, limit = (blank.op, blank.limit) if blank is not None else (form_kernel.LITERAL, 0)
            ops.append((op, len(literals), len(constant), limit))
            literals += constant
        self._ops = np.array(ops, np.int64)
        self._literals = np.frombuffer(bytes(literals) + _PAD, np.uint8)
        kinds = [op for op, *_ in ops]
        self._maybe = [
            kind == form_kernel.MAYBE_TEXT for kind in kinds if kind in (form_kernel.TEXT, form_kernel.MAYBE_TEXT)
        ]
        self.texts = len(self._maybe)
        self.numbers = sum(kind in (form_kernel.NUMBER, form_kernel.MAYBE_NUMBER) for kind in kinds)
        self.counts = sum(kind in (form_kernel.COUNT, form_kernel.FLAG) for kind in kinds)
        self._most = len(literals) + sum(_MOST_CHARS.get(kind, 0) for kind in kinds)

    def fill(self, texts: Sequence[Sequence[str | None]], numbers: FloatMatrix, counts: Ints) -> EncodedRecords:
        """Fill in ``n`` forms.

        Parameters
        ----------
        texts : a column of n for each text blank, from left to right; None and "" are absent.
        numbers : ``(n, C) float64``, finite, or NaN where the blank is ``MAYBE_NUMBER``.
        counts : ``(n, I) int64``.

        Raises
        ------
        ValueError : another shape, or a text with the character 0.
        """
        n = len(numbers)
        if numbers.shape != (n, self.numbers) or counts.shape != (n, self.counts) or len(texts) != self.texts:
            raise ValueError(
                f"{len(texts)} texts, numbers {numbers.shape}, counts {counts.shape}; this form takes {self.texts} "
                f"texts, ({n}, {self.numbers}) and ({n}, {self.counts})"
            )
        columns = [_column(column, n, maybe) for column, maybe in zip(texts, self._maybe, strict=True)]
        places = np.array([*accumulate(map(len, columns), initial=0)])[: self.texts]
        joined = np.frombuffer(b"".join([*columns, _PAD]), np.uint8)
        bits = np.ascontiguousarray(numbers, np.float64).view(np.uint64)
        space = np.empty(min(n, _CHUNK_ROWS) * self._most + _ESCAPED_CHARS * joined.size + SLACK, np.uint8)
        pieces: list[bytes] = []
        ends, end = np.empty(n, np.int64), 0
        for start in range(0, n, _CHUNK_ROWS):
            rows = slice(start, min(n, start + _CHUNK_ROWS))
            own = ends[rows]
            form_kernel.write_rows(self._ops, self._literals, joined, places, bits[rows], counts[rows], space, own)
            # The space is written over by the next chunk.
            pieces.append(space[: own[-1]].tobytes())
            if end:
                own += end
            end = int(own[-1])
        return EncodedRecords(b"".join(pieces), ends)

    def read(self, joined: InputBuffer) -> ParsedColumns:
        """Read those records that are this form filled in, and were not taken by another form before.

        Whatever is read could have come from ``fill``, but for how numbers are written. Records with texts that need
        escapes or are not ASCII, or with numbers of more than 19 digits, are never read.
        """
        n = len(joined.sizes)
        space = np.empty(len(joined.bytes) + n * self.texts + SLACK, np.uint8)
        bits, counts = np.empty((n, self.numbers), np.uint64), np.empty((n, self.counts), np.int64)
        # Forms of several tasks read one input in turn: what is new in ``taken`` was read by this one.
        before, buf = joined.taken.copy(), np.frombuffer(joined.bytes, np.uint8)
        m, end = form_kernel.read_rows(self._ops, self._literals, buf, joined.sizes, joined.taken, space, bits, counts)
        found = space[:end].tobytes().decode("ascii").split("\0")[:-1]
        texts: list[list[str | None]] = [
            [value or None for value in found[k :: self.texts]] if maybe else list(found[k :: self.texts])
            for k, maybe in enumerate(self._maybe)
        ]
        return ParsedColumns(np.flatnonzero(joined.taken & ~before), texts, bits[:m].view(np.float64), counts[:m])


def _column(texts: Sequence[str | None], n: int, maybe: bool) -> bytes:
    given = [value or "" for value in texts] if maybe else cast("Sequence[str]", texts)
    column = "\0".join([*given, ""]).encode()
    if len(texts) != n or column.count(0) != n:
        raise ValueError(f"{len(texts)} texts with {column.count(0)} ends; give {n}, none with the character 0")
    return column


def _parts(value: Any) -> Iterator[bytes | tuple[bytes, TemplateField]]:
    """Literals and blanks from left to right; a blank with its key where that is written only with it."""
    if isinstance(value, TemplateField):
        yield b"", value
    elif isinstance(value, dict):
        yield b"{"
        for i, (key, member) in enumerate(value.items()):
            name = msgspec.json.encode(key) + b":"
            if isinstance(member, TemplateField) and member.op == form_kernel.MAYBE_TEXT:
                yield name, member
            else:
                yield (b"," if i else b"") + name
                yield from _parts(member)
        yield b"}"
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield b"," if i else b"["
            yield from _parts(member)
        yield b"]" if value else b"[]"
    else:
        yield msgspec.json.encode(value)
