"""Tables of notifications: what the topic ``notifications`` says, and rules that people made."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Index, Integer, Table

from weir.streams.service.store.tables import Text, metadata

_TEXTS: Final = ("rule", "target", "task", "what", "status", "answer", "message")
notifications: Final = Table(
    "notifications",
    metadata,
    Column("id", Text, primary_key=True),
    Column("place", BigInteger, nullable=False, index=True),  # their order
    Column("alert_id", Text, nullable=False, index=True),
    *(Column(name, Text, nullable=False) for name in _TEXTS),  # the message is JSON
    *(Column(name, Double, nullable=False) for name in ("due_at", "changed_at")),
    Column("gathered", Integer, nullable=False),
    Index("notifications_waiting", "status", "target", "due_at", "place"),
)
"""Every message, and its status: waiting, sent, failed, left_out. Made of the topic, so that a rebuild empties it."""

notify_rules: Final = Table(
    "notify_rules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("rule", Text, nullable=False),  # JSON
    Column("by", Text, nullable=False),
    Column("at", Double, nullable=False),
)
"""Rules that people made, and rules of the settings that they paused. A rebuild leaves them."""
