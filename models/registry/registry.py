"""The registry: versions that never change, and one log a task of which serves.

    <url>/<task>/<version>/claim.json       who took this number, and when
                           model.onnx ...   files, in no order
                           manifest.json    last: it makes the version usable, or says that it was abandoned
    <url>/<task>/stages/00000001.json       moves; the newest says what serves

Every file is made exclusively and whole (``Files.create``). It publishes nothing: whoever moves a stage also sends the
record that ``announce`` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.manifest import DataRange, Manifest, Variant
from models.registry.artefact import Artefact
from models.registry.errors import RegistryError
from models.registry.files import Files, LocalFiles
from models.registry.log import StageLog
from models.registry.objects import ObjectFiles
from models.registry.stages import ACTIONS, Action, Stage, StageEntry, Stages, rollback_target
from models.registry.versions import Versions
from models.types import Built, ModelError
from online.wire import ModelUpdate


def open_files(url: str, **options: Any) -> Files:
    """Storage at a directory's path, ``file://``, ``memory://`` or an object store's URL."""
    if not url:
        raise RegistryError("the registry's address is empty; give a directory or a URL such as s3://bucket/models")
    if url.startswith("file://"):
        return LocalFiles(url.removeprefix("file://"))
    return ObjectFiles(url, **options) if "://" in url else LocalFiles(url)


def split_uri(uri: str) -> tuple[str, str, int]:
    """Registry, task and version of what ``Registry.uri`` made.

    >>> split_uri("s3://bucket/models/fraud/3")
    ('s3://bucket/models', 'fraud', 3)
    """
    url, _, rest = uri.rpartition("/")
    url, _, task = url.rpartition("/")
    if not (url and task and rest.isdecimal() and int(rest)):
        raise ModelError(f"{uri!r} names no version; it must end in TASK/VERSION, as s3://bucket/models/fraud/3")
    return url, task, int(rest)


class Registry:
    """Versions and stages of the full models at one address. Times are arguments, in epoch seconds.

    Parameters
    ----------
    url : a directory, ``file:///...``, ``memory://...``, ``s3://bucket/...`` (see ``models.registry.objects``).
    options : for fsspec.
    """

    def __init__(self, url: str, **options: Any) -> None:
        files = open_files(url, **options)
        self.url = files.url
        self._versions, self._log = Versions(files), StageLog(files)

    def uri(self, task: str, version: int) -> str:
        """Where a version lies, for people and for ``ModelUpdate.uri``."""
        return self._versions.uri(task, version)

    def register(
        self,
        task: str,
        built: Built,
        *,
        data: DataRange,
        created_at: float,
        label_delay: float = 0.0,
        metrics: Mapping[str, float] | None = None,
        variants: Mapping[str, Variant] | None = None,
        parent: int | None = None,
    ) -> Manifest:
        """Write a candidate as the task's next version.

        Parameters
        ----------
        data, label_delay : what it was trained on; seconds.
        created_at : epoch seconds.
        metrics : added to ``built.metrics``.
        variants : which of ``built.files`` are graphs in other precisions.
        parent : the champion it came from.

        Raises
        ------
        ModelError
            The graph cannot be served, or a field is wrong; nothing was written.
        RegistryError
            The storage refused; the version is incomplete and ``gc`` will clear it away.
        """
        return self._versions.register(
            task, built, data=data, created_at=created_at, label_delay=label_delay, metrics=metrics, variants=variants,
            parent=parent,
        )  # fmt: skip

    def manifest(self, task: str, version: int) -> Manifest:
        """The manifest of a version; raises ``ArtefactError`` for one that is incomplete or not its own."""
        return self._versions.manifest(task, version)

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
        return self._versions.load(task, version, digest)

    def verify(self, task: str, version: int) -> Artefact:
        """Load a version and try its graphs; raises ``ModelError`` for one that must not be served."""
        return self._versions.verify(task, version)

    def tasks(self) -> list[str]:
        """Tasks that have versions."""
        return self._versions.tasks()

    def versions(self, task: str) -> list[int]:
        """Usable versions, the oldest first."""
        return self._versions.versions(task)

    def gc(self, task: str, *, now: float, older_than_s: float = 3_600.0) -> list[int]:
        """Clear away what writers left unfinished longer than ``older_than_s`` ago; the numbers of these versions."""
        return self._versions.gc(task, now=now, older_than_s=older_than_s)

    def stages(self, task: str) -> Stages:
        """What serves and what shadows now."""
        return self._log.stages(task)

    def champion(self, task: str) -> int | None:
        """The version that serves."""
        return self.stages(task).champion

    def shadow(self, task: str) -> int | None:
        """The version that is scored beside the champion."""
        return self.stages(task).shadow

    def history(self, task: str) -> list[StageEntry]:
        """All moves, the oldest first."""
        return self._log.history(task)

    def set_stage(
        self, task: str, version: int, stage: Stage, *, at: float, expect: int | None = None, why: str = ""
    ) -> Stages:
        """Bring a version to a stage; one that is there already stays, and no entry is made.

        Parameters
        ----------
        at : epoch seconds.
        expect : ``Stages.seq`` that the decision was made on; without it, that of now.

        Raises
        ------
        StageConflictError
            The stages changed since; nothing was done.
        ArtefactError
            The version to shadow or serve is not whole.
        ModelError
            No such move.
        """
        if stage not in ACTIONS:
            raise ModelError(f"{task} v{version}: no version becomes a {stage} again; stages are {list(ACTIONS)}")
        now = self._log.expected(task, expect)
        return now if now.of(version) == stage else self._move(task, now, ACTIONS[stage], version, at, why)

    def rollback(self, task: str, *, at: float, expect: int | None = None, why: str = "") -> Stages:
        """Return to the champion before; raises as ``set_stage`` does."""
        now = self._log.expected(task, expect)
        return self._move(task, now, "rollback", rollback_target(now, task), at, why)

    def announce(self, task: str, version: int, action: Action, *, at: float) -> ModelUpdate:
        """The ``model-updates`` record that tells workers of a move."""
        manifest = self.manifest(task, version)
        return ModelUpdate(
            task=task, version=str(version), action=action, uri=self.uri(task, version), digest=manifest.digest,
            created_at=at, metrics=dict(manifest.metrics) or None,
        )  # fmt: skip

    def _move(self, task: str, now: Stages, action: Action, version: int, at: float, why: str) -> Stages:
        if action == "retire":
            self.manifest(task, version)
        else:
            self.load(task, version)
        return self._log.append(task, now, action, version, at, why)
