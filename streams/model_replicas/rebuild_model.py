"""Rebuilds a task's model as of any version: from the nearest older stored model, or from the log's beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weir.streams.errors import UsageError
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.follower import Progress
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.model_replicas.refold import fold_again


async def rebuild(
    options: Mapping[str, Any],
    topic: str,
    fold: ExampleFold,
    version: int,
    *,
    snapshots: ModelSnapshots | None = None,
    progress: Progress | None = None,
) -> int:
    """Bring a new ``fold`` to ``version`` exactly.

    Parameters
    ----------
    options, topic : where the examples are.
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
    if snapshots is not None:
        await snapshots.resume(fold, at_most=version)
    start = fold.model.version
    async with RangeReader(options, topic) as reader:
        _, end = await reader.bounds(0)
        if fold.model.version < version:
            async for offsets, records, *_ in reader.read(0, fold.next_offset, end):
                for batch, at, quarantine in fold.read([record.value for record in records], offsets):
                    fold.take(batch, at, remember=False, until=version)
                    if quarantine is not None and fold.model.version < version:
                        await fold_again(fold, quarantine, lambda: RangeReader(options, topic), snapshots)
                if progress is not None:
                    progress(fold.model.version - start, version - start)
                if fold.model.version == version:
                    break
    if fold.model.version < version:
        raise UsageError(
            f"task {fold.task}: {topic} holds {fold.model.version} examples that this task file can learn, and version "
            f"{version} is asked for: give the task file that scored it, and the brokers where it was scored"
        )
    return start
