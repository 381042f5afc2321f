"""Whatever a fetch holds becomes records or is refused by its offsets, and reading goes on behind it."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import codec as kafka_codec
from hypothesis import given
from hypothesis import strategies as st

from tests.streams.kafka_batches import CODECS, PARTITION, T0_MS, batch, framed, old_batch, read, values, with_crc
from weir.online.codec.limits import InputLimits
from weir.streams.kafka.consume.fetched import KEPT, FetchedRecords, Unpacking
from weir.streams.records import Record

SMALL = InputLimits(record_bytes=1_024, batch_bytes=1 << 20)
PAIRS = [(b"k%d" % i, b"value-%d" % i * 9) for i in range(50)]
ENCODERS = {
    "gzip": kafka_codec.gzip_encode,
    "snappy": kafka_codec.snappy_encode,
    "lz4": kafka_codec.lz4_encode,
    "zstd": kafka_codec.zstd_encode,
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("most", [1, 7, 1_000])
def test_every_codec_gives_the_records_with_their_offsets_and_times(codec: str, most: int) -> None:
    data = batch(PAIRS, 40, codec) + batch(PAIRS[:3], 90, codec)
    found, after = read(data, 40, most=most)
    wanted = [*enumerate(PAIRS), *enumerate(PAIRS[:3])]
    assert found.records == [Record(key, value, (T0_MS + i) / 1000) for i, (key, value) in wanted]
    assert (list(found.offsets), found.refused, after) == (list(range(40, 93)), [], 93)


def test_a_fetch_from_the_middle_of_a_batch_begins_there() -> None:
    found, after = read(batch(PAIRS, 40), 87)
    assert (list(found.offsets), values(found), after) == ([87, 88, 89], [v for _, v in PAIRS[47:]], 90)


def test_no_key_and_no_value_are_empty_and_the_brokers_time_counts_where_it_wrote_it() -> None:
    made = bytearray(batch([(None, None), (b"k", b"v")]))
    struct.pack_into(">h", made, 21, 0x08)
    found, _ = read(with_crc(bytes(made)))
    assert found.records == [Record(b"", b"", (T0_MS + 1) / 1000), Record(b"k", b"v", (T0_MS + 1) / 1000)]
    assert found.appended
    assert not read(batch(PAIRS))[0].appended


def test_the_last_batch_of_a_fetch_may_be_cut_off_anywhere_and_as_often_as_it_is_read() -> None:
    next_one, unpacking = batch(PAIRS, 50), Unpacking(InputLimits())
    for left in range(1, len(next_one)):
        for _ in range(2):  # as who reads the same stretch of a log twice has it cut at the same place
            fetched = FetchedRecords(unpacking, PARTITION, batch(PAIRS) + next_one[:left], 0)
            found = fetched.take(1_000, 1 << 20)
            assert not fetched.take(1_000, 1 << 20)
            assert (len(found.records), found.refused, fetched.next_fetch_offset) == (50, [], 50), left


@pytest.mark.parametrize(
    ("magic", "codec"), [(0, "none"), (1, "none"), (0, "gzip"), (1, "gzip"), (1, "lz4"), (1, "snappy")]
)
def test_the_old_formats_are_read(magic: int, codec: str) -> None:
    found, after = read(old_batch(PAIRS, magic, 40, codec) + batch(PAIRS[:1], 90), 42)
    assert [(r.key, r.value) for r in found.records] == PAIRS[2:] + PAIRS[:1]
    assert (list(found.offsets), found.refused, after) == (list(range(42, 91)), [], 91)
    assert found.records[0].ts == ((T0_MS + 2) / 1000 if magic else -0.001)


# -- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_a_record_that_is_too_large_is_refused_and_the_others_are_read(codec: str) -> None:
    large = os.urandom(70_000)
    pairs = [(b"a", b"1" * 1_024), (b"b", large), (b"c", b"1" * 1_025), (b"k" * 1_025, b""), (b"d", b"")]
    found, after = read(batch(pairs, 5, codec), 5, SMALL)
    assert (list(found.offsets), after) == ([5, 9], 10)
    first, second, third = found.refused
    assert (first.offset, first.record.key, first.record.value) == (6, b"b", large[:KEPT])
    assert (first.size, first.sha256) == (70_000, hashlib.sha256(large).hexdigest())
    why = "send smaller records or raise [limits] record_bytes"
    assert first.reason == f"oversized: 70000 bytes, allowed 1024; {why}"
    assert (second.offset, second.record.value, second.size) == (7, b"1" * 1_025, None)
    assert third.reason == f"oversized: 1025 bytes of key, allowed 1024; {why}"


@pytest.mark.parametrize("codec", sorted(ENCODERS))
def test_a_batch_that_would_become_too_large_is_refused_by_its_offsets(codec: str) -> None:
    bomb = batch([(b"k", b"0" * 600_000)] * 2, 7, codec)
    found, after = read(bomb + batch(PAIRS, 9, codec), 7, SMALL)
    (refused,) = found.refused
    assert (refused.offset, refused.last_offset, refused.offsets) == (7, 8, 2)
    assert refused.reason == (
        f"oversized: a batch of {len(bomb)} bytes ({codec}), offsets 7 to 8: more than 1048576 bytes after "
        "decompression; send smaller batches or raise [limits] batch_bytes"
    )
    assert refused.record.value == bomb[:KEPT]
    assert (len(found.records), after) == (50, 59)


def test_a_compressed_message_of_an_old_format_is_bounded_too() -> None:
    found, after = read(old_batch([(b"k", b"0" * 600_000)] * 2, 1, 7, "gzip"), 7, SMALL)
    (refused,) = found.refused
    assert (refused.offset, refused.last_offset, after) == (7, 8, 9)
    assert refused.reason.startswith("oversized: a batch of")


def test_only_so_many_records_and_bytes_as_are_asked_for_become_objects() -> None:
    fetched = FetchedRecords(Unpacking(InputLimits()), PARTITION, batch([(b"", b"x" * 100)] * 1_000, codec="gzip"), 0)
    assert [len(fetched.take(30, 1 << 20).records), len(fetched.take(500, 1_000).records)] == [30, 10]
    assert (fetched.next_fetch_offset, fetched.done) == (40, False)
    assert 4_000 < fetched.bytes < 5_000


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """100 MB of one byte, in some ten or hundred kB; measured in a process of its own, as its largest size ever."""
    enormous = _enormous()
    for codec, encode in ENCODERS.items():
        (tmp_path / codec).write_bytes(framed(batch([(b"k", b"v")]), encode(enormous), codec))
    script = """
import resource, sys
from pathlib import Path
from tests.streams.kafka_batches import batch, read
def kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bombs = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
for codec in bombs:
    read(batch([(b"k", b"v")], codec=codec))
before = kb()
for codec, made in bombs.items():
    found, after = read(made)
    assert found.refused and found.refused[0].reason.startswith("oversized"), (codec, found)
    print(codec, kb() - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    grown = {codec: int(kb) for codec, kb in map(str.split, ran.stdout.splitlines())}
    assert grown.keys() == ENCODERS.keys()
    assert max(grown.values()) < 40_000, f"{grown} kB more for a batch that may hold 16 MB"


def _enormous() -> bytes:
    body = batch([(b"k", b"0" * 100_000_000)])[61:]
    assert len(body) > 100_000_000
    return body


# -- what cannot be read ---------------------------------------------------------------------------------------------


def refused_alone(data: bytes, position: int = 0, **fields: object) -> tuple[int, int | None, str]:
    """The one stretch that is refused of a batch between two good ones, all else is read."""
    first, last = batch(PAIRS[:2], position), batch(PAIRS[:2], position + 12)
    found, after = read(first + data + last, position)
    assert values(found)[:2] == values(found)[-2:] == [v for _, v in PAIRS[:2]]
    assert after == position + 14
    (refused,) = found.refused
    return refused.offset, refused.last_offset, refused.reason


@pytest.mark.parametrize("codec", sorted(ENCODERS))
@pytest.mark.parametrize("harm", ["garbage", "cut short", "empty", "more behind"])
def test_a_body_that_is_not_what_its_codec_writes(codec: str, harm: str) -> None:
    good = batch(PAIRS[:10], 2)
    body = ENCODERS[codec](good[61:])
    bad = {"garbage": b"garbage!" * 20, "cut short": body[:-9], "empty": b"", "more behind": body + b"\x00\x01junk"}[
        harm
    ]
    offset, last, reason = refused_alone(framed(good, bad, codec))
    assert (offset, last) == (2, 11)
    assert reason.startswith("unreadable: a batch of ")


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_nobody_knows(codec: int) -> None:
    good = batch(PAIRS[:10], 2)
    offset, last, reason = refused_alone(framed(good, good[61:], codec))
    assert (offset, last) == (2, 11)
    assert f"codec {codec} is not known" in reason


def test_a_checksum_that_is_wrong_is_refused_when_it_is_so_again() -> None:
    bad = bytearray(batch(PAIRS[:10], 2))
    bad[80] ^= 0x40
    offset, last, reason = refused_alone(bytes(bad))
    assert (offset, last) == (2, 11)
    assert "its checksum is wrong, in two fetches" in reason


def test_a_fetch_that_was_damaged_on_its_way_is_asked_for_again() -> None:
    good, unpacking = batch(PAIRS), Unpacking(InputLimits())
    bad = bytearray(good)
    bad[80] ^= 0x40
    damaged = FetchedRecords(unpacking, PARTITION, bytes(bad), 0)
    assert not damaged.take(100, 1 << 20)
    assert (damaged.done, damaged.next_fetch_offset) == (True, 0)
    again = FetchedRecords(unpacking, PARTITION, good, 0).take(100, 1 << 20)
    assert (len(again.records), again.refused) == (50, [])
    damaged_later = FetchedRecords(unpacking, PARTITION, bytes(bad), 0)
    assert not damaged_later.take(100, 1 << 20).refused, "it came whole in between"


def test_what_a_damaged_batch_says_of_its_end_is_not_believed() -> None:
    bad = bytearray(batch(PAIRS[:10], 2))
    struct.pack_into(">i", bad, 23, 2**31 - 1)  # the offset of its last record; the checksum is wrong then, too
    assert refused_alone(bytes(bad))[:2] == (2, 11)
    found, after = read(bytes(bad), 2, end=12)
    assert (after, [(r.offset, r.last_offset) for r in found.refused]) == (3, [(2, 2)])


@pytest.mark.parametrize("length", [-1, 0, 20, 2**31 - 1])
def test_a_length_that_cannot_be(length: int) -> None:
    bad = bytearray(batch(PAIRS[:10], 2))
    struct.pack_into(">i", bad, 8, length)
    found, after = read(bytes(bad), 2)
    assert (values(found), after) == ([], 3)
    assert [(r.offset, r.last_offset) for r in found.refused] == [(2, 2)]


@pytest.mark.parametrize("data", [b"\x00", b"\xff" * 16, b"\x7f" * 17, b"\x02" * 300, bytes(61)])
def test_bytes_that_are_no_batch_at_all(data: bytes) -> None:
    found, after = read(data, 17)
    assert after >= 18, "reading goes on behind it"
    assert found.refused


def varint(number: int) -> bytes:
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    rest &= 2**64 - 1
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def record(*numbers: int, size: int | None = None) -> bytes:
    """A record of these numbers behind its attributes; without a size of its own it says the right one."""
    body = b"\x00" + b"".join(map(varint, numbers))
    return varint(len(body) if size is None else size) + body


HUGE = [2**62, 2**63 - 1, -(2**63), 2**31, -5]


@pytest.mark.parametrize(
    "body",
    [record(0, 9, size=n) for n in HUGE]
    + [record(0, 0, n) for n in HUGE if n > 0]
    + [record(0, 0, 0, n) for n in HUGE if n > 0]
    + [record(0, n, 0, 0, 0) for n in (-1, 12, *HUGE)]
    + [b"\x80" * 40, b"\xff" * 9, b"\x02", varint(3) + b"\x00\x80\x80"],
)
def test_numbers_that_cannot_be(body: bytes) -> None:
    good = batch(PAIRS[:10], 2)
    offset, last, reason = refused_alone(framed(good, body))
    assert (offset, last) == (2, 11)
    assert reason.startswith("unreadable: a batch of ")


def test_records_in_front_of_garbage_are_read() -> None:
    good = batch(PAIRS[:10], 2)
    found, after = read(framed(good, good[61:] + b"garbage"), 2)
    assert values(found) == [v for _, v in PAIRS[:10]]
    assert [(r.offset, r.last_offset, after) for r in found.refused] == [(11, 11, 12)]


@pytest.mark.parametrize("count", [0, -1, 9, 11, 2**31 - 1])
def test_a_number_of_records_that_is_wrong_is_said(count: int) -> None:
    good = batch(PAIRS[:10], 2)
    found, _ = read(framed(good, good[61:], records=count), 2)
    assert values(found) == [v for _, v in PAIRS[:10]]
    (refused,) = found.refused
    assert f"it says that it holds {count} records, and has 10" in refused.reason


def test_a_transaction_that_was_given_up_does_not_count() -> None:
    marker = bytearray(batch([(b"\x00\x00\x00\x00", b"")], 4, producer=7, transactional=True))
    struct.pack_into(">h", marker, 21, 0x30)
    data = [
        batch(PAIRS[:2], 0, producer=7, transactional=True),
        batch(PAIRS[2:4], 2, producer=8, transactional=True),
        with_crc(bytes(marker)),
        batch(PAIRS[4:6], 5, producer=7, transactional=True),
    ]
    found, after = read(b"".join(data), aborted=[(7, 0)])
    assert (list(found.offsets), after) == ([2, 3, 5, 6], 7)


@given(st.data())
def test_nothing_raises_and_reading_always_goes_on(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from(sorted(CODECS)))
    made = bytearray(batch(PAIRS[:5], 3, codec) + old_batch(PAIRS[:2], data.draw(st.integers(0, 1)), 8, "none"))
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    made = made[: data.draw(st.integers(1, len(made)))]
    checked = bytes(made) if len(made) < 61 or data.draw(st.booleans()) else with_crc(bytes(made))
    found, after = read(checked, 3, most=data.draw(st.integers(1, 9)), end=10)
    assert after >= 3
    assert after > 3 or found.refused or not found.records
    assert list(found.offsets) == sorted(found.offsets)


def test_gzip_of_several_members_is_read() -> None:
    good = batch(PAIRS, 0)
    body = gzip.compress(good[61:100]) + gzip.compress(good[100:])
    assert values(read(framed(good, body, "gzip"))[0]) == [v for _, v in PAIRS]
