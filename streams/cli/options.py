"""What the commands that talk to a broker have in common: where its settings are, and how bytes and times look."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from streams.settings import Settings, load_settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file; else $WEIR_CONFIG, else ./weir.toml.", show_default=False),
]
BootstrapOption = Annotated[
    str | None,
    typer.Option("--bootstrap", "-b", help="HOST:PORT of a broker, instead of [kafka] bootstrap.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

INTERRUPTED = 130
_PIPE_WIDTH = 200


def settings_of(config: Path | None, bootstrap: str | None) -> Settings:
    """The settings that a command was given."""
    return load_settings(config, bootstrap=bootstrap)


def notes() -> Console:
    """Where words about a command go, so that its output can be piped."""
    return Console(stderr=True, highlight=False)


def output() -> Console:
    """Where results go; wide where no terminal sets a width, so that a pipe gets whole lines."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_PIPE_WIDTH)


def table(*columns: str, title: str | None = None) -> Table:
    """A table without frames; a column whose name ends in ``>`` is aligned to the right."""
    made = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in columns:
        made.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    return made


def utc(ts: float) -> str:
    """Epoch seconds as people read them.

    >>> utc(1.7e9)
    '2023-11-14 22:13:20'
    """
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S")


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
