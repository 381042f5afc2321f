"""The versions of a registry: numbers taken once, files that never change, manifests that come last.

A number is claimed by making its ``claim.json``. A writer that dies before its manifest leaves a version that nothing
lists as usable; ``gc`` then takes the manifest's place, so that the number's fate is decided by one exclusive write.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from weir.models.errors import ModelError, RegistryError
from weir.models.manifest import (
    GRAPH,
    MANIFEST,
    ArtefactError,
    DataRange,
    Manifest,
    code_version,
    entries,
    faults,
    inputs_digest,
    parse_manifest,
)
from weir.models.registry.artefact import Artefact, check_artefact, check_file, check_graphs
from weir.models.registry.files import Files
from weir.models.types import Built

CLAIM = "claim.json"
_CLAIM_TRIES = 1_000


class Versions:
    """Versions over a storage. Time is an argument."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.url = files.url

    def uri(self, task: str, version: int) -> str:
        """Where a version lies, for people; updates say it from the root (``relative_uri``)."""
        return f"{self.url if '://' in self.url else f'file://{self.url}'}/{task}/{version}"

    def register(
        self,
        task: str,
        built: Built,
        *,
        data: DataRange,
        created_at: float,
        label_delay: float = 0.0,
        metrics: Mapping[str, float] | None = None,
        parent: int | None = None,
    ) -> Manifest:
        """Write a candidate as the task's next version.

        Parameters
        ----------
        data, label_delay : what it was trained on; seconds.
        created_at : epoch seconds.
        metrics : added to ``built.metrics``.
        parent : the champion it came from.

        Raises
        ------
        ModelError
            The graph cannot be served, or a field is wrong; nothing was written.
        RegistryError
            The storage refused; the version is incomplete and ``gc`` will clear it away.
        """
        files = {GRAPH: built.onnx, **built.files}
        if GRAPH in built.files or CLAIM in built.files:
            raise ModelError(f"{task}: {GRAPH} and {CLAIM} are the registry's own names; rename the candidate's file")
        widths = (len(built.inputs), built.state, built.embedding)
        fields = {
            "task": task, "kind": built.kind, "inputs": tuple(built.inputs), "state": built.state,
            "inputs_digest": inputs_digest(built.inputs), "embedding": built.embedding, "data": data,
            "opset": check_graphs(task, files, built.variants, widths).opset, "created_at": created_at,
            "label_delay": label_delay,
            "metrics": {**built.metrics, **(metrics or {})}, "seed": built.seed, "code": code_version(),
            "parent": parent, "variants": dict(built.variants), "files": entries(files),
        }  # fmt: skip
        _manifest(fields, 1)  # what is wrong with it is known before a number is taken
        manifest = _manifest(fields, self._claim(task, created_at))
        for name, content in sorted(files.items()):
            # Before the manifest, which makes the version usable.
            self._files.create(_path(task, manifest.version, name), content)
        self._finish(manifest)
        return manifest

    def _claim(self, task: str, now: float) -> int:
        """Take the next number; each is taken once."""
        claim = orjson.dumps({"at": now, "by": secrets.token_hex(8)})
        # Over all numbers, those that were abandoned too: none is used again.
        number = max(self._numbers(task), default=0)
        for _ in range(_CLAIM_TRIES):
            number += 1
            try:
                self._files.create(_path(task, number, CLAIM), claim)
            except FileExistsError:
                continue
            return number
        raise RegistryError(f"{self.uri(task, number)}: {_CLAIM_TRIES} numbers in a row are taken; is it a registry?")

    def _finish(self, manifest: Manifest) -> None:
        try:
            self._files.create(_path(manifest.task, manifest.version, MANIFEST), manifest.canonical())
        except FileExistsError as exc:
            raise RegistryError(
                f"{manifest.name} was cleared away as abandoned while it was being written; register it again"
            ) from exc

    def manifest(self, task: str, version: int) -> Manifest:
        """The manifest of a version; raises ``ArtefactError`` for one that is incomplete or not its own."""
        where = self.uri(task, version)
        try:
            data = self._files.read(_path(task, version, MANIFEST))
        except FileNotFoundError:
            # Two mistakes with two remedies: a number that nobody took, and one whose writer has not finished.
            if version not in self._numbers(task):
                usable = ", ".join(f"v{v}" for v in self.versions(task)) or "none"
                raise ArtefactError(f"{where}: no such version; usable are: {usable}") from None
            raise ArtefactError(f"{where}: incomplete, its writer has not finished; use another version") from None
        if _abandoned(data):
            raise ArtefactError(f"{where}: abandoned by its writer and cleared away; use another version")
        found = parse_manifest(data, f"{where}/{MANIFEST}")
        if (found.task, found.version) != (task, version):
            raise ArtefactError(f"{where}: holds {found.name}; it was copied or renamed, register the model instead")
        return found

    def load(self, task: str, version: int, digest: str | None = None) -> Artefact:
        """A version with all its files, each checked.

        Parameters
        ----------
        digest : ``sha256:<hex>`` of the manifest that is meant, as ``ModelUpdate.digest`` says; any without it.

        Raises
        ------
        ArtefactError
            No such version, an incomplete one, or a file that is missing, truncated, corrupt or exchanged.
        """
        manifest = self.manifest(task, version)
        # Who can write to the registry cannot exchange what serves.
        if digest is not None and digest != manifest.digest:
            raise ArtefactError(f"{manifest.name}: its digest is {manifest.digest}, asked for was {digest}")
        files = {}
        for name in manifest.files:
            try:
                files[name] = self._files.read(_path(task, version, name))
            except FileNotFoundError:
                raise ArtefactError(f"{manifest.name}: {name} is missing; register the model again") from None
            check_file(manifest, name, files[name])
        return Artefact(manifest, files)

    def verify(self, task: str, version: int) -> Artefact:
        """Load a version and try its graphs; raises ``ModelError`` for one that must not be served."""
        artefact = self.load(task, version)
        check_artefact(artefact)
        return artefact

    def tasks(self) -> list[str]:
        """Tasks that have versions."""
        return [name for name in self._files.names("") if self._numbers(name)]

    def versions(self, task: str) -> list[int]:
        """Usable versions, the oldest first."""
        return [v for v in self._numbers(task) if self._usable(task, v)]

    def _numbers(self, task: str) -> list[int]:
        # 03 would be a second name of version 3.
        return sorted(int(name) for name in self._files.names(task) if name.isdecimal() and name[0] != "0")

    def _usable(self, task: str, version: int) -> bool:
        try:
            return not _abandoned(self._files.read(_path(task, version, MANIFEST)))
        except FileNotFoundError:
            return False

    def gc(self, task: str, *, now: float, older_than_s: float = 3_600.0) -> list[int]:
        """Clear away versions whose writer has not finished ``older_than_s`` seconds after it began, with its files.

        The manifest's place is taken first, so that a writer that is only slow fails instead of finishing a version
        without files. Returns the numbers; they are not used again.
        """
        cleared = []
        for name in self._files.names(task):  # also of complete versions, and among the stages
            self._files.sweep(f"{task}/{name}", now - older_than_s)
        for version in self._numbers(task):
            held = self._files.names(f"{task}/{version}")
            if MANIFEST not in held and self._begun(task, version) <= now - older_than_s:
                try:
                    self._files.create(_path(task, version, MANIFEST), orjson.dumps({"abandoned_at": now}))
                except FileExistsError:
                    continue
                cleared.append(version)
            # An abandoned version of which more than the mark is left is one whose clearing broke off: it is gone on
            # with.
            elif MANIFEST not in held or self._usable(task, version) or held == [MANIFEST]:
                continue
            for name in self._files.names(f"{task}/{version}"):
                if name != MANIFEST:
                    self._files.remove(_path(task, version, name))
        return cleared

    def _begun(self, task: str, version: int) -> float:
        try:
            return float(orjson.loads(self._files.read(_path(task, version, CLAIM)))["at"])
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            # The claim is written first, and whole: without one nobody is at work here.
            return 0.0


def _path(task: str, version: int, name: str) -> str:
    return f"{task}/{version}/{name}"


def _manifest(fields: Mapping[str, Any], version: int) -> Manifest:
    try:
        return Manifest.model_validate(document := {**fields, "version": version})
    except ValidationError as exc:
        raise ModelError(f"{fields['task']}: cannot be registered: {faults(Manifest, exc, document)}") from None


def _abandoned(data: bytes) -> bool:
    return data.startswith(b'{"abandoned_at":')
