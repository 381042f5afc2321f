"""Numbers the examples of each event: the first, then its corrections. With the event's id that names an example."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from online.batch import ExampleBatch, IntVector


class ExampleNumbers:
    """Counts corrections while their event can still be corrected.

    Parameters
    ----------
    keep_s : event seconds after which an event that was logged cannot be corrected any more.
    max_events : how many events can be corrected at one time.

    Examples
    --------
    >>> numbers, row = ExampleNumbers(keep_s=3_600.0, max_events=1_000), np.zeros(1)
    >>> def number(correction):
    ...     e = ExampleBatch(["e1"], row, row[:, None], row, np.array([True]), row, np.array([correction]))
    ...     return numbers.update(e, watermark=0.0).tolist()
    >>> [number(False), number(True), number(True)]
    [[0], [1], [2]]
    """

    def __init__(self, keep_s: float, max_events: int) -> None:
        self.keep_s, self.max_events = keep_s, max_events
        # Two generations: one is dropped when all that it counts is beyond correction.
        self._new: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._turned_at = -math.inf

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def update(self, examples: ExampleBatch, watermark: float) -> IntVector:
        """How many examples of the same event came before each, ``(n,) int64``; ``watermark`` is event time now."""
        self._turn(watermark)
        n = np.zeros(len(examples), dtype=np.int64)
        for row in np.flatnonzero(examples.correction).tolist():
            event_id = examples.event_id[row]
            count = self._new.get(event_id, self._old.get(event_id, 0)) + 1
            self._new[event_id] = n[row] = count
        return n

    def _turn(self, watermark: float) -> None:
        if not self._new and not self._old:
            self._turned_at = watermark
        elif watermark > self._turned_at + self.keep_s or len(self._new) >= 2 * self.max_events:
            self._old, self._new, self._turned_at = self._new, {}, watermark

    def snapshot(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode([None if math.isinf(self._turned_at) else self._turned_at, self._old, self._new])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        kind = tuple[float | None, dict[str, int], dict[str, int]]
        turned_at, self._old, self._new = msgspec.msgpack.decode(state, type=kind)
        self._turned_at = -math.inf if turned_at is None else turned_at
