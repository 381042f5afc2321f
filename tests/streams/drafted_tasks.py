"""Drafts of task files, made in tests as ``weir init`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.streams.awkward_tables import Rows, csv
from weir.online.task.spec import TaskSpec
from weir.streams.workbench.profile.choices import Ask
from weir.streams.workbench.profile.draft import Draft, draft_task


def drafted(paths: Sequence[Path], ask: Ask = None) -> tuple[Draft, TaskSpec]:
    draft = draft_task(paths, "payments", ask)
    return draft, TaskSpec.from_toml(draft.text)


def written(folder: Path, table: Rows) -> list[Path]:
    (folder / "payments.csv").write_text(csv(table))
    return [folder / "payments.csv"]


def read(file: Path) -> list[str]:
    return file.read_text(encoding="cp1252").splitlines()
