"""Shows snapshots while a demo runs: a live screen on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import math
from typing import Final

from rich.console import Console
from rich.live import Live

from weir.streams.demo.screen.number_words import event_time, minutes
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.demo.screen.view import ScreenView
from weir.streams.text import printable

PLAIN_EVERY_S: Final = 5.0
"""Between two plain lines."""


class DemoDisplay:
    """``update`` shows a snapshot; once closed, the terminal is as it was.

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
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Give the terminal back."""
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


def plain_line(snapshot: DemoSnapshot) -> str:
    """The snapshot as one line of ASCII.

    Examples
    --------
    >>> plain_line(DemoSnapshot(10.0, 60.0, 800_000, 80_000.0, 1_770_905_100.0, 2.0, 4.0, 9.0))
    '00:10/01:00 events=800000 rate=80000/s event_time=2026-02-12T14:05Z p99=9.0ms alerts=0 drifts=0 dead=0'
    """
    open_alerts = sum(task.alerts_open for task in snapshot.tasks)
    words = [
        f"{minutes(snapshot.elapsed_s)}/{minutes(snapshot.duration_s)}",
        f"events={snapshot.events}",
        f"rate={snapshot.events_per_s:.0f}/s",
        f"event_time={event_time(snapshot.event_ts, '%Y-%m-%dT%H:%MZ')}",
        f"p99={snapshot.latency_p99_ms:.1f}ms",
    ]
    for task in snapshot.tasks:
        value = task.metrics.get(task.main_metric, math.nan)
        if math.isfinite(value):
            words.append(printable(f"{task.name}.{task.main_metric}={value:.3f}"))
    words += [printable(f"{row.task}.full=v{row.serving}") for row in snapshot.full]
    words += [f"alerts={open_alerts}", f"drifts={snapshot.drifts_found}", f"dead={snapshot.dead_letters}"]
    return " ".join(words).encode("ascii", "replace").decode()
