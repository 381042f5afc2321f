"""Follows ``examples`` for the tasks whose models are judged live, each from where its document says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weir.streams.config import topics
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.trainer.job.live_examples import decode_live
from weir.streams.trainer.task_supervisor import TaskSupervisor

_RECORDS: Final = 2_000


class ExamplesFollower:
    """Reads the one partition, outside any group.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    benches : the tasks; those that this trainer does not hold are passed over.
    topic : what ``examples`` is called on these brokers.
    """

    def __init__(
        self, options: Mapping[str, Any], benches: Sequence[TaskSupervisor], topic: str = topics.EXAMPLES
    ) -> None:
        self._reader, self._benches = RangeReader(options, topic, wait_ms=500), benches
        self.offset = 0
        """Of the next record to read."""

    async def start(self) -> None:
        """Connect, and stand at the end: what was labelled before is of no model that is judged from now on."""
        await self._reader.__aenter__()
        _, self.offset = await self._reader.bounds(0)
        for bench in self._benches:
            bench.trainer.offset = self.offset
        await self._reader.seek(0, self.offset)

    async def stop(self) -> None:
        """Disconnect."""
        await self._reader.__aexit__(None, None, None)

    async def step(self) -> int:
        """Take in what came; returns how many records."""
        await self._back()
        piece = await self._reader.fetch(_RECORDS)
        if not piece.records:
            return 0
        self.offset = await self._reader.position()
        for bench in self._benches:
            if bench.held:
                await asyncio.to_thread(self._give, bench, piece.offsets, [r.value for r in piece.records])
            else:
                bench.trainer.offset = self.offset
        return len(piece.records)

    def _give(self, bench: TaskSupervisor, offsets: Sequence[int], values: Sequence[bytes]) -> None:
        trainer = bench.trainer
        new = [value for offset, value in zip(offsets, values, strict=True) if offset >= trainer.offset]
        bench.give(decode_live(new, bench.name), max(self.offset, trainer.offset))

    async def _back(self) -> None:
        """Go back where a task was taken over whose document stands further back than we do."""
        wanted = min((bench.trainer.offset for bench in self._benches if bench.held), default=self.offset)
        if wanted < self.offset:
            first, _ = await self._reader.bounds(0)
            self.offset = max(wanted, first)
            await self._reader.seek(0, self.offset)
