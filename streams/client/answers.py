"""What the service answers, as types."""

from __future__ import annotations

from typing import Any

import msgspec


class RecordResult(msgspec.Struct):
    """What became of one record of a body."""

    index: int
    status: str
    """``accepted``, ``repeat`` or ``refused``."""
    reason: str = ""


class IntakeAnswer(msgspec.Struct):
    """What became of the records that were sent."""

    accepted: int
    repeats: int
    refused: int
    results: list[RecordResult] = []
    """Those that were not accepted."""


class FeedEvent(msgspec.Struct):
    """One record of the live feed."""

    type: str
    """``prediction``, ``alert``, ``drift``, ``retrain``, ``model-update``, ``dead-letter`` or ``case-event``."""
    topic: str
    partition: int
    offset: int
    ts: float
    """When it was written, epoch seconds."""
    record: dict[str, Any] = {}
    """As docs/WIRE.md has it."""
    id: str = ""
    """Where to resume: the feed from there begins with the next record."""


class AlertPage(msgspec.Struct):
    """Some alerts, in the order that was asked for."""

    alerts: list[dict[str, Any]]
    next: str | None = None
    """Cursor of the next page; ``None`` at the end."""
