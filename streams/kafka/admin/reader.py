"""Reads partitions through a consumer: where to begin, up to the present end, and beyond."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any, Final

from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.admin.clients import kafka_module

_POLL_MS: Final = 250
_POLL_RECORDS: Final = 2_000
_PATIENCE_S: Final = 60.0
"""What is there comes at once; brokers that restart are back within that time."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins: ``earliest``, ``latest``, or so many records before the end.

    >>> Start.parse("-20"), Start.parse("earliest").back is None
    (Start(back=20), True)
    """

    back: int | None
    """Records before the end, 0 for only new ones; ``None`` for everything."""

    @classmethod
    def parse(cls, text: str) -> Start:
        """Read what a person gave; raises ``UsageError`` for anything else."""
        if text in ("earliest", "latest"):
            return cls(None if text == "earliest" else 0)
        if re.fullmatch(r"-\d{1,9}", text):
            return cls(-int(text))
        raise UsageError(f"--from {text!r}: give earliest, latest, or -N for the last N records")


def assign(consumer: Any, topic: str) -> list[Any]:
    """Assign every partition of ``topic``; raises ``UsageError`` when there is no such topic."""
    there = consumer.topics()
    if topic not in there:
        known = ", ".join(sorted(name for name in there if not name.startswith("__")))
        raise UsageError(f"no topic {topic} that you may read; there are: {known or 'none (run: weir topics create)'}")
    lanes = [kafka_module().TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(lanes)
    return lanes


def read_present(consumer: Any, topic: str, start: Start, stop: Event | None = None) -> Iterator[Any]:
    """Records that are in ``topic`` now, from ``start`` to the end as it is at the beginning of the call.

    Afterwards the consumer stands at those ends, so ``follow`` continues without a gap. Records come in order within
    a partition; ``start`` counts back in each partition, so the caller sees at least as many as it asked for.

    Raises `BrokerError` where nothing comes for a minute, `UsageError` where there is no such topic.
    """
    lanes = assign(consumer, topic)
    first, ends = consumer.beginning_offsets(lanes), consumer.end_offsets(lanes)
    for lane in lanes:
        consumer.seek(lane, first[lane] if start.back is None else max(first[lane], ends[lane] - start.back))
    open_lanes = {lane for lane in lanes if consumer.position(lane) < ends[lane]}
    # What is written from now on is left to `follow`.
    consumer.pause(*[lane for lane in lanes if lane not in open_lanes])
    quiet = _Quiet(topic)
    while open_lanes and not (stop is not None and stop.is_set()):
        for lane, records in consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS).items():
            yield from (record for record in records if record.offset < ends[lane])
        quiet.check([consumer.position(lane) for lane in lanes])
        # The position, not the last record, tells: compaction and transactions leave offsets that hold no record.
        for lane in [lane for lane in open_lanes if consumer.position(lane) >= ends[lane]]:
            # Back to the end as it was: the last poll may have read behind it.
            consumer.seek(lane, ends[lane])
            consumer.pause(lane)
            open_lanes.discard(lane)
    consumer.resume(*lanes)


class _Quiet:
    """Notices that brokers are away: clients of Kafka wait for them without end, and without a word."""

    def __init__(self, topic: str) -> None:
        self._topic, self._at, self._since = topic, list[int](), time.monotonic()

    def check(self, positions: list[int]) -> None:
        """Raise `BrokerError` where no position has moved for too long."""
        now = time.monotonic()
        if positions != self._at:
            self._at, self._since = positions, now
        elif now - self._since > _PATIENCE_S:
            told = f"{self._topic}: nothing came for {_PATIENCE_S:.0f} s, and its end was not reached"
            raise BrokerError(f"{told}; see whether the brokers are up")


def read_one(consumer: Any, topic: str, partition: int, offset: int) -> Any:
    """The record at an offset; ``None`` where there is none (any more). Raises `BrokerError` as `read_present`."""
    place = kafka_module().TopicPartition(topic, partition)
    if topic not in consumer.topics() or partition not in (consumer.partitions_for_topic(topic) or ()):
        return None
    consumer.assign([place])
    first, end = consumer.beginning_offsets([place])[place], consumer.end_offsets([place])[place]
    if not first <= offset < end:
        return None
    consumer.seek(place, offset)
    quiet = _Quiet(topic)
    while (at := consumer.position(place)) <= offset:
        quiet.check([at])
        for record in consumer.poll(timeout_ms=_POLL_MS, max_records=1).get(place, ()):
            return record if record.offset == offset else None
    return None


def follow(consumer: Any, stop: Event) -> Iterator[Any]:
    """New records of the assigned partitions, until ``stop``."""
    while not stop.is_set():
        for records in consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS).values():
            yield from records
