"""Ctrl-C and closed pipes, for the commands that read or write streams."""

from __future__ import annotations

import os
import signal
import sys
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
    """An event that Ctrl-C (or SIGTERM) sets instead of breaking off in the middle of a record."""
    asked = asked or StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        asked.number = asked.number or number
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def close_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere: its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
