"""What the Redis store does in memory: the cache of a lane, and the bytes that one flush is."""

from __future__ import annotations

import math
from typing import Any, cast

import hiredis
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.streams.score_lanes import EmptyRedis
from weir.online.errors import StateError
from weir.streams.redis.partitions.flush import Change, Writes, flush_arguments
from weir.streams.redis.partitions.partition_record import (
    POSITION_AND_NONCE,
    LaneRecord,
    decode_position,
    decode_record,
    encode_record,
)
from weir.streams.redis.partitions.partition_store import LaneStore
from weir.streams.redis.partitions.row_cache import PINNED_PREFETCHES, RowCache
from weir.streams.redis.resp import framed_keys
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import HEADER, decode_row, encode_row, framed_values, unpack_rows

WIDTH = 8
LANE = ("user-events", 3)


def new_cache(kept_s: float = 1e9) -> RowCache:
    return RowCache(WIDTH, kept_s, lambda ids: framed_keys("p:", ids))


def fetched(cache: RowCache, *keys: str, prefetch: int = 1) -> None:
    """As a prefetch that found nothing in Redis."""
    new = cache.missing(keys)
    cache.put(new, cache.framed(new), np.empty(0, np.int64), np.empty((0, WIDTH), np.uint8), np.empty(0))
    cache.touch(list(keys), prefetch)


def rows(*fill: int) -> NDArray[np.uint8]:
    return np.repeat(np.array(fill, dtype=np.uint8)[:, None], WIDTH, axis=1)


def first_bytes(cache: RowCache, *keys: str) -> list[int]:
    return [int(row[0]) for row in cache.load(list(keys))]


def test_only_keys_not_here_are_missing_each_once() -> None:
    cache = new_cache()
    fetched(cache, "a")
    assert cache.missing(["b", "a", "c", "b"]) == ["b", "c"]


def test_a_key_that_was_not_fetched_is_an_error_and_changes_nothing() -> None:
    cache = new_cache()
    fetched(cache, "a")
    with pytest.raises(KeyError, match="b"):
        cache.load(["a", "b"])
    with pytest.raises(KeyError, match="b"):
        cache.save(["b"], rows(1), 0.0, 1)
    assert len(cache) == 1


def test_what_redis_has_and_has_not_comes_in_together() -> None:
    cache = new_cache()
    keys = ["a", "b", "c"]
    cache.put(keys, cache.framed(keys), np.array([0, 2]), rows(1, 3), np.array([5.0, 6.0]))
    assert first_bytes(cache, *keys) == [1, 0, 3]


def test_a_row_read_again_replaces_the_copy_also_when_it_is_gone() -> None:
    cache = new_cache()
    for found, value in ([0], 4), ([], 0):
        taken = rows(*[4] * len(found))
        cache.put(["a"], cache.framed(["a"]), np.array(found, dtype=np.int64), taken, np.zeros(len(found)))
        assert first_bytes(cache, "a") == [value]


def test_the_coldest_rows_go_and_the_places_are_used_again_clean() -> None:
    cache = new_cache()
    for k in range(20):
        fetched(cache, f"k{k}", prefetch=k + 1)
        cache.save([f"k{k}"], rows(k + 1), 1.0, 1)
    assert cache.evict(limit=10, prefetch=21, flushed=1) == 13  # down to three quarters of the limit, pins allowing
    assert cache.missing([f"k{k}" for k in range(20)]) == [f"k{k}" for k in range(13)]
    fetched(cache, *(f"new{k}" for k in range(13)), prefetch=22)
    assert first_bytes(cache, *(f"new{k}" for k in range(13))) == [0] * 13
    assert first_bytes(cache, "k13", "k19") == [14, 20]
    assert len(cache.frames) == 20, "free places are used before new ones"


def test_rows_not_in_redis_yet_stay() -> None:
    cache = new_cache()
    fetched(cache, "a", "b", prefetch=1)
    cache.save(["a"], rows(1), 1.0, step=5)
    assert cache.evict(limit=0, prefetch=100, flushed=4) == 1
    assert "a" in cache.slot_of
    assert cache.evict(limit=0, prefetch=100, flushed=5) == 1


def test_rows_of_prefetches_that_may_not_have_computed_stay() -> None:
    cache = new_cache()
    fetched(cache, "a", prefetch=1)
    assert cache.evict(limit=0, prefetch=PINNED_PREFETCHES, flushed=0) == 0
    assert cache.evict(limit=0, prefetch=PINNED_PREFETCHES + 1, flushed=0) == 1


def test_a_list_seen_before_an_eviction_is_looked_up_anew_behind_it() -> None:
    cache = new_cache()
    keys = ["a"]
    fetched(cache, *keys)
    cache.load(keys)
    cache.evict(limit=0, prefetch=100, flushed=0)
    fetched(cache, "other", prefetch=101)
    cache.save(["other"], rows(9), 1.0, 1)
    with pytest.raises(KeyError):
        cache.load(keys)


def test_each_row_says_when_it_last_changed_and_late_changes_do_not_count() -> None:
    cache = new_cache()
    fetched(cache, "a", "b", "c")
    cache.save(["a", "b"], rows(1, 2), np.array([5.0, 9.0]), 1)
    cache.save(["b", "a"], rows(3, 4), np.array([8.0, 6.0]), 1)
    assert cache.last_seen(["a", "b", "c"]).tolist() == [6.0, 9.0, -math.inf]
    assert first_bytes(cache, "a", "b", "c") == [4, 3, 0]


# -- the bytes of a flush ------------------------------------------------------------------------------------------


def step(cache: RowCache, offset: int, keys: list[str], fill: list[int], now: float = 1.0) -> Writes:
    fetched(cache, *keys)
    given = rows(*fill)
    slots = cache.save(keys, given, now, 1)
    return Writes(LANE, offset, 1, [Change("user", 7, cache, slots, given, cache.updated[slots])])


def test_rows_that_never_expire_are_written_with_the_longest_time_there_is() -> None:
    writes = step(new_cache(kept_s=math.inf), 7, ["a"], [1])
    assert flush_arguments("lane", "journal", b"8 bytes.", b"record", [], 0, [writes])


def arguments(writes: list[Writes], journal: tuple[bytes, ...] = (), drop: int = 0) -> list[bytes]:
    """What Redis would read, by a parser of its protocol."""
    count, packed = flush_arguments("lane", "journal", b"8 bytes.", b"record", journal, drop, writes)
    reader = hiredis.Reader()
    reader.feed(b"*%d\r\n" % count + packed)
    found: list[bytes] = reader.gets()
    assert not reader.has_data()
    return found


def stored(found: list[bytes]) -> dict[bytes, tuple[int, int, float]]:
    """By key: first byte of the row, offset, event time."""
    keys = int(found[0])
    decoded = [decode_row(LANE, value) for value in found[len(found) - (keys - 2) :]]
    return {key: (r.row[0], r.offset, r.updated_at) for key, r in zip(found[3 : 1 + keys], decoded, strict=True)}


def test_one_step_is_one_group_of_rows_with_their_headers() -> None:
    found = arguments([step(new_cache(60.0), 41, ["a", "b"], [1, 2], 2.5)], (b"j1", b"j2"), 3)
    assert found[:8] == [b"4", b"lane", b"journal", b"p:a", b"p:b", b"8 bytes.", b"record", b"2"]
    assert found[8:14] == [b"3", b"1", b"2", b"67500", b"j1", b"j2"]
    assert stored(found) == {b"p:a": (1, 41, 2.5), b"p:b": (2, 41, 2.5)}


def test_of_several_steps_the_last_row_of_a_key_counts() -> None:
    cache = new_cache()
    writes = [
        step(cache, 10, ["a", "b", "c"], [1, 2, 3], 1.0),
        step(cache, 20, ["d", "b"], [4, 5], 2.0),
        step(cache, 30, ["b", "a", "b"], [6, 7, 8], 3.0),
    ]
    expected = {b"p:a": (7, 30, 3.0), b"p:b": (8, 30, 3.0), b"p:c": (3, 10, 1.0), b"p:d": (4, 20, 2.0)}
    found = arguments(writes)
    assert stored(found) == expected
    assert found[0] == b"6", "the two keys of the lane, and each row once"


def test_a_later_step_does_not_change_what_an_earlier_one_wrote() -> None:
    cache = new_cache()
    first = step(cache, 10, ["a"], [1])
    step(cache, 20, ["a"], [2])
    assert stored(arguments([first])) == {b"p:a": (1, 10, 1.0)}


def test_a_flush_of_nothing_still_moves_the_position() -> None:
    empty = Writes(LANE, 5, 1, [])
    assert arguments([empty]) == [b"2", b"lane", b"journal", b"8 bytes.", b"record", b"0", b"0", b"0"]


@pytest.mark.parametrize("key", ["", "a b", "ä€😀", "a\r\n$3\r\nfoo", "{x}"])
def test_keys_may_be_any_text(key: str) -> None:
    assert stored(arguments([step(new_cache(), 1, [key], [9])])) == {b"p:" + key.encode(): (9, 1, 1.0)}


# -- what is stored ------------------------------------------------------------------------------------------------


def test_rows_come_back_from_their_values() -> None:
    given = rows(1, 2)
    values = [encode_row(7, 4, 2.5 + i, row.tobytes()) for i, row in enumerate(given)]
    unpacked, updated = unpack_rows("user", 7, WIDTH, values)
    assert unpacked.tolist() == given.tolist()
    assert updated.tolist() == [2.5, 3.5]


@pytest.mark.parametrize("width", [8, 64, 800, 8_000])
def test_values_of_a_flush_are_compact_and_lie_beside_those_of_before(width: int) -> None:
    """Of sizes of one to five digits; rows that do not get smaller are as before."""
    given = np.random.default_rng(width).integers(0, 256, (40, width)).astype(np.uint8)
    for i, row in enumerate(given):
        row[: i * width // 39 // 8 * 8] = 0
    heads = np.zeros(40, HEADER)
    heads["version"], heads["schema"], heads["offset"], heads["updated_at"] = 1, 7, 4, np.arange(40) / 8
    values = arguments_of(framed_values(heads, given), 40)
    assert len(values[0]) == 24 + width
    assert values[0] == encode_row(7, 4, 0.0, given[0].tobytes())
    assert len(values[-1]) < 24 + width
    assert {decode_row(LANE, value).row for value in values} == {row.tobytes() for row in given}
    before = [encode_row(7, 4, i / 8, row.tobytes()) for i, row in enumerate(given)]
    mixed = [(value, old)[i % 2] for i, (value, old) in enumerate(zip(values, before, strict=True))]
    for stored_as in (values, before, mixed):
        unpacked, updated = unpack_rows("user", 7, width, stored_as)
        assert (unpacked == given).all()
        assert updated.tolist() == [i / 8 for i in range(40)]


def test_a_compact_row_that_is_damaged_or_of_another_width_is_refused() -> None:
    heads = np.zeros(1, HEADER)
    heads["version"], heads["schema"] = 1, 7
    (value,) = arguments_of(framed_values(heads, np.zeros((1, 80), np.uint8)))
    assert len(value) == 24 + 3
    with pytest.raises(StateError, match=r"'user'.*rows of 80 B.*wants 88 B.*features rebuild"):
        unpack_rows("user", 7, 88, [value])
    for damaged in value[:-1], value[:-1] + b"\x01", value + b"\x00":
        with pytest.raises(StateError, match=r"'user'.*damaged.*are no row of 80 B.*features rebuild"):
            unpack_rows("user", 7, 80, [damaged])


def test_a_version_before_refuses_rows_and_records_that_it_would_misread() -> None:
    """It reads version 1 alone, of both."""
    heads = np.zeros(1, HEADER)
    heads["version"] = 1
    (value,) = arguments_of(framed_values(heads, np.zeros((1, 80), np.uint8)))
    records = [encode_record(LaneRecord(next_offset=1, schemas=schemas)) for schemas in ({"user": 7}, {})]
    assert [int.from_bytes(each[:2], "little") for each in (value, *records)] == [2, 2, 1]


def arguments_of(framed: NDArray[np.uint8], n: int = 1) -> list[bytes]:
    """What Redis would read."""
    reader = hiredis.Reader()
    reader.feed(b"*%d\r\n" % n + bytes(framed))
    found: list[bytes] = reader.gets()
    assert not reader.has_data()
    return found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (encode_row(8, 0, 0.0, bytes(WIDTH)), r"'user'.*schema 00000008.*schema 00000007.*features rebuild"),
        (encode_row(7, 0, 0.0, bytes(WIDTH + 8)), r"'user'.*rows of 16 B.*wants 8 B.*features rebuild"),
        (b"\x03\x00" + encode_row(7, 0, 0.0, bytes(WIDTH))[2:], r"layout version 3.*reads 1 and 2.*features rebuild"),
        (b"short", r"'user'.*features rebuild"),
    ],
)
def test_a_row_of_another_schema_width_or_version_is_refused(value: bytes, message: str) -> None:
    good = encode_row(7, 0, 0.0, bytes(WIDTH))
    with pytest.raises(StateError, match=message):
        unpack_rows("user", 7, WIDTH, [good, value, good])


async def test_a_lane_without_rows_has_nothing_to_bring_into_memory() -> None:
    """As that of an inference worker whose models keep no state, or whose first requests are all refused."""
    store = LaneStore(cast(Any, EmptyRedis()))

    await store.open(LANE)
    await store.prefetch(LANE, {})
    assert store.cached() == {"user-events": 0}


def test_a_record_comes_back_and_two_of_the_same_position_differ_in_their_nonce() -> None:
    record = LaneRecord(next_offset=2**40, mark=b"m\x00", schemas={"user": 7}, journal=3)
    one, two = encode_record(record), encode_record(record)
    assert decode_record(one) == decode_record(two) == record
    first, second = one[POSITION_AND_NONCE], two[POSITION_AND_NONCE]
    assert decode_position(first) == decode_position(second) == 2**40
    assert first != second


@pytest.mark.parametrize(
    "value",
    [b"", b"short", b"\x03" + bytes(30), encode_record(LaneRecord(next_offset=1))[:-1]],
    ids=["empty", "short", "version", "damaged"],
)
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(StateError, match="features rebuild"):
        decode_record(value)


def test_a_moved_lane_says_both_positions() -> None:
    assert "user-events-3: its record in Redis says next offset none, this worker left it at 10" in str(
        LaneMoved(LANE, 10, None)
    )
