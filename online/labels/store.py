"""Logged predictions in columnar chunks. It knows rows and their label state, not how labels find them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, repeat

import msgspec
import numpy as np
from numpy.typing import NDArray

from online.batch import BoolVector, FloatMatrix, FloatVector, IntVector, PredictionBatch

UNLABELLED = 2
"""Label state of a row: 0, 1, or this."""

TS, SCORE, MARK, FEATURES = 0, 1, 2, 3
"""Columns of a chunk's numbers: time, score, watermark at arrival, then the features, then the extra columns."""

_TIMES = [TS, MARK]

MAX_SPARE = 8


class StoredChunk(msgspec.Struct, array_like=True, frozen=True):
    """A chunk as a snapshot holds it."""

    numbers: bytes
    label: bytes
    event_id: list[str]
    entity_id: list[str]
    entities: list[list[str | None]]


@dataclass(slots=True)
class _Chunk:
    numbers: FloatMatrix
    """``(chunk_rows, 3 + F + E) float64``, the first ``len(event_id)`` rows in use."""
    label: bytearray
    min_ts: float = np.inf
    event_id: list[str] = field(default_factory=list)
    entity_id: list[str] = field(default_factory=list)
    entities: list[list[str | None]] = field(default_factory=list)


Group = tuple[_Chunk, IntVector, IntVector]


class PredictionStore:
    """Append-only rows, addressed by numbers that never repeat; whole chunks are forgotten from the front.

    A row is *live* while its time (or the watermark at its arrival, where a clock was ahead) is at or after a floor and
    it is among the last ``max_rows``. Liveness is exact;
    memory follows it a chunk behind, so what a caller sees never depends on when chunks are freed.
    """

    def __init__(self, width: int, secondary: int, max_rows: int, chunk_rows: int) -> None:
        self.width = width
        self.secondary = secondary
        self.max_rows = max_rows
        self.chunk_rows = chunk_rows
        self.next_row = 0
        self.last_mark = -np.inf
        self.row_of: dict[str, int] = {}
        self._chunks: deque[_Chunk] = deque()
        self._first_chunk = 0
        # Buffers of freed chunks, used again: fresh pages cost more than the copy into them.
        self._spare: list[FloatMatrix] = []

    def __len__(self) -> int:
        return self.next_row - self._first_chunk * self.chunk_rows

    def chunk_of(self, row: int) -> _Chunk:
        """Return the chunk that holds ``row``, which must not have been freed."""
        return self._chunks[row // self.chunk_rows - self._first_chunk]

    def live(self, row: int, floor: float) -> bool:
        """Say whether ``row`` may still be joined when rows before time ``floor`` may not."""
        if row < self.next_row - self.max_rows or row < self._first_chunk * self.chunk_rows:
            return False
        chunk = self.chunk_of(row)
        return chunk.min_ts >= floor or bool(chunk.numbers[row % self.chunk_rows, _TIMES].min() >= floor)

    def claim(self, event_ids: list[str], ts: FloatVector, marks: FloatVector, keep_s: float) -> BoolVector:
        """Give each new id the row it will be appended to; ``(n,) bool``, False for a repeat of a live row.

        Parameters
        ----------
        event_ids, ts : the rows to come.
        marks : ``(n,)`` watermark at each of them.
        keep_s : how far behind the watermark a row stays live.
        """
        row_of, before, n = self.row_of, len(self.row_of), len(event_ids)
        numbers = range(self.next_row, self.next_row + n)
        owners = list(map(row_of.setdefault, event_ids, numbers))
        if len(row_of) == before + n:
            return np.ones(n, dtype=np.bool_)
        for event_id, row, owner in zip(event_ids, numbers, owners, strict=True):
            if owner == row:
                del row_of[event_id]
        return self._claim_each(event_ids, np.minimum(ts, marks).tolist(), (marks - keep_s).tolist())

    def _claim_each(self, event_ids: list[str], ts: list[float], floors: list[float]) -> BoolVector:
        """Claim in order where some id came before; an id whose first row is no longer live counts as new."""
        keep = np.ones(len(event_ids), dtype=np.bool_)
        row, claimed = self.next_row, list[float]()
        for i, event_id in enumerate(event_ids):
            owner = self.row_of.get(event_id)
            if owner is not None and owner >= row - self.max_rows:
                here = owner >= self.next_row
                if claimed[owner - self.next_row] >= floors[i] if here else self.live(owner, floors[i]):
                    keep[i] = False
                    continue
            self.row_of[event_id] = row
            claimed.append(ts[i])
            row += 1
        return keep

    def append(
        self,
        batch: PredictionBatch,
        marks: FloatVector,
        extra: FloatMatrix | None,
        entities: Sequence[list[str | None]],
    ) -> None:
        """Write all rows of ``batch``, whose ids have been claimed."""
        done, n = 0, len(batch)
        while done < n:
            at = self.next_row % self.chunk_rows
            if at == 0:
                self._chunks.append(self._new_chunk())
            take = min(n - done, self.chunk_rows - at)
            self._fill(self._chunks[-1], at, batch, marks, extra, entities, slice(done, done + take))
            done += take
            self.next_row += take
        if n:
            self.last_mark = float(marks[-1])

    def begin(self, mark: float) -> None:
        """The first watermark is known: it is that of the rows that came before it, too."""
        for chunk in self._chunks:
            marks = chunk.numbers[: len(chunk.event_id), MARK]
            marks[marks == -np.inf] = mark

    def _new_chunk(self) -> _Chunk:
        return _Chunk(
            numbers=self._spare.pop() if self._spare else np.empty((self.chunk_rows, self.width)),
            label=bytearray([UNLABELLED]) * self.chunk_rows,
            entities=[[] for _ in range(self.secondary)],
        )

    @staticmethod
    def _fill(
        chunk: _Chunk,
        at: int,
        batch: PredictionBatch,
        marks: FloatVector,
        extra: FloatMatrix | None,
        entities: Sequence[list[str | None]],
        part: slice,
    ) -> None:
        split = FEATURES + batch.features.shape[1]
        out = chunk.numbers[at : at + part.stop - part.start]
        out[:, TS] = batch.ts[part]
        out[:, SCORE] = batch.score[part]
        out[:, MARK] = marks[part]
        out[:, FEATURES:split] = batch.features[part]
        if extra is not None:
            out[:, split:] = extra[part]
        chunk.min_ts = min(chunk.min_ts, float(_reached(out).min()))
        chunk.event_id += batch.event_id[part]
        chunk.entity_id += batch.entity_id[part]
        for column, values in zip(chunk.entities, entities, strict=True):
            column += values[part]

    def groups(self, rows: IntVector) -> list[Group]:
        """Sort rows by the chunk that holds them: ``(chunk, positions in rows, offsets in the chunk)`` each."""
        if len(rows) == 0:
            return []
        number, offset = np.divmod(rows, self.chunk_rows)
        number -= self._first_chunk
        if number[0] == number[-1] and np.all(number == number[0]):
            return [(self._chunks[int(number[0])], np.arange(len(rows)), offset)]
        order = np.argsort(number, kind="stable")
        number, offset = number[order], offset[order]
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(rows)]
        return [(self._chunks[int(number[a])], order[a:b], offset[a:b]) for a, b in pairwise(edges)]

    def gather(self, rows: IntVector) -> tuple[FloatMatrix, list[list[str | None]]]:
        """Copy the numbers of ``rows``, ``(n, width) float64``, and their event, entity and secondary ids."""
        out = np.empty((len(rows), self.width))
        texts: list[list[str | None]] = [absent(len(rows)) for _ in range(2 + self.secondary)]
        for chunk, at, offset in self.groups(rows):
            out[at] = chunk.numbers[offset]
            where, which = at.tolist(), offset.tolist()
            sources: list[Sequence[str | None]] = [chunk.event_id, chunk.entity_id, *chunk.entities]
            for text, source in zip(texts, sources, strict=True):
                for to, i in zip(where, which, strict=True):
                    text[to] = source[i]
        return out, texts

    def all_live(self, rows: IntVector, floor: float) -> BoolVector:
        """Say for each row whether it is ``live``, ``(n,) bool``."""
        held = rows >= max(self.next_row - self.max_rows, self._first_chunk * self.chunk_rows)
        kept = np.flatnonzero(held)
        for chunk, at, offset in self.groups(rows[kept]):
            if chunk.min_ts < floor:
                held[kept[at]] = _reached(chunk.numbers[offset]) >= floor
        return held

    def exchange_labels(self, rows: IntVector, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Set the label states of rows, each named once, and return those before."""
        before = np.empty(len(rows), dtype=np.uint8)
        for chunk, at, offset in self.groups(rows):
            label = np.frombuffer(chunk.label, dtype=np.uint8)
            before[at] = label[offset]
            label[offset] = values[at]
        return before

    def unlabelled_until(self, start: int, mark: float) -> tuple[IntVector, FloatVector, int]:
        """Rows from ``start`` on that have no label and whose watermark at arrival was at most ``mark``.

        Returns
        -------
        rows, their watermarks, and the first row after them (where the next search starts).
        """
        start = max(start, self._first_chunk * self.chunk_rows)
        rows: list[IntVector] = [np.empty(0, dtype=np.int64)]
        marks: list[FloatVector] = [np.empty(0)]
        while start < self.next_row:
            chunk, at = self.chunk_of(start), start % self.chunk_rows
            used = len(chunk.event_id)
            end = at + int(np.searchsorted(chunk.numbers[at:used, MARK], mark, side="right"))
            label = np.frombuffer(chunk.label, dtype=np.uint8, count=used)
            found = at + np.flatnonzero(label[at:end] == UNLABELLED)
            rows.append(start - at + found)
            marks.append(chunk.numbers[found, MARK])
            start += end - at
            if end < self.chunk_rows:
                break
        return np.concatenate(rows), np.concatenate(marks), start

    def free(self, floor: float) -> tuple[list[_Chunk], int]:
        """Forget full chunks without a live row; returns them and the first row number still held."""
        freed: list[_Chunk] = []
        while self._chunks and (self._first_chunk + 1) * self.chunk_rows <= self.next_row:
            end = (self._first_chunk + 1) * self.chunk_rows
            # Marks never fall, so a chunk's last one bounds all its times.
            if self._chunks[0].numbers[-1, MARK] >= floor and end > self.next_row - self.max_rows:
                break
            chunk = self._chunks.popleft()
            self._first_chunk += 1
            for row, event_id in enumerate(chunk.event_id, end - self.chunk_rows):
                # An id may have come again after its first row had expired; then the newer row owns it.
                if self.row_of[event_id] == row:
                    del self.row_of[event_id]
            if len(self._spare) < MAX_SPARE:
                self._spare.append(chunk.numbers)
            freed.append(chunk)
        return freed, self._first_chunk * self.chunk_rows

    def snapshot(self) -> tuple[int, list[StoredChunk]]:
        """Return the number of the next row and every chunk held."""
        return self.next_row, [
            StoredChunk(
                chunk.numbers[: len(chunk.event_id)].tobytes(),
                bytes(chunk.label[: len(chunk.event_id)]),
                chunk.event_id,
                chunk.entity_id,
                chunk.entities,
            )
            for chunk in self._chunks
        ]

    def restore(self, next_row: int, chunks: list[StoredChunk]) -> None:
        """Replace the contents by a snapshot's."""
        self.next_row = next_row
        self._first_chunk = (next_row + self.chunk_rows - 1) // self.chunk_rows - len(chunks)
        self._chunks.clear()
        self.row_of.clear()
        for number, stored in enumerate(chunks, self._first_chunk):
            n, chunk = len(stored.event_id), self._new_chunk()
            chunk.numbers[:n] = np.frombuffer(stored.numbers).reshape(n, self.width)
            chunk.label[:n] = stored.label
            chunk.min_ts, self.last_mark = float(_reached(chunk.numbers[:n]).min()), float(chunk.numbers[n - 1, MARK])
            chunk.event_id, chunk.entity_id = list(stored.event_id), list(stored.entity_id)
            chunk.entities = [list(column) for column in stored.entities]
            self._chunks.append(chunk)
            first = number * self.chunk_rows
            self.row_of.update(zip(chunk.event_id, range(first, first + n), strict=True))


def _reached(numbers: FloatMatrix) -> FloatVector:
    """The time of rows as far as it had come when they were logged, ``(n,)``."""
    times: FloatVector = numbers[:, _TIMES].min(axis=1)
    return times


def absent(n: int) -> list[str | None]:
    """Return a column of ``n`` absent identifiers."""
    return list(repeat(None, n))
