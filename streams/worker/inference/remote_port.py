"""What a score lane asks of inference workers, and by which words."""

from __future__ import annotations

from dataclasses import dataclass

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.stages.scoring import FeaturedBatch
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec


@dataclass(frozen=True, slots=True)
class Rows:
    """What one task wants to know of one batch."""

    task: str
    spec: FullSpec
    event_id: list[str]
    entity_id: list[str]
    ts: FloatVector
    x: FloatMatrix
    """``(n, D)``: the full model's columns."""

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``."""
        ids, entities = self.event_id[start:stop], self.entity_id[start:stop]
        return Rows(self.task, self.spec, ids, entities, self.ts[start:stop], self.x[start:stop])


def rows_of(task: TaskSpec, featured: FeaturedBatch) -> Rows:
    """What a task with ``[full]`` asks of its rows."""
    assert task.full is not None
    batch = featured.batch
    return Rows(task.name, task.full, list(batch.event_id), featured.keys, batch.ts, featured.full_x)
