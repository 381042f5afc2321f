"""What the embedded log promises, in memory and on disk; and what its files survive."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.errors import LogError, RecordsDropped
from weir.streams.records import Record

PARTITIONS = {"events": 3, "labels": 1}
FILE = "records.log"


@pytest.fixture(params=["memory", "directory", "segments"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedLog]:
    directory = None if request.param == "memory" else tmp_path / "log"
    segment_bytes = 200 if request.param == "segments" else 1 << 20
    with EmbeddedLog(PARTITIONS, directory, max_batch=4, segment_bytes=segment_bytes) as made:
        yield made


def some(n: int, start: int = 0) -> list[Record]:
    return [Record(b"k%d" % (i % 7), b"v%d" % i, float(i)) for i in range(start, start + n)]


def everything(log: EmbeddedLog, from_seq: int = 0) -> list[LoggedBatch]:
    """All batches, with the records of those that are read from the disk."""
    return [replace(b, records=tuple(b.records)) for b in log.read(["events", "labels"], from_seq)]


def test_offsets_of_a_partition_have_no_gaps(log: EmbeddedLog) -> None:
    for start in (0, 11, 12, 40):
        log.append("events", some(11, start))
    expected: dict[int, int] = defaultdict(int)
    for batch in everything(log):
        assert batch.base_offset == expected[batch.partition]
        expected[batch.partition] = batch.next_offset
    assert dict(expected) == log.end_offsets("events")


def test_a_key_stays_in_its_partition_and_in_order(log: EmbeddedLog) -> None:
    log.append("events", some(50))
    seen: dict[bytes, list[float]] = defaultdict(list)
    where: dict[bytes, set[int]] = defaultdict(set)
    for batch in everything(log):
        for record in batch.records:
            seen[record.key].append(record.ts)
            where[record.key].add(batch.partition)
    assert all(len(partitions) == 1 for partitions in where.values())
    assert all(times == sorted(times) for times in seen.values())


def test_a_topic_that_was_not_named_has_one_partition(log: EmbeddedLog) -> None:
    log.append("other", some(9))
    assert log.end_offsets("other") == {0: 9}


def test_batches_are_numbered_in_the_order_of_appends(log: EmbeddedLog) -> None:
    made = [*log.append("events", some(9)), *log.append("labels", some(2)), *log.append("events", some(9, 9))]
    assert [b.seq for b in everything(log)] == [b.seq for b in made] == list(range(len(made)))
    assert log.next_seq == len(made)


def test_a_long_append_becomes_several_batches(log: EmbeddedLog) -> None:
    made = log.append("labels", some(10))
    assert [len(b.records) for b in made] == [4, 4, 2]


def test_appending_nothing_makes_nothing(log: EmbeddedLog) -> None:
    assert log.append("events", []) == []
    assert log.next_seq == 0


@pytest.mark.parametrize("from_seq", [0, 1, 3, 5, 99])
def test_a_reader_starts_anywhere(log: EmbeddedLog, from_seq: int) -> None:
    for start in range(0, 30, 10):
        log.append("events", some(10, start))
    assert everything(log, from_seq) == [b for b in everything(log) if b.seq >= from_seq]


def test_a_reader_gets_only_its_topics(log: EmbeddedLog) -> None:
    log.append("events", some(9))
    log.append("labels", some(2))
    assert {b.topic for b in log.read(["labels"], 0)} == {"labels"}
    assert list(log.read([], 0)) == []


def test_a_reader_sees_what_is_appended_while_it_reads(log: EmbeddedLog) -> None:
    log.append("labels", some(1))
    reader = log.read(["labels"], 0)
    next(reader)
    log.append("labels", some(1, 1))
    assert next(reader).records[0].value == b"v1"


def test_a_truncated_log_is_one_to_which_the_rest_was_never_appended(log: EmbeddedLog) -> None:
    log.append("events", some(9))
    cut = log.next_seq
    before = (everything(log), log.end_offsets("events"))
    log.append("events", some(9, 9))
    log.append("labels", some(9))
    assert log.truncate(cut) == 18
    assert (everything(log), log.end_offsets("events"), log.next_seq) == (*before, cut)
    assert log.append("events", some(9, 30))[0].seq == cut


def test_forgetting_frees_memory_but_not_numbers(log: EmbeddedLog) -> None:
    log.append("labels", some(9))
    before = everything(log)
    log.forget(2)
    assert everything(log) in (before, before[2:])  # a directory still has them
    assert log.append("labels", some(1))[0].base_offset == 9


def test_a_partition_is_read_from_any_offset_and_no_further_than_asked(log: EmbeddedLog) -> None:
    for start in range(0, 60, 10):
        log.append("events", some(10, start))
        log.append("labels", some(1, start))
    for partition, end in log.end_offsets("events").items():
        own = [b for b in everything(log) if (b.topic, b.partition) == ("events", partition)]
        for offset in range(end + 1):
            assert log.read_from("events", partition, offset) == [b for b in own if b.next_offset > offset]
        assert log.read_from("events", partition, 0, max_bytes=0) == own[:1]
        most = sum(len(r.key) + len(r.value) for b in own[:3] for r in b.records)
        assert log.read_from("events", partition, 0, max_bytes=most) == own[:3]
    assert log.read_from("other", 0, 0) == []


def test_a_time_has_an_offset(log: EmbeddedLog) -> None:
    """That of the first record with that time or a later one, though times go back now and then."""
    for start in (0, 40, 20, 60, 50):
        log.append("labels", some(10, start))
    times = [r.ts for b in everything(log) for r in b.records]
    for ts in (-1.0, 0.0, 5.5, 9.0, 10.0, 39.0, 45.0, 59.5, 69.0, 70.0):
        first = next((i for i, at in enumerate(times) if at >= ts), len(times))
        assert log.offset_at("labels", 0, ts) == first
    assert log.offset_at("other", 0, 0.0) == 0


class TestDirectory:
    """The log on disk."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "log"

    def filled(self, directory: Path) -> list[LoggedBatch]:
        with EmbeddedLog(PARTITIONS, directory, max_batch=4) as log:
            log.append("events", some(9))
            log.append("labels", [Record(b"", b"\x00\xff", -1.5), Record("ä".encode(), b"", 1e300)])
            log.append("events", some(5, 9))
            return everything(log)

    def reopened(self, directory: Path) -> list[LoggedBatch]:
        with EmbeddedLog(PARTITIONS, directory) as log:
            return everything(log)

    def test_reopening_gives_equal_batches_and_goes_on(self, directory: Path) -> None:
        written = self.filled(directory)
        assert self.reopened(directory) == written
        with EmbeddedLog(PARTITIONS, directory) as log:
            made = log.append("labels", some(1))
        assert (made[0].seq, made[0].base_offset) == (len(written), 2)
        assert self.reopened(directory) == [*written, *made]

    def test_closing_twice_is_fine(self, directory: Path) -> None:
        log = EmbeddedLog(PARTITIONS, directory)
        log.close()
        log.close()

    def test_truncation_reaches_the_disk(self, directory: Path) -> None:
        written = self.filled(directory)
        with EmbeddedLog(PARTITIONS, directory) as log:
            log.truncate(2)
            made = log.append("labels", some(2, 50))
        assert self.reopened(directory) == [*written[:2], *made]

    def test_truncation_reaches_what_was_forgotten_in_memory(self, directory: Path) -> None:
        written = self.filled(directory)
        with EmbeddedLog(PARTITIONS, directory) as log:
            log.forget(3)
            log.truncate(4)
        assert self.reopened(directory) == written[:4]

    def test_a_tail_torn_at_any_byte_is_cut_off_and_the_log_goes_on(self, directory: Path, tmp_path: Path) -> None:
        whole = self.filled(directory)
        data = (directory / FILE).read_bytes()
        last = data.rindex(b"WLG1")
        for size in range(last, len(data)):
            torn = tmp_path / f"torn{size}"
            torn.mkdir()
            (torn / FILE).write_bytes(data[:size])
            with EmbeddedLog(PARTITIONS, torn) as log:
                assert everything(log) == whole[:-1]
                log.append(whole[-1].topic, whole[-1].records)
            assert (torn / FILE).read_bytes() == data
            shutil.rmtree(torn)

    @pytest.mark.parametrize("zeros", [1, 11, 12, 500, 4096])
    def test_a_tail_of_zeros_is_cut_off(self, directory: Path, zeros: int) -> None:
        """What a file system may leave of a block that was allotted and never written."""
        whole = self.filled(directory)
        with (directory / FILE).open("ab") as file:
            file.write(bytes(zeros))
        assert self.reopened(directory) == whole

    def test_damage_before_the_last_frame_is_an_error_and_changes_nothing(self, directory: Path) -> None:
        self.filled(directory)
        path = directory / FILE
        data = path.read_bytes()
        last = data.rindex(b"WLG1")
        for at in range(last):
            bad = bytearray(data)
            bad[at] ^= 0x55
            path.write_bytes(bad)
            with pytest.raises(LogError, match=r"damaged at byte \d+ of \d+; restore the file"):
                EmbeddedLog(PARTITIONS, directory)
            assert path.read_bytes() == bad

    def test_a_second_owner_is_refused_and_changes_nothing(self, directory: Path) -> None:
        with EmbeddedLog(PARTITIONS, directory) as log:
            log.append("events", [Record(b"a", b"1", 0.0)])
            with (directory / FILE).open("ab") as half:  # what the first is just writing
                half.write(b"WLG1")
            with pytest.raises(LogError, match="the log is open already"):
                EmbeddedLog(PARTITIONS, directory)
            assert (directory / FILE).read_bytes().endswith(b"WLG1")
        assert [batch.seq for batch in self.reopened(directory)] == [0]

    def test_a_file_of_another_kind_is_refused_and_kept(self, directory: Path) -> None:
        directory.mkdir()
        for data in (b"something else entirely, longer than a header", b"x", bytes(100)):
            (directory / FILE).write_bytes(data)
            with pytest.raises(LogError, match="damaged at byte 0"):
                EmbeddedLog(PARTITIONS, directory)
            assert (directory / FILE).read_bytes() == data


keys = st.sampled_from([b"a", b"b", b"c", b"dd"])
appends = st.tuples(st.sampled_from(["events", "labels"]), st.lists(keys, max_size=9))


@settings(max_examples=60, deadline=None)
@given(st.lists(appends, max_size=8), st.data())
def test_truncate_then_append_is_as_if_never_appended(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, list[bytes]]], data: st.DataObject
) -> None:
    """Cut anywhere, append the same again: the same batches, in memory and in the file."""
    folders = [tmp_path_factory.mktemp("log") for _ in range(2)]
    with (
        EmbeddedLog(PARTITIONS, folders[0], max_batch=3) as straight,
        EmbeddedLog(PARTITIONS, folders[1], max_batch=3) as cut,
    ):
        marks = []
        for number, (topic, held) in enumerate(script):
            records = [Record(key, b"%d" % number, 0.0) for key in held]
            marks.append(straight.next_seq)
            straight.append(topic, records)
            cut.append(topic, records)
        at = data.draw(st.integers(0, len(script)))
        if at < len(script):
            cut.truncate(marks[at])
            for number, (topic, held) in enumerate(script[at:], at):
                cut.append(topic, [Record(key, b"%d" % number, 0.0) for key in held])
        assert everything(cut) == everything(straight)
        assert cut.end_offsets("events") == straight.end_offsets("events")
    assert (folders[0] / FILE).read_bytes() == (folders[1] / FILE).read_bytes()


class LogMachine(RuleBasedStateMachine):
    """Any order of appends, cuts and restarts, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp()) / "log"
        self.log = self.opened()
        self.appended: list[LoggedBatch] = []
        self.dropped = 0
        """Batches that retention took."""
        self.count = 0

    def opened(self) -> EmbeddedLog:
        return EmbeddedLog(PARTITIONS, self.directory, max_batch=2, segment_bytes=180)

    @rule(topic=st.sampled_from(["events", "labels"]), held=st.lists(keys, max_size=5))
    def append(self, topic: str, held: list[bytes]) -> None:
        records = [Record(key, b"%d" % (self.count + i), 0.0) for i, key in enumerate(held)]
        self.count += len(held)
        made = self.log.append(topic, records)
        assert sorted(r for b in made for r in b.records) == sorted(records)
        self.appended += made

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = self.opened()

    @rule(drop_index=st.booleans())
    def sync(self, drop_index: bool) -> None:
        assert self.log.sync() == self.log.next_seq
        for index in sorted(self.directory.glob("*.idx"))[:drop_index]:
            index.unlink()

    @rule(data=st.data())
    def retain(self, data: st.DataObject) -> None:
        keep_from = data.draw(st.integers(0, self.log.next_seq))
        before = self.log.first_seq
        self.log.retain(keep_from, older_than=data.draw(st.integers(0, self.count + 1)))
        assert before <= self.log.first_seq <= max(keep_from, before)
        del self.appended[: self.log.first_seq - before]
        self.dropped = self.log.first_seq

    @precondition(lambda self: self.appended)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(self.dropped, self.log.next_seq))
        self.log.truncate(seq)
        self.appended = [b for b in self.appended if b.seq < seq]

    @invariant()
    def reads_what_was_appended(self) -> None:
        assert everything(self.log) == self.appended
        assert self.log.next_seq == self.dropped + len(self.appended)

    @invariant()
    def reads_by_place(self) -> None:
        for lane in (("events", 0), ("events", 1), ("events", 2), ("labels", 0)):
            own = [b for b in self.appended if (b.topic, b.partition) == lane]
            first = self.log.first_offset(*lane)
            assert self.log.read_from(*lane, first) == own
            assert first == (own[0].base_offset if own else self.log.end_offset(*lane))
            assert self.log.end_offset(*lane) == (own[-1].next_offset if own else first)
            if first:
                with pytest.raises(
                    RecordsDropped, match=f"no longer kept; the first record that is has offset {first}"
                ):
                    self.log.read_from(*lane, first - 1)

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.directory.parent)


TestAnyHistory = LogMachine.TestCase
TestAnyHistory.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
