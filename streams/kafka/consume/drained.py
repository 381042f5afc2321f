"""What is taken off a fetched partition: records of ours, whole stretches at a time, and several of them as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from weir.streams.kafka.consume.fetched import FetchedRecords
from weir.streams.records import Record, RefusedRecord


class PartitionRead(NamedTuple):
    """What one partition gave: records, where reading goes on (also behind markers that are no records), the epoch."""

    topic: str
    partition: int
    base_offset: int
    next_offset: int
    records: Sequence[Record]
    offsets: Sequence[int] | None
    epoch: int
    appended: bool = False
    """Whether the broker stamped every record when it took it; else the producers said when."""
    refused: Sequence[RefusedRecord] = ()
    """What could not be read or was too large, in order."""
    size: int = 0
    """Bytes of the records' keys and values."""


def drain(result: Any, max_records: int, max_bytes: int, epoch: int) -> PartitionRead | None:
    """Take up to ``max_records`` of some ``max_bytes`` off a `FetchResult` of `FetchedRecords`.

    ``None`` when it has nothing and reading did not move.
    """
    tp, state = result._topic_partition, result._assignment.state_value(result._topic_partition)
    if state is None or result._partition_records is None or not result.check_assignment(tp):
        return None
    fetched: FetchedRecords = result._partition_records
    before, taken = state.position, fetched.bytes
    found = fetched.take(max_records, max_bytes)
    # aiokafka fetches from its own position on, which moves with what is taken.
    result._update_position()
    if fetched.done:
        result._partition_records = None
    after = state.position
    offsets, records, refused, appended = found
    if not records and not refused:
        # Markers alone: the commit has to get past them.
        moved = before is not None and after > before
        return PartitionRead(tp.topic, tp.partition, before, after, (), None, epoch) if moved else None
    base = min(each[0] for each in (offsets, [r.offset for r in refused]) if each)
    gaps = None if _dense(base, offsets) else tuple(offsets)
    size = fetched.bytes - taken
    return PartitionRead(
        tp.topic, tp.partition, base, max(after, found.stop), records, gaps, epoch, appended, refused, size
    )


def _dense(base: int, offsets: Sequence[int]) -> bool:
    return not offsets or (offsets[0] == base and offsets[-1] - base == len(offsets) - 1)


def take_together(parts: deque[PartitionRead], most: int, most_bytes: int = 1 << 62) -> PartitionRead:
    """Take the first of consecutive stretches of a partition off ``parts``, and with it more.

    They are ``most`` records and ``most_bytes`` bytes together, unless the first alone is more.

    >>> def part(base, *keys):
    ...     return PartitionRead("t", 0, base, base + len(keys), [Record(key, b"", 0.0) for key in keys], None, 1)
    >>> parts = deque([part(5, b"a"), part(6, b"b"), part(7, b"c", b"d")])
    >>> taken = take_together(parts, 3)
    >>> taken.base_offset, taken.next_offset, len(taken.records), len(parts)
    (5, 7, 2, 1)
    """
    first = parts.popleft()
    together, count, size = [first], len(first.records), first.size
    while parts and parts[0].epoch == first.epoch:
        count, size = count + len(parts[0].records), size + parts[0].size
        if count > most or size > most_bytes:
            break
        together.append(parts.popleft())
    if len(together) == 1:
        return first
    records = list(chain.from_iterable(part.records for part in together))
    refused = list(chain.from_iterable(part.refused for part in together))
    offsets = list(chain.from_iterable(part.offsets or _count(part) for part in together))
    holding = [part.base_offset for part in together if part.records or part.refused]
    base = holding[0] if holding else first.base_offset
    return first._replace(
        base_offset=base,
        next_offset=together[-1].next_offset,
        records=records,
        offsets=None if _dense(base, offsets) else tuple(offsets),
        appended=all(part.appended for part in together),
        refused=refused,
        size=sum(part.size for part in together),
    )


def _count(part: PartitionRead) -> Sequence[int]:
    return range(part.base_offset, part.base_offset + len(part.records))
