"""Which offsets of which partition may be committed: the bookkeeping of decision 1, without Kafka.

Batches of a partition begin in offset order and complete in any order. A commit covers the completed batches in front
of the oldest incomplete one, and nothing behind it. A partition that is revoked or rewound forgets its batches, and a
batch of before is recognised by its epoch: completing it late has no effect. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from weir.streams.errors import UsageError

Partition = tuple[str, int]
"""(topic, partition); Faust's and aiokafka's own named tuples are equal to it."""


class Ticket(NamedTuple):
    """Identity of one batch within one assignment of its partition, and between two rewinds."""

    partition: Partition
    base_offset: int
    next_offset: int
    epoch: int


@dataclass(slots=True)
class _Batch:
    next_offset: int
    size: int = 0
    taken: bool = False
    completed: bool = False


@dataclass(slots=True)
class _Lane:
    """One assigned partition; ``batches`` is in offset order and holds nothing that a commit already covers."""

    epoch: int
    batches: dict[int, _Batch] = field(default_factory=dict)
    begun: int = -1
    """Next offset of the newest batch that began; -1 before the first."""
    through: int = -1
    """Everything before this offset is complete; -1 before anything is."""
    committed: int = -1
    done: int = 0
    """Bytes of the batches before ``through``."""


class CompletedOffsets:
    """Completed-through offsets of the assigned partitions.

    Examples
    --------
    >>> offsets = CompletedOffsets()
    >>> offsets.assign([("events", 0)])
    >>> first, second = offsets.begin(("events", 0), 0, 10), offsets.begin(("events", 0), 10, 15)
    >>> offsets.complete(second), offsets.committable()
    (True, {})
    >>> offsets.complete(first), offsets.committable()
    (True, {('events', 0): 15})
    """

    def __init__(self) -> None:
        self._lanes: dict[Partition, _Lane] = {}
        self._epoch = 0

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Take partitions on; one that was already assigned starts afresh, as after a rebalance."""
        # One counter for all partitions: no epoch comes twice, not even of a partition that goes and comes back.
        self._epoch += 1
        for partition in partitions:
            self._lanes[partition] = _Lane(self._epoch)

    def rewind(self, partition: Partition, offset: int) -> bool:
        """Go on at ``offset``, back or forth, as if everything before it were complete and nothing behind it began.

        ``False`` when the partition is not assigned any more.
        """
        if partition not in self._lanes:
            return False
        self._epoch += 1
        # Nothing counts as committed: the next commit says `offset` also where that is back.
        self._lanes[partition] = _Lane(self._epoch, begun=offset, through=offset)
        return True

    def oldest(self, partition: Partition) -> int | None:
        """Where reading has to go back to when all that is in flight is given up; ``None`` before anything began.

        >>> offsets = CompletedOffsets()
        >>> offsets.assign([("events", 0)])
        >>> first, _ = offsets.begin(("events", 0), 5, 10), offsets.begin(("events", 0), 10, 15)
        >>> offsets.oldest(("events", 0)), offsets.complete(first), offsets.oldest(("events", 0))
        (5, True, 10)
        """
        lane = self._lanes.get(partition)
        if lane is None or lane.begun < 0:
            return None
        return next(iter(lane.batches), lane.begun)

    def assigned(self) -> set[Partition]:
        """The partitions taken on."""
        return set(self._lanes)

    def epoch(self, partition: Partition) -> int | None:
        """What distinguishes this stretch of reading a partition from earlier ones; ``None`` when not assigned."""
        lane = self._lanes.get(partition)
        return lane.epoch if lane is not None else None

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions and everything in flight in them."""
        for partition in partitions:
            self._lanes.pop(partition, None)

    def begin(self, partition: Partition, base_offset: int, next_offset: int, size: int = 0) -> Ticket:
        """A batch of ``[base_offset, next_offset)``, ``size`` bytes, was fetched. Offsets may have gaps, forwards."""
        lane = self._lanes.get(partition)
        if lane is None:
            raise UsageError(f"{partition}: a batch began in a partition that is not assigned; assign it first")
        if base_offset < lane.begun or next_offset <= base_offset:
            raise UsageError(
                f"{partition}: batch [{base_offset}, {next_offset}) is empty or lies before offset {lane.begun}, "
                "where the last one ended; begin batches in offset order"
            )
        lane.batches[base_offset] = _Batch(next_offset, size)
        lane.begun = next_offset
        return Ticket(partition, base_offset, next_offset, lane.epoch)

    def _find(self, ticket: Ticket) -> _Batch | None:
        lane = self._lanes.get(ticket.partition)
        return lane.batches.get(ticket.base_offset) if lane is not None and lane.epoch == ticket.epoch else None

    def take(self, ticket: Ticket) -> bool:
        """Someone works on the batch now; ``False`` when its partition was revoked or rewound: leave it alone."""
        batch = self._find(ticket)
        if batch is None:
            return False
        batch.taken = True
        return True

    def complete(self, ticket: Ticket) -> bool:
        """The batch's outputs and state are safe; ``False`` when that is known already or the batch is of before."""
        batch = self._find(ticket)
        if batch is None or batch.completed:
            return False
        batch.completed = True
        lane = self._lanes[ticket.partition]
        while lane.batches and (oldest := next(iter(lane.batches.values()))).completed:
            lane.through, lane.done = oldest.next_offset, lane.done + oldest.size
            del lane.batches[next(iter(lane.batches))]
        return True

    def committable(self) -> dict[Partition, int]:
        """Offset to commit of each partition that has something new to commit."""
        return {p: lane.through for p, lane in self._lanes.items() if lane.through > lane.committed}

    def committed(self, offsets: dict[Partition, int]) -> None:
        """The broker has these offsets; partitions that were revoked meanwhile are ignored."""
        for partition, offset in offsets.items():
            lane = self._lanes.get(partition)
            # A commit that was under way while the partition was rewound says nothing of what is there now.
            if lane is not None and offset <= lane.through:
                lane.committed = max(lane.committed, offset)

    def completed_through(self, partition: Partition) -> int | None:
        """Everything before this offset is complete; ``None`` before anything completed or was set by `rewind`."""
        lane = self._lanes.get(partition)
        return lane.through if lane is not None and lane.through >= 0 else None

    def in_flight(self, partition: Partition) -> int:
        """Batches that began and hold the commit back: incomplete ones, and completed ones behind them."""
        lane = self._lanes.get(partition)
        return len(lane.batches) if lane is not None else 0

    def limit(self, partition: Partition, room: int) -> int | None:
        """Where reading has to pause so that ``room`` offsets are in flight; ``None`` before the first batch.

        >>> offsets = CompletedOffsets()
        >>> offsets.assign([("events", 0)])
        >>> _, _ = offsets.begin(("events", 0), 5, 10), offsets.begin(("events", 0), 10, 15)
        >>> offsets.limit(("events", 0), 100)
        105
        """
        lane = self._lanes.get(partition)
        if lane is None or (not lane.batches and lane.begun < 0):
            return None
        return next(iter(lane.batches), lane.begun) + room

    def done(self, partition: Partition) -> int:
        """Bytes of the batches that began since the partition was assigned or rewound, and are not in flight."""
        lane = self._lanes.get(partition)
        return lane.done if lane is not None else 0

    def waiting(self, partition: Partition) -> bool:
        """Whether the newest batch waits for someone to take it."""
        lane = self._lanes.get(partition)
        if lane is None or not lane.batches:
            return False
        newest = next(reversed(lane.batches.values()))
        return not (newest.taken or newest.completed)

    def working(self) -> list[Ticket]:
        """Batches that someone took and did not complete."""
        return self._open(taken_only=True)

    def unfinished(self) -> list[Ticket]:
        """Batches that began and are not complete, those too that nobody took yet."""
        return self._open(taken_only=False)

    def _open(self, *, taken_only: bool) -> list[Ticket]:
        return [
            Ticket(partition, base, batch.next_offset, lane.epoch)
            # Copies: the watchdog asks from a thread of its own.
            for partition, lane in list(self._lanes.items())
            for base, batch in list(lane.batches.items())
            if not batch.completed and (batch.taken or not taken_only)
        ]
