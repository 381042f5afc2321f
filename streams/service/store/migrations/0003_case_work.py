"""Case work: alerts on hold, snoozes, saved views, and who has an alert open."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Fill what is new in alerts as a rebuild would."""
    op.execute("ALTER TABLE alerts RENAME COLUMN snoozed_until TO held_until")
    op.add_column("alerts", sa.Column("reason", _TEXT, nullable=False, server_default=""))
    lite = op.get_bind().dialect.name == "sqlite"
    strongest = "json_extract(reasons, '$[0].feature')" if lite else "reasons::json -> 0 ->> 'feature'"
    op.execute(f"UPDATE alerts SET reason = {strongest} WHERE reasons <> '[]'")
    op.execute(
        """UPDATE alerts SET expected_loss = score * (severity + 1) WHERE reasons NOT LIKE '%"feature":"amount"%'"""
    )
    op.create_index("alerts_reason", "alerts", ["reason", "task", "opened_at", "verdict"])
    op.create_index("alerts_judged", "alerts", ["verdict_at", "task"])
    op.create_index("alerts_claimed", "alerts", ["claimed_until"])
    facets = ["task", "severity", "state", "verdict", "assignee", "claimed_until", "held_until", "entity_id", "reason"]
    op.create_index("alerts_facets", "alerts", [*facets, "opened_at", "score"])
    waiting: dict[str, Any] = {f"{name}_where": sa.text("state <> 'resolved'") for name in ("sqlite", "postgresql")}
    op.create_index("alerts_queue", "alerts", ["expected_loss", "alert_id"], **waiting)
