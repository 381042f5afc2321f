"""Ctrl-C asks for the end: of long work, which then ends where its results are whole; of none, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""


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

    def handle(number: int, _frame: FrameType | None) -> None:
        # The exit status says the signal that asked first.
        asked.number = asked.number or number
        asked.set()

    with _handled(handle):
        yield asked


@contextmanager
def ending_at_once(terminated: int = 128 + signal.SIGTERM) -> Iterator[None]:
    """While a process starts, and once it is down, there is nothing to finish: SIGTERM and Ctrl-C end it at once.

    By themselves they would end it with another status and without a word, by a traceback from the midst of an import
    (which compiled modules may not survive), or, where it is the first process of a container, not at all. What hears
    signals in between is `stop_signals`. Only the main thread may do this; in others it does nothing.

    Parameters
    ----------
    terminated : exit status after SIGTERM: 0 where whoever runs the process asks for its end by that.
    """

    def end(number: int, _: FrameType | None) -> None:
        # Not by the log nor by print: the signal may have come in the midst of either.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stopped: nothing was in work\n")
        os._exit(INTERRUPTED if number == signal.SIGINT else terminated)

    with _handled(end):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have ``handler`` hear the signals; only the main thread gets them, in others it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in ENDING}
    try:
        yield
    finally:
        for number, held in before.items():
            signal.signal(number, held)
