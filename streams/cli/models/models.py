"""``weir models``: the versions of full models, and which of them serves.

What a version is stands in ``weir.models.registry``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from weir.online.durations import format_duration
from weir.streams.cli.console import output, say, size, table, to_json, utc
from weir.streams.cli.models import model_common as common
from weir.streams.cli.models.import_model import import_command
from weir.streams.cli.models.model_moves import promote_command, rollback_command
from weir.streams.cli.options import ConfigOption, JsonOption, duration, settings_of

if TYPE_CHECKING:
    from rich.table import Table

    from weir.models.manifest import Manifest, Precision
    from weir.models.registry.stages import StageEntry, Stages
    from weir.streams.checks.findings import Check
    from weir.streams.config.settings import Settings

_HELP = """Full models: list, show, import, promote, roll back, compare, verify, clear away.

For example: weir models list
"""
models_app = typer.Typer(name="models", help=_HELP, no_args_is_help=True)


@models_app.command("list")
def list_command(
    task: common.TaskOrAll = None,
    registry: common.RegistryOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the versions of each task, with their stages and metrics; exit status 1 where something is damaged.

    Where the settings name brokers, a move that the workers were not told of
    is said, with the command that tells them.

    For example:

        weir models list

        weir models list fraud --registry s3://bucket/models

        weir models list --json | jq '.[] | select(.stage == "champion").digest'
    """
    from weir.models.errors import ModelError

    held = common.open_registry(registry, config)
    rows, documents, unusable = [], [], list[str]()
    moved: dict[str, Stages] = {}
    # What is damaged is told, and hides nothing else: a version no other version, a log of stages no other task.
    for name in common.tasks_in(held, task):
        try:
            stages, versions = held.stages(name), held.versions(name)
        except ModelError as exc:
            unusable.append(f"task {name}: {exc}")
            continue
        moved[name] = stages
        for version in versions:
            try:
                manifest = held.manifest(name, version)
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
    for check in _untold(settings_of(config, None), moved):
        say(f"warning: {check.name}: {check.found}{'; ' if check.fix else ''}{check.fix}", style="yellow")
    empty = "" if documents or unusable else "; weir trainer makes them, [models] registry (or --registry) says where"
    say(f"{len(documents)} versions in {held.url}{empty}")
    if unusable:
        raise typer.Exit(1)


def _untold(settings: Settings, stages: Mapping[str, Stages]) -> Sequence[Check]:
    """What the workers were not told of; nothing where no brokers are named, or no version has a stage."""
    # Not by the address, whose default is a broker on this machine.
    if "kafka" not in settings.model_fields_set or not any(held.seq for held in stages.values()):
        return ()
    from weir.streams.checks.untold_moves import untold_moves  # it brings compiled code

    return untold_moves(settings, stages)


@models_app.command("show")
def show_command(
    task: common.TaskArgument,
    version: common.VersionArgument = "champion",
    registry: common.RegistryOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one version: its data, metrics, files, and the moves of the task's stages.

    For example:

        weir models show fraud

        weir models show fraud 3

        weir models show fraud shadow --json
    """
    held = common.open_registry(registry, config)
    stages = held.stages(task)
    number = common.number_of(held, task, version)
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
    task: common.TaskArgument,
    old: common.VersionArgument,
    new: common.VersionArgument,
    registry: common.RegistryOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare two versions: data, inputs, metrics, files.

    For example:

        weir models diff fraud 3 4

        weir models diff fraud champion shadow
    """
    held = common.open_registry(registry, config)
    a, b = (held.manifest(task, common.number_of(held, task, version)) for version in (old, new))
    found = differences(a, b)
    if as_json:
        print(to_json([{"field": field, "old": was, "new": now} for field, was, now in found]))
        return
    if found:
        output().print(table("", f"v{a.version}", f"v{b.version}", rows=found))
    say(f"{a.name} and {b.name}: {len(found)} differences")


@models_app.command("verify")
def verify_command(
    task: common.TaskOrAll = None,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="A number, or champion or shadow.")] = None,
    registry: common.RegistryOption = None,
    config: ConfigOption = None,
) -> None:
    """Read every file of versions, compare its SHA-256, and try the graphs; exit status 1 when one fails.

    Without VERSION the log of stages is read, too: every move, and that what
    serves and what shadows is there.

    For example:

        weir models verify

        weir models verify fraud champion
    """
    from weir.models.errors import ModelError

    held = common.open_registry(registry, config)
    rows, bad = list[tuple[object, ...]](), 0
    for name in common.tasks_in(held, task):
        looks: list[int | str] = [*held.versions(name), "stages"]
        for what in looks if version is None else [common.number_of(held, name, version)]:
            shown = what if isinstance(what, str) else f"v{what}"
            try:
                files = held.verify_stages(name) if isinstance(what, str) else held.verify(name, what).files
            except ModelError as exc:
                bad += 1
                rows.append((name, shown, "-", exc))
            else:
                rows.append((name, shown, len(files), "ok"))
    if rows:
        output().print(table("task", "version>", "files>", "", rows=rows))
    say(f"{len(rows) - bad} versions and logs of stages are whole, {bad} are not")
    if bad:
        raise typer.Exit(1)


@models_app.command("gc")
def gc_command(
    task: common.TaskOrAll = None,
    older_than: Annotated[str, typer.Option("--older-than", help="Since the writer began: 30m, 6h, 2d.")] = "1h",
    registry: common.RegistryOption = None,
    config: ConfigOption = None,
) -> None:
    """Clear away versions whose writer died before it had finished, and files that it left.

    Complete versions are never touched.

    For example:

        weir models gc

        weir models gc fraud --older-than 6h
    """
    held, age = common.open_registry(registry, config), duration("--older-than", older_than)
    cleared = [
        f"{name} v{v}" for name in common.tasks_in(held, task) for v in held.gc(name, now=time.time(), older_than_s=age)
    ]
    for name in cleared:
        print(name)
    say(f"{len(cleared)} unfinished versions older than {format_duration(age)} cleared away")


FIRST: Final = ("average_precision", "roc_auc", "log_loss")
"""Metrics that a list shows, where a version has them."""
VERSION_COLUMNS: Final = ("task", "version>", "stage", "kind", *(f"{n}>" for n in FIRST), "parent>", "made (UTC)",
                          "size>")  # fmt: skip


def document(manifest: Manifest, stages: Stages, uri: str) -> dict[str, Any]:
    """One version for programs."""
    held: dict[str, Any] = orjson.loads(manifest.canonical())
    return {"stage": stages.of(manifest.version), "digest": manifest.digest, "uri": uri, **held}


def version_row(manifest: Manifest, stages: Stages) -> tuple[str, ...]:
    """A line of ``weir models list``, under `VERSION_COLUMNS`."""
    m = manifest
    told = [f"{m.metrics[name]:.4f}" if name in m.metrics else "-" for name in FIRST]
    total = size(sum(entry.size for entry in m.files.values()))
    return (m.task, f"v{m.version}", stages.of(m.version), m.kind, *told, _version(m.parent), utc(m.created_at), total)


def _version(number: int | None) -> str:
    return "-" if number is None else f"v{number}"


def page(manifest: Manifest, stages: Stages, uri: str, asked: Precision) -> Iterator[Table]:
    """One version for a person: what it is, which graph would serve where ``asked`` is set, its metrics, its files."""
    yield table("", "", rows=[*_facts(manifest, stages, uri), ("graphs", _graphs(manifest, asked))])
    if manifest.metrics:
        metrics = [(name, f"{number:.6g}") for name, number in sorted(manifest.metrics.items())]
        yield table("metric", "value>", rows=metrics, title="\n")
    files = []
    for name, entry in sorted(manifest.files.items()):
        variant = manifest.variants.get(name)
        cost = ", ".join(f"{k} {v:.3g}" for k, v in sorted(variant.measured.items())) if variant is not None else ""
        files.append((name, size(entry.size), entry.sha256[:16], cost))
    yield table("file", "size>", "sha256", "measured against model.onnx", rows=files, title="\n")


def _facts(m: Manifest, stages: Stages, uri: str) -> list[tuple[str, str]]:
    d = m.data
    counts = f"{d.events:,} events, {d.labels:,} labels, {d.positives:,} positive"
    return [
        ("version", f"{m.name}, {stages.of(m.version)}, {m.kind}"),
        ("address", uri),
        ("digest", m.digest),
        ("made", f"{utc(m.created_at)} UTC by weir {m.code}, seed {m.seed}, opset {m.opset}"),
        ("parent", "none" if m.parent is None else f"v{m.parent}"),
        ("data", f"{utc(d.start)} to {utc(d.end)} UTC, labels known at {utc(d.cutoff)}; {counts}"),
        ("label delay", f"{m.label_delay / 86_400:g} days"),
        ("inputs", f"{len(m.inputs)}: {', '.join(m.inputs)}"),
        ("state", f"{m.state} floats an entity; embedding {m.embedding}"),
    ]


def _graphs(manifest: Manifest, asked: Precision) -> str:
    held = ", ".join(p for p in ("float32", "float16", "int8") if manifest.graph(p) is not None)
    serving = "that serves here" if manifest.graph(asked) is not None else "there is none, so float32 serves here"
    return f"{held}; [models] precision is {asked}: {serving}"


def moves_table(history: Sequence[StageEntry]) -> Table:
    """The log of stages, the newest last."""
    rows = [
        (s.seq, utc(entry.at), entry.action, f"v{entry.version}", _version(s.champion), _version(s.shadow), entry.why)
        for entry, s in ((entry, entry.stages) for entry in history)
    ]
    columns = ("move>", "at (UTC)", "", "version>", "serves then>", "shadow then>", "why")
    return table(*columns, rows=rows, title="\n")


def differences(old: Manifest, new: Manifest) -> list[tuple[str, str, str]]:
    """Fields in which two versions differ: name, old, new; inputs by what was added and removed."""
    found = [
        (name, _text(name, getattr(old, name)), _text(name, getattr(new, name)))
        for name in ("kind", "state", "embedding", "opset", "created_at", "label_delay", "seed", "code", "parent")
        if getattr(old, name) != getattr(new, name)
    ]
    found += _mapped("data", old.data.model_dump(), new.data.model_dump())
    found += _mapped("metrics", old.metrics, new.metrics)
    if old.inputs != new.inputs:
        gone, come = (", ".join(n for n in a if n not in b) for a, b in
                      ((old.inputs, new.inputs), (new.inputs, old.inputs)))  # fmt: skip
        found.append(("inputs", f"{len(old.inputs)}: -{gone or 'none'}", f"{len(new.inputs)}: +{come or 'none'}"))
    files = [{n: f"{size(e.size)} {e.sha256[:12]}" for n, e in m.files.items()} for m in (old, new)]
    return [*found, *_mapped("files", *files)]


def _mapped(group: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield f"{group}.{key}", _text(key, old.get(key)), _text(key, new.get(key), old.get(key))


def _text(name: str, value: Any, before: Any = None) -> str:
    if value is None:
        return "-"
    if name in ("created_at", "start", "end", "cutoff"):
        return utc(value)
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    change = f" ({value - before:+.6g})" if isinstance(before, float) else ""
    return f"{value:.6g}{change}"
