"""Finds and reads task files."""

from __future__ import annotations

from pathlib import Path

from online.task import TaskSpec
from streams.errors import UsageError


def load_task(path: Path) -> TaskSpec:
    """Read one task; raises ``UsageError`` for a file that is not there, ``TaskError`` for one that is wrong."""
    if not path.is_file():
        raise UsageError(f"no such task file: {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path}: not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    return TaskSpec.from_toml(text, str(path))
