"""Records on their way out as columns: keys and values end to end, so that no record has to be an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from weir.streams.records import Record

Bytes = NDArray[np.uint8]
Ends = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Records as columns: ``keys`` and ``values`` end to end, (.,) uint8; where each ends and its time, (B,) int64."""

    keys: Bytes
    key_ends: Ends
    values: Bytes
    value_ends: Ends
    times_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_ms)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Columns:
        """The columns of some records."""
        keys, values = [r[0] for r in records], [r[1] for r in records]
        times = np.array([r[2] for r in records], dtype=np.float64) * 1000.0
        return cls(*_end_to_end(keys), *_end_to_end(values), times.astype(np.int64))

    @classmethod
    def written(cls, keys: Sequence[str], values: bytes, value_ends: Ends, ts: float) -> Columns:
        """Those of records of one time, in epoch seconds, whose ``values`` are end to end already.

        >>> columns = Columns.written(["é", "u1"], b"{}[1]", np.array([2, 5]), 1.5)
        >>> columns.record(1)
        Record(key=b'u1', value=b'[1]', ts=1.5)
        """
        joined = "".join(keys)
        if joined.isascii():
            ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
            own = np.frombuffer(joined.encode(), np.uint8), ends
        else:
            own = _end_to_end([key.encode() for key in keys])
        return cls(*own, np.frombuffer(values, np.uint8), value_ends, np.full(len(keys), int(ts * 1000.0)))

    @classmethod
    def concat(cls, parts: Sequence[Columns]) -> Columns:
        """The records of all parts, one part behind the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of(())
        return cls(
            *_behind([(part.keys, part.key_ends) for part in parts]),
            *_behind([(part.values, part.value_ends) for part in parts]),
            np.concatenate([part.times_ms for part in parts]),
        )

    def record(self, row: int) -> Record:
        """One of the records."""
        key, value = _cut(self.keys, self.key_ends, row), _cut(self.values, self.value_ends, row)
        return Record(key, value, int(self.times_ms[row]) / 1000.0)

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of key and value of each record, ``(B,) int64``."""
        sizes = self.key_ends + self.value_ends
        sizes[1:] -= sizes[:-1].copy()
        return sizes


def _end_to_end(parts: Sequence[bytes]) -> tuple[Bytes, Ends]:
    sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return np.frombuffer(b"".join(parts), dtype=np.uint8), np.cumsum(sizes)


def _behind(parts: Sequence[tuple[Bytes, Ends]]) -> tuple[Bytes, Ends]:
    starts = accumulate((len(joined) for joined, _ in parts), initial=0)
    ends = [ends + start for (_, ends), start in zip(parts, starts, strict=False)]
    # Read-only, as everywhere: to compiled code another kind of array would be another type, and to be compiled anew.
    return np.frombuffer(b"".join([joined.data for joined, _ in parts]), np.uint8), np.concatenate(ends)


def _cut(joined: Bytes, ends: Ends, row: int) -> bytes:
    return joined[ends[row - 1] if row else 0 : ends[row]].tobytes()
