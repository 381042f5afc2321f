"""What an artefact is and where it came from: ``manifest.json``, whose SHA-256 is the artefact's digest.

The manifest holds the SHA-256 of every file, so its own digest, published in ``model-updates``, fixes all of them. It
is stored in its canonical form (sorted keys, two spaces), so that ``sha256sum manifest.json`` shows the digest.
It knows no storage and no graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from weir.models.errors import ModelError
from weir.online.mistakes import mistakes, sentence

SCHEMA = 1
GRAPH = "model.onnx"
"""The file that every artefact has."""
MANIFEST = "manifest.json"

# orjson writes NaN as null, which would not be read back.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# No slash, and no dot in front: a name cannot leave the version's folder, nor look like a file that is still being
# written (`LocalFiles.names`).
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
MetricName = Annotated[str, Field(min_length=1, max_length=64)]
Metrics = Annotated[dict[MetricName, Finite], Field(max_length=256)]
"""As many and as long as a ``ModelUpdate`` may carry."""
TaskName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Precision = Literal["float32", "float16", "int8"]


class ArtefactError(ModelError):
    """An artefact is not what its manifest or digest says: corrupt, truncated, exchanged or incomplete."""


class FrozenModel(BaseModel):
    """A document of the registry: immutable, no value is converted, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FileEntry(FrozenModel):
    """One file of an artefact."""

    sha256: Hex
    size: Annotated[int, Field(ge=0)]
    """Size of the file in bytes."""

    @classmethod
    def of(cls, data: bytes) -> FileEntry:
        """Describe ``data``.

        >>> FileEntry.of(b"weir").size
        4
        """
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class Variant(FrozenModel):
    """A graph of the same model in another precision, and what that costs."""

    precision: Precision
    measured: Metrics = {}
    """Costs against ``model.onnx``, as ``weir.models.evaluation.quantise.measure`` names them."""


class DataRange(FrozenModel):
    """What the model learned from; times are event time, epoch seconds."""

    start: Finite
    end: Finite
    cutoff: Finite
    """No label that became known later was used."""
    events: Annotated[int, Field(ge=0)] = 0
    labels: Annotated[int, Field(ge=0)] = 0
    positives: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.start <= self.end:
            raise ValueError(f"start = {self.start:g} lies after end = {self.end:g}")
        return self


class Manifest(FrozenModel):
    """One immutable version of a task's full model."""

    v: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)] = SCHEMA
    task: TaskName
    version: Annotated[int, Field(ge=1)]
    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    """``encoder``, ``trees``, ``blend``."""
    inputs: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)]
    """Names of the columns of ``x``, in order."""
    inputs_digest: Hex
    state: Annotated[int, Field(ge=0)]
    embedding: Annotated[int, Field(ge=0)]
    opset: Annotated[int, Field(ge=1)]
    created_at: Finite
    """Time of registration, epoch seconds."""
    data: DataRange
    label_delay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Seconds between an event and its label, as the task waits for it."""
    metrics: Metrics = {}
    seed: int = 0
    code: str
    """Version of Weir and a digest of the sources that made it."""
    parent: Annotated[int, Field(ge=1)] | None = None
    """The champion it was trained from or compared with."""
    variants: dict[FileName, Variant] = {}
    files: dict[FileName, FileEntry]

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if GRAPH not in self.files:  # nothing could serve it
            raise ValueError(f"files lack {GRAPH}; there are {sorted(self.files)}")
        if MANIFEST in self.files:
            raise ValueError(f"{MANIFEST} cannot be one of its own files")
        if absent := sorted(set(self.variants) - set(self.files)):
            raise ValueError(f"variants name files that are not there: {absent}; files are {sorted(self.files)}")
        # It is compared without the names; a wrong one would let another task's model pass.
        if self.inputs_digest != inputs_digest(self.inputs):
            raise ValueError(f"inputs_digest is not that of the {len(self.inputs)} inputs")
        return self

    def graph(self, precision: Precision) -> str | None:
        """Name of the file that holds the graph in this precision; ``None`` where the version has none."""
        if precision == "float32":
            return GRAPH
        return next((name for name, of in sorted(self.variants.items()) if of.precision == precision), None)

    @property
    def name(self) -> str:
        """How people call it: ``fraud v3``."""
        return f"{self.task} v{self.version}"

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the canonical manifest, hence of all files; what ``ModelUpdate.digest`` carries."""
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    def canonical(self) -> bytes:
        """The bytes of ``manifest.json``."""
        document: dict[str, Any] = self.model_dump(mode="json")
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read ``manifest.json``; raises ``ArtefactError`` saying which field is wrong, or that it was edited."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as exc:
        raise ArtefactError(
            f"{where}: not a manifest: {faults(Manifest, exc, data)}; register the model again"
        ) from None
    if manifest.canonical() != data:  # the digest is of the bytes: another spelling of the same content has another one
        raise ArtefactError(f"{where}: not in canonical form, so it was edited; versions are immutable, register anew")
    return manifest


def faults(model: type[BaseModel], exc: ValidationError, document: Mapping[str, Any] | bytes) -> str:
    """Every wrong field of ``document``, or of the JSON in it, with what to give instead, in one line."""
    try:
        given = orjson.loads(document) if isinstance(document, bytes) else document
    except orjson.JSONDecodeError:
        return "not JSON"
    return "; ".join(sentence(each, given) for each in mistakes(model, exc, given, table="an object"))


def inputs_digest(inputs: Sequence[str]) -> str:
    """SHA-256 of the names in their order: two models with the same digest take the same ``x``.

    >>> inputs_digest(["a", "b"]) == inputs_digest(["b", "a"])
    False
    """
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


def entries(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    """Describe files for the manifest, by name."""
    return {name: FileEntry.of(data) for name, data in sorted(files.items())}


@cache
def code_version() -> str:
    """Version of Weir and the first digits of a digest over the sources of ``models`` and ``online``."""
    # Of the sources, because an edited checkout makes other models under the same version number.
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(p for layer in ("models", "online") for p in (root / layer).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    try:
        number = version("weir")
    except PackageNotFoundError:
        number = "0"
    return f"{number}+src.{digest.hexdigest()[:12]}"
