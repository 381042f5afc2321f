"""Records between scoring workers and inference workers: blocks of rows as MessagePack.

Decision: one record carries a block of rows of one task, column by column, numbers as their bytes. Partition ``p`` of
the requests holds the rows of partition ``p`` of the events, which is why no row needs a key of its own; a block's key
is its task. An answer names its block and keeps the order of its rows, whose event ids the asker knows.

Measured on one core (512 rows of 40 float32, ids of 36 characters; write and read, us a row): JSON rows with floats 2.7
and 2.9 at 555 to 900 B; JSON rows with base64 0.9 and 2.1 at 335 B; MessagePack rows 0.33 and 0.23 at 228 B;
MessagePack blocks 0.02 and 0.07 at 217 B, and one Kafka record instead of 512. Nobody but Weir reads these topics, and
they are kept for an hour, so that people can read them matters less here than 5 us an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from weir.models.types import Float32Matrix
from weir.online.batch import FloatMatrix, FloatVector
from weir.online.codec.accept import in_range
from weir.online.codec.judge import OUT_OF_RANGE
from weir.online.codec.wire import FEATURE_MAX, MADE_ID_CHARS, TS_MAX, TS_MIN
from weir.online.errors import UNREADABLE

VERSION: Final = 1
_TEXT_BYTES: Final = 96
"""What a row's event id and entity take, amply."""
_WHO: Final = "only scoring workers write this topic"
BLOCK_BYTES: Final = 400_000
"""Of a request at most, about: brokers take one MiB."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    """Rows of one task to be scored, in the order in which they were scored by the online model."""

    v: int
    id: str
    """Unique: that of the asker, and a number."""
    task: str
    event_id: list[str]
    entity_id: list[str]
    ts_bytes: bytes
    """``(n,)`` float64, event time, epoch seconds."""
    x_bytes: bytes
    """``(n, D)`` float32, the columns of the full model."""

    @property
    def ts(self) -> FloatVector:
        """``(n,)`` float64 event times, epoch seconds."""
        return np.frombuffer(self.ts_bytes, dtype="<f8")

    @property
    def x(self) -> Float32Matrix:
        """``(n, D)`` float32 inputs of the full model."""
        return np.frombuffer(self.x_bytes, dtype="<f4").reshape(len(self.event_id), -1)


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What a full model says of the rows of one request."""

    v: int
    id: str
    """Id of the request that this answers."""
    task: str
    rows: int
    values_bytes: bytes
    """``(rows, width)`` float32: the columns of ``weir.online.task.full_spec.columns``."""

    @property
    def values(self) -> FloatMatrix:
        """``(rows, width)`` float64."""
        found = np.frombuffer(self.values_bytes, dtype="<f4").reshape(self.rows, -1)
        return found.astype(np.float64)


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_REQUEST: Final = msgspec.msgpack.Decoder(Request)
_ANSWER: Final = msgspec.msgpack.Decoder(Answer)


def encode_request(
    ident: str, task: str, event_id: list[str], entity_id: list[str], ts: FloatVector, x: FloatMatrix | Float32Matrix
) -> bytes:
    """The value of one request of ``n`` rows; ``x (n, D)``.

    >>> decode_request(encode_request("w-1", "fraud", ["e"], ["u"], np.array([1.7e9]), np.ones((1, 3)))).x.shape
    (1, 3)
    """
    stamps, rows = np.ascontiguousarray(ts, dtype="<f8"), np.ascontiguousarray(x, dtype="<f4")
    return _ENCODE(Request(VERSION, ident, task, event_id, entity_id, stamps.tobytes(), rows.tobytes()))


def encode_answer(ident: str, task: str, values: FloatMatrix) -> bytes:
    """The value of one answer, ``values (n, width)``."""
    rows = np.ascontiguousarray(values, dtype="<f4")
    return _ENCODE(Answer(VERSION, ident, task, len(rows), rows.tobytes()))


def decode_request(raw: bytes) -> Request:
    """A request; raises ``ValueError`` that says what is wrong with it."""
    try:
        found = _REQUEST.decode(raw)
    except UNREADABLE as error:
        raise ValueError(f"not a request for a full model: {error}; {_WHO}") from error
    n = len(found.event_id)
    if found.v != VERSION:
        raise ValueError(f"v: a request of format {found.v}, this version reads {VERSION}; run one version everywhere")
    # By lengths alone, before any array is made: `reshape` would raise in the middle of a batch.
    fits = len(found.entity_id) == n and len(found.ts_bytes) == 8 * n and len(found.x_bytes) % max(4 * n, 1) == 0
    if n == 0 or not fits:
        raise ValueError(f"{n} event ids, {len(found.entity_id)} entities, and columns of other lengths: a cut record")
    if not in_range(found.ts).all():
        odd = found.ts[~in_range(found.ts)][0]
        raise ValueError(f"{OUT_OF_RANGE}: ts holds {odd:g}, allowed {TS_MIN:.0f} to {TS_MAX:.0f}; {_WHO}")
    # Asked so that NaN fails, too: it would go into the state of its entity, and stay.
    if not (np.abs(found.x) <= np.float32(FEATURE_MAX)).all():
        raise ValueError(f"{OUT_OF_RANGE}: x holds what is no number up to {FEATURE_MAX:g}; {_WHO}")
    if max(map(len, (*found.event_id, *found.entity_id))) > MADE_ID_CHARS:
        raise ValueError(f"an id is longer than {MADE_ID_CHARS} characters; {_WHO}")
    return found


def decode_answer(raw: bytes) -> Answer:
    """An answer; raises ``ValueError`` that says what is wrong with it."""
    try:
        found = _ANSWER.decode(raw)
    except UNREADABLE as error:
        raise ValueError(f"not an answer of a full model: {error}; only inference workers write this topic") from error
    if found.v != VERSION or found.rows < 1 or not found.values_bytes or len(found.values_bytes) % (4 * found.rows):
        raise ValueError(f"an answer of format {found.v} with {found.rows} rows in {len(found.values_bytes)} B")
    return found


def blocks(n: int, width: int) -> Iterator[slice]:
    """Cut ``n`` rows of ``width`` columns into blocks that fit into a record.

    >>> [(part.start, part.stop) for part in blocks(5_000, 25)]
    [(0, 2040), (2040, 4080), (4080, 5000)]
    """
    size = max(BLOCK_BYTES // (4 * width + _TEXT_BYTES), 1)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
