"""Connections to Redis: one server, the primary that sentinels name, or a cluster's primaries by slot.

It tries once; `RedisClient` has the patience. A server that says it is not the primary (any more) loses all its
connections: behind one address there may be another by now.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot

from weir.streams.config.settings import RedisSettings
from weir.streams.redis.aof import begin_fresh_log
from weir.streams.redis.resp import command
from weir.streams.redis.store_errors import not_primary

log = logging.getLogger(__name__)

HEALTH_CHECK_S: Final = 15.0
"""A connection idle for longer is tried with a PING before it is used: its other end may be gone without a word."""
_READ_BYTES: Final = 1 << 18


class Nodes:
    """Idle connections by address, and which address has which slot.

    Parameters
    ----------
    settings : where it is and how to log in.
    timeout_s : to connect, to write and to read.

    Attributes
    ----------
    writes : whether connections are for writing too; those made from then on see to a sound log first (`aof`).
    """

    def __init__(self, settings: RedisSettings, timeout_s: float) -> None:
        self.writes = False
        self._timeout_s = timeout_s
        self._pool = ConnectionPool.from_url(
            **settings.client_options(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_read_size=_READ_BYTES,
            health_check_interval=HEALTH_CHECK_S,
            # `RedisClient` has the patience, and says what it waits for; redis-py's own retries would add to it unseen.
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._connected,
            # Answers of RESP 3 have other shapes: HGETALL gives a map.
            protocol=2,
            # Else each new connection sends CLIENT SETINFO, for which our user has no right.
            driver_info=None,
        )
        kwargs = self._pool.connection_kwargs
        self._home: tuple[str, int] = (str(kwargs.get("path") or kwargs.get("host", "localhost")), _port(kwargs))
        self._idle: dict[tuple[str, int], list[AbstractConnection]] = {}
        self._slots: list[tuple[int, int, tuple[str, int]]] | None = None
        self._service, named = settings.service, settings.sentinels
        self._sentinel: Any = _sentinel(settings, timeout_s) if named else None

    @property
    def cluster(self) -> bool:
        """Whether the server is part of a cluster."""
        return self._slots is not None

    @property
    def address(self) -> str:
        """The server named in the settings, or by the sentinels."""
        host, port = self._home
        where = f"{host}:{port}" if port else host
        return where if self._sentinel is None else f"{where} ({self._service})"

    def address_of(self, route: bytes) -> tuple[str, int]:
        """Who has a key."""
        if not self._slots or not route:
            return self._home
        slot = key_slot(route)
        for first, last, address in self._slots:
            if first <= slot <= last:
                return address
        raise rx.ClusterDownError(f"no node of the cluster has slot {slot}")

    async def ask(self, address: tuple[str, int], payload: bytes, replies: int) -> list[Any]:
        """Send and read ``replies`` answers; an error among them is raised once all are read."""
        connection, before = self._take(address), _cancellations()
        try:
            # As redis-py's pool would: connections are kept here, by address.
            await connection.connect_check_health()
            await connection.send_packed_command(payload)
            # redis-py sends within `asyncio.wait_for`, in which Python 3.11 loses a cancellation: a stop would hang.
            if _cancellations() > before:
                raise asyncio.CancelledError
            answers: list[Any] = []
            for _ in range(replies):
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except rx.ResponseError as error:
                    # Read to the end: an answer left in the connection would be taken for that of the next command.
                    answers.append(error)
        except BaseException as error:
            await connection.disconnect(nowait=True)  # answers may be under way
            if not_primary(error):
                await self._drop(address)
            raise
        # Before an error among the answers is raised: the connection itself is sound.
        self._idle.setdefault(address, []).append(connection)
        for answer in answers:
            if isinstance(answer, rx.ResponseError):
                if not_primary(answer):
                    await self._drop(address)
                raise answer
        return answers

    async def _drop(self, address: tuple[str, int]) -> None:
        """Close the idle connections to a server."""
        for connection in self._idle.pop(address, []):
            await connection.disconnect(nowait=True)

    async def look_around(self) -> None:
        """Ask who has what now, where somebody can be asked."""
        if self._sentinel is not None:
            found = await self._sentinel.discover_master(self._service)
            home = (str(found[0]), int(found[1]))
            if home != self._home:
                log.info("the primary of %s is at %s:%d", self._service, *home)
                await self._drop(self._home)
                self._home = home
        elif self.cluster:
            await self.learn_slots()

    async def _connected(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        if self.writes:
            await begin_fresh_log(connection, self._timeout_s)

    def _take(self, address: tuple[str, int]) -> AbstractConnection:
        idle = self._idle.get(address)
        if idle:
            return idle.pop()
        if address == self._home and self._sentinel is None:
            return self._pool.connection_class(**self._pool.connection_kwargs)
        kwargs = {**self._pool.connection_kwargs, "host": address[0], "port": address[1]}
        return self._pool.connection_class(**kwargs)

    async def learn_slots(self) -> None:
        """Ask any node that answers for the slots; the first error of the last counts."""
        known = [self._home, *dict.fromkeys(address for _, _, address in self._slots or [])]
        failed: Exception | None = None
        for address in dict.fromkeys(known):
            try:
                (slots,) = await self.ask(address, command("CLUSTER", "SLOTS"), 1)
            except (rx.RedisError, OSError) as exc:
                failed = exc
                continue
            self._slots = [
                # An empty host means the one that was asked (a node that does not know its own name).
                (int(s[0]), int(s[1]), ((s[2][0] or b"").decode() or address[0], int(s[2][1])))
                for s in slots
            ]
            return
        raise failed or rx.ClusterDownError("no node of the cluster answers")

    async def close(self) -> None:
        """Close every idle connection."""
        idle = [connection for some in self._idle.values() for connection in some]
        self._idle.clear()
        asked = self._sentinel.sentinels if self._sentinel is not None else []
        closing = [*(connection.disconnect() for connection in idle), *(each.aclose() for each in asked)]
        # One that fails to close is gone all the same, and must not keep the others open.
        await asyncio.gather(*closing, return_exceptions=True)


def _cancellations() -> int:
    """How often the task that runs was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _sentinel(settings: RedisSettings, timeout_s: float) -> Any:
    make: Any = Sentinel  # redis-py gives it no types
    return make(**settings.sentinel_options(timeout_s))


def _port(kwargs: dict[str, Any]) -> int:
    return 0 if kwargs.get("path") else int(kwargs.get("port", 6379))
