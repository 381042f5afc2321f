"""One task's document: read, changed as a whole, and held by one trainer at a time.

A trainer that works on a task holds its lease: it says so in the document, and says it again with every change. One
that was silent for longer than the lease may be followed by another. A trainer that only slept learns of that at its
next change, which is refused: whatever it did in between had no effect. The clock is an argument; those of several
machines may differ: a lease has also run out where its document stood still for so long by the clock of who looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from weir.streams.trainer.state_journal import Journal
from weir.streams.trainer.task_state import TaskState, decode, encode
from weir.streams.trainer.trainer_errors import LeaseLostError

ALONE_S: Final = 365 * 86_400.0
"""A lease of a trainer that is alone in its world: nobody else is to take over."""
Clock = Callable[[], float]
"""Epoch seconds."""
Change = Callable[[TaskState], TaskState]
Noted = Callable[[TaskState, TaskState], None]
"""Told the document before and after a change of this trainer's, once the journal has it."""


class LeasedTaskState:
    """A task's document in the journal; any thread may call.

    Parameters
    ----------
    task : its name.
    journal : where documents are kept.
    owner : this trainer's name, unlike any other's.
    lease_s : how long the others wait for a sign of life.
    clock : wall-clock time.
    noted : see ``Noted``.
    """

    def __init__(
        self, task: str, journal: Journal, owner: str, lease_s: float, clock: Clock, noted: Noted = lambda *_: None
    ) -> None:
        self.task, self.owner, self._noted = task, owner, noted
        self._journal, self._lease_s, self._clock = journal, lease_s, clock
        # Reentrant: `release` calls `change`, and that `reload`, with the lock held.
        self._lock = threading.RLock()
        self._number, self._state = 0, TaskState(task)
        self._still: tuple[tuple[str, float], float] | None = None
        """Whose lease it was, and until when, as the task was claimed last; and since when that is so."""
        self.reload()

    @property
    def state(self) -> TaskState:
        """As this trainer knows it."""
        return self._state

    @property
    def held(self) -> bool:
        """Whether this trainer holds the lease, as far as it knows."""
        return self._state.owner == self.owner

    def reload(self) -> TaskState:
        """Read the newest document; raises ``StateError`` for one that cannot be read."""
        with self._lock:
            found = self._journal.newest(self.task)
            if found is not None:
                self._number, self._state = found[0], decode(found[1], f"journal of task {self.task}, entry {found[0]}")
            return self._state

    def change(self, change: Change, *, free: bool = False) -> TaskState:
        """Change the document; ``change`` may be called again, with what somebody else made of it.

        Parameters
        ----------
        free : whether it may be changed without the lease, as requests do that come in.

        Raises
        ------
        LeaseLostError
            Another trainer works on the task now.
        """
        with self._lock:
            while True:
                if not free and not self.held:
                    raise LeaseLostError(
                        f"task {self.task}: {self._state.owner or 'another trainer'} has taken it over from "
                        f"{self.owner}, which said nothing for {self._lease_s:g} s; nothing to do here"
                    )
                changed = change(self._state)
                # A request that is repeated makes no entry, and no sign of life either: that is `beat`.
                if changed == self._state:
                    return changed
                # Not where the lease is given back.
                if self.held and changed.owner == self.owner:
                    changed = self._prolonged(changed)
                if self._journal.append(self.task, self._number + 1, encode(changed)):
                    before = self._state
                    self._number, self._state = self._number + 1, changed
                    # After the journal has it: a change that was refused must not be counted.
                    self._noted(before, changed)
                    return changed
                self.reload()

    def claim(self) -> bool:
        """Take the lease if it is free or has run out; whether this trainer holds it."""
        with self._lock:
            self.reload()
            now = self._clock()
            if self.held:
                return True
            lease = self._state.owner, self._state.lease_until
            if self._still is None or self._still[0] != lease:
                self._still = lease, now
            # A lease that has run out is no proof that its trainer is dead. What keeps the two apart is the append
            # below, and every later one of the other. By its own clock it might run for hours yet.
            if self._state.owner and self._state.lease_until > now and now - self._still[1] <= self._lease_s:
                return False
            taken = self._prolonged(msgspec.structs.replace(self._state, owner=self.owner))
            if not self._journal.append(self.task, self._number + 1, encode(taken)):
                self.reload()
                return False
            self._number, self._state = self._number + 1, taken
            return True

    def beat(self, change: Change = lambda state: state) -> None:
        """Give a sign of life, also where ``change`` changes nothing; raises ``LeaseLostError``."""
        self.change(lambda state: self._prolonged(change(state)))

    def release(self) -> None:
        """Let another trainer have the task at once; nothing happens without the lease."""
        with self._lock:
            if self.held:
                self.change(lambda s: msgspec.structs.replace(s, owner="", lease_until=0.0))

    def _prolonged(self, state: TaskState) -> TaskState:
        return msgspec.structs.replace(state, lease_until=self._clock() + self._lease_s)
