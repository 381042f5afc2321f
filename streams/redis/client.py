"""The link to Redis: commands that wait for a server that is away, and errors that say what to do.

Everything sent through it may be sent twice (an answer can get lost), so it carries reads, plain sets, and scripts that
know their own repeats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from redis import exceptions as rx

from weir.streams.config.settings import RedisSettings
from weir.streams.ops.watchdog import LoopStall
from weir.streams.redis.aof import parse_info
from weir.streams.redis.link_state import LinkState, Matter
from weir.streams.redis.nodes import Nodes
from weir.streams.redis.resp import ADDING, Argument, Script, command, script_arguments
from weir.streams.redis.store_errors import StoreRefused, StoreUnavailable, passing, refusal, refuses_writes

log = logging.getLogger(__name__)
_T = TypeVar("_T")

LEAST_VERSION: Final = (7, 0)
COMMANDS: Final = (
    *("info", "ping", "time", "eval", "evalsha", "scan", "cluster|slots", "bgrewriteaof"),
    *("get", "mget", "getrange", "set", "exists", "del", "unlink", "persist"),
    *("rpush", "lpop", "lrange", "llen", "hget", "hgetall", "hmget", "hset", "hsetnx", "hincrby"),
    *("zadd", "zrem", "zrange", "zrevrangebyscore"),
)
"""What our user may have to run, on keys that begin with the prefix; `acl_line` writes it as Redis wants it."""
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
_PROBE: Final = Script("""
redis.call('SET', KEYS[1], 'x', 'PXAT', redis.call('TIME')[1] * 1000 + 1000)
redis.call('GET', KEYS[1])
redis.call('MGET', KEYS[1])
redis.call('GETRANGE', KEYS[1], 0, 0)
redis.call('RPUSH', KEYS[2], 'x')
redis.call('LRANGE', KEYS[2], 0, -1)
redis.call('LPOP', KEYS[2], 1)
return 1
""")


class RedisClient:
    """Commands to one Redis or one Redis cluster.

    Parameters
    ----------
    settings : where it is and how to log in.
    patience_s : how long a command waits for a Redis that is away, loading or full, before ``StoreUnavailable``.
    timeout_s : how long a connection may be silent before it counts as lost.
    prefix : what keys of Weir begin with; ``start`` tries the user's rights on it.
    """

    def __init__(
        self, settings: RedisSettings, *, patience_s: float = 60.0, timeout_s: float = 5.0, prefix: str = "weir"
    ) -> None:
        self.patience_s, self.prefix = patience_s, prefix
        self._nodes = Nodes(settings, timeout_s)
        self._known: set[tuple[Script, tuple[str, int]]] = set()
        self._state = LinkState(lambda: self.address)
        self._timeout_s = timeout_s
        self.stall: LoopStall | None = None
        """Knows when our own loop stood still, where somebody measures it."""
        self.retries = 0
        """Commands tried again, since the start."""

    @property
    def cluster(self) -> bool:
        """Whether keys of different lanes may be on different servers."""
        return self._nodes.cluster

    @property
    def address(self) -> str:
        """The server named in the settings, without secrets."""
        return self._nodes.address

    @property
    def trouble(self) -> str | None:
        """What is the matter with Redis now, a sentence: nobody answers, or it takes no writes."""
        return self._state.trouble

    async def start(self, *, writes: bool = True) -> None:
        """Connect; check the version, and the rights of the user unless it only reads.

        Raises
        ------
        StoreRefused
            Waiting will not help: the login, a right, TLS, or a version before 7.0.
        StoreUnavailable
            Nobody answered for ``patience_s``.
        """
        self._nodes.writes = writes
        await self._patiently(self._nodes.look_around)  # sentinels know where the primary is
        info = parse_info(await self.execute("INFO"))
        version = info.get("redis_version", "0")
        if tuple(int(part) for part in version.split(".")[:2]) < LEAST_VERSION:
            raise StoreRefused(f"Redis at {self.address} is version {version}; Weir needs 7.0 or newer")
        if info.get("redis_mode") == "cluster" or info.get("cluster_enabled") == "1":
            await self._patiently(self._nodes.learn_slots)
        if info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy", "noeviction") != "noeviction":
            log.warning(
                "Redis at %s drops keys by itself when it is full (maxmemory-policy %s): rows may vanish; "
                "set maxmemory-policy noeviction",
                self.address,
                info["maxmemory_policy"],
            )
        if writes:
            probe = f"{self.prefix}:{{probe}}:"
            # At the start, where a missing right is one sentence, rather than at the first flush.
            await self.run(_PROBE, [f"{probe}value", f"{probe}list"], [])

    async def stop(self) -> None:
        """Close the connections."""
        await self._nodes.close()

    async def execute(self, *args: Argument, route: bytes | None = None) -> Any:
        """One command; in a cluster its first argument is the key unless ``route`` is. Answers are bytes."""
        if route is None and self.cluster and len(args) > 1:
            route = args[1] if isinstance(args[1], bytes) else str(args[1]).encode()
        return (await self.packed(command(*args), 1, route or b"", adds=str(args[0]).upper() in ADDING))[0]

    async def packed(self, payload: bytes, replies: int, route: bytes = b"", *, adds: bool = False) -> list[Any]:
        """Commands as bytes of the wire format; ``route`` is a key, or the hash tag, of their slot.

        ``adds`` says whether they write something new, which a full Redis refuses.
        """

        async def ask() -> list[Any]:
            return await self._nodes.ask(self._nodes.address_of(route), payload, replies)

        return await self._patiently(ask, adds=adds)

    async def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """One Lua script, atomically; it must be harmless when it runs twice."""
        count, packed = script_arguments(keys, args)
        route = keys[0] if keys else b""
        return await self.run_packed(script, count, packed, route if isinstance(route, bytes) else str(route).encode())

    async def run_packed(self, script: Script, count: int, packed: bytes, route: bytes) -> Any:
        """One script whose number of keys, keys and arguments, ``count`` in all, are bytes of the wire format."""
        here = (script, self._nodes.address_of(route))  # each node of a cluster has its own memory of scripts
        if here in self._known:
            try:
                return (await self.packed(script.call(count, known=True) + packed, 1, route, adds=script.adds))[0]
            except rx.NoScriptError:
                log.info("Redis at %s has forgotten a script; sending it again", self.address)
        answer = (await self.packed(script.call(count, known=False) + packed, 1, route, adds=script.adds))[0]
        # Only now: a script counts as known where it has run.
        self._known.add(here)
        return answer

    async def _patiently(self, do: Callable[[], Awaitable[_T]], *, adds: bool = False) -> _T:
        lost_at: float | None = None
        pause_s = 0.0
        while True:
            began = time.monotonic()
            try:
                answer = await do()
            except (rx.RedisError, OSError, TimeoutError) as exc:
                if self._late_by_us(exc, began):
                    continue
                reason = self._why_wait(exc)
                matter: Matter = "takes no writes" if refuses_writes(exc) else "is away"
                self._state.failed(matter, reason)
            else:
                self._state.answered(0.0 if lost_at is None else time.monotonic() - lost_at, took=adds)
                return answer
            now = time.monotonic()
            if lost_at is None:  # once more at once: an idle connection may just have been closed
                lost_at = now
                self.retries += 1
                # Before the second try, as the first may have failed because the primary is elsewhere.
                await self._look_around()
                continue
            self._state.say(matter, self.patience_s)
            pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            if now + pause_s - lost_at > self.patience_s:
                raise StoreUnavailable(
                    f"Redis at {self.address} did not take a command for {self.patience_s:g} s: {reason}. Check "
                    "that it runs and that redis.url is right, with rediss:// where the server speaks TLS and only "
                    "there; then start again, nothing is lost"
                )
            await asyncio.sleep(pause_s)
            self.retries += 1
            await self._look_around()

    def _late_by_us(self, exc: Exception, began: float) -> bool:
        """Whether an answer only seems late because our own loop stood still: then it is asked for again at once."""
        if self.stall is None or not isinstance(exc, rx.TimeoutError | TimeoutError):
            return False
        stood_s = self.stall.since(began)
        if stood_s < self._timeout_s / 2:
            return False
        log.warning("this process stood still for %.1f s, so an answer of Redis is late; asking again", stood_s)
        return True

    def _why_wait(self, exc: Exception) -> str:
        """Why it is worth to wait; raises where it is not."""
        # Refusals first: some are connection errors by their class, and waiting for them would end in a minute with
        # less to say.
        if (fix := refusal(exc, acl_line(prefix=self.prefix))) is not None:
            raise StoreRefused(f"Redis at {self.address}: {fix}") from exc
        if (reason := passing(exc)) is None:
            raise exc
        return reason

    async def _look_around(self) -> None:
        """In a cluster, the slots may be elsewhere now; behind sentinels, the primary."""
        try:
            await self._nodes.look_around()
        except (rx.RedisError, OSError, TimeoutError) as exc:
            log.debug("nobody told who has what: %s", exc)


@asynccontextmanager
async def opened(settings: RedisSettings, patience_s: float | None = None) -> AsyncIterator[RedisClient]:
    """A link for somebody who only looks or sends a few commands; it waits no longer than one command may take."""
    patience = settings.timeout_s if patience_s is None else patience_s
    link = RedisClient(settings, patience_s=patience, prefix=settings.prefix)
    try:
        await link.start(writes=False)
        yield link
    finally:
        await link.stop()


def acl_line(user: str = "weir", prefix: str = "weir") -> str:
    """The user that a worker needs, as a line of Redis' ACL file; a password is to be put for ``<password>``.

    >>> acl_line()[:44]
    'user weir on ><password> resetchannels ~weir'
    """
    return f"user {user} on ><password> resetchannels ~{prefix}:* {' '.join(f'+{name}' for name in COMMANDS)}"
