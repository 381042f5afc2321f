"""Stores models in the background: learning does not wait for Redis, and does not end when Redis is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from weir.streams.errors import ReplicaDiverged, ShellError, in_words
from weir.streams.model_replicas.fold import ExampleFold, FoldState
from weir.streams.model_replicas.model_snapshots import ModelSnapshots

log = logging.getLogger(__name__)


_STOP_S: Final = 5.0
"""How long a stop waits for Redis; what is not stored then is learned again at the next start."""


class ModelKeeper:
    """Writes states one after the other; of each task only the newest that waits.

    Parameters
    ----------
    snapshots : where to; ``None`` stores nothing.
    interval_s : after which a model is due again.
    """

    def __init__(self, snapshots: ModelSnapshots | None, interval_s: float) -> None:
        self._snapshots, self._interval_s = snapshots, interval_s
        self._waiting: dict[str, tuple[ExampleFold, FoldState]] = {}
        self._version: dict[str, int] = {}
        """The last version that was stored, or is to be."""
        self._at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def stored(self, fold: ExampleFold, version: int) -> None:
        """Note that a version is stored."""
        self._version[fold.task] = version
        self._at[fold.task] = asyncio.get_running_loop().time()

    def lacks(self, fold: ExampleFold) -> bool:
        """Whether anything was learned since the newest version stored."""
        return self._snapshots is not None and fold.model.version > self._version.get(fold.task, 0)

    def due(self, fold: ExampleFold) -> bool:
        """Whether that was long ago."""
        now = asyncio.get_running_loop().time()
        return now - self._at.setdefault(fold.task, now) >= self._interval_s and self.lacks(fold)

    def put(self, fold: ExampleFold, state: FoldState) -> None:
        """Store ``state`` soon."""
        if self._snapshots is None:
            return
        # Noted as it is handed over: it is not due again while it waits, nor where storing it fails.
        self.stored(fold, state.version)
        self._waiting[fold.task] = (fold, state)
        # One writer, which takes what waits; it ends when nothing does.
        if self._task is None or self._task.done():
            # An error of the last writer is raised here, rather than lost with its task.
            self.check()
            self._task = asyncio.create_task(self._write(self._snapshots))

    def check(self) -> None:
        """Raise what went wrong meanwhile: ``ReplicaDiverged``, or an error that nobody expected."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            task.result()

    async def stop(self, last: Sequence[tuple[ExampleFold, FoldState]]) -> None:
        """Store what waits and ``last``, and end."""
        for fold, state in last:
            self.put(fold, state)
        if self._task is None:
            return
        try:
            async with asyncio.timeout(_STOP_S):
                await self._task
        except TimeoutError:
            log.warning("models were not stored within %g s; the next start learns their last examples again", _STOP_S)

    async def _write(self, snapshots: ModelSnapshots) -> None:
        while self._waiting:
            task = next(iter(self._waiting))
            fold, state = self._waiting.pop(task)
            try:
                await snapshots.save(fold, state)
            except ReplicaDiverged:
                log.error("task %s: this worker's model is not that of the others", task)
                raise
            # Away for now: the next version is stored, and a start learns a little more.
            except ShellError as error:
                log.warning("task %s: the model of version %d was not stored: %s", task, state.version, in_words(error))
