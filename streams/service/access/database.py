"""The database of keys and sessions: that of ``[serve] database``, else a file in the directory."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import UsageError
from weir.streams.service.access.access_tables import METADATA

_FILE = "access.db"


def access_database(serve: ServeSettings) -> Engine:
    """The database, with its tables; raises ``UsageError`` where it cannot be reached.

    SQLite has a file of its own beside the alerts': their projection may be thrown away, keys may not, and nobody who
    signs on waits for a projector that writes.
    """
    if serve.database is not None:
        engine = create_engine(serve.database.get_secret_value(), pool_pre_ping=True)
    else:
        serve.directory.mkdir(parents=True, exist_ok=True)
        path = serve.directory / _FILE
        path.touch(mode=0o600)  # digests and names of people: of nobody else on this machine
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10.0})
        event.listen(engine, "connect", _wal)
    try:
        METADATA.create_all(engine)
    except SQLAlchemyError as exc:
        where = repr(serve.database) if serve.database is not None else str(serve.directory / _FILE)
        reason = str(getattr(exc, "orig", exc)).strip().splitlines()[0]
        raise UsageError(f"{where}: cannot be used ({reason}); correct [serve] database or the directory") from exc
    return engine


def _wal(connection: Any, _: Any) -> None:
    """Readers and the one writer do not wait for each other; and a commit is on disk."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
