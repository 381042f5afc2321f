"""The service's database: SQLite in the directory, or PostgreSQL. Opening it brings its tables up to date.

A question is asked in threads of its own and has an end, whatever the server does: one that hangs must not take those
that decode events, and who asks is told so.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import StateError, UsageError
from weir.streams.ops.file_lock import lock_file
from weir.streams.service.store.tables import metadata

NEWEST: Final = "0006"
"""Revision of the tables that this version has: the first were of alerts, 0002 brought keys and sessions, 0003 case
work, 0004 samples, 0005 notifications, 0006 labels that are on their way."""
SQLITE_FILE: Final = "alerts.db"
AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)
"""What says that the database does not answer now, and may answer the same question later."""
_PRAGMAS: Final = (
    "journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "mmap_size=268435456", "wal_autocheckpoint=8000",
)  # fmt: skip
"""With a write-ahead log readers never wait for the writer; after a power cut the newest transactions may be missing,
which the projector makes again from the log. It is written back at 32 MB, as that waits for the
disk."""
_LINK: Final = {
    "connect_timeout": 5, "tcp_user_timeout": 10_000,
    "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
"""What libpq is told unless the URL says otherwise: a server whose machine is gone is noticed within some 10 s."""
_LOCK_TIMEOUT: Final = "5s"
"""So long a statement waits for a lock of somebody else, such as a person at psql."""
_READ_ONLY: Final = "25006"
"""PostgreSQL's code for a write to a server that only reads: a standby, or a primary that became one."""
PATIENCE_S: Final = 20.0
"""So long an answer of the database is waited for."""
_threads: Final = ThreadPoolExecutor(8, "weir-database")
_T = TypeVar("_T")
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
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url)
            event.listen(engine, "connect", _tune)
        else:
            link = {name: value for name, value in _LINK.items() if name not in url.query}
            engine = create_engine(url, pool_pre_ping=True, connect_args=link)
            event.listen(engine, "connect", _bound_locks)
            event.listen(engine, "handle_error", _elsewhere)
        migrate(engine)
    except DBAPIError as exc:
        why = str(exc.orig).strip().splitlines()[0]
        file = url.get_backend_name() == "sqlite"
        fix = "look at its rights and the free space" if file else "correct it, or start it"
        raise UsageError(f"[serve] database {url.render_as_string()}: {why}; {fix}") from exc
    return engine


def lock_of(serve: ServeSettings) -> Path | None:
    """The file by which one process has the database, where that is a file; of a server there is none."""
    if serve.database is None:
        return serve.directory / f"{SQLITE_FILE}.lock"
    url = url_of(serve)
    return Path(f"{url.database}.lock") if url.get_backend_name() == "sqlite" and url.database else None


@contextmanager
def sole_service(serve: ServeSettings) -> Iterator[None]:
    """Keep a second service from a database that is a file; replicas of one have a server between them.

    Raises ``UsageError`` where another service has it, before anything of it is read or changed.
    """
    lock = lock_of(serve)
    if lock is None:
        yield
        return
    file, fix = lock.with_suffix(""), "give another directory by --dir; replicas share a PostgreSQL, [serve] database"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = lock_file(lock, file, fix)
    except OSError as error:
        why = f"{lock}: {error.strerror}; free some, or give a directory that can be written, by --dir"
        raise UsageError(why) from error
    try:
        yield
    finally:
        os.close(held)


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


async def in_thread(what: Callable[..., _T], *given: Any, within_s: float | None = PATIENCE_S) -> _T:
    """What a function of the database gives; raises one of ``AWAY`` where that takes longer than ``within_s``.

    The function goes on then: whether it had an effect is not known.
    """
    running = asyncio.get_running_loop().run_in_executor(_threads, what, *given)
    try:
        async with asyncio.timeout(within_s):
            return await running
    except TimeoutError:
        raise PoolTimeoutError(f"no answer within {within_s:g} s") from None


def database_time(c: Connection) -> float:
    """Epoch seconds by the clock of the database, which all replicas share: their own may be hours apart."""
    if c.dialect.name == "sqlite":
        return time.time()
    return float(c.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


def _bound_locks(connection: Any, _: object) -> None:
    # Not among the options of the connection, which PgBouncer refuses.
    connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    connection.commit()


def _elsewhere(context: ExceptionContext) -> Exception | None:
    """Drop the connections to a server that only reads: behind the same name another one may be the primary by now.

    It answers what asks whether it is there, so that nothing else would ever drop them.
    """
    error = context.original_exception
    if getattr(error, "sqlstate", None) != _READ_ONLY:
        return None
    context.is_disconnect = context.invalidate_pool_on_disconnect = True
    return OperationalError(context.statement, None, error, connection_invalidated=True)


def _tune(connection: Any, _: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def migrate(engine: Engine) -> None:
    """Bring the tables up to date.

    Tables that are missing are made as they are now. So a script of ``migrations`` changes tables of before, and makes
    none; what it adds to a table that may have been missing, it adds only where it is not there.
    """
    with engine.connect() as connection:
        if _revision(connection) == NEWEST:  # as at most starts
            return
    from weir.streams.service.store.migrations import case_work

    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # The one that is first may take its time, and the other waits for it.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
        before = _revision(connection) or NEWEST  # of none nothing has to be changed
        if before > NEWEST:
            raise StateError(
                f"[serve] database: its tables are of revision {before}, this version's of {NEWEST}; a newer Weir has "
                "written it: start that version"
            )
        if before < "0003":
            case_work.upgrade(connection)
        metadata.create_all(connection)
        # As Alembic keeps it, which brought the tables up to date before.
        connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(text("DELETE FROM alembic_version"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": NEWEST})


def _revision(connection: Connection) -> str | None:
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
