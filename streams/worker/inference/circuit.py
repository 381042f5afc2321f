"""When to stop waiting for answers: time is an argument, so it knows no clock.

After ``limit`` deadlines were missed in a row nobody waits any more, because every batch would cost one; requests
still go out. The first answer that came in time says that it is worth waiting again: an answer to an old request, out
of a backlog that is being worked off, does not.
"""

from __future__ import annotations

from typing import Final

LIMIT: Final = 3


class Circuit:
    """Of one task in one partition.

    Parameters
    ----------
    deadline_s : how long an answer is worth waiting for.
    limit : missed deadlines in a row after which nobody waits.

    >>> circuit = Circuit(0.1, limit=2)
    >>> circuit.missed(), circuit.missed(), circuit.waits
    (False, True, False)
    >>> circuit.answered(5.0), circuit.waits, circuit.answered(0.02), circuit.waits
    (False, False, True, True)
    """

    def __init__(self, deadline_s: float, limit: int = LIMIT) -> None:
        self.deadline_s, self.limit = deadline_s, limit
        self._missed = 0

    @property
    def waits(self) -> bool:
        """Whether a batch waits for its answers."""
        return self._missed < self.limit

    def missed(self) -> bool:
        """A batch went on without an answer; whether nobody waits from now on, and did before."""
        self._missed += 1
        return self._missed == self.limit

    def answered(self, age_s: float) -> bool:
        """An answer came ``age_s`` after its request; whether it is worth waiting again, and was not before."""
        if age_s > self.deadline_s:  # out of a backlog: the next one would be late as well
            return False
        reopened = not self.waits
        self._missed = 0
        return reopened
