"""Notices what a task never gets: events of its own, or a column that it reads. Both are no error of any record.

A misspelt field or type is taken without a word, and scores go on without it. ``InputWatch`` looks at events until it
knows, which costs nothing more from then on. It changes no result, and leaves the telling to its host.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weir.online.batch import EventBatch

SEEN: Final = 1_000
"""Fewer events say nothing of what none of them has."""


class InputWatch:
    """Of one task in one process, over all its lanes.

    Parameters
    ----------
    task, stream : their names.
    types : of the events that the task sees; none for all.
    """

    def __init__(self, task: str, stream: str, types: tuple[str, ...]) -> None:
        self._task, self._stream, self._types = task, stream, types
        self.open = True
        """Whether there is anything left to find out; else `came` need not be called."""
        self._events = self._own = 0
        self._none_told = False
        self._unknown: set[str] | None = None
        """Columns of which no value came; ``None`` before the first event of the task."""

    def came(self, events: int, mine: EventBatch) -> None:
        """So many events were admitted, of which ``mine`` are the task's; they have the columns that it reads."""
        self._events += events
        self._own += len(mine)
        if not len(mine):
            return
        texts = {**mine.entities, **mine.texts}
        unknown = {*texts, *mine.numbers} if self._unknown is None else self._unknown
        self._unknown = {
            name
            for name in unknown
            if (texts[name].count(None) == len(mine) if name in texts else bool(np.isnan(mine.numbers[name]).all()))
        }
        self.open = bool(self._unknown)

    def news(self) -> list[str]:
        """What the host is to warn of, a sentence each; each is given once."""
        found: list[str] = []
        if not self._own and self._events >= SEEN and not self._none_told:
            self._none_told = True
            found.append(
                f"task {self._task}: none of the first {self._events} events of {self._stream} is of its types "
                f"({', '.join(self._types) or 'any'}) and has its entity: none is scored. Correct `types` in the task "
                "file, or the events' type or key"
            )
        if self._own >= SEEN and self._unknown:
            found += [
                f"task {self._task}: none of its first {self._own} events has a value of {column} (of the right kind): "
                "what is made of it stays missing. Correct its name in the events or in the task file"
                for column in sorted(self._unknown)
            ]
            self._unknown, self.open = set(), False
        return found
