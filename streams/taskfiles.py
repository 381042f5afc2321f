"""Finds and reads task files."""

from __future__ import annotations

from pathlib import Path

from online.task import TaskSpec
from streams.textfiles import read_text


def load_task(path: Path) -> TaskSpec:
    """Read one task; raises ``UsageError`` for a file that cannot be read, ``TaskError`` for one that is wrong."""
    return TaskSpec.from_toml(read_text(path, "task file", "correct the path"), str(path))
