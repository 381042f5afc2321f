"""What lanes remember besides rows, as entries written with each step: ids for dedupe, what moved the timers.

Entries leave from the front. Ids stay for two generations of the dedupe memory. From time to time an entry also holds a
snapshot of the timers, and what only older timers needed can go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np

from online.batch import FloatVector
from online.dedupe import pack, unpack
from online.intake import Intake
from online.labels import SilenceTimers

SNAPSHOT_ROWS: Final = 50_000
"""Events that moved timers, after which these are snapshotted; more where there are more timers than that."""


class Generations:
    """Which entries in the store are still needed: the generation of each, oldest first.

    >>> held = Generations([0, 0, 1])
    >>> held.add(2)
    >>> held.drop(before=1), held.drop(before=2, keep=2)
    (2, 0)
    """

    def __init__(self, held: Iterable[int] = ()) -> None:
        self._held = deque(held)

    def add(self, generation: int) -> None:
        """An entry was written."""
        self._held.append(generation)

    def drop(self, before: int, keep: int = 0) -> int:
        """Forget entries of generations older than ``before``, but never the last ``keep``; returns how many."""
        dropped = 0
        while len(self._held) > keep and self._held[0] < before:
            self._held.popleft()
            dropped += 1
        return dropped


class _Moved(msgspec.Struct, array_like=True):
    """The events that moved the timers of one task."""

    task: int
    keys: list[str]
    ts: bytes


class _Entry(msgspec.Struct, array_like=True):
    generation: int
    """Of ids, newest when it was written."""
    kept: list[bytes]
    moved: list[_Moved]
    timers: list[bytes | None] | None
    """Snapshot of each task's timers as they were after this entry."""


class LaneJournal:
    """Writes and reads the entries of one score lane.

    Parameters
    ----------
    intake : whose ids are kept; its journal is on.
    timers : of each task in turn, ``None`` where a task has none.
    """

    def __init__(self, intake: Intake, timers: Sequence[SilenceTimers | None]) -> None:
        self._intake, self._timers = intake, list(timers)
        self._has_timers = any(t is not None for t in self._timers)
        self._held = Generations()
        self._needed = 0
        """Entries at the end that the timers need: the newest snapshot's and those behind it."""
        self._rows = 0

    def entry(self, moved: Sequence[tuple[list[str], FloatVector] | None]) -> tuple[list[bytes], int]:
        """The entry of the batch just processed, if it added anything, and how many old entries may go.

        Parameters
        ----------
        moved : of each task, keys and times ``(n,)`` of the events that its timers took in.
        """
        kept = self._intake.take_journal()
        steps = [_Moved(i, m[0], m[1].tobytes()) for i, m in enumerate(moved) if m is not None and m[0]]
        if not kept and not steps:
            return [], 0
        self._rows += sum(len(step.keys) for step in steps)
        snapshot = self._snapshot() if self._due() else None
        generation = self._intake.generation
        self._held.add(generation)
        self._needed = 1 if snapshot is not None else self._needed + 1
        entry = _Entry(generation, [pack(k) for k in kept], steps, snapshot)
        dropped = self._held.drop(generation - 1, self._needed if self._has_timers else 0)
        return [msgspec.msgpack.encode(entry)], dropped

    def _due(self) -> bool:
        return self._has_timers and self._rows >= max(SNAPSHOT_ROWS, sum(len(t) for t in self._timers if t is not None))

    def _snapshot(self) -> list[bytes | None]:
        self._rows = 0
        return [t.snapshot() if t is not None else None for t in self._timers]

    def restore(self, entries: Sequence[bytes]) -> None:
        """Rebuild ids and timers from the entries of the store, oldest first; both are new before."""
        held = [msgspec.msgpack.decode(entry, type=_Entry) for entry in entries]
        kept = [unpack(chunk) for entry in held for chunk in entry.kept]
        # The oldest entry may begin in a generation whose other entries are gone: ids of half a generation would shift
        # where all later ones turn.
        needed = held[-1].generation - 1 if held else 0
        self._intake.rebuild([chunk for chunk in kept if chunk.generation >= needed])
        self._held = Generations(entry.generation for entry in held)
        newest = max((i for i, entry in enumerate(held) if entry.timers is not None), default=-1)
        if newest >= 0:
            for timers, state in zip(self._timers, held[newest].timers or [], strict=True):
                if timers is not None and state is not None:
                    timers.restore(state)
        for entry in held[newest + 1 :]:
            for step in entry.moved:
                timers = self._timers[step.task]
                if timers is not None:
                    timers.advance(step.keys, np.frombuffer(step.ts))
                    self._rows += len(step.keys)
        self._needed = len(held) - max(newest, 0)
