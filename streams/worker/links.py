"""Whether brokers and store are there, and how full the store is: for ``/ready``, the watchdog and the gauges.

A batch that waits for a link does not hang: the link's own patience (``delivery_timeout_s``, ``store_patience_s``) ends
the worker. It sends nothing but a question for metadata now and then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from weir.online.errors import WeirError
from weir.streams.checks.redis_checks import clock_of, known_holes, memory_of
from weir.streams.config.settings import BROKERS_SILENT_S
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.aof import parse_info
from weir.streams.redis.client import RedisClient
from weir.streams.redis.partitions.partition_store import LaneStore

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

ASK_S: Final = 2.0


class Links:
    """The links of one worker; ``ctx`` is what the lanes share."""

    def __init__(self, ctx: Context) -> None:
        self._ctx, self._heard = ctx, time.monotonic()

    def away(self) -> list[str]:
        """What is not there, a sentence each; may be asked from any thread."""
        found: list[str] = []
        if (trouble := self._ctx.link.trouble) is not None:
            found.append(trouble)
        silent_s, waits_s = time.monotonic() - self._heard, self._ctx.app.records.waiting_s()
        if silent_s > BROKERS_SILENT_S:
            found.append(f"the brokers have not answered for {silent_s:.0f} s")
        elif waits_s > BROKERS_SILENT_S:
            found.append(f"the brokers have not acknowledged what was sent {waits_s:.0f} s ago")
        return found

    async def run(self) -> None:
        """Ask the brokers for ever."""
        self._heard = time.monotonic()
        asking: asyncio.Future[bool] | None = None
        while True:
            # The question before, where it has no answer yet: aiokafka asks once for all who wait.
            asking = asking or asyncio.ensure_future(self._ctx.app.records.reachable())
            # Not `wait_for`, which would cancel what the next turn waits for.
            await asyncio.wait({asking}, timeout=ASK_S)
            if asking.done():
                if asking.exception() is None and asking.result():
                    self._heard = time.monotonic()
                asking = None
            await asyncio.sleep(ASK_S)


log = logging.getLogger(__name__)

INTERVAL_S: Final = 5.0
FULL: Final = 0.9
"""Share of ``maxmemory`` from which on rows of new entities are not written. What is left is for known rows, journals
and snapshots; in one interval 20,000 new entities a second add some 0.1 GB."""


class StoreWatch:
    """Sets the gauges of the store's memory, and warns when it is nearly full: ids that nobody can foresee fill it.

    Of a cluster it looks at the node that the settings name.

    Parameters
    ----------
    link : to the store, started.
    store : is told whether it may write rows of new entities.
    metrics : of the process.
    """

    def __init__(self, link: RedisClient, store: LaneStore, metrics: Metrics) -> None:
        self._link, self._store, self._metrics = link, store, metrics
        self._said = "OK"
        self._looked = self._apart = False

    async def run(self) -> None:
        """Look now and then until cancelled."""
        while True:
            try:
                await self.look()
            except WeirError as error:  # lanes ask all the time, and say what it means for them
                log.debug("the store does not tell how full it is: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Look once; raises what the link raises."""
        info = parse_info(await self._link.execute("INFO"))
        used, limit = float(info.get("used_memory", 0)), float(info.get("maxmemory", 0))
        self._metrics.set("weir_store_used_bytes", used)
        self._metrics.set("weir_store_limit_bytes", limit)
        self._open_or_close(takes_new=not limit or used < FULL * limit)
        memory = memory_of(info)
        # Said once, and again when it has become worse or come back.
        if memory.status not in ("OK", self._said):
            log.warning("%s at %s: %s. %s", memory.name, self._link.address, memory.found, memory.fix)
        self._said = memory.status
        clock = clock_of(info, time.time())
        for found in clock if not self._apart else ():
            log.warning("%s: %s. %s", self._link.address, found.found, found.fix)
        self._apart = bool(clock)
        # Once a process: the version is the same at every look.
        for hole in known_holes(info) if not self._looked else ():
            log.warning("Redis at %s: %s. %s", self._link.address, hole.found, hole.fix)
        self._looked = True

    def _open_or_close(self, *, takes_new: bool) -> None:
        if takes_new == self._store.takes_new:
            return
        self._store.takes_new = takes_new
        if takes_new:
            log.warning("Redis at %s has room again: rows of new entities are kept", self._link.address)
        else:
            log.warning(
                "Redis at %s is nearly full: events of new entities are scored as first events and their rows are not "
                "kept; known entities are as before. Raise maxmemory, let rows expire sooner (ttl), or find who sends "
                "ids that never come again",
                self._link.address,
            )
