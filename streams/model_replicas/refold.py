"""Folds a model again where its log takes examples back (`weir.online.stages.quarantine`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from weir.online.stages.quarantine import Quarantine
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.model_snapshots import ModelSnapshots

log = logging.getLogger(__name__)

_TURN: Final = 512
"""Examples learned before others get the event loop."""


async def fold_again(
    fold: ExampleFold,
    quarantine: Quarantine,
    new_reader: Callable[[], RangeReader],
    snapshots: ModelSnapshots | None,
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
        async for piece in reader.read(0, again.next_offset, quarantine.offset):
            for examples, at, other in again.read([record.value for record in piece.records], piece.offsets):
                for first in range(0, len(examples), _TURN):
                    part = slice(first, first + _TURN)
                    again.take(examples.slice(first, first + _TURN), at[part], remember=False)
                    await asyncio.sleep(0)
                if other is not None:
                    again.pass_by(other)
    fold.become(again, quarantine)
    log.info(
        "task %s: %d examples are taken back by the quarantine at offset %d; folded again from version %d to %d",
        fold.task, sum(stop - first for first, stop in quarantine.ranges), quarantine.offset, start, fold.model.version,
    )  # fmt: skip
