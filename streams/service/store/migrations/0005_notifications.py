"""Notifications: messages about alerts with what became of each, and rules that people made."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Nothing: see ``weir.streams.service.store.database.migrate``."""
