"""The row that the full model keeps of an entity, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weir.models.serving.state_row import CHAMPION, SHADOW, StateLayout
from weir.online.features.engine import Table
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.config import topics


class FullRows:
    """The table ``<task>.full`` of one task.

    Parameters
    ----------
    task : its declaration.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._layout: StateLayout | None = None
        if task.full is not None and task.full.state:
            self._layout = StateLayout(task.full.state, task.full.history, shape_of(task).full_inputs)

    @property
    def table(self) -> Table | None:
        """The table; ``None`` where the full model keeps nothing of an entity."""
        if self._layout is None or self._task.full is None:
            return None
        name, layout = f"{self._task.name}.full", self._layout
        return Table(name, self._task.key, layout.row_bytes, layout.schema, self._task.full.ttl, side=False)

    @property
    def topic(self) -> str:
        """Whose lanes own it: those that run the model."""
        remote = self._task.full is not None and self._task.full.remote
        return topics.INFERENCE_REQUESTS if remote else self._task.stream

    def values(self, row: bytes) -> Mapping[str, float]:
        """Versions whose states it holds, how many inputs it has seen, the newest of them, and the champion's state."""
        assert self._layout is not None
        record = self._layout.view(np.frombuffer(row, dtype=np.uint8)[None, :].copy())[0]
        seen = int(record["count"])
        found = {
            "champion.version": float(record["version"][CHAMPION]),
            "shadow.version": float(record["version"][SHADOW]),
            "seen": float(seen),
        }
        if seen and self._layout.history:
            newest = record["ring"][(seen - 1) % self._layout.history]
            found |= {f"last.{name}": float(x) for name, x in zip(self._layout.inputs, newest, strict=True)}
        return found | {f"state.{i}": float(x) for i, x in enumerate(record["state"][CHAMPION])}
