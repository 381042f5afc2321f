"""What an alert book holds of its entities, and its snapshot."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from weir.online.decisions.alert_state import AlertState

_ENTRY_BYTES: Final = 850
_REASON_BYTES: Final = 200
TEXT_BYTES: Final = 57
"""What an entry with its alert and timer, a reason, and a short text take in memory, about, beside what texts say."""


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

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about."""
        alert = self.alert
        texts = (alert.alert_id, alert.entity_id, *alert.event_ids, *self.cleared)
        reasons = sum(_REASON_BYTES + len(reason.text) for reason in alert.reasons)
        return _ENTRY_BYTES + sum(TEXT_BYTES + len(text) for text in texts) + reasons


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
