"""What a reader of record batches may rely on, on the embedded log here and on Kafka in tests/integration.

A log for this suite appends and opens readers; a reader hands over what there is, in a group that remembers what was
completed. ``RecordBatchContract`` is the suite; a log subclasses it and makes itself in ``log``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.records import Record, RecordBatch

PARTITIONS = 3
T0 = float(int(time.time()) - 600)  # Kafka refuses records of the future, and retention deletes those of the past


class Reader(Protocol):
    """One worker of a group, alone in it."""

    def read(self, records: int) -> list[RecordBatch]:
        """Batches until there have been so many records."""

    def complete(self, batch: RecordBatch) -> bool:
        """The batch is done; ``False`` when it does not count any more."""

    def rewind(self, partition: int, offset: int) -> None:
        """Go on there."""


class Log(Protocol):
    """A topic of ``PARTITIONS`` partitions."""

    topic: str

    def append(self, records: Sequence[Record]) -> None:
        """Append records, each to the partition of its key."""

    def reader(self, group: str) -> AbstractContextManager[Reader]:
        """Read on where the group is; at the end what is complete is committed."""


def some(n: int, start: int = 0) -> list[Record]:
    return [Record(b"k%d" % (i % 17), b"v%d" % i, T0 + i / 8) for i in range(start, start + n)]


def places(batches: Sequence[RecordBatch]) -> dict[tuple[int, int], Record]:
    """Records by (partition, offset); each comes once."""
    found = {(b.partition, b.offset_of(i)): r for b in batches for i, r in enumerate(b.records)}
    assert len(found) == sum(len(b.records) for b in batches), "a record came twice"
    return found


class RecordBatchContract:
    """The suite."""

    def test_everything_comes_once_with_its_key_value_and_time(self, log: Log) -> None:
        log.append(some(500))
        with log.reader("once") as reader:
            found = places(reader.read(500))
        assert sorted(found.values()) == sorted(some(500))

    def test_offsets_of_a_partition_follow_each_other(self, log: Log) -> None:
        for start in range(0, 400, 40):
            log.append(some(40, start))
        with log.reader("offsets") as reader:
            batches = reader.read(400)
        expected: dict[int, int] = defaultdict(int)
        for batch in batches:
            assert batch.topic == log.topic
            assert batch.base_offset == expected[batch.partition] == batch.offset_of(0)
            assert [batch.offset_of(i) for i in range(len(batch.records))] == list(
                range(batch.base_offset, batch.next_offset)
            )
            expected[batch.partition] = batch.next_offset

    def test_a_key_stays_in_its_partition_and_in_order(self, log: Log) -> None:
        log.append(some(300))
        log.append(some(300, 300))
        with log.reader("keys") as reader:
            found = places(reader.read(600))
        of_key: dict[bytes, set[int]] = defaultdict(set)
        times: dict[bytes, list[float]] = defaultdict(list)
        for (partition, _), record in sorted(found.items()):
            of_key[record.key].add(partition)
            times[record.key].append(record.ts)
        assert all(len(partitions) == 1 for partitions in of_key.values())
        assert all(seen == sorted(seen) for seen in times.values())
        assert len({p for partitions in of_key.values() for p in partitions}) > 1

    def test_no_bytes_stay_no_bytes(self, log: Log) -> None:
        records = [Record(b"", b"no key", T0), Record(b"no value", b"", T0), Record(b"", b"", T0)]
        log.append(records)
        with log.reader("empty") as reader:
            assert sorted(places(reader.read(3)).values()) == sorted(records)

    def test_a_group_resumes_behind_what_is_complete(self, log: Log) -> None:
        log.append(some(300))
        with log.reader("resume") as reader:
            first = reader.read(300)
            done = [batch for batch in first if batch.partition != 1]
            assert all(reader.complete(batch) for batch in done)
        log.append(some(30, 300))
        rest = {place for place in places(first) if place[0] == 1}
        with log.reader("resume") as reader:
            again = places(reader.read(len(rest) + 30))
        assert rest <= again.keys(), "what was not complete comes again"
        assert again.keys() & places(done).keys() == set(), "what was complete does not"
        assert {record.value for place, record in again.items() if place not in rest} == {
            b"v%d" % i for i in range(300, 330)
        }

    def test_a_batch_that_is_complete_behind_one_that_is_not_comes_again(self, log: Log) -> None:
        log.append(some(100))
        with log.reader("gap") as reader:
            early = reader.read(100)
            log.append(some(100, 100))
            assert all(reader.complete(batch) for batch in reader.read(100))
        with log.reader("gap") as reader:
            assert len(places(reader.read(200))) == 200
        assert early

    def test_groups_do_not_know_each_other(self, log: Log) -> None:
        log.append(some(50))
        for group in ("one", "two"):
            with log.reader(group) as reader:
                assert all(reader.complete(batch) for batch in reader.read(50))

    @pytest.mark.parametrize("where", ["start", "middle", "ahead"])
    def test_a_rewound_partition_goes_on_there_and_the_others_go_on(self, log: Log, where: str) -> None:
        log.append(some(300))
        with log.reader(f"rewind-{where}") as reader:
            before = reader.read(300)
            ends = {p: max(b.next_offset for b in before if b.partition == p) for p in range(PARTITIONS)}
            log.append(some(300, 300))
            after = reader.read(300)
            last = max(b.next_offset for b in after if b.partition == 0)
            to = {"start": 0, "middle": ends[0] // 2, "ahead": last}[where]
            reader.rewind(0, to)
            log.append(some(60, 600))
            more = reader.read(60 + last - to)
            stale = [batch for batch in before + after if batch.partition == 0]
            assert not any(reader.complete(batch) for batch in stale), "read before the rewind"
            assert all(reader.complete(batch) for batch in before + after + more if batch not in stale)
        found = places(more)
        assert min(offset for partition, offset in found if partition == 0) == to
        assert len([place for place in found if place[0] == 0 and place[1] < last]) == last - to
        assert {record.value for record in found.values()} >= {b"v%d" % i for i in range(600, 660)}
        with log.reader(f"rewind-{where}") as reader:
            log.append(some(10, 700))
            assert {r.value for r in places(reader.read(10)).values()} == {b"v%d" % i for i in range(700, 710)}


class Embedded:
    """The embedded log; its group commits whole prefixes, as a host that goes through it in order does."""

    topic = "events"

    def __init__(self) -> None:
        self._log = EmbeddedLog({self.topic: PARTITIONS}, max_batch=64)
        self._committed: dict[str, dict[int, int]] = {}
        """Of each group, where it goes on in each partition: a host keeps that in its checkpoint."""

    def append(self, records: Sequence[Record]) -> None:
        self._log.append(self.topic, records)

    @contextmanager
    def reader(self, group: str) -> Iterator[Reader]:
        reader = EmbeddedReader(self._log, self.topic, self._committed.setdefault(group, {}))
        yield reader
        reader.commit()


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """A batch from a place within it on, as it was read once."""

    batch: LoggedBatch
    skip: int

    @property
    def topic(self) -> str:
        return self.batch.topic

    @property
    def partition(self) -> int:
        return self.batch.partition

    @property
    def base_offset(self) -> int:
        return self.batch.base_offset + self.skip

    @property
    def next_offset(self) -> int:
        return self.batch.next_offset

    @property
    def records(self) -> Sequence[Record]:
        return self.batch.records[self.skip :]

    def offset_of(self, index: int) -> int:
        return self.batch.offset_of(index + self.skip)


class EmbeddedReader:
    """Reads partitions from their committed offsets on."""

    def __init__(self, log: EmbeddedLog, topic: str, committed: dict[int, int]) -> None:
        self._log, self._topic, self._committed = log, topic, committed
        self._position = {p: committed.get(p, 0) for p in range(PARTITIONS)}
        self._begun: dict[int, list[RecordBatch]] = {p: [] for p in range(PARTITIONS)}
        self._complete: set[int] = set()

    def read(self, records: int) -> list[RecordBatch]:
        found: list[RecordBatch] = []
        for batch in self._log.read([self._topic], 0):
            skip = max(0, self._position[batch.partition] - batch.base_offset)
            if skip < len(batch.records):
                found.append(Rest(batch, skip))
                self._position[batch.partition] = batch.next_offset
                self._begun[batch.partition].append(found[-1])
        assert sum(len(batch.records) for batch in found) == records
        return found

    def complete(self, batch: RecordBatch) -> bool:
        counts = any(each is batch for each in self._begun[batch.partition]) and id(batch) not in self._complete
        self._complete.add(id(batch))
        return counts

    def rewind(self, partition: int, offset: int) -> None:
        self._position[partition] = offset
        self._begun[partition] = []

    def commit(self) -> None:
        for partition, begun in self._begun.items():
            for batch in begun:
                if id(batch) not in self._complete:
                    break
                self._committed[partition] = batch.next_offset


class TestEmbeddedLog(RecordBatchContract):
    """The suite on the embedded log."""

    @pytest.fixture
    def log(self) -> Embedded:
        return Embedded()
