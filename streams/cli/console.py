"""How commands talk to people: tables, bars, questions, and how bytes and times look."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson
import typer

from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, TaskID
    from rich.table import Table

_PIPE_WIDTH: Final = 10_000
"""Columns where no terminal is: wider than any row, so that a row stays one line for ``grep``."""


def confirmed(question: str) -> bool:
    """Whether a person says yes; raises ``UsageError`` where nobody is there to be asked."""
    try:
        # The question goes where notes go: the output may be piped.
        return typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():  # somebody is there, and pressed Ctrl-C
            raise
        raise UsageError(f"{question} Nobody there to answer: give --yes") from None


def notes() -> Console:
    """Where words about a command go, so that its output can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(words: str, style: str | None = None) -> None:
    """Tell a person something; as it is written, for what is told is often named by others, and in whole lines."""
    notes().print(words, style=style, markup=False, soft_wrap=True)


def output() -> Console:
    """Where results go; wide where no terminal sets a width, so that a pipe gets whole lines."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_PIPE_WIDTH)


def bars(*columns: ProgressColumn) -> Progress:
    """Progress bars with ``columns`` behind them, gone when they end; none where no terminal is."""
    from rich.progress import BarColumn, Progress, TextColumn

    console = notes()
    # Without markup: what is being done is often named by a file, whose name may hold brackets.
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), *columns)
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def bar(what: str, before: str = "", elapsed: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """One bar, moved by a call: what is done just now, written behind ``before``, how much of it, and of how many."""
    from rich.progress import TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn

    with bars(TaskProgressColumn(), TimeElapsedColumn() if elapsed else TimeRemainingColumn()) as shown:
        row = shown.add_task(what, total=None)
        yield lambda now, done, total: shown.update(row, description=before + now, completed=done, total=total)


@contextmanager
def bar_of_each(*columns: ProgressColumn, done: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that a call names, how far it is and of how many; without ``done`` it goes at its end."""
    with bars(*columns) as shown:
        rows: dict[str, TaskID] = {}

        def update(what: str, so_far: int, total: int) -> None:
            if what not in rows:
                rows[what] = shown.add_task(what, total=total)
            shown.update(rows[what], completed=so_far, total=total, visible=done or so_far < total)

        yield update


def to_json(document: object) -> str:
    """A document for programs, laid out so that people can read it too."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def table(*columns: str, rows: Iterable[Sequence[object]] = (), title: str | None = None) -> Table:
    """A table of ``rows`` without frames; a column whose name ends in ``>`` is aligned to the right.

    Where no column has a name there is no line of names.
    """
    from rich.table import Table

    made = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    made.show_header = any(columns)
    for name in columns:
        # Folded: rich would cut a long id with an ellipsis, and nobody could copy it.
        made.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def utc(ts: float) -> str:
    """Epoch seconds as people read them; the number where no calendar has that time.

    >>> utc(1.7e9), utc(9e15)
    ('2023-11-14 22:13:20', '9e+15 s')
    """
    # Producers stamp records with what they like, and a table must not fail for one of its rows.
    try:
        return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{ts:g} s"


def size(count: int | None) -> str:
    """A number of bytes in a unit that suits it.

    >>> size(512), size(2_500_000), size(None)
    ('512 B', '2.5 MB', '-')
    """
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


@contextmanager
def piped() -> Iterator[None]:
    """What writes a stream to stdout ends in silence where its reader has gone."""
    try:
        yield
    except BrokenPipeError:
        # The interpreter's last flush of stdout goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise typer.Exit(0) from None
