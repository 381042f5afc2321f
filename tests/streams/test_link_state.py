"""A trouble of Redis is told once when it begins and once when it is over, whatever else is answered meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from redis import exceptions as rx

from weir.streams.config.settings import RedisSettings
from weir.streams.model_replicas.model_snapshots import _SAVE
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.flush import FLUSH
from weir.streams.redis.partitions.label_journal import _APPEND, _CLAIM, _READ

REFUSALS = {
    "it is out of memory (OOM)": rx.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    "it cannot write to its disk (MISCONF)": rx.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    "NOREPLICAS Not enough good replicas": rx.ResponseError("NOREPLICAS Not enough good replicas to write."),
    "You can't write against a read only replica": rx.ReadOnlyError("You can't write against a read only replica."),
}


class Server:
    """Takes reads always, and writes where nothing is the matter; or it is gone."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.gone = False
        self.meanwhile: Callable[[], Any] | None = None
        self.cluster, self.address = False, "redis:6379"

    def address_of(self, _: bytes) -> tuple[str, int]:
        return "redis", 6379

    async def look_around(self) -> None:
        return

    async def ask(self, _: tuple[str, int], payload: bytes, __: int) -> list[Any]:
        if self.gone:
            raise rx.ConnectionError("Connection refused")
        if (refusal := self.refusal) is not None and b"SET" in payload:
            if self.meanwhile is not None:
                await self.meanwhile()
            raise refusal
        return [b"answer"]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def link(server: Server) -> RedisClient:
    made = RedisClient(RedisSettings())
    made._nodes = server  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("words", REFUSALS)
async def test_reads_do_not_end_what_keeps_redis_from_writing(
    server: Server, link: RedisClient, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    troubles: list[str | None] = []
    server.refusal = REFUSALS[words]

    async def meanwhile() -> None:
        await link.execute("GET", "weir:x")
        await link.execute("UNLINK", "weir:x")
        troubles.append(link.trouble)
        if len(troubles) == 5:
            server.refusal = None

    server.meanwhile = meanwhile
    with caplog.at_level(logging.WARNING):
        await link.execute("SET", "weir:x", "1")
    begun, over = (record.getMessage() for record in caplog.records)
    assert begun.startswith(f"Redis at redis:6379 takes no writes: {words}")
    assert over.startswith("Redis at redis:6379 takes writes again; a command waited")
    assert len(troubles) == 5
    assert all(trouble is not None and words in trouble for trouble in troubles[1:])
    assert link.trouble is None


async def test_one_that_went_away_and_comes_back_full_is_told_as_that(
    server: Server, link: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    server.gone, tries = True, 0

    async def look_around() -> None:
        nonlocal tries
        tries += 1
        server.gone, server.refusal = tries < 3, REFUSALS["it is out of memory (OOM)"] if tries < 6 else None

    server.look_around = look_around  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        await link.execute("SET", "weir:x", "1")
        await link.execute("GET", "weir:x")
    said = [record.getMessage().split(":6379 ")[1].partition(":")[0].partition(";")[0] for record in caplog.records]
    assert said == ["is away", "takes no writes", "takes writes again"]


@pytest.mark.parametrize(
    ("script", "adds"), [(FLUSH, True), (_SAVE, True), (_CLAIM, True), (_APPEND, True), (_READ, False)]
)
def test_what_a_script_writes_is_read_from_it(script: Any, adds: bool) -> None:
    assert script.adds == adds
