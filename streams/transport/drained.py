"""What is taken off a fetched partition: records of ours, whole stretches at a time, and several of them as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from streams.log import Record

APPEND_TIME: Final = 1
"""Kafka's timestamp type of records that the broker stamps (``message.timestamp.type = LogAppendTime``)."""


class Drained(NamedTuple):
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


def _raw(_tp: Any, record: Any) -> Any:
    return record


def drain(result: Any, max_records: int, epoch: int) -> Drained | None:
    """Take up to ``max_records`` of a `FetchResult`; ``None`` when it has nothing and reading did not move."""
    tp, state = result._topic_partition, result._assignment.state_value(result._topic_partition)
    if state is None or result._partition_records is None:
        return None
    before = state.position
    # Shadow the method that builds aiokafka's record object; CRC checks and transactions stay as they are.
    result._partition_records._consumer_record = _raw
    raw = result.getall(max_records)
    after = state.position
    if not raw:
        moved = before is not None and after > before
        return Drained(tp.topic, tp.partition, before, after, (), None, epoch) if moved else None
    make = Record._make  # half the time of Record(...)
    records = [make((r.key or b"", r.value or b"", r.timestamp / 1000)) for r in raw]
    base, last = raw[0].offset, raw[-1].offset
    offsets = None if last - base == len(raw) - 1 else tuple(r.offset for r in raw)
    appended = raw[0].timestamp_type == raw[-1].timestamp_type == APPEND_TIME
    return Drained(tp.topic, tp.partition, base, max(after, last + 1), records, offsets, epoch, appended)


def take_together(parts: deque[Drained], most: int) -> Drained:
    """Take the first of consecutive stretches of a partition off ``parts``, and with it more, up to ``most`` records.

    >>> def part(base, *keys):
    ...     return Drained("t", 0, base, base + len(keys), [Record(key, b"", 0.0) for key in keys], None, 1)
    >>> parts = deque([part(5, b"a"), part(6, b"b"), part(7, b"c", b"d")])
    >>> taken = take_together(parts, 3)
    >>> taken.base_offset, taken.next_offset, len(taken.records), len(parts)
    (5, 7, 2, 1)
    """
    first = parts.popleft()
    together, count = [first], len(first.records)
    while parts and parts[0].epoch == first.epoch and count + len(parts[0].records) <= most:
        together.append(parts.popleft())
        count += len(together[-1].records)
    if len(together) == 1:
        return first
    records = list(chain.from_iterable(part.records for part in together))
    offsets = list(chain.from_iterable(part.offsets or _count(part) for part in together))
    gaps = bool(offsets) and offsets[-1] - offsets[0] != len(offsets) - 1
    base = offsets[0] if offsets else first.base_offset
    return first._replace(
        base_offset=base,
        next_offset=together[-1].next_offset,
        records=records,
        offsets=tuple(offsets) if gaps else None,
        appended=all(part.appended for part in together),
    )


def _count(part: Drained) -> Sequence[int]:
    return range(part.base_offset, part.base_offset + len(part.records))
