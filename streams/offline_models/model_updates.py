"""Records of ``model-updates``, and what follows from them: which version of a task's full model serves.

The topic is the truth for everybody who scores: all fold the same records in the same order, so all want the same
versions. What cannot be loaded somewhere is that worker's trouble (`weir.streams.offline_models.serving`), not the
fold's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from weir.online.codec.accept import Reject, accept_records
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate
from weir.streams.records import Record

_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Ref:
    """An artefact, and how to know that it is the right one."""

    version: int
    uri: str
    """``TASK/VERSION`` from the root of the registry; of old updates a whole address, of a registry that is trusted."""
    digest: str
    """``sha256:`` and 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Versions:
    """What serves a task, and what only scores beside it."""

    champion: Ref | None = None
    shadow: Ref | None = None


@dataclass(frozen=True, slots=True)
class UpdateRecords:
    """Valid updates in the order of the log, and the rest."""

    updates: list[ModelUpdate]
    rejects: list[Reject]


def update_record(update: ModelUpdate, now: float) -> Record:
    """An update as a record: key task; ``now`` is the time it is published, epoch seconds."""
    return Record(update.task.encode(), encode_model(update), now)


def decode_updates(raw: Sequence[bytes | None]) -> UpdateRecords:
    """The updates among these records; a version that is no whole number from 1 on is a reject."""
    accepted = accept_records(ModelUpdate, raw)
    updates: list[ModelUpdate] = []
    rejects = list(accepted.rejects)
    for i in accepted.index.tolist():
        record = raw[i] or b""
        update = ModelUpdate.model_validate_json(record)
        if _VERSION.fullmatch(update.version):
            updates.append(update)
        else:
            why = f"version: got {update.version[:40]!r}; give a version of the registry, a whole number from 1 on"
            rejects.append(Reject(i, record, why))
    return UpdateRecords(updates, sorted(rejects, key=lambda reject: reject.index))


@dataclass(slots=True)
class _Task:
    versions: Versions = field(default_factory=Versions)
    seen: set[tuple[str, str, float]] = field(default_factory=set)
    """Action, version and time of every update, by which a repeated record is known."""


class UpdateFold:
    """Folds updates, in the order of the log, into the versions of each task.

    ========  =====================================================================================
    action    afterwards
    ========  =====================================================================================
    shadow    the version scores beside the champion
    promote   the version is the champion; the old champion its shadow, so that a rollback can be decided
    rollback  the version is the champion again; there is no shadow
    retire    the version is neither champion nor shadow any more
    ========  =====================================================================================

    A record that comes twice changes nothing the second time, wherever that is.

    >>> fold = UpdateFold()
    >>> at = {"task": "fraud", "uri": "fraud/1", "digest": "sha256:" + "0" * 64, "created_at": 1.7e9}
    >>> _ = fold.apply(ModelUpdate(version="1", action="promote", **at))
    >>> _ = fold.apply(ModelUpdate(version="2", action="promote", **at))
    >>> [ref.version for ref in (fold.versions("fraud").champion, fold.versions("fraud").shadow)]
    [2, 1]
    """

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}

    def versions(self, task: str) -> Versions:
        """What serves a task now."""
        held = self._tasks.get(task)
        return held.versions if held is not None else Versions()

    def apply(self, update: ModelUpdate) -> Versions:
        """Take in one update; the versions of its task afterwards."""
        held = self._tasks.setdefault(update.task, _Task())
        known = (update.action, update.version, float(update.created_at))
        # By content, not by offset: a trainer that died after sending tells it again, and a repeated promotion would
        # undo the rollback after it.
        if known not in held.seen:
            held.seen.add(known)
            held.versions = _after(held.versions, update.action, Ref(int(update.version), update.uri, update.digest))
        return held.versions


def _after(now: Versions, action: str, ref: Ref) -> Versions:
    champion, shadow = now.champion, now.shadow
    serves = champion is not None and champion.version == ref.version
    if action == "shadow":
        return now if serves else Versions(champion, ref)
    if action == "promote":
        # Promoting what serves must not put it into its own shadow.
        return Versions(ref, shadow) if serves else Versions(ref, champion)
    if action == "rollback":
        return Versions(ref, None)
    kept = shadow if shadow is not None and shadow.version != ref.version else None
    return Versions(None if serves else champion, kept)
