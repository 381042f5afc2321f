"""Several processes of one command on one machine: kept running, and ended together.

One that ends by itself is started again, after a pause that grows while it keeps ending soon. Each has a process group
of its own, so that Ctrl-C in a terminal reaches only us; and a pipe of ours as its standard input, so that it ends when
we do, whatever ended us (`end_with_stdin`). It does not know what the processes do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from weir.streams.ops.signals import stop_signals

log = logging.getLogger(__name__)

STDIN: Final = 0
WEIR: Final = (sys.executable, "-P", "-m", "weir.streams.cli.main")
"""The command in a process of its own; ``-P``, or a folder ``models`` of the current directory would be ours."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before a process that ended is started again, in seconds."""

    first_s: float = 1.0
    """Doubled each time that it ends sooner than ``steady_s`` after its start."""
    longest_s: float = 30.0
    steady_s: float = 60.0

    def after(self, last_s: float, lived_s: float) -> float:
        """The pause after one of ``last_s`` and a life of ``lived_s``.

        >>> Pauses().after(0.0, 3.0), Pauses().after(16.0, 3.0), Pauses().after(16.0, 90.0)
        (1.0, 30.0, 1.0)
        """
        if lived_s >= self.steady_s or not last_s:
            return self.first_s
        return min(2.0 * last_s, self.longest_s)


class Fleet:
    """Processes that are kept running until a signal comes.

    Parameters
    ----------
    commands : the argument list of each.
    pauses : before one is started again.
    """

    def __init__(self, commands: Sequence[Sequence[str]], pauses: Pauses | None = None) -> None:
        self._commands, self._pauses = commands, pauses or Pauses()
        self._running: dict[int, Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM or Ctrl-C, which all are told once; 0 or 130 when all ended well, else a status of theirs.

        A second Ctrl-C kills them.
        """
        with stop_signals(asyncio.get_running_loop(), self._stop, self._end_at_once) as caught:
            # Handlers stay until all have ended: a second Ctrl-C has to find one.
            statuses = await asyncio.gather(*(self._keep(number) for number in range(len(self._commands))))
        return next((status for status in statuses if status), caught.status)

    def _stop(self) -> None:
        self._stopping.set()
        self._send(signal.SIGTERM)

    def _end_at_once(self, status: int) -> None:
        self._send(signal.SIGKILL)
        os._exit(status)

    def _send(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> int:
        """Keep one running; its exit status after it was told to end."""
        loop, pause_s = asyncio.get_running_loop(), 0.0
        while not self._stopping.is_set():
            started = loop.time()
            status = await self._once(number)
            if self._stopping.is_set():
                return 0 if status == -signal.SIGTERM else status  # told before it could listen
            # Else one that cannot start, for a broken setting say, would take a core for nothing.
            pause_s = self._pauses.after(pause_s, loop.time() - started)
            words = "process %d of %d ended with status %d; it starts again in %g s"
            log.error(words, number + 1, len(self._commands), status, pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
        return 0

    async def _once(self, number: int) -> int:
        # The pipe is never written to: its end is what tells the child that we are gone.
        process = await asyncio.create_subprocess_exec(*self._commands[number], stdin=PIPE, process_group=0)
        self._running[number] = process
        try:
            if self._stopping.is_set():  # it came too late to be told with the others
                process.terminate()
            return await process.wait()
        finally:
            del self._running[number]


def end_with_stdin() -> None:
    """Ask this process to end, as SIGTERM does, when its standard input ends: when whoever started it is gone."""

    def wait() -> None:
        while os.read(STDIN, 1):  # not sys.stdin, whose lock would be held while the interpreter ends
            continue
        # The way a supervisor asks, so that there is one way to stop.
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end with stdin", daemon=True).start()
