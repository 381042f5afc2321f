"""Who may do what: keys, sessions, and where the audit's chains have come to."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Nothing: see ``weir.streams.service.store.database.migrate``."""
