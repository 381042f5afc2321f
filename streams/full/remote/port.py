"""What a score lane asks of inference workers, and by which words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from online.batch import FloatMatrix, FloatVector
from online.full import FullSpec
from online.scoring import FeaturedBatch
from online.task import TaskSpec
from streams.transport import Sent


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


class Asks(Protocol):
    """Asks for full models that run elsewhere; see `RemoteClient`."""

    async def ask(  # noqa: D102
        self, partition: int, asks: Sequence[Rows], now: float
    ) -> tuple[list[FloatMatrix], asyncio.Future[list[Sent]]]: ...
    async def own(self, partitions: Iterable[int]) -> None: ...  # noqa: D102
    def waiting(self) -> Mapping[str, int]: ...  # noqa: D102


def rows_of(task: TaskSpec, featured: FeaturedBatch) -> Rows:
    """What a task with ``[full]`` asks of its rows."""
    assert task.full is not None
    batch = featured.batch
    return Rows(task.name, task.full, list(batch.event_id), featured.keys, batch.ts, featured.full_x)
