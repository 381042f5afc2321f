"""Ends what a test process has started once that is gone: a killed pytest ends no broker, and its fixtures never run.

`leave_none` is told of each process. A program beside the test process, this file itself, holds them, and kills those
that still run when the pipe between the two is closed: by the system, however the test process ended.

It does not know what they are. Processes that end before are none of its business, and their numbers may be used again.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import IO


def leave_none(pid: int) -> None:
    """Have a process killed when this one ends, where the system has descriptors of processes (Linux)."""
    if hasattr(signal, "pidfd_send_signal"):
        pipe = _beside()
        pipe.write(b"%d\n" % pid)
        pipe.flush()


@cache
def _beside() -> IO[bytes]:
    """The pipe to the program that holds what was started."""
    program = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is for the tests
    )  # fmt: skip
    assert program.stdin is not None
    atexit.register(program.communicate)  # closes the pipe, and waits until what is left has been killed
    return program.stdin


def _hold(told: IO[bytes]) -> None:
    held: list[int] = []
    for line in told:
        held = [descriptor for descriptor in held if not _ended(descriptor)]
        with suppress(ProcessLookupError):  # it has ended already
            held.append(os.pidfd_open(int(line)))
    for descriptor in held:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _ended(descriptor: int) -> bool:
    """Whether a process has ended; its descriptor is closed then."""
    look = select.poll()
    look.register(descriptor, select.POLLIN)
    if not look.poll(0):
        return False
    os.close(descriptor)
    return True


if __name__ == "__main__":
    _hold(sys.stdin.buffer)
