"""A worker's link to inference workers: asks for its lanes, reads the answers in the background."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weir.online.batch import FloatMatrix
from weir.online.full_columns import SEEN
from weir.streams.config import topics
from weir.streams.kafka.produce.producer import Sent
from weir.streams.worker.inference.asking import RemoteModels
from weir.streams.worker.inference.remote_port import Rows
from weir.streams.worker.inference.result_reader import ResultsReader

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

_KNOWN = SEEN.index("full.known")


class RemoteClient:
    """What lanes ask, and the reader of the answers; see `Asks`.

    Parameters
    ----------
    ctx : of the worker.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        # A restarted worker must not take the answers to the requests of the one before it.
        sender = f"{ctx.settings.worker.name()}-{os.urandom(6).hex()}"
        requests, results = ctx.name(topics.INFERENCE_REQUESTS), ctx.name(topics.INFERENCE_RESULTS)
        self._models = RemoteModels(ctx.records, requests, sender, ctx.metrics, time.monotonic)
        self._reader = ResultsReader(ctx.settings.kafka.client_options("results"), results, self._models.answered)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; raises ``BrokerError`` when no broker answers."""
        await self._reader.start()
        self._running = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Disconnect."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._reader.stop()

    async def _run(self) -> None:
        try:
            await self._reader.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, no answer would come any more
            await self._ctx.crash(error)

    async def own(self, partitions: Iterable[int]) -> None:
        """These are the partitions whose answers come from now on."""
        await self._reader.own(partitions)

    async def ask(
        self, partition: int, asks: Sequence[Rows], now: float
    ) -> tuple[list[FloatMatrix], asyncio.Future[list[Sent]]]:
        """See `RemoteModels.ask`."""
        made, sent = await self._models.ask(partition, asks, now)
        for rows, values in zip(asks, made, strict=True):
            if unknown := len(values) - int(np.count_nonzero(values[:, _KNOWN])):
                self._ctx.metrics.inc("weir_degraded_total", unknown, task=rows.task)
        return made, sent

    def waiting(self) -> Mapping[str, int]:
        """By task, in how many partitions batches wait for answers."""
        circuits = self._models.circuits()
        found = Counter({task: 0 for task, _ in circuits})
        found.update(task for (task, _), waits in circuits.items() if waits)
        return found
