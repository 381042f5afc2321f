"""``weir keys``: API keys of the HTTP service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli.console import output, say, table, to_json, utc
from weir.streams.cli.options import ConfigOption, JsonOption, duration, settings_of
from weir.streams.cli.processes.process import needed
from weir.streams.errors import UsageError
from weir.streams.ops.command_user import caller

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from weir.streams.config.serve_settings import ServeSettings
    from weir.streams.service.access.api_keys import ApiKey, KeyStore

_HELP = "API keys of `weir serve`: create, list, revoke.\n\nFor example: weir keys create shop --role operator"
keys_app = typer.Typer(name="keys", no_args_is_help=True, help=_HELP)
DirectoryOption = Annotated[
    Path | None, typer.Option("--dir", help="Where data lies, as of weir serve; else [serve] directory.")
]


def database_of(serve: ServeSettings, *, make: bool = False) -> Engine:
    """The database of a service; raises ``UsageError`` where there is none and ``make`` does not ask for it."""
    needed(("sqlalchemy", "fastapi"), "a command about keys or the audit", "weir[serve]")
    from weir.streams.service.store.database import SQLITE_FILE, access_database

    # To open SQLite makes its file: a look at the wrong directory must leave nothing there.
    if not make and serve.database is None and not (serve.directory / SQLITE_FILE).exists():
        raise UsageError(f"{serve.directory}: no weir serve was here; give its directory by --dir")
    return access_database(serve)


def _store(config: Path | None, directory: Path | None, *, make: bool = False) -> tuple[KeyStore, Engine]:
    """The keys; raises what ``database_of`` does."""
    engine = database_of(settings_of(config, None, {"serve.directory": directory}).serve, make=make)
    from weir.streams.service.access.api_keys import KeyStore

    return KeyStore(engine), engine


@keys_app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(help="What people call the program that gets the key.")],
    role: Annotated[str | None, typer.Option("--role", "-r", help="viewer, analyst, operator or admin.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", "-s", help="Instead of a role, such as events:write; repeat.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Only this task; repeat for more.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="After how long it ends: 90d; else never.")] = None,
    requests: Annotated[
        float | None,
        typer.Option("--requests-per-s", min=0.01, max=1e9, help="Instead of [serve.access] requests_per_s."),
    ] = None,
    records: Annotated[
        float | None,
        typer.Option("--records-per-s", min=0.01, max=1e9, help="Instead of [serve.access] records_per_s."),
    ] = None,
    as_json: JsonOption = False,
    directory: DirectoryOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key, and show it, this once: only a digest of it is kept.

    It works at once, whether the service runs or not.

    For example:

        weir keys create shop --scope events:write --scope decisions:write

        weir keys create "fraud desk" --role analyst --task fraud --expires 90d
    """
    now, (store, engine) = time.time(), _store(config, directory, make=True)
    key, text = store.create(
        name,
        role=role,
        scopes=scope or (),
        tasks=task,
        expires_at=None if expires is None else now + duration("--expires", expires),
        requests_per_s=requests,
        records_per_s=records,
        by=f"{caller()} (weir keys)",
        now=now,
    )
    # Left in the database: the running service, which alone writes the chain, takes it from there.
    _audited(engine, "weir keys create", key)
    if as_json:
        print(to_json({**key.shown(now), "key": text}))
        return
    print(text)
    say("Keep it: it is shown this once. Send it as Authorization: Bearer.")


@keys_app.command("list")
def list_command(as_json: JsonOption = False, directory: DirectoryOption = None, config: ConfigOption = None) -> None:
    """Show the keys there are and were, without their secrets.

    For example:

        weir keys list
    """
    now, keys = time.time(), _store(config, directory)[0].all()
    if as_json:
        print(to_json([key.shown(now) for key in keys]))
        return
    columns = ("id", "name", "state", "allows", "tasks", "made", "ends")
    output().print(table(*columns, rows=[_row(key, now) for key in keys]))


def _audited(engine: Engine, action: str, key: ApiKey) -> None:
    from weir.streams.service.access.audit.audit_trail import leave

    leave(engine, action, f"key:{key.id}")


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    ends = "never" if key.expires_at is None else utc(key.expires_at)
    tasks = "all" if key.tasks is None else " ".join(key.tasks)
    return key.id, key.name, key.state(now), key.role or " ".join(key.scopes), tasks, utc(key.created_at), ends


@keys_app.command("revoke")
def revoke_command(
    key: Annotated[str, typer.Argument(metavar="ID", help="As weir keys list shows it.")],
    directory: DirectoryOption = None,
    config: ConfigOption = None,
) -> None:
    """End a key for good; a running service refuses it within 5 seconds.

    For example:

        weir keys revoke 1f2e3d4c5b6a
    """
    store, engine = _store(config, directory)
    ended = store.revoke(key, time.time())
    _audited(engine, "weir keys revoke", ended)
    say(f"{ended.name} ({ended.id}) is revoked")
