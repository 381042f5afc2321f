"""Trainings as the trainer's journal tells them, and how far the one at work is where its files are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from weir.models.registry.registry import open_files
from weir.online.task.spec import TaskSpec
from weir.streams.ops.metric_registry import Gauge
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_state import Job, TaskState, decode

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_LINES: Final = 30
"""Last lines of a log that are shown."""
_TAIL: Final = 8_192
"""Bytes at its end in which they are looked for."""


def jobs_of(service: Service, tasks: Sequence[TaskSpec]) -> list[dict[str, Any]]:
    """The newest jobs of each task, the newest first; reads files.

    One that is at work has ``parts`` (name and share that is done) and ``log`` (lines), where this process trains. One
    whose candidate is judged live has ``live``: examples that were seen, and of how many.
    """
    journal, found = FilesJournal(open_files(service.settings.models.registry)), list[dict[str, Any]]()
    for task in tasks:
        if task.full is None or (entry := journal.newest(task.name)) is None:
            continue
        state = decode(entry[1], f"the trainer's journal of {task.name}")
        jobs = {job.job_id: job for job in (*state.ended, *([state.job] if state.job else ()))}
        found += [{"task": task.name, **_shown(service, task, state, job)} for job in jobs.values()]
    return sorted(found, key=lambda job: -job["began_at"])


def _shown(service: Service, task: TaskSpec, state: TaskState, job: Job) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(job)
    if state.at_work and state.job is not None and state.job.job_id == job.job_id:
        # What trains tells how far it is; later stages do not, and it would stay as it was.
        telling = job.stage in ("accepted", "data")
        shares = service.metrics.children("weir_trainer_progress").items()
        parts = {
            part: gauge.value
            for (of, part), gauge in shares
            if telling and of == task.name and isinstance(gauge, Gauge)
        }
        folder = service.settings.serve.directory / "work" / task.name / job.job_id
        known |= {"parts": parts, "log": _last_lines(folder)}
    if state.phase is not None and state.phase_job is not None and state.phase_job.job_id == job.job_id:
        assert task.full is not None, "a task without a full model has no phase"
        wanted = task.full.training.shadow_examples
        known["live"] = {"kind": state.phase.kind, "examples": len(state.phase.y), "of": wanted}
    return known


def _last_lines(folder: Path) -> list[str]:
    """The end of the newest log among a job's; none where its files are on another machine, or are removed just now."""
    try:
        logs = sorted(folder.glob("*/output.log"), key=lambda path: path.stat().st_mtime)
        with logs[-1].open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL, 0))
            # It may begin within a character.
            return file.read().decode("utf-8", "replace").splitlines()[-_LINES:]
    except (OSError, IndexError):
        return []
