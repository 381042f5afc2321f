"""How a training process and the process that started it talk: no signals, so that it works through ``torchrun`` too.

The parent holds the standard input of the child open. The input ends when the parent wants the child to stop, and also
when the parent is killed; so no child outlives its parent for long. Progress goes to standard output, one JSON array a
line, among whatever libraries print there.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from weir.models.types import Progress

STOPPED: Final = 75
"""Exit status of a child that was asked to stop (``EX_TEMPFAIL``: the same call may succeed later)."""
UNABLE: Final = 74
"""Exit status of a child that could not read or write a file (``EX_IOERR``): the same call may succeed later."""
STOP_S: Final = 30.0
"""Seconds a child may take to write its checkpoint before it ends itself."""


def stop_with_parent() -> threading.Event:
    """Watch the standard input of this process; returns the event that is set when the input ends.

    ``STOP_S`` later the process ends with status ``STOPPED``, whatever it is doing: a step that hangs in a collective
    operation, because the other processes are gone, would never look at the event.
    """
    stop = threading.Event()
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()
    return stop


def _watch(stop: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    stop.set()
    timer = threading.Timer(STOP_S, os._exit, [STOPPED])
    # A training that writes its checkpoint in time ends by itself, with its own status.
    timer.daemon = True
    timer.start()


def tell_progress(what: str, done: int, of: int) -> None:
    """Write one line of progress to the parent; a ``Progress``."""
    # One unbuffered write a line: lines of several processes, or of a library, do not get mixed up within each other.
    with suppress(BrokenPipeError):  # the parent was killed: the end of the input says so, and a checkpoint comes first
        os.write(1, json.dumps([what, done, of]).encode() + b"\n")


def tell_unable(error: OSError) -> None:
    """Tell the parent which file could not be read or written: not by a file, as the disk may be full."""
    with suppress(BrokenPipeError):  # as above
        os.write(1, json.dumps(["unable", str(error)]).encode() + b"\n")


def read_progress(lines: Iterable[bytes], progress: Progress) -> str | None:
    """Pass the progress among the ``lines`` of a child's standard output on, until its output ends.

    Returns why it was unable to read or write a file, where it said so.
    """
    unable = None
    for line in lines:
        # Whatever else is JSON was printed by a library, such as a number alone on its line. An error here would end
        # the reader, and with it the training: the child waits in its next write once the pipe is full.
        try:
            told = json.loads(line)
        except ValueError:
            continue
        match told:
            case [str(what), int(done), int(of)]:
                progress(what, done, of)
            case ["unable", str(words)]:
                unable = words
    return unable
