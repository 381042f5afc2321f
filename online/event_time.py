"""What time it is in a stream of events: the newest event time, as far as one sender alone cannot move it.

It knows times and who said them, not what the events are, and no clock. Whoever wants to know how late an event is, or
which timers are due, asks here or follows the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from weir.online.batch import FloatVector
from weir.online.errors import stored
from weir.online.intake_policy import MAX_STEP
from weir.online.jit import njit

WITNESSES: Final = 3
"""So many have to say a time that is further ahead; so many events come before the time is known at all."""

Claim = tuple[float, str]
"""A time further ahead than a step, and who said it."""


@njit(cache=True, nogil=True)
def extremes(ts: FloatVector) -> tuple[float, float]:
    """The least and the largest of one or more times ``(n,)``; of few NumPy's own take several times as long."""
    least, largest = ts[0], ts[0]
    for i in range(1, len(ts)):
        least, largest = min(least, ts[i]), max(largest, ts[i])
    return least, largest


class _State(msgspec.Struct):
    watermark: float | None
    claims: list[Claim] = []
    alone: Claim | None = None


class EventTime:
    """The watermark of one stream (one partition, when distributed).

    - An event up to ``max_step`` ahead of the watermark moves it there: in a stream without gaps it is the newest time.
    - A time further ahead is a claim. Three entities that make one are believed: the watermark moves to the least that
      they say. An event near the watermark refutes all claims: the stream is still there. So a broken clock moves
      nothing, and after a pause of 70 days the third entity does.
    - Where no other entity says anything, one is believed too, once it has said three times a step apart. If another
      then turns out to be where the watermark was, it goes back there.
    - Until three events have come there is no watermark (minus infinity): the first may be of any year.

    The watermark after each event depends on the events before it alone, never on how they were cut into calls.

    Parameters
    ----------
    max_step : seconds; infinite for the largest time so far, whoever said it.

    Examples
    --------
    >>> time, day = EventTime(), 86_400.0
    >>> time.advance(np.array([0.0, 60.0, 120.0, 9 * day, 180.0]), list("abcxa")).tolist()
    [-inf, -inf, 120.0, 120.0, 180.0]
    >>> time.advance(np.array([70 * day, 70 * day + 1, 70 * day + 2]), list("abc")).tolist()
    [180.0, 180.0, 6048002.0]
    """

    def __init__(self, max_step: float = MAX_STEP) -> None:
        if not max_step > 0.0:
            raise ValueError(f"max_step is {max_step}; give a positive number of seconds")
        self.max_step = max_step
        self.watermark = -np.inf
        self._claims: list[Claim] = []
        self._alone: Claim | None = None
        """Where the watermark was before one entity alone moved it, and that entity; while nobody else has spoken."""

    def follow(self, ts: FloatVector) -> bool:
        """Take events in where none claims a time far ahead and no claim stands, as nearly always.

        ``False``, with nothing changed, where that is not so: call `advance`.
        """
        # With a claim open every event may settle it, so each has to be looked at in turn.
        if self._claims or self._alone is not None:
            return False
        before = self.watermark
        if self._follow_steps(ts, np.empty(len(ts))) == len(ts):
            return True
        self.watermark = before
        return False

    def advance(self, ts: FloatVector, said_by: Sequence[str | None]) -> FloatVector:
        """Take events in, in order; returns the watermark after each, ``(n,) float64``.

        Parameters
        ----------
        ts : ``(n,) float64`` event times, epoch seconds; none of them NaN.
        said_by : n names of entities; events that name none are told apart by nothing.
        """
        # A call a row only while a claim stands: each event may settle it. The rest of a batch is one pass.
        marks, i = np.empty(len(ts)), 0
        while i < len(ts):
            if not self._claims and self._alone is None:
                i += self._follow_steps(ts[i:], marks[i:])
            if i < len(ts):
                self._take(float(ts[i]), said_by[i] or "")
                marks[i] = self.watermark
                i += 1
        return marks

    def _follow_steps(self, ts: FloatVector, marks: FloatVector) -> int:
        """Take in the events before the first that claims a time further ahead; returns how many, with their marks."""
        if len(ts) == 1 and (later := max(self.watermark, float(ts[0]))) - self.watermark <= self.max_step:
            self.watermark = marks[0] = later  # a row alone pays for each array
            return 1
        newest = np.maximum.accumulate(np.concatenate(([self.watermark], ts)))
        count = len(ts)
        # Not ``>``: before the first event, and without rows, the difference is NaN.
        if not float(newest[-1]) - self.watermark <= self.max_step:  # else no step of them is further, as nearly always
            ahead = np.diff(newest) > self.max_step
            count = int(ahead.argmax()) if ahead.any() else count
        marks[:count] = newest[1 : count + 1]
        self.watermark = float(newest[count])
        return count

    def set_watermark(self, ts: float) -> None:
        """Say what time it is, where a person knows better; it may step back."""
        self.watermark, self._claims, self._alone = ts, [], None

    def _take(self, ts: float, said_by: str) -> None:
        if self._alone is not None and said_by != self._alone[1]:
            self._hear_another(ts, self._alone[0])
        if ts - self.watermark > self.max_step:
            self._claim(ts, said_by)
        else:
            if ts >= self.watermark - self.max_step:
                self._claims.clear()
            self.watermark = max(self.watermark, ts)

    def _claim(self, ts: float, said_by: str) -> None:
        """Note a time far ahead, unless the same entity has said nearly the same; of the first three all count."""
        begun = self.watermark > -np.inf
        if begun and any(said_by == name and abs(ts - claimed) <= self.max_step for claimed, name in self._claims):
            return
        self._claims.append((ts, said_by))
        if len(self._claims) == WITNESSES:
            self._believe()

    def _believe(self) -> None:
        """Move to the least that was claimed; what is more than a step ahead of that is still a claim."""
        claims, self._claims, before = sorted(self._claims), [], self.watermark
        name = claims[0][1]
        if any(name != other for _, other in claims):
            self._alone = None
        elif self._alone is None:
            self._alone = before, name
        if self._alone is not None and before > -np.inf:  # nobody contradicts it, and it has not contradicted itself
            claims = claims[-1:]
        self.watermark = claims[0][0]
        for ts, said_by in claims:
            if ts - self.watermark > self.max_step:
                self._claims.append((ts, said_by))
            else:
                self.watermark = ts

    def _hear_another(self, ts: float, before: float) -> None:
        """Somebody speaks for the first time since one entity alone moved the watermark: right it was, or wrong."""
        if ts >= self.watermark - self.max_step:
            self._alone = None
        elif ts >= before - self.max_step:
            self.watermark, self._claims, self._alone = before, [], None

    def state(self) -> dict[str, Any]:
        """What it remembers, a few dozen bytes: ``watermark``, ``claims`` and ``alone``."""
        # Marks of 12015ac, which are still read, held it so.
        mark = None if np.isinf(self.watermark) else self.watermark
        return {"watermark": mark, "claims": list(self._claims), "alone": self._alone}

    def snapshot(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode(self.state())

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` where it is none."""
        held = stored(state, _State, "an event time")
        self.set_state(held.watermark, held.claims, held.alone)

    def set_state(self, watermark: float | None, claims: Sequence[Claim] = (), alone: Claim | None = None) -> None:
        """Replace it by what ``state`` gave."""
        self.watermark = -np.inf if watermark is None else watermark
        self._claims = [(ts, name) for ts, name in claims]
        self._alone = None if alone is None else (alone[0], alone[1])
