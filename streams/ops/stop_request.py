"""Ctrl-C asks for the end of long work, which then ends where its results are whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest(threading.Event):
    """Set when somebody asks for the end."""

    number: int | None = None
    """The first signal that did."""


@contextmanager
def interruptible(asked: StopRequest | None = None) -> Iterator[StopRequest]:
    """An event that Ctrl-C (or SIGTERM) sets instead of breaking off in the middle of a record.

    Only the main thread gets signals; in others it stays as it is.
    """
    asked = asked or StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        # The exit status says the signal that asked first.
        asked.number = asked.number or number
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
