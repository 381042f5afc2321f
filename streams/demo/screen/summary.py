"""What remains on the terminal when the demo has ended."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from weir.streams.demo.screen.number_words import milliseconds
from weir.streams.demo.screen.panels import alerts, cut, drift_line, framed, full, health, quiet, tasks
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.text import printable

_ALERTS = 6
_DRIFTS = 14


def render_summary(snapshot: DemoSnapshot, files: Sequence[tuple[str, str]], width: int = 100) -> RenderableType:
    """Draw the last ``snapshot`` and the ``files`` (what, path) in ``width`` columns; paths are never cut."""
    total = sum(task.alerts_open for task in snapshot.tasks)
    return Group(
        framed("weir demo: done", _headline(snapshot)),
        tasks(snapshot, width, max(len(snapshot.tasks), 1)),
        *([full(snapshot.full, width)] if snapshot.full else []),
        alerts(snapshot.alerts, min(len(snapshot.alerts), _ALERTS) + 1, total, width),
        framed("Drift", _drift_lines(snapshot)),
        health(snapshot),
        framed("Files", _file_table(files)),
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
        return quiet("Nothing has moved.")
    return Group(*(drift_line(row) for row in snapshot.drifts[:_DRIFTS]))


def _file_table(files: Sequence[tuple[str, str]]) -> RenderableType:
    if not files:
        return quiet("Nothing was written.")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    for what, path in files:
        table.add_row(Text(printable(what)), Text(printable(path)))
    cut(table)
    table.columns[1].no_wrap = False
    table.columns[1].overflow = "fold"
    return table
