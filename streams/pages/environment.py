"""The templates of pages, and how they write values. It knows neither a service nor what is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from weir.streams.pages.values import FOLDER, NOTHING, day, number, percent


def environment(templates: Path) -> Environment:
    """Templates of this folder and the shared ones; what they are told is escaped, and must be there."""
    # Files of a release do not change: with `auto_reload` Jinja would look at each of them for every page.
    made = Environment(
        loader=FileSystemLoader([templates, FOLDER / "templates"]), autoescape=True, undefined=StrictUndefined,
        auto_reload=False, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"when": when, "number": number, "day": day, "percent": percent}
    return made


def when(ts: float | None) -> Markup:
    """A time as an element that the browser shows in its own zone; a dash for none, and as it is what is no time.

    >>> str(when(1_700_000_000.0))
    '<time datetime="2023-11-14T22:13:20Z" data-when>2023-11-14 22:13:20 UTC</time>'
    >>> str(when(1_700_000_000_000))
    '1,700,000,000,000'
    """
    if ts is None:
        return Markup(NOTHING)
    try:
        at = datetime.fromtimestamp(ts, UTC)
    except (OverflowError, ValueError, OSError):  # of a record that was refused: in milliseconds it is in no year
        return Markup(number(ts))
    made = Markup('<time datetime="{}" data-when>{} UTC</time>')
    return made.format(at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%d %H:%M:%S"))
