"""What is the matter with a Redis, if anything is: the log says once that it begins, and once that it is over.

A Redis that is full, cannot save or is a replica refuses writes and still answers reads. So an answer shows that Redis
is there, and only a write that it took shows that it takes writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Literal

log = logging.getLogger(__name__)

Matter = Literal["is away", "takes no writes"]
_OVER: Final[dict[Matter, str]] = {"is away": "is back", "takes no writes": "takes writes again"}


class LinkState:
    """See the module.

    Parameters
    ----------
    address : of the server, without secrets; asked for when something is said.
    """

    def __init__(self, address: Callable[[], str]) -> None:
        self._address = address
        self._matters: dict[Matter, str] = {}
        self._said: set[Matter] = set()

    @property
    def trouble(self) -> str | None:
        """What is the matter and why, a sentence; it may be asked for from any thread."""
        for matter, why in list(self._matters.items()):
            return f"Redis at {self._address()} {matter}: {why}"
        return None

    def failed(self, matter: Matter, why: str) -> None:
        """A command was not taken. Nothing is said yet: an idle connection may just have been closed."""
        if matter == "takes no writes":  # who refuses is there
            self._matters.clear()
            self._said.discard("is away")
        self._matters[matter] = why

    def say(self, matter: Matter, patience_s: float) -> None:
        """A command waits for it now; every command that waits comes by here, many times."""
        if matter in self._matters and matter not in self._said:
            self._said.add(matter)
            words = "Redis at %s %s: %s; waiting for it up to %g s"
            log.warning(words, self._address(), matter, self._matters[matter], patience_s)

    def answered(self, waited_s: float, *, took: bool) -> None:
        """A command succeeded after it waited for so long; ``took`` says whether it wrote something new."""
        for matter in list(self._matters):
            if took or matter == "is away":
                del self._matters[matter]
                if matter in self._said:
                    self._said.remove(matter)
                    log.warning("Redis at %s %s; a command waited %.1f s", self._address(), _OVER[matter], waited_s)
