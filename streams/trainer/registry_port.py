"""What the trainer asks of the registry, each thing so that doing it twice does no harm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from weir.models.errors import StageConflictError
from weir.models.manifest import DataRange
from weir.models.registry.registry import Registry
from weir.models.types import Built
from weir.online.codec.wire import ModelUpdate
from weir.streams.trainer.task_state import Effect, Job

JOB_FILE: Final = "job.json"
"""In every version that a job made: by it the version is found again after a crash."""
_TRIES: Final = 5


class RegistryShelf:
    """Versions of full models, and which of them serves."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def champion(self, task: str) -> int:
        """The version that serves; 0 for none."""
        return self._registry.champion(task) or 0

    def built(self, task: str, version: int) -> Built:
        """A version as it was registered; raises ``ModelError`` for one that is not whole."""
        artefact = self._registry.load(task, version)
        m = artefact.manifest
        return Built(m.kind, artefact.onnx, m.inputs, m.state, m.embedding, dict(artefact.files), m.metrics, m.seed)

    def register(self, task: str, built: Built, job: Job, counts: Mapping[str, float], now: float) -> int:
        """Keep a job's candidate, trained on what ``GatherWork`` counted; the same version when it is there already."""
        start, end, cutoff = (counts[name] for name in ("start", "end", "cutoff"))
        mark = _mark(job)
        if (found := self._of_job(task, mark)) is not None:
            return found
        # Among the files, whose digests the manifest holds: a repeat after a crash finds the version by that digest,
        # without an entry that could be lost.
        made = replace(built, files={**built.files, JOB_FILE: mark})
        manifest = self._registry.register(
            task, made, created_at=now, label_delay=counts.get("label_delay", 0.0), metrics=job.metrics,
            parent=job.champion or None,
            data=DataRange(
                # The manifest refuses a range whose times are not in order.
                start=min(start, end), end=end, cutoff=max(cutoff, end),
                events=int(counts["events"]), labels=int(counts["labels"]), positives=int(counts["positives"]),
            ),
        )  # fmt: skip
        return manifest.version

    def _of_job(self, task: str, mark: bytes) -> int | None:
        digest = hashlib.sha256(mark).hexdigest()
        for version in reversed(self._registry.versions(task)):
            entry = self._registry.manifest(task, version).files.get(JOB_FILE)
            if entry is not None and entry.sha256 == digest:
                return version
        return None

    def tell(self, task: str, effect: Effect, why: str) -> ModelUpdate | None:
        """Note in the registry what serves now; what to tell the workers. Repeating it changes nothing.

        None where somebody retired the version that a rollback would return to: their word counts.
        """
        if effect.action == "rollback" and effect.version in self._registry.retired(task):
            return None
        for tries_left in reversed(range(_TRIES)):
            try:
                self._move(task, effect, why)
                break
            except StageConflictError:  # somebody else moved a stage at this moment: look again
                if not tries_left:
                    raise
        metrics = dict(sorted(effect.metrics.items()))
        return self._registry.announce(task, effect.version, effect.action, at=effect.at, metrics=metrics)

    def _move(self, task: str, effect: Effect, why: str) -> None:
        registry, version, at, why = self._registry, effect.version, effect.at, why[:500]
        stages = registry.stages(task)
        # A crash may come between the registry and the message: each move first asks whether it is made already.
        if effect.action == "shadow" and stages.of(version) == "candidate":
            registry.set_stage(task, version, "shadow", at=at, expect=stages.seq, why=why)
        elif effect.action == "promote":
            registry.set_stage(task, version, "champion", at=at, expect=stages.seq, why=why)
        # Not of one that is archived already, the champion before: it stays one that can be rolled back to by hand.
        elif effect.action == "retire" and stages.of(version) in ("candidate", "shadow"):
            registry.set_stage(task, version, "archived", at=at, expect=stages.seq, why=why)
        elif effect.action == "rollback" and stages.champion != version:
            if version in stages.previous:
                registry.rollback(task, at=at, to=version, expect=stages.seq, why=why)
            else:
                registry.set_stage(task, version, "champion", at=at, expect=stages.seq, why=why)


def _mark(job: Job) -> bytes:
    """The same for every repeat of a job: only what was fixed when it began."""
    return msgspec.json.encode(
        {"job": job.job_id, "cause": job.asked.cause, "request": job.asked.request_id, "cutoff": job.cutoff}
    )
