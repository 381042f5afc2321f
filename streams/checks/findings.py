"""One finding about what a worker stands on: what was looked at, what was found, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from rich.table import Table


Verdict = Literal["OK", "WARN", "FAIL"]
STYLES: Final[dict[Verdict, str]] = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found, and how to mend it where something is wrong."""

    name: str
    status: Verdict
    found: str
    fix: str = ""


def check_codecs() -> Check:
    """Which compressed records can be read here."""
    if find_spec("cramjam") is not None:
        return Check("codecs", "OK", "gzip, snappy, lz4 and zstd can be read")
    return Check(
        "codecs", "WARN", "only gzip can be read: other batches become dead letters", "pip install 'weir[kafka]'"
    )


def checks_table(checks: Sequence[Check]) -> Table:
    """The checks as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bright_black", padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("", "check", "found", "fix"):
        table.add_column(title, overflow="fold", no_wrap=title == "check")
    for check in checks:
        name = Text(check.name, style="bold")
        table.add_row(Text(check.status, style=STYLES[check.status]), name, Text(check.found), Text(check.fix))
    return table
