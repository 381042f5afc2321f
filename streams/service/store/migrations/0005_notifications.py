"""Notifications: messages about alerts with what became of each, and rules that people made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_REAL: Any = sa.Double()
_TEXTS = ("rule", "target", "alert_id", "task", "what", "status", "answer", "message")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "notifications",
        sa.Column("id", _TEXT, primary_key=True),
        sa.Column("place", sa.BigInteger(), nullable=False),
        *(sa.Column(name, _TEXT, nullable=False) for name in _TEXTS),
        *(sa.Column(name, _REAL, nullable=False) for name in ("due_at", "changed_at")),
        sa.Column("gathered", sa.Integer(), nullable=False),
    )
    for column in ("place", "alert_id"):
        op.create_index(f"ix_notifications_{column}", "notifications", [column])
    op.create_index("notifications_waiting", "notifications", ["status", "target", "due_at", "place"])
    op.create_table(
        "notify_rules",
        *(sa.Column(name, _TEXT, primary_key=name == "name", nullable=False) for name in ("name", "rule", "by")),
        sa.Column("at", _REAL, nullable=False),
    )
