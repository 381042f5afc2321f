"""Finds and reads task files."""

from __future__ import annotations

from pathlib import Path

from weir.online.errors import TaskError
from weir.online.stages.next_pipeline import NextPipeline
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.next_spec import NextTask, is_next
from weir.online.task.spec import TaskSpec
from weir.streams.config.text_files import read_text
from weir.streams.embedded.memory_store import MemoryFeatureStore


def load_task(path: Path) -> TaskSpec:
    """Read one task; raises ``UsageError`` for a file that cannot be read, ``TaskError`` for one that is wrong."""
    task = TaskSpec.from_toml(_text_of(path), str(path))
    try:
        TaskPipeline(task, MemoryFeatureStore())  # what its expressions and inputs name is looked up there
    except TaskError as exc:
        raise TaskError(f"{path}: {exc}") from exc
    return task


def load_any_task(path: Path) -> TaskSpec | NextTask:
    """Read a task that scores or one of ``kind = "next"``; errors are those of ``load_task``."""
    text = _text_of(path)
    if not is_next(text):
        return load_task(path)
    task = NextTask.from_toml(text, str(path))
    try:
        NextPipeline(task)
    except TaskError as exc:
        raise TaskError(f"{path}: {exc}") from exc
    return task


def _text_of(path: Path) -> str:
    return read_text(path, "task file", "correct the path")
