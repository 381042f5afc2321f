"""Figures over time."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing: see ``weir.streams.service.store.database.migrate``."""
