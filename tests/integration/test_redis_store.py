"""The lane store against a real Redis: atomic steps, fencing, rows of others, any interleaving of them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import exceptions as rx

from streams.errors import StateError
from streams.stores.clear import CLEARING, clear_lane
from streams.stores.errors import LaneMoved
from streams.stores.flush import Writes
from streams.stores.link import RedisLink
from streams.stores.redis import LaneRecord, LaneStore
from streams.stores.rows import encode_row, lane_prefix, row_key
from streams.transport.partition import partitions_of
from tests.integration.row_store import (
    LANE,
    SCHEMA,
    SIDE,
    TTL_S,
    WIDTH,
    NewRedis,
    Server,
    Worker,
    fresh_prefix,
    linked,
    rows,
    run,
    with_worker,
)

pytestmark = pytest.mark.integration


# -- what a flush leaves -------------------------------------------------------------------------------------------


def test_rows_record_and_journal_come_back_to_another_worker(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        steps = [await worker.step(a=1, b=2), await worker.step(b=3)]
        await worker.flush(*steps, journal=[b"one", b"two", b"three"], mark=b"m")
        await worker.flush(await worker.step(c=4), journal=[b"four"], drop=2, mark=b"n")
        other = Worker(worker.link, worker.store.prefix)
        record = await other.open()
        assert record == LaneRecord(next_offset=3, mark=b"n", schemas={"user": SCHEMA}, clocks={"user": 2.0}, journal=2)
        assert await other.store.load_journal(LANE) == [b"three", b"four"]
        assert await other.values("a", "b", "c", "d") == [1, 3, 4, 0]

    with_worker(redis_server, test)


def test_a_row_says_when_and_by_which_record_it_was_changed(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.flush(await worker.step(a=1), await worker.step(b=2))
        await worker.write(b=3)
        lanes = [("user-events", p) for p in range(6)]
        (a,) = await worker.store.read_rows("user", "a", lanes)
        (b,) = await worker.store.read_rows("user", "b", lanes)
        assert (a.lane, a.schema, a.offset, a.updated_at, a.row) == (LANE, SCHEMA, 0, 0.0, bytes([1] * WIDTH))
        assert (b.offset, b.updated_at, b.row) == (2, 2.0, bytes([3] * WIDTH))
        assert await worker.store.read_rows("user", "nobody", lanes) == []

    with_worker(redis_server, test)


def test_rows_expire_and_a_write_starts_their_life_anew_but_the_lane_stays(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.flush(await worker.step(a=1), journal=[b"entry"])
        base = f"{worker.store.prefix}:{{user-events-3}}:"
        key = f"{base}user:a"
        assert TTL_S - 10 < await worker.link.execute("TTL", key) <= TTL_S
        await worker.link.execute("EXPIRE", key, 100)
        await worker.write(a=2)
        assert TTL_S - 10 < await worker.link.execute("TTL", key) <= TTL_S
        assert await worker.link.execute("TTL", f"{base}lane") == -1
        assert await worker.link.execute("TTL", f"{base}journal") == -1

    with_worker(redis_server, test)


def test_nothing_of_a_step_is_in_redis_before_its_flush(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.step(a=2, b=2)
        other = Worker(worker.link, worker.store.prefix)
        await other.open()
        assert await other.values("a", "b") == [1, 0]
        assert await worker.values("a", "b") == [2, 2]

    with_worker(redis_server, test)


def test_thousands_of_rows_of_several_tables_in_one_flush(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
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

    with_worker(redis_server, test)


# -- fencing -------------------------------------------------------------------------------------------------------


def test_of_two_workers_at_the_same_position_one_writes_and_nothing_of_the_other_is_seen(redis_server: Server) -> None:
    async def test(first: Worker) -> None:
        await first.write(a=1)
        second = Worker(first.link, first.store.prefix)
        await second.open()
        one, two = await first.step(a=2, b=2), await second.step(a=3, c=3)
        outcome = await asyncio.gather(
            first.flush(one, journal=[b"first"]), second.flush(two, journal=[b"second"]), return_exceptions=True
        )
        moved = [o for o in outcome if isinstance(o, LaneMoved)]
        assert [(m.lane, m.expected, m.actual) for m in moved] == [(LANE, 1, 2)], outcome
        won = 0 if outcome[0] is None else 1
        reader = Worker(first.link, first.store.prefix)
        await reader.open()
        assert await reader.values("a", "b", "c") == [[2, 2, 0], [3, 0, 3]][won]
        assert await reader.store.load_journal(LANE) == [[b"first"], [b"second"]][won]

    with_worker(redis_server, test)


def test_the_same_position_reached_by_another_worker_is_not_ours(redis_server: Server) -> None:
    """Redis lost its last second, and the lane's new owner came to the offset of the old one by other batches."""

    async def test(old: Worker) -> None:
        await old.write(a=1)
        keys = [f"{lane_prefix(old.store.prefix, LANE)}{name}" for name in ("lane", "journal")]
        before = [await old.link.execute("DUMP", key) for key in keys]
        new = Worker(old.link, old.store.prefix)
        await new.open()
        await old.flush(await old.step(a=2), journal=[b"one"])
        for key, value in zip(keys, before, strict=True):
            await old.link.execute("UNLINK", key)
            if value is not None:
                await old.link.execute("RESTORE", key, 0, value)
        await new.flush(await new.step(a=3), journal=[b"one", b"two"])
        cached = await old.step(a=4)  # asks Redis nothing: the flush has to notice
        with pytest.raises(LaneMoved, match="next offset 2, this worker left it at 2"):
            await old.flush(cached, journal=[b"three"])
        with pytest.raises(LaneMoved, match="next offset 2, this worker left it at 2"):
            await old.step(b=4)
        reader = Worker(old.link, old.store.prefix)
        await reader.open()
        assert await reader.values("a", "b") == [3, 0]
        assert await reader.store.load_journal(LANE) == [b"one", b"two"]

    with_worker(redis_server, test)


def test_a_worker_behind_or_ahead_of_the_record_is_refused_and_can_go_on_from_it(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        for wrong in (None, 0, 7):
            step = await worker.step(a=9)
            with pytest.raises(LaneMoved) as caught:
                await worker.store.flush(LANE, [step], worker.store.record(LANE, 99), wrong)
            assert (caught.value.expected, caught.value.actual) == (wrong, 1)
        assert await worker.open() is not None
        assert await worker.values("a") == [1]
        await worker.write(a=2)
        await worker.open()
        assert await worker.values("a") == [2]

    with_worker(redis_server, test)


def test_a_lane_that_redis_lost_is_refused(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("DEL", f"{worker.store.prefix}:{{user-events-3}}:lane")
        with pytest.raises(LaneMoved, match="next offset none, this worker left it at 1"):
            await worker.write(a=2)

    with_worker(redis_server, test)


def test_a_worker_that_lost_the_lane_learns_it_at_its_next_read(redis_server: Server) -> None:
    async def test(zombie: Worker) -> None:
        await zombie.write(a=1)
        heir = Worker(zombie.link, zombie.store.prefix)
        await heir.open()
        await heir.write(b=2)
        assert await zombie.values("a") == [1], "what is cached needs no read"
        with pytest.raises(LaneMoved, match="next offset 2, this worker left it at 1"):
            await zombie.values("b")

    with_worker(redis_server, test)


@pytest.mark.parametrize("flushes", [1, 2, 3])
def test_a_read_overtaken_by_our_own_flushes_does_not_take_them_for_anothers(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    async def test(worker: Worker) -> None:
        packed, flushed = worker.link.packed, asyncio.Event()

        async def late(payload: bytes, *rest: Any) -> list[Any]:
            answer: list[Any] | None = None
            if b"MGET" in payload and flushes == 2:  # asked before the flushes, heard of behind them
                answer = await packed(payload, *rest)
            if b"MGET" in payload:
                await flushed.wait()
            return answer or await packed(payload, *rest)

        await worker.write(a=1)
        monkeypatch.setattr(worker.link, "packed", late)
        read = asyncio.create_task(worker.store.prefetch(LANE, {"user": ["b", "c"]}))
        await asyncio.sleep(0)
        for _ in range(flushes):
            writes = worker.store.end_step(LANE, worker.computed)
            worker.computed += 1
            await worker.flush(writes)
        flushed.set()
        await read
        assert await worker.values("a", "b") == [1, 0]

    with_worker(redis_server, test)


# -- tables that others own ----------------------------------------------------------------------------------------


MERCHANTS = [f"m{i}" for i in range(12)]


async def feed(link: RedisLink, prefix: str, fill: int) -> None:
    """The side lanes set every merchant's row, each in the partition of its key."""
    owner = partitions_of([m.encode() for m in MERCHANTS], 3)
    for q in range(3):
        side = Worker(link, prefix, (SIDE, q))
        side.store.create("merchant", WIDTH, SCHEMA, TTL_S)
        side.store.declare_side("merchant", SIDE, 3)
        await side.open()
        keys = [m for m, p in zip(MERCHANTS, owner.tolist(), strict=True) if p == q]
        await side.store.prefetch(side.lane, {"merchant": keys})
        side.store.use(side.lane)
        side.store.save("merchant", keys, rows(*[fill] * len(keys)), 1.0)
        await side.flush(side.store.end_step(side.lane, (side.expected or 0)))


@pytest.mark.parametrize("cluster", [False, True], ids=["one server", "cluster"])
def test_rows_of_other_lanes_are_read_fresh_and_only_read(
    redis_server: Server, new_redis: NewRedis, cluster: bool
) -> None:
    async def test(worker: Worker) -> None:
        assert worker.link.cluster == cluster
        store = worker.store
        store.create("merchant", WIDTH, SCHEMA, TTL_S)
        store.declare_side("merchant", SIDE, 3)
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

    with_worker(new_redis(cluster=True) if cluster else redis_server, test)


def test_a_cluster_refuses_two_lanes_in_one_command(new_redis: NewRedis) -> None:
    """What the hash tags are for; the tests above could not fail if the server let this pass."""

    async def test(worker: Worker) -> None:
        keys = [row_key("p", ("user-events", p), "user", "a") for p in (1, 2)]
        with pytest.raises(rx.ClusterCrossSlotError):
            await worker.link.execute("MGET", *keys)
        assert await worker.link.execute("MGET", keys[0], row_key("p", ("user-events", 1), "user", "b")) == [None, None]

    with_worker(new_redis(cluster=True), test)


# -- what does not fit ---------------------------------------------------------------------------------------------


def test_a_task_whose_rows_mean_something_else_is_refused(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        changed = LaneStore(worker.link, prefix=worker.store.prefix)
        changed.create("user", WIDTH, SCHEMA + 1, TTL_S)
        with pytest.raises(StateError, match=r"'user'.*schema 00000007.*schema 00000008.*weir features rebuild"):
            await changed.open(LANE)

    with_worker(redis_server, test)


def test_a_row_of_another_schema_is_refused_when_it_is_read(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        alien = encode_row(SCHEMA + 1, 0, 0.0, bytes(WIDTH))
        await worker.link.execute("SET", row_key(worker.store.prefix, LANE, "user", "b"), alien)
        with pytest.raises(StateError, match=r"schema 00000008.*schema 00000007.*weir features rebuild"):
            await worker.values("a", "b")

    with_worker(redis_server, test)


@pytest.mark.parametrize("cluster", [False, True], ids=["one server", "cluster"])
def test_clearing_a_lane_takes_all_of_it_and_nothing_else(
    redis_server: Server, new_redis: NewRedis, cluster: bool
) -> None:
    async def test(worker: Worker) -> None:
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

    with_worker(new_redis(cluster=True) if cluster else redis_server, test)


def test_a_lane_whose_clearing_was_cut_short_is_not_opened_or_written(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("SET", f"{worker.store.prefix}:{{user-events-3}}:lane", CLEARING)
        with pytest.raises(LaneMoved):
            await worker.write(a=2)
        with pytest.raises(StateError, match="features rebuild"):
            await worker.open()
        await clear_lane(worker.link, worker.store.prefix, LANE)
        assert await worker.open() is None

    with_worker(redis_server, test)


def test_a_journal_that_someone_deleted_is_noticed(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.flush(await worker.step(a=1), journal=[b"x"])
        await worker.link.execute("DEL", f"{worker.store.prefix}:{{user-events-3}}:journal")
        with pytest.raises(StateError, match=r"0 entries, its record says 1.*features rebuild"):
            await worker.open()

    with_worker(redis_server, test)


def test_computing_on_what_was_not_prefetched_or_opened_is_an_error(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
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

    with_worker(redis_server, test)


def test_one_flush_at_a_time(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        step = await worker.step(a=1)
        first = asyncio.create_task(worker.flush(step))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a flush is under way"):
            await worker.flush(step)
        await first

    with_worker(redis_server, test)


# -- any interleaving ----------------------------------------------------------------------------------------------

KEYS = [f"k{i}" for i in range(12)]
actions = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=5, unique=True)),
        st.tuples(st.just("flush"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["crash", "reopen", "steal"]), st.none()),
    ),
    max_size=40,
)


class Model:
    """What the rows must be: of Redis, and of the worker that computed further."""

    def __init__(self) -> None:
        self.stored: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.pending: list[tuple[Writes, dict[str, int]]] = []

    def back(self) -> None:
        self.seen, self.pending = dict(self.stored), []


async def play(link: RedisLink, moves: list[tuple[str, Any]]) -> None:
    worker, model = Worker(link, fresh_prefix(), cache_rows=4), Model()
    await worker.open()
    for number, (move, what) in enumerate(moves):
        if move == "step":
            fill = {key: (worker.computed * 7 + i) % 250 + 1 for i, key in enumerate(what)}
            assert await worker.values(*what) == [model.seen.get(key, 0) for key in what]
            model.pending.append((await worker.step(**fill), fill))
            model.seen |= fill
        elif move == "flush" and model.pending:
            some, model.pending = model.pending[:what], model.pending[what:]
            await worker.flush(*(writes for writes, _ in some))
            for _, fill in some:
                model.stored |= fill
        elif move == "crash":
            worker = Worker(link, worker.store.prefix, cache_rows=4)
            await worker.open()
            model.back()
        elif move == "reopen":
            await worker.open()
            model.back()
        elif move == "steal":
            thief = Worker(link, worker.store.prefix)
            await thief.open()
            await thief.write(k0=number + 1)
            model.stored["k0"] = number + 1
            if model.pending:
                with pytest.raises(LaneMoved):
                    await worker.flush(model.pending[0][0])
            await worker.open()
            model.back()
    await worker.open()
    assert await worker.values(*KEYS) == [model.stored.get(key, 0) for key in KEYS]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=actions)
def test_any_interleaving_of_steps_flushes_crashes_and_thefts_is_a_dict(
    redis_server: Server, moves: list[tuple[str, Any]]
) -> None:
    async def body() -> None:
        async with linked(redis_server) as link:
            await play(link, moves)

    run(body())
