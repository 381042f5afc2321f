"""What a score lane asks of inference workers, and by which words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.stages.scoring import FeaturedBatch
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.kafka.produce.producer import Sent


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


class RemoteScorer(Protocol):
    """Asks for full models that run elsewhere; see `RemoteClient`."""

    async def ask(
        self, partition: int, asks: Sequence[Rows], now: float
    ) -> tuple[list[FloatMatrix], asyncio.Future[list[Sent]]]:
        """What inference workers say of a batch's rows, and when the questions are safe; see `RemoteClient.ask`."""

    async def own(self, partitions: Iterable[int]) -> None:
        """These are the partitions whose answers come from now on."""

    def waiting(self) -> Mapping[str, int]:
        """By task, in how many partitions batches wait for answers."""


def rows_of(task: TaskSpec, featured: FeaturedBatch) -> Rows:
    """What a task with ``[full]`` asks of its rows."""
    assert task.full is not None
    batch = featured.batch
    return Rows(task.name, task.full, list(batch.event_id), featured.keys, batch.ts, featured.full_x)
