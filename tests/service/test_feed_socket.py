"""The feed behind a real server and real sockets: who does not read, who hangs up, and the end of the process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn

from tests.service.feed_reader import EventSource
from tests.service.feed_service import FeedService, feed_service, ids
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.run import configured, listening

pytestmark = pytest.mark.anyio
SMALL = 16_384
"""Of the kernel's buffer of a client."""


class SocketReader(EventSource):
    """A client that reads when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader, self.writer = reader, writer
        self.status, self.bytes = 0, 0

    @classmethod
    async def connect(cls, port: int, last_event_id: str | None = None) -> SocketReader:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        made = cls(*await asyncio.open_connection(sock=raw, limit=SMALL))
        place = "" if last_event_id is None else f"Last-Event-ID: {last_event_id}\r\n"
        made.writer.write(f"GET /v1/feed HTTP/1.1\r\nHost: 127.0.0.1\r\n{place}\r\n".encode())
        made.status = int((await made._reader.readuntil(b"\r\n\r\n")).split()[1])
        return made

    async def read(self, until: Callable[[], bool]) -> bool:
        """Read chunks until something holds, or the server ends the answer; whether it did not."""
        while not until():
            size = int(await self._reader.readline(), 16)
            chunk = (await self._reader.readexactly(size + 2))[:-2]
            if not size:
                assert await self._reader.read() == b"", "and the connection"
                return False
            self.bytes += size
            self.feed(chunk)
        return True


class Served:
    """A feed at a port, and the clients that a test has connected."""

    def __init__(self, feed: FeedService, port: int) -> None:
        self.feed, self._port = feed, port
        self.readers: list[SocketReader] = []

    async def connect(self, last_event_id: str | None = None) -> SocketReader:
        self.readers.append(await SocketReader.connect(self._port, last_event_id))
        return self.readers[-1]

    async def close(self) -> None:
        for reader in self.readers:
            reader.writer.close()
            await reader.writer.wait_closed()


@asynccontextmanager
async def served(client_bytes: int = 1 << 20) -> AsyncIterator[Served]:
    async with feed_service(client_bytes=client_bytes) as feed:
        server = uvicorn.Server(configured(feed.service, ServeSettings()))
        with listening("127.0.0.1", 0) as bound:
            bound.listen()
            serving = asyncio.create_task(server.serve([bound]))
            made = Served(feed, bound.getsockname()[1])
            try:
                yield made
            finally:
                await made.close()
                server.should_exit = True
                await serving


def large(n: int) -> Record:
    alert = {"v": 1, "alert_id": str(n), "task": "fraud", "entity_id": f"user-{n}", "filler": "x" * 30_000}
    return Record(b"", json.dumps(alert).encode(), 1.7e9 + n)


async def test_who_does_not_read_is_told_and_resumes_and_others_do_not_wait() -> None:
    async with served(client_bytes=4 * SMALL) as made:
        feed = made.feed
        slow, other = await made.connect(), await made.connect()
        await slow.read(lambda: bool(slow.last_id))
        await other.read(lambda: bool(other.last_id))
        count = 0

        def up_to_date() -> bool:
            return len(other.records) == count

        while not any(client.why for client in feed.fan_out.clients):
            feed.log.add("alerts", [large(count)])
            count += 1
            assert await other.read(up_to_date), "others get each record at once"
            assert count < 5_000
        (told,) = [client for client in feed.fan_out.clients if client.why]
        assert told.why == "resync"
        assert told.idle
        assert not await slow.read(lambda: False)
        assert slow.events[-1].type == "resync"
        assert len(slow.records) < count, "what waited was given back, not sent"
        again = await made.connect(slow.last_id)
        await again.read(lambda: len(slow.records) + len(again.records) == count)
        assert ids(slow.records + again.records) == [f"user-{n}" for n in range(count)] == ids(other.records)


async def test_who_hangs_up_is_forgotten_although_nothing_is_sent() -> None:
    async with served() as made:
        feed = made.feed
        readers = [await made.connect() for _ in range(20)]
        assert len(feed.fan_out.clients) == 20
        for reader in readers:
            reader.writer.close()
        while feed.fan_out.clients:
            feed.fan_out._left.clear()
            await feed.fan_out._left.wait()


async def test_the_end_of_the_process_ends_feeds_and_their_connections() -> None:
    async with served() as made:
        feed = made.feed
        reader = await made.connect()
        feed.log.add("alerts", [large(0)])
        stopping = asyncio.create_task(feed.feed.stop())
        assert not await reader.read(lambda: False)
        await stopping
        assert reader.events[-1].type == "drain"
        assert (await made.connect(reader.last_id)).status == 503
