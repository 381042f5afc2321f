"""What ``weir serve --check`` looks at: whether the service could run here. Nothing is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from weir.online.task.spec import TaskSpec
from weir.streams.checks.findings import Check
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError, WeirError


def check_serve(settings: Settings, tasks: Sequence[TaskSpec], *, embedded: bool) -> list[Check]:
    """The address, TLS, the database; and the directory where there is no broker, or who writes decisions."""
    checks = [_address(settings.serve), *_tls(settings.serve), *_database(settings.serve)]
    return [*checks, _directory(settings.serve, tasks) if embedded else check_decisions(settings)]


def check_decisions(settings: Settings) -> Check:
    """Whether workers tell what they decide."""
    if settings.worker.decisions:
        return Check("decisions", "OK", "workers of these settings write them")
    fix = "set [worker] decisions = true, and start the workers again"
    return Check("decisions", "WARN", "workers of these settings write none: POST /v1/decisions is always late", fix)


def _address(serve: ServeSettings) -> Check:
    from weir.streams.service.run import listening

    try:
        listening(serve.host, serve.port).close()
    except WeirError as error:
        return Check("address", "FAIL", str(error))
    return Check("address", "OK", f"{serve.host}:{serve.port} is free")


def _tls(serve: ServeSettings) -> list[Check]:
    missing = [str(path) for path in (serve.tls_cert, serve.tls_key) if path is not None and not path.is_file()]
    if missing:
        return [Check("tls", "FAIL", f"no such file: {', '.join(missing)}", "correct [serve] tls_cert and tls_key")]
    if serve.tls_cert is None and not serve.loopback and not serve.trusted_proxies:
        fix = "set [serve] tls_cert and tls_key, or put a proxy before it and name that in trusted_proxies"
        return [Check("tls", "WARN", f"{serve.host} can be reached without encryption", fix)]
    return []


def _database(serve: ServeSettings) -> list[Check]:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    from weir.streams.service.store.database import lock_of, sole_service, url_of

    try:
        if (lock := lock_of(serve)) is not None and lock.exists():  # else to look would make it
            with sole_service(serve):
                pass
        if serve.database is None:
            return []
        url = url_of(serve)
    except UsageError as error:
        return [Check("database", "FAIL", str(error))]
    # To connect to a file of SQLite that is not there makes it.
    if url.database is not None and url.get_backend_name() == "sqlite" and not Path(url.database).exists():
        return [Check("database", "OK", f"{serve.database}, new")]
    engine = create_engine(url)
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        return [Check("database", "FAIL", f"{serve.database}: {reason}", "correct [serve] database")]
    finally:
        engine.dispose()
    return [Check("database", "OK", str(serve.database))]


def _directory(serve: ServeSettings, tasks: Sequence[TaskSpec]) -> Check:
    from weir.streams.service.embedded.data_directory import FILE, DataDirectory

    path = serve.directory.absolute()
    # Only one that is there: to open it takes its lock, and would make what is not.
    if (path / FILE).exists():
        try:
            with DataDirectory(path, tasks) as held:
                held.check_room()
                if held.changed:
                    words = f"{path}, epoch {held.epoch}; changed since: {', '.join(held.changed)}"
                    return Check("directory", "WARN", words, "what does not fit begins anew; the start says what")
                return Check("directory", "OK", f"{path}, epoch {held.epoch}")
        except WeirError as error:
            return Check("directory", "FAIL", str(error))
    # In the nearest folder that is there, the service would make the others.
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("directory", "FAIL", f"{there} cannot be written", "give another directory by --dir")
    return Check("directory", "OK", f"{path}, new")
