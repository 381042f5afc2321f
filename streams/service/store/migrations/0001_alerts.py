"""The first tables: alerts with their history and verdicts, and how far the log is in them."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: see ``weir.streams.service.store.database.migrate``."""
