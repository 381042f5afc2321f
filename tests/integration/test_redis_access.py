"""Who may connect to the store's Redis: rights, logins, TLS, versions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.integration.redis_server import Certificates, RedisServer
from tests.integration.row_store import (
    NewRedis,
    Worker,
    linked,
    worker_on,
)
from weir.streams.config.settings import RedisSettings, SecretUrl
from weir.streams.redis.client import RedisClient, acl_line
from weir.streams.redis.store_errors import StoreRefused, StoreUnavailable

pytestmark = pytest.mark.integration


# -- who may connect -----------------------------------------------------------------------------------------------


async def starts(server: RedisServer, configured: RedisSettings, **options: Any) -> None:
    async with linked(server, settings=configured, **{"patience_s": 0.3} | options):
        pass


async def test_the_documented_rights_are_enough_and_each_of_the_stores_is_needed(new_redis: NewRedis) -> None:
    line = acl_line(prefix="w").replace("<password>", "hush")
    without = [
        line.replace("user weir", f"user no-{c}") + f" -{c}"
        for c in ("evalsha", "mget", "set", "lpop", "time", "bgrewriteaof")
    ]
    server = new_redis(aof=True, acl=["user default off", line, *without, "user nobody on >hush"])

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
        with pytest.raises(StoreRefused, match=r"lacks a right.*user weir on ><password> resetchannels ~w:\* \+info"):
            await starts(server, server.settings(username=user, password="hush"), prefix="w")
    with pytest.raises(StoreRefused, match="lacks a right"):
        await starts(server, configured, prefix="elsewhere")


async def test_a_wrong_login_is_refused_at_once_and_no_secret_is_told(
    new_redis: NewRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis(acl=["user default on >right-one ~* +@all"])

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
    assert "hush" not in caplog.text


async def test_tls(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(tls=Certificates(tmp_path / "tls").make())
    stranger = Certificates(tmp_path / "other").make()

    async with worker_on(server) as worker:
        await worker.write(a=1)
        await worker.open()
        assert await worker.values("a") == [1]
    url = SecretUrl(server.url)
    with pytest.raises(StoreRefused, match=r"certificate is not one we trust.*redis\.ca_file"):
        await starts(server, RedisSettings(url=url), patience_s=30)
    with pytest.raises(StoreRefused, match="certificate is not one we trust"):
        await starts(server, RedisSettings(url=url, ca_file=stranger.ca), patience_s=30)
    plain = RedisSettings(url=SecretUrl(server.url.replace("rediss", "redis")))
    with pytest.raises(StoreUnavailable, match="with rediss:// where the server speaks TLS"):
        await starts(server, plain)


async def test_a_server_that_wants_our_certificate(new_redis: NewRedis, tmp_path: Path) -> None:
    tls = Certificates(tmp_path / "tls").make()
    server = new_redis(tls=tls, options={"tls-auth-clients": "optional"})
    url = SecretUrl(server.url)
    await starts(server, RedisSettings(url=url, ca_file=tls.ca, cert_file=tls.certificate, key_file=tls.key))
    server.send("CONFIG SET tls-auth-clients yes")
    await starts(server, RedisSettings(url=url, ca_file=tls.ca, cert_file=tls.certificate, key_file=tls.key))
    with pytest.raises(StoreRefused, match=r"redis\.cert_file and redis\.key_file"):
        await starts(server, RedisSettings(url=url, ca_file=tls.ca), patience_s=30)


async def test_tls_to_a_server_that_speaks_none(new_redis: NewRedis) -> None:
    server = new_redis()
    configured = RedisSettings(url=SecretUrl(server.url.replace("redis:", "rediss:")))
    with pytest.raises(StoreUnavailable, match="rediss:// where the server speaks TLS and only there"):
        await starts(server, configured, timeout_s=0.2)


async def test_a_redis_that_is_too_old_is_refused() -> None:
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

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = SecretUrl(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        link = RedisClient(RedisSettings(url=url), patience_s=0.3)
        with pytest.raises(StoreRefused, match=r"version 5\.0\.14; Weir needs 7\.0 or newer"):
            await link.start()
        await link.stop()
