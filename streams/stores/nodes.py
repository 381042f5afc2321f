"""Connections to Redis: one server, or a cluster's primaries by slot. It tries once; `RedisLink` has the patience."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis import exceptions as rx
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from streams.stores.aof import FreshLog
from streams.stores.resp import command

HEALTH_CHECK_S: Final = 15.0
"""A connection idle for longer is tried with a PING before it is used: its other end may be gone without a word."""
_READ_BYTES: Final = 1 << 18


class Nodes:
    """Idle connections by address, and which address has which slot.

    Parameters
    ----------
    options : of ``RedisSettings.client_options``.
    timeout_s : to connect, to write and to read.

    Attributes
    ----------
    writes : whether connections are for writing too; those made from then on see to a sound log first (`FreshLog`).
    """

    def __init__(self, options: dict[str, Any], timeout_s: float) -> None:
        self.writes = False
        self._log = FreshLog(timeout_s)
        self._pool = ConnectionPool.from_url(
            **options,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_read_size=_READ_BYTES,
            health_check_interval=HEALTH_CHECK_S,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._connected,
            protocol=2,
            driver_info=None,
        )
        kwargs = self._pool.connection_kwargs
        self._home: tuple[str, int] = (str(kwargs.get("path") or kwargs.get("host", "localhost")), _port(kwargs))
        self._idle: dict[tuple[str, int], list[AbstractConnection]] = {}
        self._slots: list[tuple[int, int, tuple[str, int]]] | None = None

    @property
    def cluster(self) -> bool:
        """Whether the server is part of a cluster."""
        return self._slots is not None

    @property
    def address(self) -> str:
        """The server named in the settings."""
        host, port = self._home
        return f"{host}:{port}" if port else host

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
        connection = self._take(address)
        try:
            await connection.connect_check_health()
            await connection.send_packed_command(payload)
            answers: list[Any] = []
            for _ in range(replies):
                try:
                    answers.append(await connection.read_response(disable_decoding=True))
                except rx.ResponseError as error:
                    answers.append(error)
        except BaseException:
            await connection.disconnect(nowait=True)  # answers may be under way
            raise
        self._idle.setdefault(address, []).append(connection)
        for answer in answers:
            if isinstance(answer, rx.ResponseError):
                raise answer
        return answers

    async def _connected(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        if self.writes:
            await self._log.before_writing(connection)

    def _take(self, address: tuple[str, int]) -> AbstractConnection:
        idle = self._idle.get(address)
        if idle:
            return idle.pop()
        if address == self._home:
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
                (int(s[0]), int(s[1]), ((s[2][0] or b"").decode() or address[0], int(s[2][1]))) for s in slots
            ]
            return
        raise failed or rx.ClusterDownError("no node of the cluster answers")

    async def close(self) -> None:
        """Close every idle connection."""
        idle = [connection for some in self._idle.values() for connection in some]
        self._idle.clear()
        await asyncio.gather(*(connection.disconnect() for connection in idle), return_exceptions=True)


def _port(kwargs: dict[str, Any]) -> int:
    return 0 if kwargs.get("path") else int(kwargs.get("port", 6379))
