"""The registry: versions that never change, and one log a task of which serves.

    <url>/<task>/<version>/claim.json       who took this number, and when
                           model.onnx ...   files, in no order
                           manifest.json    last: it makes the version usable, or says that it was abandoned
    <url>/<task>/stages/00000001.json       moves; the newest says what serves

Every file is made exclusively and whole (``Files.create``). It publishes nothing: whoever moves a stage also sends the
record that ``announce`` makes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from pydantic import ValidationError

from weir.models.errors import ModelError, RegistryError, StageConflictError
from weir.models.manifest import faults
from weir.models.registry.files import Files, LocalFiles, ObjectFiles
from weir.models.registry.stages import ACTIONS, Action, Stage, StageEntry, Stages, move, retired_in, rollback_target
from weir.models.registry.versions import Versions
from weir.online.codec.wire import ModelUpdate

STAGES = "stages"


def open_files(url: str) -> Files:
    """Storage at a directory's path, ``file://``, ``memory://`` or an object store's URL."""
    if not url:
        raise RegistryError("the registry's address is empty; give a directory or a URL such as s3://bucket/models")
    if url.startswith("file://"):
        return LocalFiles(url.removeprefix("file://"))
    return ObjectFiles(url) if "://" in url else LocalFiles(url)


def relative_uri(task: str, version: int) -> str:
    """Where a version lies from the root of its registry: what ``ModelUpdate.uri`` says.

    Each process knows the root by its own settings: it may be mounted elsewhere, or have been moved.

    >>> relative_uri("fraud", 3)
    'fraud/3'
    """
    return f"{task}/{version}"


def split_uri(uri: str) -> tuple[str, str, int]:
    """Registry, task and version of a version's address; the registry is empty where it is from the root.

    >>> split_uri("fraud/3")
    ('', 'fraud', 3)
    >>> split_uri("s3://bucket/models/fraud/3")
    ('s3://bucket/models', 'fraud', 3)
    """
    where, _, number = uri.rpartition("/")
    url, absolute, task = where.rpartition("/")
    if not task or (absolute and not url) or not number.isdecimal() or not int(number):
        raise ModelError(f"{uri!r} names no version; it must end in TASK/VERSION, as fraud/3")
    return url, task, int(number)


class Registry(Versions):
    """Versions and stages of the full models at one address. Times are arguments, in epoch seconds.

    What is done with versions alone (``register``, ``load``, ``verify``, ``gc``, ...) is inherited.

    Parameters
    ----------
    url : a directory, ``file:///...``, ``memory://...``, ``s3://bucket/...`` (see ``weir.models.registry.files``).
    """

    def __init__(self, url: str) -> None:
        super().__init__(open_files(url))

    def stages(self, task: str) -> Stages:
        """What serves and what shadows now."""
        # The newest alone: each entry holds the stages after it.
        names = self._moves(task)
        return self._entry(task, names[-1]).stages if names else Stages()

    def champion(self, task: str) -> int | None:
        """The version that serves."""
        return self.stages(task).champion

    def history(self, task: str) -> list[StageEntry]:
        """All moves, the oldest first."""
        return [self._entry(task, name) for name in self._moves(task)]

    def verify_stages(self, task: str) -> list[StageEntry]:
        """All moves, the oldest first.

        Raises ``ModelError`` where one is missing or cannot be read, or where what serves or shadows is not there.
        """
        moves = self.history(task)
        for number, entry in enumerate(moves, start=1):
            if entry.stages.seq != number:
                path = f"{self._files.url}/{task}/{STAGES}/{number:08d}.json"
                raise RegistryError(f"{path}: missing or exchanged, entry {entry.stages.seq} is there; restore it")
        now = moves[-1].stages if moves else Stages()
        for version in (v for v in (now.champion, now.shadow) if v is not None):
            self.manifest(task, version)
        return moves

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
        now = self._expected(task, expect)
        stays = now.of(version) == stage
        # A champion of before is archived, and can be rolled back to until it is retired: that has to be noted.
        if stage == "archived" and version in now.previous:
            stays = version in self.retired(task)
        return now if stays else self._move(task, now, ACTIONS[stage], version, at, why)

    def rollback(
        self, task: str, *, at: float, to: int | None = None, expect: int | None = None, why: str = ""
    ) -> Stages:
        """Return to the champion before, or to the version ``to`` that served before; raises as ``set_stage`` does."""
        now = self._expected(task, expect)
        return self._move(task, now, "rollback", rollback_target(now, task, self.retired(task), to), at, why)

    def retired(self, task: str) -> frozenset[int]:
        """The versions that were retired and not brought back since."""
        return retired_in(self.history(task))

    def announce(
        self, task: str, version: int, action: Action, *, at: float, metrics: Mapping[str, float] | None = None
    ) -> ModelUpdate:
        """The ``model-updates`` record that tells workers of a move.

        It says the ``metrics`` by which it was decided, or those of the version.
        """
        manifest = self.manifest(task, version)
        told: dict[str, float | None] = dict(manifest.metrics if metrics is None else metrics)
        return ModelUpdate(
            task=task, version=str(version), action=action, uri=relative_uri(task, version), digest=manifest.digest,
            created_at=at, metrics=told or None,
        )  # fmt: skip

    def _move(self, task: str, now: Stages, action: Action, version: int, at: float, why: str) -> Stages:
        if action == "retire":  # a broken version can still be retired
            self.manifest(task, version)
        else:
            self.load(task, version)  # every worker would refuse a version that is not whole
        after = move(now, action, version, task)
        entry = StageEntry(at=at, action=action, version=version, why=why, by=secrets.token_hex(8), stages=after)
        try:
            self._files.create(f"{task}/{STAGES}/{after.seq:08d}.json", entry.model_dump_json(indent=2).encode())
        except FileExistsError:
            raise _conflict(task, now.seq, self.stages(task)) from None
        return after

    def _expected(self, task: str, expect: int | None) -> Stages:
        """The stages, if they still are those of entry ``expect``; else raises ``StageConflictError``."""
        now = self.stages(task)
        if expect is not None and now.seq != expect:
            raise _conflict(task, expect, now)
        return now

    def _moves(self, task: str) -> list[str]:
        return [name for name in self._files.names(f"{task}/{STAGES}") if name.endswith(".json")]

    def _entry(self, task: str, name: str) -> StageEntry:
        path = f"{task}/{STAGES}/{name}"
        try:
            return StageEntry.model_validate_json(data := self._files.read(path))
        except ValidationError as exc:
            why = faults(StageEntry, exc, data)
            raise RegistryError(f"{self._files.url}/{path}: not a stage entry: {why}; restore it") from None


def _conflict(task: str, seen: int, now: Stages) -> StageConflictError:
    return StageConflictError(
        f"{task}: the stages changed meanwhile (entry {now.seq} after {seen}; champion now {now.champion}, shadow "
        f"{now.shadow}); look at them again and repeat if it still holds"
    )
