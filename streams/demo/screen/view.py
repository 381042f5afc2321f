"""The whole screen for a given size. It decides what gets which lines; the parts draw themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table

from weir.streams.demo.screen.panels import alerts, drifts, footer, full, header, health, tasks, vital_lines
from weir.streams.demo.screen.snapshot import DemoSnapshot

SIDE_BY_SIDE: Final = 130
"""From this width on, drift stands beside the alerts instead of below them."""
_FRAME: Final = 2
_FOOT: Final = 2


def render_screen(snapshot: DemoSnapshot, width: int = 100, height: int = 30) -> RenderableType:
    """Draw ``snapshot`` in ``width`` columns and at most ``height`` lines (80 by 24 or more).

    Lines go to the tasks first, then a few to drift, and what is left to the alerts.
    """
    head = header(snapshot, width)
    head_lines = _FRAME + 1 + len(vital_lines(snapshot, width))
    task_rows = min(max(len(snapshot.tasks), 1), max(height // 5, 2))
    task_lines = task_rows + _FRAME + (1 if snapshot.tasks else 0)
    full_lines = len(snapshot.full) + _FRAME if snapshot.full else 0
    left = max(height - head_lines - task_lines - full_lines - _FOOT, 6)
    parts = [tasks(snapshot, width, task_rows), *([full(snapshot.full, width)] if snapshot.full else [])]
    return Group(head, *parts, _middle(snapshot, width, left), health(snapshot), footer(snapshot))


def _middle(snapshot: DemoSnapshot, width: int, lines: int) -> RenderableType:
    total = sum(task.alerts_open for task in snapshot.tasks)
    if width >= SIDE_BY_SIDE:
        room = lines - _FRAME
        grid = Table.grid(expand=True)
        grid.add_column(ratio=3)
        grid.add_column(ratio=2)
        left = width * 3 // 5
        grid.add_row(alerts(snapshot.alerts, room, total, left), drifts(snapshot.drifts, room, wrap=True))
        return grid
    most = 1 if lines < 10 else 2 if lines < 14 else 3 if lines < 20 else 6
    drift_room = min(max(len(snapshot.drifts), 1), most)
    alert_room = max(lines - drift_room - 2 * _FRAME, 2)
    return Group(alerts(snapshot.alerts, alert_room, total, width), drifts(snapshot.drifts, drift_room))


@dataclass(frozen=True, slots=True)
class ScreenView:
    """A snapshot that draws itself in whatever size the console has at the moment."""

    snapshot: DemoSnapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the size in ``options``."""
        height = options.height or console.height
        yield render_screen(self.snapshot, options.max_width, height)
