"""Looks at the store while a worker runs: how full it is, and whether its version has known holes."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from weir.online.errors import WeirError
from weir.streams.checks.redis_checks import known_holes, memory_of
from weir.streams.ops.metrics import Metrics
from weir.streams.redis.aof import parse_info
from weir.streams.redis.client import RedisClient

log = logging.getLogger(__name__)

INTERVAL_S: Final = 30.0


class StoreWatch:
    """Sets the gauges of the store's memory, and warns when it is nearly full: ids that nobody can foresee fill it.

    Of a cluster it looks at the node that the settings name.

    Parameters
    ----------
    link : to the store, started.
    metrics : of the process.
    """

    def __init__(self, link: RedisClient, metrics: Metrics) -> None:
        self._link, self._metrics = link, metrics
        self._said = "OK"
        self._looked = False

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
        self._metrics.set("weir_store_used_bytes", float(info.get("used_memory", 0)))
        self._metrics.set("weir_store_limit_bytes", float(info.get("maxmemory", 0)))
        memory = memory_of(info)
        if memory.status not in ("OK", self._said):
            log.warning("%s at %s: %s. %s", memory.name, self._link.address, memory.found, memory.fix)
        self._said = memory.status
        for hole in known_holes(info) if not self._looked else ():
            log.warning("Redis at %s: %s. %s", self._link.address, hole.found, hole.fix)
        self._looked = True
