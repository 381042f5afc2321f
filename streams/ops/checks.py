"""One finding about what a worker stands on: what was looked at, what was found, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rich.table import Table
from rich.text import Text

Verdict = Literal["OK", "WARN", "FAIL"]
STYLES: Final[dict[Verdict, str]] = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found, and how to mend it where something is wrong."""

    name: str
    status: Verdict
    found: str
    fix: str = ""


def checks_table(checks: Sequence[Check]) -> Table:
    """The checks as a table."""
    table = Table(box=None, header_style="bright_black", padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("", "check", "found", "fix"):
        table.add_column(title, overflow="fold", no_wrap=title == "check")
    for check in checks:
        name = Text(check.name, style="bold")
        table.add_row(Text(check.status, style=STYLES[check.status]), name, Text(check.found), Text(check.fix))
    return table
