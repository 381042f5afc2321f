"""What ``weir models`` shows: manifests and stages as tables and as documents for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from weir.streams.cli.console import size, table, utc

if TYPE_CHECKING:
    from rich.table import Table

    from weir.models.manifest import Manifest, Precision
    from weir.models.registry.stages import StageEntry, Stages

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
