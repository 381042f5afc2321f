"""The lane store against a real Redis: atomic steps, fencing, crashes, outages, rights, TLS and a cluster's slots."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from redis import exceptions as rx

from streams.errors import StateError
from streams.settings import RedisSettings, SecretUrl
from streams.stores.clear import CLEARING, clear_lane
from streams.stores.errors import LaneMoved, StoreRefused, StoreUnavailable
from streams.stores.flush import Writes
from streams.stores.link import RedisLink, acl_line
from streams.stores.redis import Lane, LaneRecord, LaneStore
from streams.stores.rows import encode_row, lane_prefix, row_key
from streams.transport.partition import partitions_of
from tests.integration.kafka_broker import eventually
from tests.integration.redis_server import Certificates, NamedRedis, RedisServer

pytestmark = pytest.mark.integration

LANE, SIDE = ("user-events", 3), "entity-updates"
WIDTH, SCHEMA, TTL_S = 16, 7, 3600.0
NewRedis = Callable[..., RedisServer]
Server = RedisServer | NamedRedis
_names = itertools.count()


def fresh_prefix() -> str:
    """Tests share a server; each has keys of its own."""
    return f"t{os.getpid()}-{next(_names)}"


@asynccontextmanager
async def linked(server: Server, **options: Any) -> AsyncIterator[RedisLink]:
    link = RedisLink(options.pop("settings", server.settings()), **options)
    try:
        await link.start()
        yield link
    finally:
        await link.stop()


class Worker:
    """What a host does with one lane of a store: compute steps, flush them."""

    def __init__(self, link: RedisLink, prefix: str, lane: Lane = LANE, **options: Any) -> None:
        self.link, self.lane = link, lane
        self.store = LaneStore(link, prefix=prefix, **options)
        self.store.create("user", WIDTH, SCHEMA, TTL_S)
        self.expected: int | None = None
        self.computed = 0

    async def open(self) -> LaneRecord | None:
        record = await self.store.open(self.lane)
        self.expected = record.next_offset if record else None
        self.computed = self.expected or 0
        return record

    async def step(self, **fill: int) -> Writes:
        """One record that sets rows to a byte."""
        keys = list(fill)
        await self.store.prefetch(self.lane, {"user": keys})
        self.store.use(self.lane)
        self.store.save("user", keys, rows(*fill.values()), float(self.computed))
        self.computed += 1
        return self.store.end_step(self.lane, self.computed - 1)

    async def flush(self, *writes: Writes, journal: Sequence[bytes] = (), drop: int = 0, mark: bytes = b"") -> None:
        after = writes[-1].offset + 1
        record = self.store.record(self.lane, after, mark)
        await self.store.flush(self.lane, writes, record, self.expected, journal, drop)
        self.expected = after

    async def write(self, **fill: int) -> None:
        await self.flush(await self.step(**fill))

    async def values(self, *keys: str, table: str = "user") -> list[int]:
        await self.store.prefetch(self.lane, {table: keys})
        self.store.use(self.lane)
        return [int(row[0]) for row in self.store.load(table, keys)]


def rows(*fill: int) -> NDArray[np.uint8]:
    return np.repeat(np.array(fill, dtype=np.uint8)[:, None], WIDTH, axis=1)


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, 60)

    asyncio.run(bounded())


def with_worker(server: Server, test: Callable[[Worker], Awaitable[None]], **options: Any) -> None:
    """Run a test with a worker on a new lane."""

    async def body() -> None:
        async with linked(server, **options) as link:
            worker = Worker(link, fresh_prefix())
            assert await worker.open() is None
            await test(worker)

    run(body())


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


# -- answers that do not come --------------------------------------------------------------------------------------


def test_a_flush_whose_answer_is_lost_counts_once(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        ask, lost = worker.link._nodes.ask, 0

        async def lossy(*args: Any) -> Any:
            nonlocal lost
            answer = await ask(*args)
            if b"j1" in args[1] and lost < 2:
                lost += 1
                raise rx.ConnectionError("the answer was lost")
            return answer

        monkeypatch.setattr(worker.link._nodes, "ask", lossy)
        await worker.flush(await worker.step(a=2), journal=[b"j1"])
        assert lost == 2
        await worker.write(a=3)
        record = await worker.open()
        assert record is not None
        assert record.next_offset == 3
        assert await worker.store.load_journal(LANE) == [b"j1"]

    with_worker(redis_server, test)


def test_a_server_that_stalls_longer_than_the_timeout_applies_a_flush_once(new_redis: NewRedis) -> None:
    server = new_redis()

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        stall = asyncio.create_task(asyncio.to_thread(server.send, "DEBUG SLEEP 0.8"))
        await asyncio.sleep(0.05)  # it must have begun; if it has not, the flush is merely quick
        await worker.flush(await worker.step(a=2), journal=[b"once"])
        await stall
        record = await worker.open()
        assert record is not None
        assert record.next_offset == 2
        assert await worker.store.load_journal(LANE) == [b"once"]
        assert await worker.values("a") == [2]

    with_worker(server, test, timeout_s=0.3)


def test_a_frozen_server_behind_open_sockets_is_waited_for(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis()

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        server.freeze()
        asyncio.get_running_loop().call_later(1.0, server.thaw)
        await asyncio.gather(worker.write(a=2), worker.link.execute("GET", "x"), worker.link.execute("GET", "y"))
        assert (await worker.open()) is not None
        assert await worker.values("a") == [2]

    with caplog.at_level(logging.WARNING, "streams.stores"):
        with_worker(server, test, timeout_s=0.2)
    assert [r.getMessage().split(": ")[0].split("; ")[0] for r in caplog.records] == [
        f"Redis at 127.0.0.1:{server.port} is away",
        f"Redis at 127.0.0.1:{server.port} is back",
    ]


def test_a_paused_server_is_merely_slow(new_redis: NewRedis, caplog: pytest.LogCaptureFixture) -> None:
    server = new_redis()

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("CLIENT", "PAUSE", 300, "WRITE")
        await worker.write(a=2)
        assert await worker.open() is not None
        assert await worker.values("a") == [2]

    with_worker(server, test)
    assert not [r for r in caplog.records if r.name.startswith("streams")]


def test_a_server_that_is_gone_for_three_seconds_is_waited_for(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(aof=True)

    async def come_back() -> None:
        await asyncio.sleep(3)
        await asyncio.to_thread(server.start)

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        server.kill_written()
        back = asyncio.create_task(come_back())
        for k in range(2, 5):
            await worker.write(a=k, **{f"b{k}": k})
        await back
        await worker.open()
        assert await worker.values("a", "b2", "b4") == [4, 2, 4]

    with caplog.at_level(logging.WARNING, "streams.stores"):
        with_worker(server, test)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2, said
    assert "is away" in said[0]
    assert "is back; a command waited" in said[1]


def test_patience_ends_with_what_to_do(new_redis: NewRedis) -> None:
    server = new_redis()

    async def test(worker: Worker) -> None:
        step = await worker.step(a=1)
        server.kill()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+ did not take a command for 0\.5 s.*redis\.url"):
            await worker.flush(step)

    with_worker(server, test, patience_s=0.5)


def test_scripts_that_redis_forgot_are_sent_again(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("SCRIPT", "FLUSH")
        await worker.write(a=2)
        await worker.open()
        assert await worker.values("a") == [2]

    with_worker(redis_server, test)


def test_a_cancelled_command_leaves_no_answer_for_the_next(redis_server: Server) -> None:
    async def test(worker: Worker) -> None:
        await worker.link.execute("SET", f"{worker.store.prefix}:x", "right")
        for _ in range(20):
            task = asyncio.create_task(worker.link.execute("INFO"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await worker.link.execute("GET", f"{worker.store.prefix}:x") == b"right"

    with_worker(redis_server, test)


# -- crashes of Redis ----------------------------------------------------------------------------------------------


async def assert_whole(link: RedisLink, prefix: str, history: list[dict[str, int]]) -> int:
    """Redis holds the rows of exactly the steps before its position; returns that."""
    reader = Worker(link, prefix)
    record = await reader.open()
    position = record.next_offset if record is not None else 0
    state: dict[str, int] = {}
    for step in history[:position]:
        state |= step
    keys = sorted({key for step in history for key in step})
    assert await reader.values(*keys) == [state.get(key, 0) for key in keys]
    assert await reader.store.load_journal(LANE) == [b"%d" % i for i in range(position)]
    return position


def test_after_kills_of_redis_position_rows_and_journal_agree(new_redis: NewRedis) -> None:
    server = new_redis(aof=True)
    history: list[dict[str, int]] = []
    rng = np.random.default_rng(5)

    async def test(worker: Worker) -> None:
        for _ in range(4):
            killed = asyncio.create_task(kill_later())
            while not killed.done():
                fill = {f"u{k}": len(history) % 250 + 1 for k in rng.choice(40, 10, replace=False)}
                history.append(fill)
                await worker.flush(await worker.step(**fill), journal=[b"%d" % (len(history) - 1)])
            await killed
            assert await assert_whole(worker.link, worker.store.prefix, history) == len(history)

    async def kill_later() -> None:
        await asyncio.sleep(float(rng.uniform(0.02, 0.1)))
        server.kill_written()
        await asyncio.to_thread(server.start)

    with_worker(server, test)
    assert len(history) > 20


@pytest.mark.parametrize("lost_share", [0.01, 0.3, 0.77])
def test_when_a_crash_takes_the_end_of_the_log_what_is_left_is_whole_and_older(
    new_redis: NewRedis, lost_share: float
) -> None:
    """What ``everysec`` may lose: the file ends anywhere. The worker sees it, goes back, and repeats."""
    server = new_redis(aof=True)
    history = [{f"u{k}": i + 1 for k in range(i % 3, 12, 3)} for i in range(40)]

    async def test(worker: Worker) -> None:
        for i, fill in enumerate(history):
            await worker.flush(await worker.step(**fill), journal=[b"%d" % i])
        server.kill()
        log = server.appended
        assert log is not None
        os.truncate(log, int(log.stat().st_size * (1 - lost_share)))
        server.start()
        position = await assert_whole(worker.link, worker.store.prefix, history)
        assert 0 < position < 40
        with pytest.raises(LaneMoved) as moved:
            await worker.write(u0=99)
        assert moved.value.actual == position
        await worker.open()
        for i, fill in enumerate(history[position:], position):
            await worker.flush(await worker.step(**fill), journal=[b"%d" % i])
        assert await assert_whole(worker.link, worker.store.prefix, history) == 40

    with_worker(server, test)


@pytest.mark.parametrize("rewritten", [True, False], ids=["rewritten", "killed while it rewrites"])
@pytest.mark.parametrize("lost_bytes", [30, 60, 400, 800])
def test_a_write_that_a_crash_cut_in_half_does_not_come_back_at_the_next(
    new_redis: NewRedis, lost_bytes: int, rewritten: bool
) -> None:
    """Redis keeps the half in its file, and would run it at the second restart."""
    slow = {} if rewritten else {"rdb-key-save-delay": "200000"}
    server = new_redis(aof=True, options=slow)
    history = [{f"u{k}": i + 1 for k in range(i % 3, 12, 3)} for i in range(8)]

    async def write(worker: Worker, start: int, stop: int) -> None:
        for i in range(start, stop):
            await worker.flush(await worker.step(**history[i]), journal=[b"%d" % i])

    async def test(worker: Worker) -> None:
        await write(worker, 0, 6)
        server.kill_written()
        log = server.appended
        assert log is not None
        os.truncate(log, log.stat().st_size - lost_bytes)
        server.start()
        await worker.open()
        assert worker.expected is not None
        assert 3 < worker.expected < 6
        await write(worker, worker.expected, 7)
        if rewritten:
            await asyncio.to_thread(
                eventually, lambda: b"aof_rewrite_in_progress:0" in server.send("INFO"), 20, "it ends"
            )
        server.kill_written()
        server.start()
        assert await assert_whole(worker.link, worker.store.prefix, history) == 7

    with_worker(server, test)


def test_a_write_waits_until_a_rewrite_of_the_log_could_begin(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(aof=True, options={"rdb-key-save-delay": "100000"})

    async def test(worker: Worker) -> None:
        await worker.write(**{f"u{k}": 1 for k in range(8)})
        server.kill_written()
        server.start()
        server.send("BGSAVE")
        with caplog.at_level(logging.WARNING):
            await worker.write(a=1)
        facts = server.send("INFO persistence")
        assert b"aof_rewrites:1" in facts
        assert b"rdb_saves:1" in facts

    with_worker(server, test, timeout_s=0.3)
    assert "waits for a BGSAVE to end" in caplog.text


def test_who_only_reads_asks_for_no_rewrite(new_redis: NewRedis) -> None:
    server = new_redis(aof=True)

    async def body() -> None:
        link = RedisLink(server.settings())
        await link.start(writes=False)
        await link.execute("GET", "weir:x")
        await link.stop()

    run(body())
    assert b"aof_rewrites:0" in server.send("INFO persistence")


# -- a Redis that cannot write -------------------------------------------------------------------------------------


def test_a_full_redis_takes_nothing_of_a_flush_and_the_flush_waits(new_redis: NewRedis) -> None:
    server = new_redis()

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("CONFIG", "SET", "maxmemory", "1mb")
        step = await worker.step(a=2, b=2)
        worker.link.patience_s = 0.3
        with pytest.raises(StoreUnavailable, match=r"out of memory \(OOM\).*maxmemory"):
            await worker.flush(step)
        assert await worker.open() == LaneRecord(next_offset=1, schemas={"user": SCHEMA}, clocks={"user": 0.0})
        assert await worker.values("a", "b") == [1, 0]
        worker.link.patience_s = 20
        write = asyncio.create_task(worker.write(a=3))
        await asyncio.sleep(0.2)
        assert not write.done()
        await worker.link.execute("CONFIG", "SET", "maxmemory", "0")
        await write

    with_worker(server, test)


def test_a_redis_that_cannot_save_says_so(new_redis: NewRedis) -> None:
    server = new_redis(options={"save": "3600 1"})
    (server.directory / "dump.rdb").mkdir()

    async def test(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.link.execute("BGSAVE")
        while b"rdb_last_bgsave_status:err" not in await worker.link.execute("INFO", "persistence"):
            await asyncio.sleep(0.02)
        step = await worker.step(a=2)
        with pytest.raises(StoreUnavailable, match=r"disk \(MISCONF\)"):
            await worker.flush(step)
        await worker.open()
        assert await worker.values("a") == [1]

    with_worker(server, test, patience_s=0.3)
    server.kill()  # it does not end politely while it cannot save


def test_a_redis_that_drops_keys_by_itself_is_warned_of(new_redis: NewRedis, caplog: pytest.LogCaptureFixture) -> None:
    server = new_redis(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})

    async def nothing(worker: Worker) -> None:
        """Starting is enough."""

    with_worker(server, nothing)
    assert "allkeys-lru" in caplog.text


# -- who may connect -----------------------------------------------------------------------------------------------


async def starts(server: RedisServer, configured: RedisSettings, **options: Any) -> None:
    async with linked(server, settings=configured, **{"patience_s": 0.3} | options):
        pass


def test_the_documented_rights_are_enough_and_each_of_the_stores_is_needed(new_redis: NewRedis) -> None:
    line = acl_line(prefix="w").replace("<password>", "hush")
    without = [
        line.replace("user weir", f"user no-{c}") + f" -{c}"
        for c in ("evalsha", "mget", "set", "lpop", "time", "bgrewriteaof")
    ]
    server = new_redis(aof=True, acl=["user default off", line, *without, "user nobody on >hush"])

    async def body() -> None:
        configured = server.settings(username="weir", password="hush")
        with pytest.raises(StoreRefused, match=r"lacks a right.*\+bgrewriteaof"):  # once it was done nobody needs it
            await starts(server, server.settings(username="no-bgrewriteaof", password="hush"), prefix="w")
        async with linked(server, settings=configured, prefix="w") as link:
            worker = Worker(link, "w")
            await worker.open()
            await worker.flush(await worker.step(a=1), journal=[b"x"])
            await worker.open()
            assert await worker.values("a") == [1]
            with pytest.raises(StoreRefused, match=r"lacks a right.*~w:\*"):
                await link.execute("GET", "another:key")
            with pytest.raises(StoreRefused, match="lacks a right"):
                await link.execute("FLUSHALL")
        for user in ("no-mget", "no-set", "no-lpop", "no-time", "nobody"):
            with pytest.raises(
                StoreRefused, match=r"lacks a right.*user weir on ><password> resetchannels ~w:\* \+info"
            ):
                await starts(server, server.settings(username=user, password="hush"), prefix="w")
        with pytest.raises(StoreRefused, match="lacks a right"):
            await starts(server, configured, prefix="elsewhere")

    run(body())


def test_a_wrong_login_is_refused_at_once_and_no_secret_is_told(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(acl=["user default on >right-one ~* +@all"])

    async def body() -> None:
        for username, password in ((None, "hushhush"), ("someone", "hushhush"), (None, None)):
            configured = server.settings(username=username, password=password)
            with pytest.raises(StoreRefused, match=r"login.*redis\.username and redis\.password") as caught:
                await starts(server, configured, patience_s=30)
            assert "hush" not in f"{caught.value}{caught.value!r}"
        named = RedisSettings(url=SecretUrl(f"redis://default:hushhush@127.0.0.1:{server.port}/0"))
        with pytest.raises(StoreRefused) as caught:
            await starts(server, named)
        assert "hush" not in str(caught.value)
        await starts(server, server.settings(password="right-one"))

    run(body())
    assert "hush" not in caplog.text


def test_tls(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(tls=Certificates(tmp_path / "tls").make())
    stranger = Certificates(tmp_path / "other").make()

    async def works(worker: Worker) -> None:
        await worker.write(a=1)
        await worker.open()
        assert await worker.values("a") == [1]

    async def refused() -> None:
        url = SecretUrl(server.url)
        with pytest.raises(StoreRefused, match=r"certificate is not one we trust.*redis\.ca_file"):
            await starts(server, RedisSettings(url=url), patience_s=30)
        with pytest.raises(StoreRefused, match="certificate is not one we trust"):
            await starts(server, RedisSettings(url=url, ca_file=stranger.ca), patience_s=30)
        plain = RedisSettings(url=SecretUrl(server.url.replace("rediss", "redis")))
        with pytest.raises(StoreUnavailable, match="with rediss:// where the server speaks TLS"):
            await starts(server, plain)

    with_worker(server, works)
    run(refused())


def test_a_server_that_wants_our_certificate(new_redis: NewRedis, tmp_path: Path) -> None:
    tls = Certificates(tmp_path / "tls").make()
    server = new_redis(tls=tls, options={"tls-auth-clients": "optional"})
    url = SecretUrl(server.url)
    run(starts(server, RedisSettings(url=url, ca_file=tls.ca, cert_file=tls.certificate, key_file=tls.key)))
    server.send("CONFIG SET tls-auth-clients yes")
    run(starts(server, RedisSettings(url=url, ca_file=tls.ca, cert_file=tls.certificate, key_file=tls.key)))
    with pytest.raises(StoreRefused, match=r"redis\.cert_file and redis\.key_file"):
        run(starts(server, RedisSettings(url=url, ca_file=tls.ca), patience_s=30))


def test_tls_to_a_server_that_speaks_none(new_redis: NewRedis) -> None:
    server = new_redis()
    configured = RedisSettings(url=SecretUrl(server.url.replace("redis:", "rediss:")))
    with pytest.raises(StoreUnavailable, match="rediss:// where the server speaks TLS and only there"):
        run(starts(server, configured, timeout_s=0.2))


def test_a_redis_that_is_too_old_is_refused() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        await reader.readuntil(b"persistence\r\n")
        writer.write(b"$0\r\n\r\n")
        await reader.readuntil(b"INFO\r\n")
        info = b"# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n"
        writer.write(b"$%d\r\n%b\r\n" % (len(info), info))
        await writer.drain()
        writer.close()

    async def body() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            url = SecretUrl(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
            link = RedisLink(RedisSettings(url=url), patience_s=0.3)
            with pytest.raises(StoreRefused, match=r"version 5\.0\.14; Weir needs 7\.0 or newer"):
                await link.start()
            await link.stop()

    run(body())


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
