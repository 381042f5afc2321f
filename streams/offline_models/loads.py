"""Loads artefacts in threads, beside scoring, and swaps them in the event loop, where batches are scored.

A load that is overtaken by a newer update goes to its end unheeded; the newer one does not wait for it.
"""

from __future__ import annotations

import asyncio
import logging

from weir.streams.offline_models.model_updates import Ref
from weir.streams.offline_models.serving import FullModels, FullTask

log = logging.getLogger(__name__)


class BackgroundLoads:
    """The loads of one process.

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
