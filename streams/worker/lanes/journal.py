"""What lanes remember besides rows, as entries written with each step: ids for dedupe, what moved the timers.

Entries leave from the front, once all of their ids are of no use any more. From time to time an entry also holds a
snapshot of the timers, and what only older timers needed can go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector
from weir.online.errors import StateError
from weir.online.labels.repeated_silence import AnyTimers
from weir.online.stages.admission import Admission
from weir.online.stages.dedupe import FIXED_KEY, Deduper, OldIds, bytes_for, floor_of, newest_of, old_ids, rows_of
from weir.online.stages.digest_table import Rows

SNAPSHOT_ROWS: Final = 50_000
"""Events that moved timers, after which these are snapshotted; more where there are more timers than that."""


class Entries:
    """Which entries in the store are still needed: the newest time in each, oldest entry first.

    >>> held = Entries([5, 3, 9])
    >>> held.add(4)
    >>> held.drop(before=6), held.drop(before=20, keep=2)
    (2, 0)
    """

    def __init__(self, held: Iterable[int] = ()) -> None:
        self._held = deque(held)

    def add(self, newest: int) -> None:
        """An entry was written."""
        self._held.append(newest)

    def drop(self, before: int, keep: int = 0) -> int:
        """Forget entries in front whose times are all below ``before``, never the last ``keep``; returns how many."""
        dropped = 0
        while len(self._held) > keep and self._held[0] < before:
            self._held.popleft()
            dropped += 1
        return dropped


class _TimerEntry(msgspec.Struct, array_like=True):
    """The events that moved the timers of one task; no keys, and one time, where time passed without events."""

    task: int
    """Its place among the tasks that the entry is of."""
    keys: list[str]
    ts: bytes


class _Entry(msgspec.Struct, array_like=True, tag="ids"):
    newest: int
    """Of the times of ids."""
    kept: bytes
    """20 bytes an id: digest and time."""
    moved: list[_TimerEntry] = []
    timers: list[bytes | None] | None = None
    """Snapshot of each task's timers as they were after this entry."""
    tasks: list[str] = []
    """Names of the tasks, in the order of places; entries of before have none, where timers are told by place alone."""


class _TimerMoves(NamedTuple):
    """What an entry says of timers."""

    steps: list[_TimerEntry]
    snapshots: list[bytes | None] | None
    tasks: list[str]


class _OldEntry(msgspec.Struct, array_like=True):
    """As it was before ids were digests."""

    generation: int
    kept: list[bytes]
    moved: list[_TimerEntry]
    timers: list[bytes | None] | None


_TAGGED: Final = msgspec.msgpack.encode("ids")


def ids_entry(kept: Rows) -> bytes:
    """The entry of a lane that remembers ids alone."""
    return msgspec.msgpack.encode(_Entry(newest_of(kept), kept.tobytes()))


class JournalEntries:
    """Entries as read from the store.

    Parameters
    ----------
    entries : oldest first.
    at : the time that ids count as, which an earlier version wrote without one of this kind.
    """

    def __init__(self, entries: Sequence[bytes], at: float | None = None) -> None:
        self.kept: list[Rows] = []
        self.old: list[OldIds] = []
        self.newest: list[int] = []
        """Of each entry."""
        self.moved: list[_TimerMoves] = []
        """Of each entry."""
        for entry in entries:
            try:
                # The tag is behind one byte, the length of the array; entries of before tags begin with a number.
                if entry[1 : 1 + len(_TAGGED)] == _TAGGED:
                    self._take(msgspec.msgpack.decode(entry, type=_Entry))
                else:
                    self._take_old(entry, at)
            except ValueError as error:  # msgspec's errors are among them
                raise StateError(
                    f"an entry of {len(entry)} B in the journal cannot be read ({error}); run 'weir features rebuild', "
                    "or go back to the version of Weir that wrote it"
                ) from error

    def _take(self, entry: _Entry) -> None:
        self.kept.append(rows_of(entry.kept))
        self.newest.append(entry.newest)
        self.moved.append(_TimerMoves(entry.moved, entry.timers, entry.tasks))

    def _take_old(self, packed: bytes, at: float | None) -> None:
        if at is None:
            entry = msgspec.msgpack.decode(packed, type=_OldEntry)
            found, moved = [old_ids(part) for part in entry.kept], _TimerMoves(entry.moved, entry.timers, [])
        else:
            ids = old_ids(packed).ids
            found, moved = [OldIds(ids, np.full(len(ids), at))], _TimerMoves([], None, [])
        self.old += found
        self.newest.append(max((floor_of(float(part.ts.max())) for part in found if len(part.ids)), default=0))
        self.moved.append(moved)


class LaneJournal:
    """Writes and reads the entries of one score lane.

    Parameters
    ----------
    intake : whose ids are kept; its journal is on.
    timers : by the name of each task in turn, ``None`` where a task has none.
    """

    def __init__(self, intake: Admission, timers: Mapping[str, AnyTimers | None]) -> None:
        self._intake, self._timers = intake, list(timers.values())
        self._by_name = dict(timers)
        self._has_timers = any(t is not None for t in self._timers)
        self._held = Entries()
        self._needed = 0
        """Entries at the end that the timers need: the newest snapshot's and those behind it."""
        self._rows = 0

    def entry(
        self, moved: Sequence[tuple[list[str], FloatVector] | None], *, whole: bool = False
    ) -> tuple[list[bytes], int]:
        """The entry of the batch just processed, if it added anything, and how many old entries may go.

        Parameters
        ----------
        moved : of each task, keys and times ``(n,)`` of the events that its timers took in; one time and no key where
            time passed without.
        whole : whether the entry is to hold the timers as they are now, whatever they were by entries before.
        """
        kept = self._intake.take_journal()
        steps = [_TimerEntry(i, m[0], m[1].tobytes()) for i, m in enumerate(moved) if m is not None and len(m[1])]
        # Nothing to remember, so nothing goes either: what may be dropped is dropped with the next entry.
        if not len(kept) and not steps and not whole:
            return [], 0
        self._rows += sum(len(step.keys) for step in steps)
        # Behind the count of this batch, as the snapshot holds what it moved.
        snapshot = self._snapshot() if whole or self._due() else None
        tasks = list(self._by_name) if steps or snapshot is not None else []
        entry = _Entry(newest_of(kept), kept.tobytes(), steps, snapshot, tasks)
        self._held.add(entry.newest)
        # Timers need the entries since their snapshot however old these are; ids need those that are young.
        self._needed = 1 if snapshot is not None else self._needed + 1
        useful = floor_of(self._intake.remembered_from)
        dropped = self._held.drop(useful, max(self._needed, 1) if self._has_timers else 0)
        return [msgspec.msgpack.encode(entry)], dropped

    def _due(self) -> bool:
        return self._has_timers and self._rows >= max(SNAPSHOT_ROWS, sum(len(t) for t in self._timers if t is not None))

    def _snapshot(self) -> list[bytes | None]:
        self._rows = 0
        return [t.snapshot() if t is not None else None for t in self._timers]

    def restore(self, entries: Sequence[bytes]) -> None:
        """Rebuild ids and timers from the entries of the store, oldest first; both are new before.

        Timers of a task that is no more are left out; those of a new one begin empty. Raises ``StateError`` where
        entries of an earlier version, which know a task by its place alone, hold timers of other tasks than there are.
        """
        held = JournalEntries(entries)
        self._intake.rebuild(held.kept, held.old)
        self._held = Entries(held.newest)
        # The newest snapshot holds all that entries up to its own have moved.
        newest = max((i for i, moved in enumerate(held.moved) if moved.snapshots is not None), default=-1)
        if newest >= 0:
            moved = held.moved[newest]
            states = moved.snapshots or []
            if not moved.tasks and len(states) != len(self._timers):
                raise self._of_others(len(states))
            for place, state in enumerate(states):
                timers = self._of(moved, place)
                if timers is not None and state is not None:
                    timers.restore(state)
        for moved in held.moved[newest + 1 :]:
            for step in moved.steps:
                timers = self._of(moved, step.task)
                if timers is not None and step.keys:
                    timers.advance(step.keys, np.frombuffer(step.ts))
                    self._rows += len(step.keys)
                elif timers is not None:
                    timers.flush(float(np.frombuffer(step.ts)[0]))
        self._needed = len(held.moved) - max(newest, 0)

    def _of(self, moved: _TimerMoves, place: int) -> AnyTimers | None:
        """The timers of the task at a place of an entry; ``None`` where it has none, or is no more."""
        if moved.tasks:
            return self._by_name.get(moved.tasks[place])
        if place >= len(self._timers):
            raise self._of_others(place + 1)
        return self._timers[place]

    def _of_others(self, tasks: int) -> StateError:
        return StateError(
            f"its journal holds the timers of {tasks} tasks, and the stream has {len(self._timers)} here: which are of "
            "which task cannot be told. Go back to the tasks of before, in their order, or stop the workers and run "
            "'weir features rebuild'"
        )


TICK: Final = 256
"""Offsets that count as one place."""


class RememberedIds:
    """Ids by where they were in the log.

    Parameters
    ----------
    offsets : for so many offsets an id is remembered.
    ids : and no more than so many of them for certain, where offsets hold several each.
    key : of their digests, 16 bytes.
    journal : whether to note what is kept, for ``entry``.

    Examples
    --------
    >>> seen = RememberedIds(offsets=1_000, ids=1_000)
    >>> seen.keep(["a", "b"], 0).tolist(), seen.keep(["b", "c"], 300).tolist(), seen.keep(["b"], 5_000).tolist()
    ([True, True], [False, True], [True])
    """

    def __init__(self, offsets: int, ids: int, key: bytes = FIXED_KEY, *, journal: bool = False) -> None:
        self.offsets = offsets
        self.ids = Deduper(np.inf, key=key, most_bytes=bytes_for(ids), journal=journal)
        self._held = Entries()

    @property
    def key(self) -> bytes:
        """Of the digests: to be stored with them."""
        return self.ids.key

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.ids.nbytes

    def keep(self, ids: Sequence[str], offset: int, of: Sequence[str | None] | None = None) -> BoolVector:
        """Tell repeats from what is new, ``(n,) bool``, and remember the latter at ``offset``."""
        # By places of `TICK` offsets, in the room of a time: entries then leave together, and no clock can move them.
        return self.ids.keep(ids, np.full(len(ids), float(offset // TICK)), of, self._useful_from(offset))

    def entry(self, next_offset: int) -> tuple[list[bytes], int]:
        """The journal's entry of what was kept since the last, if anything, and how many old ones may go."""
        kept = self.ids.take_journal()
        if not len(kept):
            return [], 0
        self._held.add(newest_of(kept))
        return [ids_entry(kept)], self._held.drop(floor_of(max(self._useful_from(next_offset), self.ids.forced)))

    def restore(self, entries: Sequence[bytes], next_offset: int) -> None:
        """Rebuild it from the entries in the store, oldest first, before ``next_offset``."""
        # Ids of a version without times count as new as can be: forgotten too late rather than too early.
        held = JournalEntries(entries, at=float(next_offset // TICK))
        self.ids.rebuild(held.kept, held.old, self._useful_from(next_offset))
        self._held = Entries(held.newest)

    def _useful_from(self, offset: int) -> float:
        return float((offset - self.offsets) // TICK)
