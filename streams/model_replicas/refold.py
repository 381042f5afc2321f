"""Folds a model again: where its log takes examples back (`weir.online.stages.quarantine`), and as of any version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from weir.online.stages.quarantine import Quarantine
from weir.streams.errors import UsageError
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.model_replicas.topic_reader import OpensReader

log = logging.getLogger(__name__)


Progress = Callable[[int, int], None]
"""Told how many records were read, and of how many."""
_TURN: Final = 512
"""Examples learned before others get the event loop."""


async def fold_again(
    fold: ExampleFold, quarantine: Quarantine, new_reader: OpensReader, snapshots: ModelSnapshots | None
) -> None:
    """Make ``fold`` what it would be without the examples that ``quarantine``, the next record, takes back.

    It scores as it is meanwhile. Begins from the newest stored model that learned none of them, else from the first
    example.

    Raises
    ------
    RecordsDeleted
        Kafka does not hold what has to be learned again.
    StateError
        The log is not the one that the model was made from.
    """
    again = fold.again(quarantine)
    if snapshots is not None:
        await snapshots.resume(again, usable=again.clean)
    start = again.model.version
    async with new_reader() as reader:
        # Up to the quarantine, not to the end: what follows it is for the fold that goes on.
        async for piece in reader.read(0, again.next_offset, quarantine.offset):
            for examples, at, other in again.read([record.value for record in piece.records], piece.offsets):
                for first in range(0, len(examples), _TURN):
                    part = slice(first, first + _TURN)
                    again.take(examples.slice(first, first + _TURN), at[part], remember=False)
                    await asyncio.sleep(0)
                if other is not None:
                    again.pass_by(other)
    # In one step, with nothing awaited: scores are of the model before, then of the one after.
    fold.become(again, quarantine)
    log.info(
        "task %s: %d examples are taken back by the quarantine at offset %d; folded again from version %d to %d",
        fold.task, sum(stop - first for first, stop in quarantine.ranges), quarantine.offset, start, fold.model.version,
    )  # fmt: skip


async def rebuild(
    new_reader: OpensReader,
    fold: ExampleFold,
    version: int | None,
    *,
    snapshots: ModelSnapshots | None = None,
    progress: Progress | None = None,
) -> int:
    """Bring ``fold`` to ``version`` exactly, or to the present end of the log.

    Parameters
    ----------
    new_reader : makes a reader of the examples.
    fold : a new one, or one that is not past ``version``.
    version : ``None`` for all that there is.
    snapshots : stored models to start from; without them everything is learned again.
    progress : told how many examples were learned, and of how many.

    Returns
    -------
    The version that it started from.

    Raises
    ------
    UsageError
        The log holds fewer examples of the task than ``version``.
    RecordsDeleted
        The log does not reach back to where it started from.
    """
    if snapshots is not None and fold.next_offset == 0:
        await snapshots.resume(fold, at_most=version)
    start = fold.model.version
    async with new_reader() as reader:
        _, end = await reader.bounds(0)
        if fold.model.version != version:
            async for offsets, records, *_ in reader.read(0, fold.next_offset, end):
                for batch, at, quarantine in fold.read([record.value for record in records], offsets):
                    # Not in the event loop: a service answers others meanwhile.
                    await asyncio.to_thread(fold.take, batch, at, remember=False, until=version)
                    # A model as of a version before the quarantine still has what that takes back: the score was made
                    # with it.
                    if quarantine is not None and fold.model.version != version:
                        await fold_again(fold, quarantine, new_reader, snapshots)
                if progress is not None and version is not None:
                    progress(fold.model.version - start, version - start)
                if fold.model.version == version:
                    break
                fold.passed(offsets[-1] + 1 if offsets else 0)
    if version is not None and fold.model.version < version:
        raise UsageError(
            f"task {fold.task}: {reader.topic} holds {fold.model.version} examples that this task file can learn, and "
            f"version {version} is asked for: give the task file that scored it, and the brokers where it was scored"
        )
    return start
