"""A TCP proxy that can be a bad network: it delays, cuts, refuses, or lets connections stand without a word.

It forwards bytes and knows nothing of Kafka or Redis. It runs in a thread of its own; its methods may be called from
any other. Put it in front of a broker whose advertised port is the proxy's (`JavaBroker(advertised=proxy.port)`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.integration.kafka_node import free_ports

T = TypeVar("T")
_CHUNK, _QUEUED = 1 << 16, 64


class Proxy:
    """Forwards a port of this machine to ``127.0.0.1:target`` while it is entered (``with``).

    Examples
    --------
    >>> with Proxy(target=free_ports(1)[0]) as proxy:
    ...     proxy.delay(there_ms=50, back_ms=50, jitter_ms=10)
    ...     _ = proxy.cut(), proxy.refuse(), proxy.hold(), proxy.heal()
    """

    def __init__(self, target: int, port: int | None = None) -> None:
        self.target, self.port = target, port or free_ports(1)[0]
        self._delays_ms = (0.0, 0.0, 0.0)
        self._random = random.Random(self.port)
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def delay(self, there_ms: float = 0, back_ms: float = 0, jitter_ms: float = 0) -> None:
        """Every byte arrives that much later; the jitter comes on top, evenly spread, and never reorders."""
        self._delays_ms = (there_ms, back_ms, jitter_ms)

    def cut(self) -> int:
        """Reset every connection; returns how many there were."""
        return self._run(self._cut())

    def refuse(self) -> None:
        """Cut, and let nobody in until `heal`."""
        self._run(self._stop_listening())
        self.cut()

    def hold(self) -> None:
        """Half-open: connections stay, new ones are accepted, and nothing is forwarded until `heal`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """A good network again; what was held back is forwarded to those who still wait for it."""
        self.delay()
        self._loop.call_soon_threadsafe(self._flowing.set)
        self._run(self._listen())

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _cut(self) -> int:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            await self._flowing.wait()
            # Ended by either side: both are closed below.
            with contextlib.suppress(OSError, ExceptionGroup):
                behind, ahead = await asyncio.open_connection("127.0.0.1", self.target)
                writers.append(ahead)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._forward(reader, ahead, 0))
                    both.create_task(self._forward(behind, writer, 1))
        finally:
            self._connections.discard(task)
            for each in writers:
                each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int) -> None:
        """One direction, until its end, which ends the connection."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            while data := await reader.read(_CHUNK):
                jitter = self._random.uniform(0, self._delays_ms[2])
                await queue.put((loop.time() + (self._delays_ms[way] + jitter) / 1000, data))
            raise ConnectionResetError("the other side is done")
        finally:
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await delivering
