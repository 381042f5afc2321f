"""The journal of a label lane on real Redis: order, snapshots, zombies, and a Redis that loses its last second."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.integration.redis_server import NamedRedis, RedisServer
from weir.streams.errors import StateError
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.label_journal import OffsetRange, StepLog, StepsLost, StepsTaken, StoredLane
from weir.streams.redis.resp import Argument, Script

pytestmark = pytest.mark.integration
Server = RedisServer | NamedRedis


def steps(first: int, count: int) -> list[OffsetRange]:
    """Steps ``first`` and on, alternating between the two topics of a lane."""
    return [OffsetRange(("predictions", "labels")[i % 2], 10 * i, 10 * i + 7) for i in range(first, first + count)]


@asynccontextmanager
async def linked(server: Server) -> AsyncIterator[RedisClient]:
    link = RedisClient(server.settings(), patience_s=10.0)
    try:
        yield link
    finally:
        await link.stop()


def lane() -> str:
    return f"predictions-{os.getpid()}-{os.urandom(4).hex()}"


async def opened(link: RedisClient, name: str) -> tuple[StepLog, StoredLane]:
    log = StepLog(link, name)
    await log.claim()
    return log, await log.load()


@asynccontextmanager
async def lane_on(server: Server) -> AsyncIterator[tuple[RedisClient, str]]:
    async with linked(server) as link:
        yield link, lane()


async def test_a_new_lane_is_empty_and_steps_come_back_in_order(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        log, stored = await opened(link, name)
        assert stored == StoredLane(None, 0, [], 0)
        await log.append(1, steps(1, 3))
        await log.append(4, steps(4, 1))
        await log.done(3)
        _, stored = await opened(link, name)
        assert stored == StoredLane(None, 0, steps(1, 4), 3)
        assert stored.next_step == 5


async def test_a_snapshot_takes_the_place_of_its_steps_and_of_the_one_before(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        log, _ = await opened(link, name)
        await log.append(1, steps(1, 5))
        await log.snapshot(3, b"three")
        await log.append(6, steps(6, 2))
        _, stored = await opened(link, name)
        assert stored == StoredLane(b"three", 3, steps(4, 4), 0)

        log, _ = await opened(link, name)
        await log.snapshot(7, b"seven")
        await log.done(7)
        _, stored = await opened(link, name)
        assert stored == StoredLane(b"seven", 7, [], 7)
        held = await link.execute("KEYS", f"{link.prefix}:{{{name}}}:*")
        assert len(held) == 2, "the hash and one part: nothing of the older snapshot is left"


@pytest.mark.parametrize("zeros", [True, False], ids=["compressible", "random"])
async def test_a_large_snapshot_is_cut_into_parts(redis_server: Server, zeros: bool) -> None:
    blob = bytes(1_000_000) if zeros else os.urandom(1_000_000)

    async with lane_on(redis_server) as (link, name):
        log = StepLog(link, name, part_bytes=1 << 16)
        await log.claim()
        await log.load()
        await log.append(1, steps(1, 1))
        await log.snapshot(1, blob)
        held = await link.execute("KEYS", f"{link.prefix}:{{{name}}}:snapshot*")
        assert len(held) == (1 if zeros else 16)
        ttls = [await link.execute("TTL", key) for key in held]
        assert set(ttls) == {-1}, "the parts stay once they count"
        _, stored = await opened(link, name)
        assert stored.snapshot == blob

        await link.execute("UNLINK", held[0])
        with pytest.raises(StateError, match="gone or damaged"):
            await opened(link, name)


async def test_a_zombie_is_refused_in_everything(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        zombie, _ = await opened(link, name)
        await zombie.append(1, steps(1, 2))
        owner, stored = await opened(link, name)
        await owner.append(3, steps(3, 1))
        for late in (zombie.append(3, steps(30, 1)), zombie.done(2), zombie.snapshot(2, b"late")):
            with pytest.raises(StepsTaken, match="claimed by another worker"):
                await late
        await owner.append(4, steps(4, 1))
        _, stored = await opened(link, name)
        assert stored == StoredLane(None, 0, steps(1, 4), 0)


async def test_an_answer_that_got_lost_does_no_harm(redis_server: Server) -> None:
    """The link sends a script again when it did not hear the answer to the first time."""

    class Twice(RedisClient):
        async def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
            await super().run(script, keys, args)
            return await super().run(script, keys, args)

    link = Twice(redis_server.settings())
    name = lane()
    log, _ = await opened(link, name)
    await log.append(1, steps(1, 3))
    await log.snapshot(2, b"two")
    await log.append(4, steps(4, 2))
    await log.done(4)
    _, stored = await opened(link, name)
    assert stored == StoredLane(b"two", 2, steps(3, 3), 4)
    await link.stop()


async def test_steps_are_appended_in_order_only(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        log, _ = await opened(link, name)
        with pytest.raises(ValueError, match="step 2 follows 0"):
            await log.append(2, steps(2, 1))
        with pytest.raises(ValueError, match="a snapshot at step 1"):
            await log.snapshot(1, b"")


async def _lose(link: RedisClient, name: str, keep: dict[str, bytes]) -> None:
    """Put the lane back to what ``keep`` says, as a Redis does that crashed and lost what came after."""
    held = await link.execute("KEYS", f"{link.prefix}:{{{name}}}:*")
    for key in held:
        await link.execute("UNLINK", key)
    for key, dump in keep.items():
        await link.execute("RESTORE", key, 0, dump)


async def _image(link: RedisClient, name: str) -> dict[str, bytes]:
    held = await link.execute("KEYS", f"{link.prefix}:{{{name}}}:*")
    return {key.decode(): await link.execute("DUMP", key) for key in held}


async def test_what_redis_lost_is_written_again(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        log, _ = await opened(link, name)
        await log.append(1, steps(1, 4))
        await log.snapshot(2, b"two")
        await log.done(3)
        early = await _image(link, name)
        await log.append(5, steps(5, 3))
        await log.snapshot(6, b"six")
        await log.append(8, steps(8, 1))

        await _lose(link, name, early)
        await log.append(9, steps(9, 1))
        reader = StepLog(link, name)
        assert await reader.load() == StoredLane(b"two", 2, steps(3, 7), 3)
        await log.snapshot(9, b"nine")
        assert await reader.load() == StoredLane(b"nine", 9, [], 3)

        await _lose(link, name, early)
        with pytest.raises(StepsLost, match="snapshot at step 2, this worker remembers steps 7 and on"):
            await log.append(10, steps(10, 1))


async def test_a_claim_that_redis_lost_counts_all_the_same(redis_server: Server) -> None:
    async with lane_on(redis_server) as (link, name):
        zombie, _ = await opened(link, name)
        await zombie.append(1, steps(1, 2))
        before = await _image(link, name)
        owner, _ = await opened(link, name)
        await owner.append(3, steps(3, 2))
        await _lose(link, name, before)
        await zombie.append(3, steps(30, 1))  # nobody can know better yet
        await owner.append(5, steps(5, 1))
        with pytest.raises(StepsTaken):
            await zombie.append(4, steps(31, 1))
        assert await StepLog(link, name).load() == StoredLane(None, 0, steps(1, 5), 0)


def _cut_log(server: RedisServer, count: int) -> None:
    """Take the newest bytes off the append-only file of a server that does not run, as the crash of a machine does."""
    (file,) = server.directory.glob("appendonlydir/*.incr.aof")
    os.truncate(file, file.stat().st_size - count)


@pytest.mark.parametrize("lost_bytes", [0, 1_000, 3_000])
async def test_a_lane_survives_the_crash_of_redis(new_redis: Callable[..., RedisServer], lost_bytes: int) -> None:
    """SIGKILL between appends, and a second of the log on disk gone: the journal is whole after the next step."""
    server = new_redis(aof=True)

    async with linked(server) as link:
        name = lane()
        log, _ = await opened(link, name)
        number = 1
        for crash in range(3):
            for _ in range(55):
                await log.append(number, steps(number, 2))
                number += 2
                if number % 30 < 2:
                    await log.snapshot(number - 5, b"%d" % (number - 5) * 10_000)
            server.kill_written()  # only the cut is to be lost
            _cut_log(server, lost_bytes)
            server.start()
            before = await StepLog(link, name).load()
            assert (before.next_step < number) == (lost_bytes > 0), "the crash lost what it was told to"
            await log.append(number, steps(number, 1))
            number += 1
            stored = await StepLog(link, name).load()
            assert stored.steps == steps(stored.snapshot_step + 1, number - 1 - stored.snapshot_step), crash
            assert stored.next_step == number
            assert stored.snapshot == b"%d" % stored.snapshot_step * 10_000
