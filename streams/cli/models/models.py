"""``weir models``: the versions of full models, and which of them serves.

What a version is stands in ``weir.models.registry``.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from weir.online.durations import format_duration
from weir.streams.cli.console import output, say, table, to_json
from weir.streams.cli.models.import_model import import_command
from weir.streams.cli.models.model_common import (
    RegistryOption,
    TaskArgument,
    TaskOrAll,
    VersionArgument,
    number_of,
    open_registry,
    tasks_in,
)
from weir.streams.cli.models.model_moves import promote_command, rollback_command
from weir.streams.cli.options import ConfigOption, JsonOption, duration, settings_of

_HELP = """Full models: list, show, import, promote, roll back, compare, verify, clear away.

For example: weir models list
"""
models_app = typer.Typer(name="models", help=_HELP, no_args_is_help=True)


@models_app.command("list")
def list_command(
    task: TaskOrAll = None, registry: RegistryOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """List the versions of each task, with their stages and metrics.

    For example:

        weir models list

        weir models list fraud --registry s3://bucket/models

        weir models list --json | jq '.[] | select(.stage == "champion").digest'
    """
    from weir.models.errors import ModelError
    from weir.streams.cli.models.model_tables import VERSION_COLUMNS, document, version_row

    held = open_registry(registry, config)
    rows, documents, unusable = [], [], []
    for name in tasks_in(held, task):
        stages = held.stages(name)
        for version in held.versions(name):
            try:
                manifest = held.manifest(name, version)
            # One that is damaged is told, and hides no other.
            except ModelError as exc:
                unusable.append(str(exc))
                continue
            rows.append(version_row(manifest, stages))
            documents.append(document(manifest, stages, held.uri(name, version)))
    if as_json:
        print(to_json(documents))
    elif documents:
        output().print(table(*VERSION_COLUMNS, rows=rows))
    for reason in unusable:
        say(f"unusable: {reason}")
    empty = "" if documents or unusable else "; weir trainer makes them, [models] registry (or --registry) says where"
    say(f"{len(documents)} versions in {held.url}{empty}")


@models_app.command("show")
def show_command(
    task: TaskArgument,
    version: VersionArgument = "champion",
    registry: RegistryOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one version: its data, metrics, files, and the moves of the task's stages.

    For example:

        weir models show fraud

        weir models show fraud 3

        weir models show fraud shadow --json
    """
    from weir.streams.cli.models.model_tables import document, moves_table, page

    held = open_registry(registry, config)
    stages = held.stages(task)
    number = number_of(held, task, version)
    manifest, uri = held.manifest(task, number), held.uri(task, number)
    if as_json:
        print(to_json(document(manifest, stages, uri)))
        return
    for part in page(manifest, stages, uri, settings_of(config, None).models.precision):
        output().print(part)
    if moves := held.history(task):
        output().print(moves_table(moves))


models_app.command("import")(import_command)
models_app.command("promote")(promote_command)
models_app.command("rollback")(rollback_command)


@models_app.command("diff")
def diff_command(
    task: TaskArgument,
    old: VersionArgument,
    new: VersionArgument,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare two versions: data, inputs, metrics, files.

    For example:

        weir models diff fraud 3 4

        weir models diff fraud champion shadow
    """
    from weir.streams.cli.models.model_tables import differences

    held = open_registry(registry, config)
    a, b = (held.manifest(task, number_of(held, task, version)) for version in (old, new))
    found = differences(a, b)
    if as_json:
        print(to_json([{"field": field, "old": was, "new": now} for field, was, now in found]))
        return
    if found:
        output().print(table("", f"v{a.version}", f"v{b.version}", rows=found))
    say(f"{a.name} and {b.name}: {len(found)} differences")


@models_app.command("verify")
def verify_command(
    task: TaskOrAll = None,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="A number, or champion or shadow.")] = None,
    registry: RegistryOption = None,
    config: ConfigOption = None,
) -> None:
    """Read every file of versions, compare its SHA-256, and try the graphs; exit status 1 when one fails.

    For example:

        weir models verify

        weir models verify fraud champion
    """
    from weir.models.errors import ModelError

    held = open_registry(registry, config)
    rows, bad = list[tuple[object, ...]](), 0
    for name in tasks_in(held, task):
        for number in [number_of(held, name, version)] if version is not None else held.versions(name):
            try:
                artefact = held.verify(name, number)
            except ModelError as exc:
                bad += 1
                rows.append((name, f"v{number}", "-", exc))
            else:
                rows.append((name, f"v{number}", len(artefact.files), "ok"))
    if rows:
        output().print(table("task", "version>", "files>", "", rows=rows))
    say(f"{len(rows) - bad} versions are whole, {bad} are not")
    if bad:
        raise typer.Exit(1)


@models_app.command("gc")
def gc_command(
    task: TaskOrAll = None,
    older_than: Annotated[str, typer.Option("--older-than", help="Since the writer began: 30m, 6h, 2d.")] = "1h",
    registry: RegistryOption = None,
    config: ConfigOption = None,
) -> None:
    """Clear away versions whose writer died before it had finished, and files that it left.

    Complete versions are never touched.

    For example:

        weir models gc

        weir models gc fraud --older-than 6h
    """
    held, age = open_registry(registry, config), duration("--older-than", older_than)
    cleared = [
        f"{name} v{v}" for name in tasks_in(held, task) for v in held.gc(name, now=time.time(), older_than_s=age)
    ]
    for name in cleared:
        print(name)
    say(f"{len(cleared)} unfinished versions older than {format_duration(age)} cleared away")
