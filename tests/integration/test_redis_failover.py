"""Redis whose primary changes, behind one address or behind sentinels: the link follows it, within its patience."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.kafka_broker import eventually, free_ports
from tests.integration.orphans import leave_none
from tests.integration.redis_server import RedisServer
from weir.streams.checks.redis_checks import check_redis
from weir.streams.config.frozen_settings import SecretUrl
from weir.streams.config.settings import RedisSettings, Settings
from weir.streams.redis.client import RedisClient
from weir.streams.redis.store_errors import StoreUnavailable

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0


def replicate(new_redis: Callable[..., RedisServer]) -> tuple[RedisServer, RedisServer]:
    """A primary and its replica, in step."""
    primary = new_redis()
    replica = new_redis(options={"replicaof": f"127.0.0.1 {primary.port}", "repl-ping-replica-period": "1"})
    eventually(lambda: b"master_link_status:up" in replica.send("INFO replication"), 20, "the replica is in step")
    return primary, replica


# -- one address -------------------------------------------------------------------------------------------------------


class Address:
    """One address that leads to one server or, for new connections, to another; a load balancer does as much."""

    def __init__(self, port: int) -> None:
        self.target = port

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        async with server:
            yield int(server.sockets[0].getsockname()[1])

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)


async def test_behind_one_address_connections_to_the_old_primary_are_dropped(
    new_redis: Callable[..., RedisServer],
) -> None:
    old, new = replicate(new_redis)

    address = Address(old.port)
    async with address.listening() as port:
        settings = RedisSettings(url=SecretUrl(f"redis://127.0.0.1:{port}/0"))
        link = RedisClient(settings, patience_s=PATIENCE_S)
        await link.start()
        await asyncio.gather(*(link.execute("SET", f"weir:{i}", "before") for i in range(8)))  # many connections
        new.send("REPLICAOF NO ONE")
        address.target = new.port
        old.send(f"REPLICAOF 127.0.0.1 {new.port}")
        began = time.monotonic()
        await asyncio.gather(*(link.execute("SET", f"weir:{i}", "after") for i in range(8)))
        assert time.monotonic() - began < 5.0
        assert link.trouble is None
        await link.stop()
    assert b"after" in new.send("GET weir:3")


# -- sentinels ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Callable[[int], int]]:
    """Starts a sentinel for the primary at a port; its own port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(primary: int) -> int:
        (port,) = free_ports(1)
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nlogfile {tmp_path}/sentinel.txt\n"
            f"sentinel monitor shop 127.0.0.1 {primary} 1\nsentinel down-after-milliseconds shop 1000\n"
            "sentinel failover-timeout shop 4000\n"
        )
        started.append(subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL))
        leave_none(started[-1].pid)
        log = tmp_path / "sentinel.txt"
        eventually(lambda: log.exists() and "+slave " in log.read_text(), 30, "the sentinel knows the replica")
        return port

    yield start
    for process in started:
        process.kill()
        process.wait()


def settings_of(port: int, dead: int) -> RedisSettings:
    """Behind a sentinel; the host of the url, and another sentinel, are nowhere."""
    return RedisSettings(
        url=SecretUrl(f"redis://127.0.0.1:{dead}/0"),
        sentinels=(f"127.0.0.1:{dead}", f"127.0.0.1:{port}"),
        service="shop",
    )


@pytest.mark.parametrize("how", ["killed", "asked"])
async def test_behind_sentinels_the_link_follows_the_primary(
    new_redis: Callable[..., RedisServer], sentinel: Callable[[int], int], how: str
) -> None:
    old, new = replicate(new_redis)
    port = sentinel(old.port)
    settings = settings_of(port, free_ports(1)[0])

    link = RedisClient(settings, patience_s=PATIENCE_S, timeout_s=2.0)
    await link.start()
    assert f":{old.port} (shop)" in link.address
    await link.execute("SET", "weir:a", "before")
    assert await link.execute("WAIT", 1, 5000) == 1
    if how == "killed":
        old.kill()
    else:
        asking = RedisServer.__new__(RedisServer)
        asking._tls, asking.port = None, port
        assert asking.send("SENTINEL FAILOVER shop").startswith(b"+OK")
    writes, until = 0, time.monotonic() + 45.0
    while f":{new.port} (shop)" not in link.address:  # a command every now and then, each of which is answered
        assert time.monotonic() < until, "it does not follow"
        await link.execute("SET", "weir:b", str(writes := writes + 1))
        await asyncio.sleep(0.05)
    await link.execute("SET", "weir:b", "after")
    assert await link.execute("GET", "weir:a") == b"before"
    await link.stop()
    assert b"after" in new.send("GET weir:b")
    (check, *_) = check_redis(settings)
    assert check.status == "OK"
    assert "primary of shop" in check.found


async def test_a_service_that_no_sentinel_knows_is_waited_for_and_then_named(
    new_redis: Callable[..., RedisServer], sentinel: Callable[[int], int]
) -> None:
    old, _ = replicate(new_redis)
    settings = settings_of(sentinel(old.port), free_ports(1)[0]).model_copy(update={"service": "other"})

    link = RedisClient(settings, patience_s=1.0, timeout_s=1.0)
    with pytest.raises(StoreUnavailable, match="No master found for 'other'"):
        await link.start()
    await link.stop()


def test_settings_of_sentinels_are_checked() -> None:
    for given in ({"sentinels": ["nowhere"]}, {"sentinels": ["a:1"], "url": "unix:///x"}, {"sentinel_password": "x"}):
        with pytest.raises(ValueError, match=r"sentinel|HOST:PORT"):
            RedisSettings.model_validate(given)
    assert Settings.model_validate({"redis": {"sentinels": "a:1, b:2"}}).redis.sentinels == ("a:1", "b:2")
