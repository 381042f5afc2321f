"""What an alert book holds of its entities, and its snapshot."""

from __future__ import annotations

import math

import msgspec

from weir.online.decisions.alert_state import AlertState


class BookEntry(msgspec.Struct, array_like=True):
    """An entity with an open alert, or in the cooldown after one."""

    number: int
    alert: AlertState
    wake_at: float
    """When the alert goes quiet, or the cooldown ends."""
    cleared: set[str]
    """Listed events whose label says that nothing was wrong."""
    told_events: int = 1
    told_at: float = -math.inf
    """How many events the last record told of, and when."""

    @property
    def is_open(self) -> bool:
        """Whether its alert is."""
        return self.alert.status != "resolved"


class StoredBook(msgspec.Struct, array_like=True):
    """A snapshot."""

    task: str
    watermark: float
    number: int
    """Of the next entry."""
    entries: dict[str, BookEntry]
    seen: list[str]
    """Entity and event of each row that was over its threshold, a line each of one text."""
    stats: list[int]
