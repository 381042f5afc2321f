"""An artefact in memory, every byte of it checked against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from weir.models.errors import ModelError
from weir.models.manifest import GRAPH, ArtefactError, Manifest, Variant
from weir.models.onnx.graph import GraphSpec, check_graph


@dataclass(frozen=True, slots=True)
class Artefact:
    """One version with its files."""

    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def onnx(self) -> bytes:
        """Bytes of the float32 graph."""
        return self.files[GRAPH]


def check_file(manifest: Manifest, name: str, data: bytes) -> None:
    """Raise ``ArtefactError`` unless ``data`` is the file that the manifest means."""
    entry = manifest.files[name]
    if len(data) != entry.size:
        what = "truncated" if len(data) < entry.size else "too long"
        raise ArtefactError(
            f"{manifest.name}: {name} is {what}: {len(data):,} of {entry.size:,} bytes; register the model again"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise ArtefactError(
            f"{manifest.name}: {name} is corrupt or exchanged: its SHA-256 is {found[:12]}..., the manifest says "
            f"{entry.sha256[:12]}...; register the model again"
        )


def check_artefact(artefact: Artefact) -> GraphSpec:
    """Raise ``ModelError`` unless every graph can be served and is as wide as the manifest says."""
    m = artefact.manifest
    return check_graphs(m.name, artefact.files, m.variants, (len(m.inputs), m.state, m.embedding))


def check_graphs(
    name: str, files: Mapping[str, bytes], variants: Mapping[str, Variant], widths: tuple[int, int, int]
) -> GraphSpec:
    """Check ``model.onnx`` and its variants; ``widths`` are inputs, state and embedding as described elsewhere."""
    found = check_graph(files[GRAPH])
    _check_widths(name, GRAPH, found, widths)
    for file, variant in variants.items():
        if file not in files:
            raise ModelError(f"{name}: variant {file} is not among the files {sorted(files)}; add it or leave it out")
        # int8 scales activations by the range of the whole batch (`weir.models.evaluation.quantise`).
        _check_widths(name, file, check_graph(files[file], independent=variant.precision != "int8"), widths)
    return found


def _check_widths(name: str, file: str, found: GraphSpec, widths: tuple[int, int, int]) -> None:
    got = (found.inputs, found.state, found.embedding)
    for what, have, want in zip(("inputs", "floats of state", "coordinates of embedding"), got, widths, strict=True):
        if have != want:
            raise ModelError(f"{name}: {file} has {have} {what}, its description says {want}; build it again")
