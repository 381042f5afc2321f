"""Who may write a lane of the store, against a real Redis: of several workers one, whoever crashes or lags behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.row_store import LANE, Server, Worker, fresh_prefix, linked, worker_on
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.flush import Writes
from weir.streams.redis.store_errors import LaneMoved
from weir.streams.redis.stored_rows import lane_prefix

pytestmark = pytest.mark.integration


async def test_of_two_workers_at_the_same_position_one_writes_and_nothing_of_the_other_is_seen(
    redis_server: Server,
) -> None:
    async with worker_on(redis_server) as first:
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


async def test_the_same_position_reached_by_another_worker_is_not_ours(redis_server: Server) -> None:
    """Redis lost its last second, and the lane's new owner came to the offset of the old one by other batches."""

    async with worker_on(redis_server) as old:
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


async def test_a_worker_behind_or_ahead_of_the_record_is_refused_and_can_go_on_from_it(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
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


async def test_a_lane_that_redis_lost_is_refused(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        await worker.link.execute("DEL", f"{worker.store.prefix}:{{user-events-3}}:lane")
        with pytest.raises(LaneMoved, match="next offset none, this worker left it at 1"):
            await worker.write(a=2)


async def test_a_worker_that_lost_the_lane_learns_it_at_its_next_read(redis_server: Server) -> None:
    async with worker_on(redis_server) as zombie:
        await zombie.write(a=1)
        heir = Worker(zombie.link, zombie.store.prefix)
        await heir.open()
        await heir.write(b=2)
        assert await zombie.values("a") == [1], "what is cached needs no read"
        with pytest.raises(LaneMoved, match="next offset 2, this worker left it at 1"):
            await zombie.values("b")


@pytest.mark.parametrize("flushes", [1, 2, 3])
async def test_a_read_overtaken_by_our_own_flushes_does_not_take_them_for_anothers(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    async with worker_on(redis_server) as worker:
        packed, flushed = worker.link.packed, asyncio.Event()

        async def late(payload: bytes, *rest: Any, **options: Any) -> list[Any]:
            answer: list[Any] | None = None
            if b"MGET" in payload and flushes == 2:  # asked before the flushes, heard of behind them
                answer = await packed(payload, *rest, **options)
            if b"MGET" in payload:
                await flushed.wait()
            return answer or await packed(payload, *rest, **options)

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


async def play(link: RedisClient, moves: list[tuple[str, Any]]) -> None:
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
async def test_any_interleaving_of_steps_flushes_crashes_and_thefts_is_a_dict(
    redis_server: Server, moves: list[tuple[str, Any]]
) -> None:
    async with linked(redis_server) as link:
        await play(link, moves)
