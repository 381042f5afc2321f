"""Shows snapshots while a demo runs: a live screen on a terminal, a plain line now and then anywhere else.

It decides what gets which lines of the screen, and what remains on it in the end; the panels draw themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from weir.streams.demo.screen import panels
from weir.streams.demo.screen.number_words import event_time, milliseconds, minutes
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.text import printable

SIDE_BY_SIDE: Final = 130
"""From this width on, drift stands beside the alerts instead of below them."""
_FRAME: Final = 2
_FOOT: Final = 2


def render_screen(snapshot: DemoSnapshot, width: int = 100, height: int = 30) -> RenderableType:
    """Draw ``snapshot`` in ``width`` columns and at most ``height`` lines (80 by 24 or more).

    Lines go to the tasks first, then a few to drift, and what is left to the alerts.
    """
    head = panels.header(snapshot, width)
    head_lines = _FRAME + 1 + len(panels.vital_lines(snapshot, width))
    task_rows = min(max(len(snapshot.tasks), 1), max(height // 5, 2))
    task_lines = task_rows + _FRAME + (1 if snapshot.tasks else 0)
    full_lines = len(snapshot.full) + _FRAME if snapshot.full else 0
    foot = [panels.pages(snapshot.console)] if snapshot.console else []
    left = max(height - head_lines - task_lines - full_lines - _FOOT - len(foot), 6)
    parts = [panels.tasks(snapshot, width, task_rows), *([panels.full(snapshot.full, width)] if snapshot.full else [])]
    return Group(head, *parts, _middle(snapshot, width, left), panels.health(snapshot), *foot, panels.footer(snapshot))


def _middle(snapshot: DemoSnapshot, width: int, lines: int) -> RenderableType:
    total = sum(task.alerts_open for task in snapshot.tasks)
    if width >= SIDE_BY_SIDE:
        room = lines - _FRAME
        grid = Table.grid(expand=True)
        grid.add_column(ratio=3)
        grid.add_column(ratio=2)
        left = width * 3 // 5
        grid.add_row(panels.alerts(snapshot.alerts, room, total, left), panels.drifts(snapshot.drifts, room, wrap=True))
        return grid
    most = 1 if lines < 10 else 2 if lines < 14 else 3 if lines < 20 else 6
    drift_room = min(max(len(snapshot.drifts), 1), most)
    alert_room = max(lines - drift_room - 2 * _FRAME, 2)
    return Group(panels.alerts(snapshot.alerts, alert_room, total, width), panels.drifts(snapshot.drifts, drift_room))


@dataclass(frozen=True, slots=True)
class ScreenView:
    """A snapshot that draws itself in whatever size the console has at the moment."""

    snapshot: DemoSnapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the size in ``options``."""
        height = options.height or console.height
        yield render_screen(self.snapshot, options.max_width, height)


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
            # Not by print: where no terminal is, rich would break it at 80 columns.
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
    # The file may be of any encoding, and a line that cannot be written would end the run.
    return " ".join(words).encode("ascii", "replace").decode()


_ALERTS = 6
_DRIFTS = 14


def render_summary(snapshot: DemoSnapshot, files: Sequence[tuple[str, str]], width: int = 100) -> RenderableType:
    """Draw the last ``snapshot`` and the ``files`` (what, path) in ``width`` columns; paths are never cut."""
    total = sum(task.alerts_open for task in snapshot.tasks)
    return Group(
        panels.framed("weir demo: done", _headline(snapshot)),
        panels.tasks(snapshot, width, max(len(snapshot.tasks), 1)),
        *([panels.full(snapshot.full, width)] if snapshot.full else []),
        panels.alerts(snapshot.alerts, min(len(snapshot.alerts), _ALERTS) + 1, total, width),
        panels.framed("Drift", _drift_lines(snapshot)),
        panels.health(snapshot),
        panels.framed("Files", _file_table(files)),
    )


def _headline(snapshot: DemoSnapshot) -> RenderableType:
    learned = sum(task.labels for task in snapshot.tasks)
    opened = sum(task.alerts_opened for task in snapshot.tasks)
    found = snapshot.drifts_found
    return Text.assemble(
        (f"{snapshot.events:,}", "bold green"),
        f" events in {snapshot.elapsed_s:.0f} s ",
        (f"({snapshot.events_per_s:,.0f} a second", "bold green"),
        f", p99 {milliseconds(snapshot.latency_p99_ms)}), {learned:,} labels learned, ",
        f"{opened:,} alerts opened, {found} drift{'' if found == 1 else 's'} noticed.",
    )


def _drift_lines(snapshot: DemoSnapshot) -> RenderableType:
    if not snapshot.drifts:
        return panels.quiet("Nothing has moved.")
    return Group(*(panels.drift_line(row) for row in snapshot.drifts[:_DRIFTS]))


def _file_table(files: Sequence[tuple[str, str]]) -> RenderableType:
    if not files:
        return panels.quiet("Nothing was written.")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for what, path in files:
        table.add_row(Text(printable(what)), Text(printable(path)))
    panels.cut(table)
    table.columns[1].no_wrap = False
    table.columns[1].overflow = "fold"
    return table
