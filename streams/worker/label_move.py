"""Brings what waits in label lanes to the partitions of its entities, as topics may have more by now: no worker runs.

Every lane is first what a worker would have made of it: its steps are taken again, and what may not have been published
is. One that is lost is filled from its topics. Then predictions and labels are read for what the lanes hold as digests
alone: whose each is. Then the lanes are divided anew. A prediction stays where it was logged; the lane that it comes to
reads it back from there.

A lane gets what comes to it before any gives away what goes, and what is in two of them counts once. So a move that was
cut short at any moment is made again, from whatever the lanes hold by then.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import numpy as np

from weir.online.batch import IntVector
from weir.online.codec.decode import decode_labels
from weir.online.codec.predictions import decode_scored
from weir.online.digests import Digests
from weir.online.labels.moves import moved_rows
from weir.streams.config import topics
from weir.streams.errors import StateError
from weir.streams.kafka.consume.fetched_batch import Slice
from weir.streams.kafka.consume.range_reader import RangeReader
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.worker.labelling.label_partition import LabelLane
from weir.streams.worker.labelling.moved_lanes import HeldLane, divide
from weir.streams.worker.partitions import LaneHost

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Told what is read, how far, and of how much."""
_NOBODY: Final = -1


class LabelMove:
    """One move, from the lanes of ``before`` partitions to those of ``after``.

    Parameters
    ----------
    host : makes lanes; its partitioner is known, and nothing it sends is held back.
    fill : makes a lane that is lost of its topics, where their records are.
    reader : opens a reader of a topic, by Weir's own name.
    progress : told how far it is.
    """

    def __init__(
        self,
        host: LaneHost,
        reader: Callable[[str], RangeReader],
        fill: Callable[[int], Awaitable[None]],
        before: int,
        after: int,
        progress: Progress,
    ) -> None:
        self._host, self._reader, self._fill, self._progress = host, reader, fill, progress
        self._before, self._after = before, after

    async def run(self) -> int:
        """All of it; how many predictions came to another partition."""
        # As they were made: budgets are shares of so many, and labels belong to the partitions of then.
        self._host.declare(self._before)
        lanes, held = dict[int, LabelLane](), dict[str, list[HeldLane]]()
        for partition in range(self._after):
            lane, new = await self._settled(partition)
            lanes[partition] = lane
            for task, stage in lane.stages.items() if not new else ():
                parts = {name: part.snapshot() for name, part in stage.parts().items()}
                held.setdefault(task, []).append(HeldLane(partition, lane.of or self._before, parts))
        self._host.declare(self._after)
        if self._host.ctx.settings.topics.misplaced != "keep":  # else nothing has an owner
            await self._predictions(held, lanes[0])
            await self._labels(held)
            await self._store(lanes, held)
        for lane in lanes.values():
            await lane.close()
        return sum(lane.moving for of in held.values() for lane in of)

    async def _settled(self, partition: int) -> tuple[LabelLane, bool]:
        """A lane as a worker would have left it; and whether it is one that there was not before."""
        lane, check = self._host.label_lane(partition), self._host.ctx.topics.check
        try:
            await lane.open()
            if not lane.blank:
                for own in (topics.LABELS, topics.PREDICTIONS):
                    await check((own, partition))
                await lane.settle()
                return lane, False
        except (StateError, RecordsDeleted) as error:
            log.warning("%s is filled from its topics, as what is stored of it cannot be used: %s", lane.name, error)
        if partition < self._before:
            await self._fill(partition)
        lane = self._host.label_lane(partition)
        await lane.open()
        await lane.settle()
        return lane, partition >= self._before

    async def _store(self, lanes: dict[int, LabelLane], held: dict[str, list[HeldLane]]) -> None:
        """First all get what comes to them, then they give away what has gone."""
        for keep in (True, False):
            for partition in range(self._after):
                stages = self._host.label_lane(partition).stages
                for task, stage in stages.items():
                    divide(stage, partition, self._after, held[task], self._owners_of, keep=keep)
                await lanes[partition].become(stages)

    def _owners_of(self, entities: Sequence[str]) -> IntVector:
        return self._host.ctx.placement.partitions_of(entities)

    async def _predictions(self, held: dict[str, list[HeldLane]], lane: LabelLane) -> None:
        """Whose the predictions are that wait."""
        async with self._reader(topics.PREDICTIONS) as reader:
            for partition in range(self._after):
                wanted = {task: [_offsets_in(of, partition) for of in some] for task, some in held.items()}
                every = np.concatenate([offsets for some in wanted.values() for _, offsets in some])
                if not len(every):
                    continue
                found: dict[str, list[tuple[IntVector, IntVector]]] = {task: [] for task in held}
                async for piece in self._read(reader, partition, int(every.min()), int(every.max()) + 1):
                    raw, offsets = [record.value for record in piece.records], np.asarray(piece.offsets, np.int64)
                    for task, of in decode_scored(raw, lane.reader.shapes).tasks.items():
                        owners = self._owners_of(of.scored.predictions.entity_id)
                        found[task].append((offsets[of.index], owners))
                    self._progress(f"predictions-{partition}", piece.stop, int(every.max()) + 1)
                for task, some in held.items():
                    for each, (rows, offsets) in zip(some, wanted[task], strict=True):
                        each.rows[rows] = _found(found[task], offsets, each.partition)

    async def _labels(self, held: dict[str, list[HeldLane]]) -> None:
        """Whose the labels are that wait, and those whose ids are remembered."""
        known, limits = {task: _Digests(some) for task, some in held.items()}, self._host.ctx.settings.limits
        async with self._reader(topics.LABELS) as reader:
            for partition in range(self._after):
                first, end = await reader.bounds(partition)
                async for piece in self._read(reader, partition, first, end):
                    decoded = decode_labels([record.value for record in piece.records], limits=limits)
                    for task, labels in decoded.by_task().items():
                        if task in known:
                            known[task].say(moved_rows.digests_by(labels), self._owners_of(labels.entity_id))
                    self._progress(f"labels-{partition}", piece.stop, end)
        for task, some in held.items():
            known[task].tell(some)

    async def _read(self, reader: RangeReader, partition: int, start: int, end: int) -> AsyncIterator[Slice]:
        first, last = await reader.bounds(partition)
        async for piece in reader.read(partition, max(start, first), max(min(end, last), first)):
            yield piece


def _offsets_in(lane: HeldLane, partition: int) -> tuple[IntVector, IntVector]:
    """The rows of a lane that were logged in a partition, and their offsets there."""
    partitions, offsets = moved_rows.records_of(lane.join, lane.partition)
    rows = np.flatnonzero((partitions == partition) & (offsets >= 0))
    return rows, offsets[rows]


def _found(pieces: Sequence[tuple[IntVector, IntVector]], offsets: IntVector, otherwise: int) -> IntVector:
    """The owner at each offset; ``otherwise`` where the record is gone, so that nothing of it can be learned."""
    none = np.empty(0, np.int64)
    at, owners = (np.concatenate([none, *(piece[i] for piece in pieces)]) for i in (0, 1))
    if not len(at):
        return np.full(len(offsets), otherwise)
    place = np.minimum(np.searchsorted(at, offsets), len(at) - 1)
    return np.where(at[place] == offsets, owners[place], otherwise)


class _Digests:
    """What the lanes of one task hold of labels as digests, and whose each is as far as it was said."""

    def __init__(self, lanes: Sequence[HeldLane]) -> None:
        self._owners = [
            dict.fromkeys(_bytes(np.concatenate(of)), _NOBODY)
            for of in zip(*(moved_rows.digests_of(lane.join) for lane in lanes), strict=True)
        ]

    def say(self, digests: Sequence[Digests], owners: IntVector) -> None:
        """Labels were read that are known by these digests."""
        for held, of in zip(self._owners, digests, strict=True):
            held.update((digest, owner) for digest, owner in zip(_bytes(of), owners.tolist(), strict=True)
                        if digest in held)  # fmt: skip

    def tell(self, lanes: Sequence[HeldLane]) -> None:
        """Write it down in the lanes; what nobody said stays where it is."""
        for lane in lanes:
            for held, of, owners in zip(
                self._owners, moved_rows.digests_of(lane.join), (lane.labels, lane.label_ids), strict=True
            ):
                said = np.array([held[digest] for digest in _bytes(of)], np.int64)
                owners[said != _NOBODY] = said[said != _NOBODY]


def _bytes(digests: Digests) -> list[bytes]:
    raw = digests.tobytes()
    return [raw[i : i + 16] for i in range(0, len(raw), 16)]
