"""The database of keys and sessions: the service's own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.service.store.database import SQLITE_FILE, open_database


def access_database(serve: ServeSettings) -> Engine:
    """The database, its tables up to date; raises what ``open_database`` does."""
    if serve.database is None:
        serve.directory.mkdir(parents=True, exist_ok=True)
        (serve.directory / SQLITE_FILE).touch(mode=0o600)  # people and alerts: of nobody else on this machine
    engine = open_database(serve)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _durable)
        engine.dispose()  # the connection that brought the tables up to date is without it
    return engine


def _durable(connection: Any, _: object) -> None:
    """A commit is on disk: alerts can be made again from the log, and a key that was revoked must stay so."""
    connection.execute("PRAGMA synchronous=FULL")
