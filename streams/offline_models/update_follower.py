"""Follows ``model-updates``: from its beginning to its end before the first score, then as records come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.offline_models.model_updates import Ref, decode_updates
from weir.streams.offline_models.serving import FullModels, FullTask

log = logging.getLogger(__name__)


class BackgroundLoads:
    """The loads of one process: in threads, beside scoring, and swapped in the event loop, where batches are scored.

    A load that is overtaken by a newer update goes to its end unheeded; the newer one does not wait for it.

    Parameters
    ----------
    models : what says which artefacts are missing, and is given them.
    """

    def __init__(self, models: FullModels) -> None:
        self._models = models
        self._running: dict[tuple[str, Ref], asyncio.Task[None]] = {}

    def begin(self) -> None:
        """Begin to load whatever is missing."""
        for task, ref in self._models.missing():
            key = (task.name, ref)
            # Called with every fetch: a load takes longer than the time between two.
            if key not in self._running:
                self._running[key] = asyncio.ensure_future(self._load(task, ref))

    async def settle(self, wait_s: float) -> None:
        """Wait for what is being loaded, for so long at most."""
        if not self._running:
            return
        _, late = await asyncio.wait(list(self._running.values()), timeout=wait_s)
        if late:
            names = ", ".join(f"{task} version {ref.version}" for task, ref in self._running)
            log.warning("%s not loaded within %g s; scoring begins, and they serve once they are", names, wait_s)

    async def stop(self) -> None:
        """Heed no load any more; their threads end by themselves."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _load(self, task: FullTask, ref: Ref) -> None:
        try:
            model = await asyncio.to_thread(task.load, ref)  # a load takes seconds; scoring goes on meanwhile
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an artefact, scoring goes on
            self._models.refuse(task.name, ref, error)
        else:
            self._models.loaded(task.name, ref, model)
        finally:
            del self._running[task.name, ref]


WAIT_S: Final = 30.0
"""How long the first score waits for the models that serve; after that they come when they come."""


class UpdatesFollower:
    """Keeps the full models of a worker what ``model-updates`` says.

    The order of calls: ``catch_up``, ``run`` in the background, ``stop``. Does nothing where no task has a full model.

    Parameters
    ----------
    options : of ``KafkaSettings.client_options``.
    models : what to keep; they are swapped in the event loop, where batches are scored.
    topic : what ``model-updates`` is called on these brokers.
    """

    def __init__(self, options: Mapping[str, Any], models: FullModels, topic: str = topics.MODEL_UPDATES) -> None:
        self._models = models
        self._reader = RangeReader(options, topic, wait_ms=500)
        self._loads = BackgroundLoads(models)
        self._connected = False

    async def catch_up(self, wait_s: float = WAIT_S) -> None:
        """Read everything there is, and load what it says.

        Where loading takes longer than ``wait_s``, scoring begins without, and the log says so. Raises ``UsageError``
        where the topic is not as it must be, ``BrokerError`` where the brokers stop answering.
        """
        if not self._models.tasks:
            return
        await self._reader.__aenter__()
        # Only then is there something to close, also where a check below fails.
        self._connected = True
        # With two, workers could read a promotion and a rollback in either order.
        if len(lanes := self._reader.partitions()) != 1:
            raise UsageError(
                f"topic {self._reader.topic} has {len(lanes)} partitions; updates need one order, so make 1"
            )
        first, end = await self._reader.bounds(0)
        found = [piece async for piece in self._reader.read(0, first, end)]
        await self._reader.seek(0, end)
        # All at once: what was replaced since is not loaded.
        self._want(Slice([o for part in found for o in part.offsets], [r for part in found for r in part.records]))
        self._loads.begin()
        await self._loads.settle(wait_s)
        for task, said in self._models.describe().items():
            log.info("task %s: full model %s", task, said)

    async def run(self) -> None:
        """Follow until cancelled; an error ends it, and is the worker's to act on."""
        while self._connected:
            piece = await self._reader.fetch()
            if piece.records:
                self._want(piece)
            self._models.retry()
            self._loads.begin()
            await asyncio.sleep(0)  # a backlog must not keep the event loop from scoring

    async def stop(self) -> None:
        """Disconnect; loads under way are left alone."""
        await self._loads.stop()
        if self._connected:
            self._connected = False
            await self._reader.__aexit__(None, None, None)

    def _want(self, piece: Slice) -> None:
        decoded = decode_updates([record.value for record in piece.records])
        for reject in decoded.rejects:
            where = f"{self._reader.topic} at offset {piece.offsets[reject.index]}"
            log.error("%s: a record that cannot be used: %s", where, reject.reason)
        self._models.want(decoded.updates)
