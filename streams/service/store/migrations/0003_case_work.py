"""Case work: alerts on hold, snoozes, saved views, and who has an alert open."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_REAL: Any = sa.Double()


def upgrade() -> None:
    """Make the tables, and fill what is new in alerts as a rebuild would."""
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
    op.create_table(
        "snoozes",
        sa.Column("snooze_id", _TEXT, primary_key=True),
        *(sa.Column(name, _TEXT, nullable=name not in ("task", "by"))
          for name in ("task", "entity_id", "feature", "by", "note", "ended_by")),
        *(sa.Column(name, _REAL, nullable=False) for name in ("at", "until")),
    )  # fmt: skip
    for what in ("entity_id", "feature"):
        op.create_index(f"snoozes_{what}", "snoozes", [what, "task", "until"])
    op.create_table(
        "saved_views",
        *(sa.Column(name, _TEXT, primary_key=True) for name in ("owner", "name")),
        *(sa.Column(name, _TEXT, nullable=False) for name in ("query", "by")),
        sa.Column("shared", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "presence",
        sa.Column("alert_id", _TEXT, primary_key=True),
        sa.Column("person", _TEXT, primary_key=True),
        sa.Column("until", _REAL, nullable=False),
    )
