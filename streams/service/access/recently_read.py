"""Values of the database that are believed for some seconds, so that a request seldom waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from weir.streams.service.problems import DatabaseAway

V = TypeVar("V")
BELIEVED_S: Final = 3.0
"""A key that was revoked elsewhere works for so long at most; 5 s are promised."""
_MOST: Final = 10_000
"""Values that are kept; the oldest goes, so that made-up keys cannot fill memory."""


class RecentlyRead(Generic[V]):
    """The last values of a reader, of keys that exist and of keys that do not.

    Parameters
    ----------
    read : asks the database; it runs in a thread.
    """

    def __init__(self, read: Callable[[str], V | None]) -> None:
        self._read = read
        self._known: dict[str, tuple[float, V | None]] = {}

    def peek(self, key: str) -> V | None:
        """What is believed of ``key`` without asking; ``None`` where that is nothing, or too old."""
        found = self._known.get(key)
        return found[1] if found is not None and time.monotonic() - found[0] < BELIEVED_S else None

    async def get(self, key: str) -> V | None:
        """The value of ``key``; raises ``DatabaseAway`` (503) where the database does not answer.

        A database that is away lets nobody in: a key may have been revoked since.
        """
        found = self._known.get(key)
        now = time.monotonic()  # from before the question: the answer may be as old as that
        if found is not None and now - found[0] < BELIEVED_S:
            return found[1]
        try:
            value = await asyncio.to_thread(self._read, key)
        except SQLAlchemyError as exc:
            raise DatabaseAway(exc, "who may do what is not known now") from exc
        # Out before it goes in again: what was read longest ago has to stand first.
        self._known.pop(key, None)
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (now, value)
        return value

    def forget(self, key: str) -> None:
        """Ask again next time."""
        self._known.pop(key, None)
