"""Whether brokers and store are there: what ``/ready`` says while they are not, and what the watchdog forgives.

A batch that waits for a link does not hang: the link's own patience (``delivery_timeout_s``, ``store_patience_s``) ends
the worker. It sends nothing but a question for metadata now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from weir.streams.config.settings import BROKERS_SILENT_S

if TYPE_CHECKING:
    from weir.streams.worker.context import Context

ASK_S: Final = 2.0


class Links:
    """The links of one worker.

    Parameters
    ----------
    ctx : what the lanes share.
    clock : monotonic seconds.
    """

    def __init__(self, ctx: Context, clock: Callable[[], float] = time.monotonic) -> None:
        self._ctx, self._clock = ctx, clock
        self._heard = clock()

    def away(self) -> list[str]:
        """What is not there, a sentence each; may be asked from any thread."""
        found: list[str] = []
        if (why := self._ctx.link.away) is not None:
            found.append(f"Redis at {self._ctx.link.address} is away: {why}")
        silent_s, waits_s = self._clock() - self._heard, self._ctx.app.records.waiting_s()
        if silent_s > BROKERS_SILENT_S:
            found.append(f"the brokers have not answered for {silent_s:.0f} s")
        elif waits_s > BROKERS_SILENT_S:
            found.append(f"the brokers have not acknowledged what was sent {waits_s:.0f} s ago")
        return found

    async def run(self) -> None:
        """Ask the brokers for ever."""
        self._heard = self._clock()
        asking: asyncio.Future[bool] | None = None
        while True:
            asking = asking or asyncio.ensure_future(self._ctx.app.records.reachable())
            await asyncio.wait({asking}, timeout=ASK_S)
            if asking.done():
                if asking.exception() is None and asking.result():
                    self._heard = self._clock()
                asking = None
            await asyncio.sleep(ASK_S)
