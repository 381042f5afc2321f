"""The service's database: SQLite in the directory, or PostgreSQL. Opening it brings its tables up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import StateError, UsageError
from weir.streams.service.store.tables import metadata

_MIGRATIONS: Final = str(Path(__file__).parent / "migrations")
NEWEST: Final = max(file.stem.partition("_")[0] for file in Path(_MIGRATIONS).glob("[0-9]*.py"))
"""Revision of the tables that this version has."""
SQLITE_FILE: Final = "alerts.db"
AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)
"""What says that the database does not answer now, and may answer the same question later."""
_PRAGMAS: Final = (
    "journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "mmap_size=268435456", "wal_autocheckpoint=8000",
)  # fmt: skip
"""With a write-ahead log readers never wait for the writer; after a power cut the newest transactions may be missing,
which the projector makes again from the log. It is written back at 32 MB, as that waits for the
disk."""
_MIGRATING: Final = 0x77656972
"""Key of PostgreSQL's advisory lock: two replicas that start together bring the tables up to date one by one."""


def open_database(settings: ServeSettings) -> Engine:
    """The database of ``[serve]``, its tables up to date.

    Raises
    ------
    UsageError
        ``[serve] database`` is no URL of a database that is supported, or the database cannot be reached.
    StateError
        A newer version of Weir has made its tables.
    """
    url = url_of(settings)
    try:
        # A server may have closed what waited in the pool; a file does not.
        engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune)
        migrate(engine)
    except DBAPIError as exc:
        why = str(exc.orig).strip().splitlines()[0]
        file = url.get_backend_name() == "sqlite"
        fix = "look at its rights and the free space" if file else "correct it, or start it"
        raise UsageError(f"[serve] database {url.render_as_string()}: {why}; {fix}") from exc
    return engine


def url_of(settings: ServeSettings) -> URL:
    """Where the database is; raises ``UsageError`` for what is no URL of a database that is supported."""
    if settings.database is None:
        settings.directory.mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(settings.directory / SQLITE_FILE))
    try:
        url = make_url(settings.database.get_secret_value())
        if url.get_backend_name() in ("sqlite", "postgresql"):
            url.get_dialect().import_dbapi()
            return url
    except (ArgumentError, NoSuchModuleError, ImportError):
        pass
    raise UsageError(
        "[serve] database: give postgresql+psycopg://USER:PASSWORD@HOST/NAME, or leave it out: SQLite in the directory"
    )


def _tune(connection: Any, _: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def migrate(engine: Engine) -> None:
    """Bring the tables up to date; without Alembic's environment file, as the connection is already there.

    Tables that are missing are made as they are now. So a script of ``migrations`` changes tables of before, and makes
    none; what it adds to a table that may have been missing, it adds ``if_not_exists``.
    """
    if _revision(engine) == NEWEST:  # as at most starts, and importing Alembic takes a quarter second
        return
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    script = ScriptDirectory(_MIGRATIONS, version_locations=[_MIGRATIONS])
    with engine.begin() as connection:

        def steps(before: Any, _: object) -> Any:
            # A database without a revision is only stamped: its tables are made below in their newest form.
            found = script._upgrade_revs("head", before) if before else script._stamp_revs("head", before)
            metadata.create_all(connection)
            return found

        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
        context = EnvironmentContext(Config(), script, fn=steps)
        with context:
            context.configure(connection=connection, target_metadata=metadata)
            try:
                with context.begin_transaction():
                    context.run_migrations()
            except CommandError as exc:
                raise StateError(f"[serve] database: {exc}; a newer Weir has written it: start that version") from exc


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


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
