"""Drop events that were seen before. Knows identifiers and event times, not where the events come from.

Two generations of a dict of id to event time: exact, so no event is ever dropped for a hash collision, and bounded.
With a journal, what was kept can be persisted bit by bit, and the very same memory rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, compress, groupby
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np

from online.batch import BoolVector, FloatVector
from online.errors import StateError

_FORMAT = 1
_State: Any = tuple[int, int, float, dict[str, float], dict[str, float]]


class _Packed(NamedTuple):
    generation: int
    ids: list[str]
    ts: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """Part of a ``Deduper``'s journal: what it kept in a row within one generation."""

    generation: int
    ids: list[str]
    ts: FloatVector
    """``(n,) float64``, event times in epoch seconds."""

    def __len__(self) -> int:
        return len(self.ids)


class Deduper:
    """Remembers the ids of the newest events it kept.

    An event is a repeat when its id is remembered and its event time is within ``window_s`` of the one kept. An id is
    remembered until ``capacity / 2`` to ``capacity`` further ids have been kept. So within a partition a redelivery
    is caught if fewer than ``capacity // 2`` new events came in between, and an id used again for another time, as
    counters that start over do, is caught only inside the window. The verdicts do not depend on batch cuts.

    Parameters
    ----------
    capacity : at most this many ids are held, two at least; about 150 bytes each.
    window_s : event seconds.
    journal : whether to note what is kept, for ``take_journal``; take it regularly, it is not bounded.

    Examples
    --------
    >>> dedupe = Deduper(capacity=1_000, window_s=3_600.0)
    >>> dedupe.keep(["a", "b", "a"], np.array([0.0, 1.0, 2.0])).tolist()
    [True, True, False]
    >>> dedupe.keep(["b", "a"], np.array([1.0, 9_000.0])).tolist()
    [False, True]
    """

    def __init__(self, capacity: int = 200_000, window_s: float = 7 * 86_400.0, *, journal: bool = False) -> None:
        if capacity < 2:
            raise ValueError(f"capacity is {capacity}, at least 2 ids must be held")
        if not window_s >= 0:
            raise ValueError(f"window_s is {window_s}, give 0 or more seconds")
        self.capacity = capacity
        self.window_s = window_s
        self._new: dict[str, float] = {}
        self._old: dict[str, float] = {}
        self._generation = 0
        self._journal: list[Kept] | None = [] if journal else None

    @property
    def generation(self) -> int:
        """Of the ids kept next; parts of a journal older than the one before it are of no use any more."""
        return self._generation

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def keep(self, event_ids: Sequence[str], ts: FloatVector) -> BoolVector:
        """Tell repeats from new events and remember the new ones.

        Parameters
        ----------
        event_ids : n ids in arrival order.
        ts : ``(n,) float64``, event times in epoch seconds.

        Returns
        -------
        ``(n,) bool``, False for a repeat.
        """
        if len(event_ids) != len(ts):
            raise ValueError(f"{len(event_ids)} event_ids and {len(ts)} ts; give one time for each id")
        keep = np.ones(len(event_ids), np.bool_)
        times = ts.tolist()
        half = self.capacity // 2
        at = 0
        while at < len(event_ids):
            end = at + half - len(self._new)  # no more than this can be kept before the generations turn
            self._keep_slice(event_ids[at:end], times[at:end], keep[at:end])
            if self._journal is not None:
                self._note(event_ids[at:end], ts[at:end], keep[at:end])
            self._turn_if_full()
            at = end
        return keep

    def _turn_if_full(self) -> None:
        if len(self._new) >= self.capacity // 2:
            self._old, self._new = self._new, {}
            self._generation += 1

    def _keep_slice(self, event_ids: Sequence[str], times: list[float], keep: BoolVector) -> None:
        fresh = dict(zip(event_ids, times, strict=True))
        if (
            len(fresh) == len(event_ids)
            and self._new.keys().isdisjoint(fresh.keys())
            and self._old.keys().isdisjoint(fresh.keys())
        ):
            self._new.update(fresh)  # the usual case, in four C loops
            return
        new, old, window_s = self._new, self._old, self.window_s
        for i, (event_id, time) in enumerate(zip(event_ids, times, strict=True)):
            seen = new.get(event_id)
            if seen is None:
                seen = old.get(event_id)
            if seen is not None and abs(time - seen) <= window_s:
                keep[i] = False
            else:
                new[event_id] = time

    def _note(self, event_ids: Sequence[str], ts: FloatVector, keep: BoolVector) -> None:
        """Put what was kept of a slice into the journal."""
        if keep.all():
            ids, ts = list(event_ids), ts.copy()  # the caller may go on to use its array
        else:
            ids, ts = list(compress(event_ids, keep.tolist())), ts[keep]
        if ids and self._journal is not None:
            self._journal.append(Kept(self._generation, ids, ts))

    def take_journal(self) -> list[Kept]:
        """What was kept since the journal was last taken, in order, one part a generation.

        Raises ``ValueError`` on a deduper built without ``journal``.
        """
        if self._journal is None:
            raise ValueError("this Deduper keeps no journal; build it with journal=True")
        taken, self._journal = self._journal, []
        parts = ((generation, list(of)) for generation, of in groupby(taken, key=attrgetter("generation")))
        return [of[0] if len(of) == 1 else _together(generation, of) for generation, of in parts]

    def rebuild(self, parts: Iterable[Kept]) -> None:
        """Replace the memory by what a journal says: the same, bit for bit, as that of the deduper that wrote it.

        Parameters
        ----------
        parts : every part of the newest two generations, older ones or not, in the order in which they were taken.

        Where ``capacity`` has changed since, the newest ids are remembered as far as it allows. What the journal
        holds and was not taken is dropped: it was never persisted.
        """
        ordered = sorted(parts, key=attrgetter("generation"))
        self._new, self._old = {}, {}
        for part in ordered:
            self._replay(part.ids, part.ts.tolist())
        newest = ordered[-1].generation if ordered else 0
        self._generation = newest if self._new or not ordered else newest + 1
        if self._journal is not None:
            self._journal = []

    def _replay(self, ids: list[str], times: list[float]) -> None:
        half, at = self.capacity // 2, 0
        while at < len(ids):
            end = at + half - len(self._new)
            self._new.update(zip(ids[at:end], times[at:end], strict=True))
            self._turn_if_full()
            at = end

    def snapshot(self) -> bytes:
        """The whole memory; equal memories give equal bytes."""
        return msgspec.msgpack.encode((_FORMAT, self.capacity, self.window_s, self._old, self._new))

    def restore(self, state: bytes) -> None:
        """Replace the memory by a ``snapshot``; raises ``StateError`` where it is not one of a deduper built alike.

        A snapshot says nothing of generations before it, so a journal begins anew, with all that is held.
        """
        try:
            kind, capacity, window_s, old, new = msgspec.msgpack.decode(state, type=_State)
        except msgspec.MsgspecError as error:
            raise StateError(f"not a snapshot of a Deduper ({error}); start with an empty one") from error
        if (kind, capacity, window_s) != (_FORMAT, self.capacity, self.window_s):
            raise StateError(
                f"a snapshot of format {kind}, capacity {capacity}, window_s {window_s} does not fit format {_FORMAT}, "
                f"capacity {self.capacity}, window_s {self.window_s}; restore it with the settings it was taken with"
            )
        self._old, self._new = old, new
        self._generation = 1 if old else 0
        if self._journal is not None:
            held = [(0, old), (1, new)] if old else [(0, new)]
            self._journal = [Kept(g, list(ids), np.array(list(ids.values()))) for g, ids in held if ids]


def _together(generation: int, parts: list[Kept]) -> Kept:
    ids = list(chain.from_iterable(part.ids for part in parts))
    return Kept(generation, ids, np.concatenate([part.ts for part in parts]))


def pack(kept: Kept) -> bytes:
    """Part of a journal as MessagePack; about 9 bytes an event and its id."""
    return msgspec.msgpack.encode(_Packed(kept.generation, kept.ids, kept.ts.astype("<f8", copy=False).tobytes()))


def unpack(packed: bytes) -> Kept:
    """Read what ``pack`` wrote; raises ``StateError`` where it is something else.

    >>> unpack(pack(Kept(3, ["a"], np.array([1.7e9]))))
    Kept(generation=3, ids=['a'], ts=array([1.7e+09]))
    """
    try:
        generation, ids, ts = msgspec.msgpack.decode(packed, type=_Packed)
        if len(ts) != 8 * len(ids):
            raise ValueError(f"{len(ids)} ids and {len(ts)} bytes of times")
    except ValueError as error:  # msgspec's errors are among them
        raise StateError(f"not a part of a Deduper's journal ({error}); start with an empty memory") from error
    return Kept(generation, ids, np.frombuffer(ts, "<f8").astype(np.float64))
