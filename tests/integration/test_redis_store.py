"""The lane store against a real Redis: atomic steps, rows of others, and what does not fit."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from redis import exceptions as rx

from tests.integration.row_store import LANE, SCHEMA, SIDE, TTL_S, WIDTH, NewRedis, Server, Worker, rows, worker_on
from weir.online.features.store import SPARE
from weir.streams.errors import StateError
from weir.streams.kafka.partitioners import partitions_of
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_record import CLEARING, clear_lane
from weir.streams.redis.partitions.partition_store import LaneRecord, LaneStore
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import encode_row, row_key

pytestmark = pytest.mark.integration


# -- what a flush leaves -------------------------------------------------------------------------------------------


async def test_rows_record_and_journal_come_back_to_another_worker(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        steps = [await worker.step(a=1, b=2), await worker.step(b=3)]
        await worker.flush(*steps, journal=[b"one", b"two", b"three"], mark=b"m")
        await worker.flush(await worker.step(c=4), journal=[b"four"], drop=2, mark=b"n")
        other = Worker(worker.link, worker.store.prefix)
        record = await other.open()
        assert record == LaneRecord(next_offset=3, mark=b"n", schemas={"user": SCHEMA}, journal=2)
        assert await other.store.load_journal(LANE) == [b"three", b"four"]
        assert await other.values("a", "b", "c", "d") == [1, 3, 4, 0]


async def test_a_row_says_when_and_by_which_record_it_was_changed(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.flush(await worker.step(a=1), await worker.step(b=2))
        await worker.write(b=3)
        lanes = [("user-events", p) for p in range(6)]
        (a,) = await worker.store.read_rows("user", "a", lanes)
        (b,) = await worker.store.read_rows("user", "b", lanes)
        assert (a.lane, a.schema, a.offset, a.updated_at, a.row) == (LANE, SCHEMA, 0, 0.0, bytes([1] * WIDTH))
        assert (b.offset, b.updated_at, b.row) == (2, 2.0, bytes([3] * WIDTH))
        assert await worker.store.read_rows("user", "nobody", lanes) == []


async def test_rows_expire_and_a_write_starts_their_life_anew_but_the_lane_stays(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.flush(await worker.step(a=1), journal=[b"entry"])
        base = f"{worker.store.prefix}:{{user-events-3}}:"
        key = f"{base}user:a"
        assert SPARE * TTL_S - 10 < await worker.link.execute("TTL", key) <= SPARE * TTL_S
        await worker.link.execute("EXPIRE", key, 100)
        await worker.write(a=2)
        assert SPARE * TTL_S - 10 < await worker.link.execute("TTL", key) <= SPARE * TTL_S
        assert await worker.link.execute("TTL", f"{base}lane") == -1
        assert await worker.link.execute("TTL", f"{base}journal") == -1


async def test_nothing_of_a_step_is_in_redis_before_its_flush(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        await worker.step(a=2, b=2)
        other = Worker(worker.link, worker.store.prefix)
        await other.open()
        assert await other.values("a", "b") == [1, 0]
        assert await worker.values("a", "b") == [2, 2]


async def test_thousands_of_rows_of_several_tables_in_one_flush(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        store, keys = worker.store, [f"u{i}" for i in range(4000)]
        store.create("device", 656, 9, 60.0)
        wide = np.arange(4000, dtype=np.float64).repeat(82).reshape(4000, 82).view(np.uint8)
        await store.prefetch(LANE, {"user": keys, "device": keys})
        store.use(LANE)
        store.save("device", keys, wide, 5.0)
        store.save("user", keys, rows(*[7] * 4000), 5.0)
        await store.flush(LANE, [store.end_step(LANE, 0)], store.record(LANE, 1), None)
        await worker.open()
        assert set(await worker.values(*keys)) == {7}
        await store.prefetch(LANE, {"device": keys})
        assert store.load("device", keys).tobytes() == wide.tobytes()


# -- tables that others own ----------------------------------------------------------------------------------------


MERCHANTS = [f"m{i}" for i in range(12)]


async def feed(link: RedisClient, prefix: str, fill: int) -> None:
    """The side lanes set every merchant's row, each in the partition of its key."""
    owner = partitions_of([m.encode() for m in MERCHANTS], 3)
    for q in range(3):
        side = Worker(link, prefix, (SIDE, q))
        side.store.create("merchant", WIDTH, SCHEMA, TTL_S)
        side.store.tables.declare_side("merchant", SIDE, 3)
        await side.open()
        keys = [m for m, p in zip(MERCHANTS, owner.tolist(), strict=True) if p == q]
        await side.store.prefetch(side.lane, {"merchant": keys})
        side.store.use(side.lane)
        side.store.save("merchant", keys, rows(*[fill] * len(keys)), 1.0)
        await side.flush(side.store.end_step(side.lane, (side.expected or 0)))


@pytest.mark.parametrize("cluster", [False, True], ids=["one server", "cluster"])
async def test_rows_of_other_lanes_are_read_fresh_and_only_read(
    redis_server: Server, new_redis: NewRedis, cluster: bool
) -> None:
    async with worker_on(new_redis(cluster=True) if cluster else redis_server) as worker:
        assert worker.link.cluster == cluster
        store = worker.store
        store.create("merchant", WIDTH, SCHEMA, TTL_S)
        store.tables.declare_side("merchant", SIDE, 3)
        await worker.write(a=5)
        for fill in (0, 1, 2):
            if fill:
                await feed(worker.link, store.prefix, fill)
            await store.prefetch(LANE, {"user": ["a", "b"], "merchant": [*MERCHANTS, MERCHANTS[0], "unknown"]})
            store.use(LANE)
            assert store.load("merchant", MERCHANTS)[:, 0].tolist() == [fill] * 12
            assert store.load("merchant", ["unknown"])[:, 0].tolist() == [0]
            assert store.load("user", ["a", "b"])[:, 0].tolist() == [5, 0]
            with pytest.raises(LookupError, match="belongs to the lanes of entity-updates"):
                store.save("merchant", ["m0"], rows(9), 1.0)
        await worker.write(b=6)
        assert await worker.values("a", "b") == [5, 6]


async def test_a_cluster_refuses_two_lanes_in_one_command(new_redis: NewRedis) -> None:
    """What the hash tags are for; the tests above could not fail if the server let this pass."""

    async with worker_on(new_redis(cluster=True)) as worker:
        keys = [row_key("p", ("user-events", p), "user", "a") for p in (1, 2)]
        with pytest.raises(rx.ClusterCrossSlotError):
            await worker.link.execute("MGET", *keys)
        assert await worker.link.execute("MGET", keys[0], row_key("p", ("user-events", 1), "user", "b")) == [None, None]


# -- what does not fit ---------------------------------------------------------------------------------------------


async def test_a_task_whose_rows_mean_something_else_is_refused(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        changed = LaneStore(worker.link, prefix=worker.store.prefix)
        changed.create("user", WIDTH, SCHEMA + 1, TTL_S)
        with pytest.raises(StateError, match=r"'user'.*schema 00000007.*schema 00000008.*weir features rebuild"):
            await changed.open(LANE)


async def test_rows_of_a_task_that_was_away_are_said_to_miss_what_came_meanwhile(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker_on(redis_server) as worker:
        await worker.flush(await worker.step(a=1))

        async def processed_without_it(*steps: int) -> None:
            other = Worker(worker.link, worker.store.prefix)
            other.store = LaneStore(worker.link, prefix=worker.store.prefix)
            await other.open()
            for _ in steps:
                record = other.store.record(LANE, other.computed + 1)
                await other.store.flush(LANE, [other.store.end_step(LANE, other.computed)], record, other.expected)
                other.computed = other.expected = record.next_offset

        await processed_without_it()
        await worker.open()
        await worker.flush(await worker.step(a=2))
        await processed_without_it(1, 2)
        await processed_without_it(3)  # the next owner knows it too
        assert not caplog.messages
        await worker.open()
        assert "user-events-3: rows of table user miss the records from offset 2 to 4: " in caplog.text
        await worker.flush(await worker.step(a=3))
        caplog.clear()
        await worker.open()
        assert not caplog.messages, "said once"


async def test_a_row_of_another_schema_is_refused_when_it_is_read(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        alien = encode_row(SCHEMA + 1, 0, 0.0, bytes(WIDTH))
        await worker.link.execute("SET", row_key(worker.store.prefix, LANE, "user", "b"), alien)
        with pytest.raises(StateError, match=r"schema 00000008.*schema 00000007.*weir features rebuild"):
            await worker.values("a", "b")


@pytest.mark.parametrize("cluster", [False, True], ids=["one server", "cluster"])
async def test_clearing_a_lane_takes_all_of_it_and_nothing_else(
    redis_server: Server, new_redis: NewRedis, cluster: bool
) -> None:
    async with worker_on(new_redis(cluster=True) if cluster else redis_server) as worker:
        prefix = worker.store.prefix
        neighbour = Worker(worker.link, prefix, ("user-events", 30))
        await neighbour.open()
        for each in (worker, neighbour):
            await each.flush(await each.step(**{f"k{i}": 7 for i in range(2500)}), journal=[b"x"])
        assert await clear_lane(worker.link, prefix, LANE) == 2502
        with pytest.raises(LaneMoved):
            await worker.write(a=1)
        assert await worker.open() is None
        assert await worker.values("k0", "k2499") == [0, 0]
        assert await neighbour.open() is not None
        assert await neighbour.values("k0", "k2499") == [7, 7]


async def test_a_lane_whose_clearing_was_cut_short_is_not_opened_or_written(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        await worker.link.execute("SET", f"{worker.store.prefix}:{{user-events-3}}:lane", CLEARING)
        with pytest.raises(LaneMoved):
            await worker.write(a=2)
        with pytest.raises(StateError, match="features rebuild"):
            await worker.open()
        await clear_lane(worker.link, worker.store.prefix, LANE)
        assert await worker.open() is None


async def test_a_journal_that_someone_deleted_is_noticed(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.flush(await worker.step(a=1), journal=[b"x"])
        await worker.link.execute("DEL", f"{worker.store.prefix}:{{user-events-3}}:journal")
        with pytest.raises(StateError, match=r"0 entries, its record says 1.*features rebuild"):
            await worker.open()


async def test_computing_on_what_was_not_prefetched_or_opened_is_an_error(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        store = worker.store
        with pytest.raises(LookupError, match="no lane is in use"):
            store.load("user", ["a"])
        store.use(LANE)
        with pytest.raises(LookupError, match=r"user-events-3: row 'a' of table 'user' was not prefetched"):
            store.load("user", ["a"])
        with pytest.raises(LookupError, match=r"'other' was not created; there are: user"):
            await store.prefetch(LANE, {"other": ["a"]})
        with pytest.raises(LookupError, match=r"user-events-4 is not open"):
            await store.prefetch(("user-events", 4), {"user": ["a"]})
        store.close(LANE)
        with pytest.raises(LookupError, match="no lane is in use"):
            store.load("user", ["a"])


async def test_one_flush_at_a_time(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        step = await worker.step(a=1)
        first = asyncio.create_task(worker.flush(step))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a flush is under way"):
            await worker.flush(step)
        await first
