"""The parts of the screen, each a pure function of a snapshot and the room it may take."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from weir.online.decisions.alert_state import AlertState, Severity
from weir.streams.demo.screen import number_words
from weir.streams.demo.screen.snapshot import DemoSnapshot, Finding, FullRow, TaskRow
from weir.streams.text import printable

_SEVERITIES: Final[dict[Severity, tuple[str, str]]] = {
    "critical": ("CRIT", "bold white on red"),
    "high": ("HIGH", "bold red"),
    "medium": ("MED", "yellow"),
    "low": ("LOW", "cyan"),
}
"""What each is called where there is little room, and its style."""
_HEADING: Final = "bold cyan"
_QUIET: Final = "bright_black"
_NARROW: Final = 96
_ROOMY: Final = 20
_WIDE: Final = 152


def framed(title: str, content: RenderableType, note: str = "", room: int | None = None) -> Panel:
    """A panel with a title above and a note below; ``room`` lines of content, cut or filled up."""
    return Panel(
        content,
        title=Text(title, style=_HEADING),
        title_align="left",
        subtitle=Text(note, style=_QUIET) if note else None,
        subtitle_align="right",
        border_style=_QUIET,
        box=box.ROUNDED,
        padding=(0, 1),
        height=None if room is None else room + 2,
    )


def header(snapshot: DemoSnapshot, width: int) -> RenderableType:
    """Progress and event time, throughput, latency: two lines, or three where the screen is narrow."""
    first = Table.grid(expand=True, padding=(0, 1))
    first.add_column(no_wrap=True)
    first.add_column(ratio=1)
    first.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(
        total=snapshot.duration_s or 1.0,
        completed=min(snapshot.elapsed_s, snapshot.duration_s),
        complete_style="cyan",
        finished_style="green",
    )
    first.add_row(
        Text.assemble("event time ", (number_words.event_time(snapshot.event_ts), "bold"), (" UTC", _QUIET)),
        bar,
        Text(f"{number_words.minutes(snapshot.elapsed_s)} / {number_words.minutes(snapshot.duration_s)}", style="bold"),
    )
    return framed("weir demo", Group(first, *vital_lines(snapshot, width)))


def vital_lines(snapshot: DemoSnapshot, width: int) -> list[Text]:
    """Throughput and latency: one line where they fit side by side, else two."""
    rate = (number_words.sparkline(snapshot.rate_history, 10 if width < _NARROW else 16), "green")
    so_far = f"  {snapshot.events:,} so far"
    speed = one_line((f"{snapshot.events_per_s:,.0f}", "bold green"), " events/s ", rate, so_far)
    of = {"p50": snapshot.latency_p50_ms, "p95": snapshot.latency_p95_ms, "p99": snapshot.latency_p99_ms}
    latency = one_line("latency ", *_pairs(*((name, number_words.milliseconds(value)) for name, value in of.items())))
    if speed.cell_len + latency.cell_len + 7 > width:
        return [speed, latency]
    gap = width - 4 - speed.cell_len - latency.cell_len
    return [one_line(speed, " " * gap, latency)]


def one_line(*parts: str | Text | tuple[str, str]) -> Text:
    """Parts with their styles on a line that is cut, never wrapped."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _pairs(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    """``name value`` pieces, names quiet and values bold."""
    return [piece for name, value in pairs for piece in ((f"{name} ", _QUIET), (f"{value}  ", "bold"))]


def tasks(snapshot: DemoSnapshot, width: int, rows: int) -> RenderableType:
    """A table of the tasks: how much they scored and learned, how well, and their alerts."""
    wide = width >= _WIDE
    metrics = metric_columns(snapshot.tasks, 2 if width < _NARROW else 6 if wide else 3)
    spark = 8 if width < _NARROW else 36 if wide else 14
    table = plain_table()
    table.add_column("task", ratio=1, min_width=min(max((len(task.name) for task in snapshot.tasks), default=0), 16))
    for title in ("scored", "learned", *(printable(number_words.metric_name(name)) for name in metrics)):
        table.add_column(title, justify="right")
    table.add_column("trend", width=spark)
    table.add_column("model version" if wide else "model", justify="right")
    table.add_column("threshold" if wide else "thresh.", justify="right")
    table.add_column("alerts open/all" if wide else "alerts", justify="right")
    for task in snapshot.tasks[:rows]:
        table.add_row(*_task_cells(task, metrics, spark))
    if not snapshot.tasks:
        return framed("Tasks", quiet("No task has scored yet."))
    hidden = len(snapshot.tasks) - rows
    return framed("Tasks", cut(table), f"{hidden} more" if hidden > 0 else "metrics: score first, then learn")


def metric_columns(rows: tuple[TaskRow, ...], most: int) -> list[str]:
    """The metrics to show: the tasks' main ones, then the others in the order they come."""
    names = [task.main_metric for task in rows if task.main_metric in task.metrics]
    names += [name for task in rows for name in task.metrics]
    return list(dict.fromkeys(names))[:most]


def _task_cells(task: TaskRow, metrics: list[str], spark: int) -> list[Text]:
    values = []
    for name in metrics:
        style = "bold" if name == task.main_metric else ""
        values.append(Text(number_words.decimals(task.metrics.get(name, float("nan"))), style=style))
    return [
        Text(printable(task.name), style="bold"),
        Text(number_words.short_count(task.scored)),
        Text(number_words.short_count(task.labels)),
        *values,
        Text(number_words.sparkline(task.history, spark), style="green"),
        Text(f"v{number_words.short_count(task.labels)}"),
        Text(number_words.decimals(task.threshold)),
        Text.assemble((number_words.short_count(task.alerts_open), "bold yellow" if task.alerts_open else ""),
                      (f"/{number_words.short_count(task.alerts_opened)}", _QUIET)),
    ]  # fmt: skip


def full(rows: tuple[FullRow, ...], width: int) -> RenderableType:
    """Which full model serves each task, how well it does alone, and what happens with the next one: a line each."""
    title = "Full model" if len(rows) == 1 else "Full models"
    spark = 8 if width < _NARROW else 24
    return framed(title, Group(*(full_line(row, spark) for row in rows)), "trained in the background")


def full_line(row: FullRow, spark: int) -> Text:
    """One full model: the version that serves, the one beside it, its metric, and what is being done."""
    serves = Text.assemble((f"v{row.serving}", "bold green"), " serves")
    beside = f", v{row.shadow} in shadow" if row.shadow else ""
    alone = f"  {row.metric} {number_words.decimals(row.history[-1], 2)} " if row.history else ""
    words = ("  " + printable(row.words), "yellow" if row.busy else _QUIET)
    course = (number_words.sparkline(row.history, spark), "green")
    serves = serves if row.serving else Text("none serves yet")
    return one_line((f"{printable(row.task)}: ", "bold magenta"), serves, beside, (alone, "bold"), course, words)


def alerts(rows: tuple[AlertState, ...], room: int, total: int, width: int) -> RenderableType:
    """The most pressing of ``total`` open alerts: how severe, who, score and why, in ``room`` lines.

    Where there are many lines each alert takes two: the strongest reason stands alone on the first.
    """
    if not rows:
        return framed("Open alerts", quiet("No alert is open."), room=room)
    lines_each = 2 if room >= _ROOMY else 1
    shown = rows[: max((room - 1) // lines_each, 1)]
    table = plain_table()
    table.add_column("", width=4)
    table.add_column("task", max_width=16)
    table.add_column("who", max_width=24 if width >= _NARROW else 16)
    table.add_column("score", justify="right")
    if lines_each == 2:
        table.add_column("since")
    table.add_column("why", ratio=1)
    for alert in shown:
        table.add_row(*_alert_cells(alert, lines_each))
    hidden = max(total, len(rows)) - len(shown)
    return framed("Open alerts", cut(table), f"{hidden:,} more" if hidden else "", room)


def _alert_cells(alert: AlertState, lines: int) -> list[Text]:
    who = printable(alert.entity_id) + (f" x{alert.events}" if alert.events > 1 else "")
    reasons = [printable(reason.text) for reason in alert.reasons]
    cells = [
        Text(*_SEVERITIES[alert.severity]),
        Text(printable(alert.task)),
        Text(who, style="bold"),
        Text(number_words.decimals(alert.score)),
    ]
    if lines == 1:
        return [*cells, Text("; ".join(reasons))]
    why = "\n".join([*reasons[:1], "; ".join(reasons[1:])])
    return [*cells, Text(number_words.event_time(alert.opened_at, "%d %b %Y %H:%M"), style=_QUIET), Text(why)]


def drifts(rows: tuple[Finding, ...], room: int, wrap: bool = False) -> RenderableType:
    """The newest drifts in ``room`` lines, one a line, or as many lines as each needs with ``wrap``."""
    if not rows:
        return framed("Drift", quiet("Nothing has moved."), room=room)
    # A wrapped one takes two lines as a rule.
    lines = [drift_line(row, wrap) for row in rows[: max(room // 2, 1) if wrap else room]]
    hidden = len(rows) - len(lines)
    return framed("Drift", Group(*lines), f"{hidden:,} more" if hidden else "", room)


def drift_line(row: Finding, wrap: bool = False) -> Text:
    """One drift: when, where, and what moved."""
    return Text.assemble(
        (number_words.event_time(row.ts, "%d %b %Y %H:%M") + "  ", _QUIET),
        (f"{printable(row.task)}: ", "bold magenta"),
        printable(row.words),
        no_wrap=not wrap,
        overflow="fold" if wrap else "ellipsis",
    )


def health(snapshot: DemoSnapshot) -> Text:
    """What was not scored, in one line."""
    counts = {"dead letters": snapshot.dead_letters, "duplicates": snapshot.duplicates, "too late": snapshot.late}
    return one_line(" set aside: ", *_pairs(*((name, f"{count:,}") for name, count in counts.items())))


def footer(snapshot: DemoSnapshot) -> RenderableType:
    """Where the files are, and how to stop."""
    stop = Text.assemble(("Ctrl-C", "bold"), (" to stop ", _QUIET))
    line = Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True, justify="right")
    where = "  ".join(f"{what} {path}" for what, path in snapshot.paths)
    line.add_row(Text(printable(f" {where}"), style=_QUIET, no_wrap=True, overflow="ellipsis"), stop)
    return line


def pages(link: str) -> RenderableType:
    """Where the same is shown in the browser."""
    return Text(f" {printable(link)}", style="bold", no_wrap=True, overflow="fold")


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style=_QUIET, pad_edge=False)


def cut(table: Table) -> Table:
    """``table`` with cells that are cut, never wrapped."""
    for column in table.columns:
        column.no_wrap = True
        column.overflow = "ellipsis"
    return table


def quiet(words: str) -> Text:
    """A remark."""
    return Text(words, style=_QUIET, no_wrap=True, overflow="ellipsis")
