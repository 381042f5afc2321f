"""The lane store when its Redis does not answer, crashes, or cannot write: waited for, nothing half, nothing lost."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import numpy as np
import pytest
from redis import exceptions as rx

from tests.integration.kafka_broker import eventually
from tests.integration.row_store import (
    LANE,
    SCHEMA,
    NewRedis,
    Server,
    Worker,
    worker_on,
)
from weir.streams.redis.client import COMMANDS, RedisClient
from weir.streams.redis.partitions.partition_store import LaneRecord
from weir.streams.redis.resp import ADDING
from weir.streams.redis.store_errors import LaneMoved, StoreUnavailable

pytestmark = pytest.mark.integration


# -- answers that do not come --------------------------------------------------------------------------------------


async def test_a_flush_whose_answer_is_lost_counts_once(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with worker_on(redis_server) as worker:
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


async def test_a_server_that_stalls_longer_than_the_timeout_applies_a_flush_once(new_redis: NewRedis) -> None:
    server = new_redis()

    async with worker_on(server, timeout_s=0.3) as worker:
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


async def test_a_frozen_server_behind_open_sockets_is_waited_for(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis()

    with caplog.at_level(logging.WARNING, "weir.streams.redis"):
        async with worker_on(server, timeout_s=0.2) as worker:
            await worker.write(a=1)
            server.freeze()
            asyncio.get_running_loop().call_later(1.0, server.thaw)
            await asyncio.gather(worker.write(a=2), worker.link.execute("GET", "x"), worker.link.execute("GET", "y"))
            assert (await worker.open()) is not None
            assert await worker.values("a") == [2]
    assert [r.getMessage().split(": ")[0].split("; ")[0] for r in caplog.records] == [
        f"Redis at 127.0.0.1:{server.port} is away",
        f"Redis at 127.0.0.1:{server.port} is back",
    ]


async def test_a_paused_server_is_merely_slow(new_redis: NewRedis, caplog: pytest.LogCaptureFixture) -> None:
    server = new_redis()

    async with worker_on(server) as worker:
        await worker.write(a=1)
        await worker.link.execute("CLIENT", "PAUSE", 300, "WRITE")
        await worker.write(a=2)
        assert await worker.open() is not None
        assert await worker.values("a") == [2]
    assert not [r for r in caplog.records if r.name.startswith("streams")]


async def test_a_server_that_is_gone_for_three_seconds_is_waited_for(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(aof=True)

    async def come_back() -> None:
        await asyncio.sleep(3)
        await asyncio.to_thread(server.start)

    with caplog.at_level(logging.WARNING, "weir.streams.redis"):
        async with worker_on(server) as worker:
            await worker.write(a=1)
            server.kill_written()
            back = asyncio.create_task(come_back())
            for k in range(2, 5):
                await worker.write(a=k, **{f"b{k}": k})
            await back
            await worker.open()
            assert await worker.values("a", "b2", "b4") == [4, 2, 4]
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2, said
    assert "is away" in said[0]
    assert "is back; a command waited" in said[1]


async def test_patience_ends_with_what_to_do(new_redis: NewRedis) -> None:
    server = new_redis()

    async with worker_on(server, patience_s=0.5) as worker:
        step = await worker.step(a=1)
        server.kill()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+ did not take a command for 0\.5 s.*redis\.url"):
            await worker.flush(step)


async def test_scripts_that_redis_forgot_are_sent_again(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.write(a=1)
        await worker.link.execute("SCRIPT", "FLUSH")
        await worker.write(a=2)
        await worker.open()
        assert await worker.values("a") == [2]


async def test_a_cancelled_command_leaves_no_answer_for_the_next(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        await worker.link.execute("SET", f"{worker.store.prefix}:x", "right")
        for _ in range(20):
            task = asyncio.create_task(worker.link.execute("INFO"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await worker.link.execute("GET", f"{worker.store.prefix}:x") == b"right"


# -- crashes of Redis ----------------------------------------------------------------------------------------------


async def assert_whole(link: RedisClient, prefix: str, history: list[dict[str, int]]) -> int:
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


async def test_after_kills_of_redis_position_rows_and_journal_agree(new_redis: NewRedis) -> None:
    server = new_redis(aof=True)
    history: list[dict[str, int]] = []
    rng = np.random.default_rng(5)

    async def kill_later() -> None:
        await asyncio.sleep(float(rng.uniform(0.02, 0.1)))
        server.kill_written()
        await asyncio.to_thread(server.start)

    async with worker_on(server) as worker:
        for _ in range(4):
            killed = asyncio.create_task(kill_later())
            while not killed.done():
                fill = {f"u{k}": len(history) % 250 + 1 for k in rng.choice(40, 10, replace=False)}
                history.append(fill)
                await worker.flush(await worker.step(**fill), journal=[b"%d" % (len(history) - 1)])
            await killed
            assert await assert_whole(worker.link, worker.store.prefix, history) == len(history)
    assert len(history) > 20


@pytest.mark.parametrize("lost_share", [0.01, 0.3, 0.77])
async def test_when_a_crash_takes_the_end_of_the_log_what_is_left_is_whole_and_older(
    new_redis: NewRedis, lost_share: float
) -> None:
    """What ``everysec`` may lose: the file ends anywhere. The worker sees it, goes back, and repeats."""
    server = new_redis(aof=True)
    history = [{f"u{k}": i + 1 for k in range(i % 3, 12, 3)} for i in range(40)]

    async with worker_on(server) as worker:
        for i, fill in enumerate(history):
            await worker.flush(await worker.step(**fill), journal=[b"%d" % i])
        server.kill_written()
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


@pytest.mark.parametrize("rewritten", [True, False], ids=["rewritten", "killed while it rewrites"])
@pytest.mark.parametrize("lost_bytes", [30, 60, 400, 800])
async def test_a_write_that_a_crash_cut_in_half_does_not_come_back_at_the_next(
    new_redis: NewRedis, lost_bytes: int, rewritten: bool
) -> None:
    """Redis keeps the half in its file, and would run it at the second restart."""
    slow = {} if rewritten else {"rdb-key-save-delay": "200000"}
    server = new_redis(aof=True, options=slow)
    history = [{f"u{k}": i + 1 for k in range(i % 3, 12, 3)} for i in range(8)]

    async def write(worker: Worker, start: int, stop: int) -> None:
        for i in range(start, stop):
            await worker.flush(await worker.step(**history[i]), journal=[b"%d" % i])

    async with worker_on(server) as worker:
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


async def test_a_write_waits_until_a_rewrite_of_the_log_could_begin(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(aof=True, options={"rdb-key-save-delay": "100000"})

    async with worker_on(server, timeout_s=0.3) as worker:
        await worker.write(**{f"u{k}": 1 for k in range(8)})
        server.kill_written()
        server.start()
        server.send("BGSAVE")
        with caplog.at_level(logging.WARNING):
            await worker.write(a=1)
        facts = server.send("INFO persistence")
        assert b"aof_rewrites:1" in facts
        assert b"rdb_saves:1" in facts
    assert "waits for a BGSAVE to end" in caplog.text


async def test_who_only_reads_asks_for_no_rewrite(new_redis: NewRedis) -> None:
    server = new_redis(aof=True)

    link = RedisClient(server.settings())
    await link.start(writes=False)
    await link.execute("GET", "weir:x")
    await link.stop()
    assert b"aof_rewrites:0" in server.send("INFO persistence")


# -- a Redis that cannot write -------------------------------------------------------------------------------------


async def test_a_full_redis_takes_nothing_of_a_flush_and_the_flush_waits(new_redis: NewRedis) -> None:
    server = new_redis()

    async with worker_on(server) as worker:
        await worker.write(a=1)
        await worker.link.execute("CONFIG", "SET", "maxmemory", "1mb")
        step = await worker.step(a=2, b=2)
        worker.link.patience_s = 0.3
        with pytest.raises(StoreUnavailable, match=r"out of memory \(OOM\).*maxmemory"):
            await worker.flush(step)
        assert await worker.open() == LaneRecord(next_offset=1, schemas={"user": SCHEMA})
        assert await worker.values("a", "b") == [1, 0]
        worker.link.patience_s = 20
        write = asyncio.create_task(worker.write(a=3))
        await asyncio.sleep(0.2)
        assert not write.done()
        await worker.link.execute("CONFIG", "SET", "maxmemory", "0")
        await write


async def test_a_redis_that_only_reads_is_told_once_and_once_when_it_takes_a_write(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis()

    with caplog.at_level(logging.WARNING, "weir.streams.redis"):
        async with worker_on(server) as worker:
            await worker.write(a=1)
            await worker.link.execute("CONFIG", "SET", "maxmemory", "1mb")
            write = asyncio.create_task(worker.write(a=2))
            while not caplog.records:
                await worker.link.execute("GET", "x")
            retries = worker.link.retries
            while worker.link.retries < retries + 3:  # reads are answered while the write is refused again and again
                await worker.values("a")
                await worker.link.execute("UNLINK", "x")
                assert "takes no writes: it is out of memory (OOM)" in str(worker.link.trouble)
            await worker.link.execute("CONFIG", "SET", "maxmemory", "0")
            await write
            assert worker.link.trouble is None
    begun, over = (record.getMessage() for record in caplog.records)
    where = f"Redis at 127.0.0.1:{server.port}"
    assert begun.startswith(f"{where} takes no writes: it is out of memory (OOM): raise maxmemory")
    assert over.startswith(f"{where} takes writes again; a command waited")


async def test_which_of_our_commands_a_full_redis_refuses(redis_server: Server) -> None:
    async with worker_on(redis_server) as worker:
        names = [name for name in COMMANDS if "|" not in name]
        told = await worker.link.execute("COMMAND", "INFO", *names)
        refused = {about[0].decode().upper() for about in told if b"denyoom" in [bytes(flag) for flag in about[2]]}
    assert refused == ADDING


async def test_a_redis_that_cannot_save_says_so(new_redis: NewRedis) -> None:
    server = new_redis(options={"save": "3600 1"})
    (server.directory / "dump.rdb").mkdir()

    async with worker_on(server, patience_s=0.3) as worker:
        await worker.write(a=1)
        await worker.link.execute("BGSAVE")
        while b"rdb_last_bgsave_status:err" not in await worker.link.execute("INFO", "persistence"):
            await asyncio.sleep(0.02)
        step = await worker.step(a=2)
        with pytest.raises(StoreUnavailable, match=r"disk \(MISCONF\)"):
            await worker.flush(step)
        await worker.open()
        assert await worker.values("a") == [1]
    server.kill()  # it does not end politely while it cannot save


async def test_a_redis_that_drops_keys_by_itself_is_warned_of(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})

    async with worker_on(server):
        pass  # starting is enough
    assert "allkeys-lru" in caplog.text
