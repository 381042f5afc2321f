"""Shows snapshots while a demo runs: a live screen on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live

from weir.streams.demo.screen.plain_lines import plain_line
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.demo.screen.view import ScreenView

PLAIN_EVERY_S: Final = 5.0
"""Between two plain lines."""


class DemoDisplay:
    """A context in which ``update`` shows a snapshot; the terminal is as it was afterwards.

    It starts no thread and reads no clock: it draws when it is told to, and spaces plain lines by the
    snapshots' own ``elapsed_s``.

    Parameters
    ----------
    console : where to draw; a live screen if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._last_plain_s = -math.inf

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, snapshot: DemoSnapshot) -> None:
        """Show ``snapshot``; a plain line only when it is due."""
        if self._live is not None:
            self._live.update(ScreenView(snapshot), refresh=True)
        elif snapshot.elapsed_s - self._last_plain_s >= PLAIN_EVERY_S:
            self._last_plain_s = snapshot.elapsed_s
            self.console.file.write(plain_line(snapshot) + "\n")
            self.console.file.flush()
