"""Ctrl-C and SIGTERM: the first asks for a clean stop, a second Ctrl-C ends the process at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

log = logging.getLogger(__name__)

IMMEDIATE: Final = 128 + signal.SIGINT


class StopSignals:
    """Which signal asked for the end, if one did."""

    def __init__(self, stop: Callable[[], object], end: Callable[[int], object] = os._exit) -> None:
        self._stop, self._end = stop, end
        self.number: int | None = None

    @property
    def status(self) -> int:
        """Exit status after a clean stop: 0, as supervisors expect after SIGTERM, or 130 after Ctrl-C."""
        return IMMEDIATE if self.number == signal.SIGINT else 0

    def __call__(self, number: int) -> None:
        """A signal arrived."""
        if self.number is None:
            self.number = number
            log.info("%s: finishing the batches in work; Ctrl-C again stops at once", signal.Signals(number).name)
            self._stop()
        elif number == signal.SIGINT:
            log.warning("stopping at once: batches in work will be done again")
            self._end(IMMEDIATE)


@contextmanager
def stop_signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], object], end: Callable[[int], object] = os._exit
) -> Iterator[StopSignals]:
    """Call ``stop`` in ``loop`` on the first SIGINT or SIGTERM, ``end`` on a Ctrl-C after it; see `StopSignals`."""
    caught = StopSignals(stop, end)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, caught, number)
    try:
        yield caught
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
