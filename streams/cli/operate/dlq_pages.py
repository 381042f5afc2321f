"""How dead letters look: groups, lines and pages, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from weir.streams.cli.console import notes, output, table, to_json, utc
from weir.streams.kafka.admin.dead_letters import Letter, Place, grouped
from weir.streams.kafka.admin.printed_records import TEXT_CHARS, parse
from weir.streams.text import printable

_ROW_CHARS: Final = 90


def list_groups(letters: Iterator[Letter], as_json: bool) -> None:
    """Print letters by topic and reason, the most frequent first."""
    groups = grouped(letters)
    found = [(g, g.newest) for g in groups if g.newest is not None]
    if as_json:
        told = [
            {"topic": g.topic, "reason": g.kind, "count": g.count, "newest": str(n.place), "at": n.content.failed_at}
            for g, n in found
        ]
        print(to_json(told))
        return
    rows = [
        (f"{g.count:,}", g.topic, printable(g.kind, _ROW_CHARS), utc(newest.content.failed_at), _short(newest.place))
        for g, newest in found
    ]
    if rows:
        output().print(table("count>", "topic", "reason", "newest (UTC)", "newest id", rows=rows))
    notes().print(f"{sum(g.count for g in groups):,} dead letters in {len(groups)} groups")


def list_each(letters: Iterator[Letter], as_json: bool) -> None:
    """Print a line a letter."""
    if as_json:
        for letter in letters:
            print(orjson.dumps(document(letter)).decode())
        return
    rows = []
    for letter in letters:
        c = letter.content
        state = (letter.done.action if letter.done is not None else "open") + (", cut" if c.raw_bytes else "")
        rows.append((_short(letter.place), letter.origin, utc(c.failed_at), state, printable(c.reason, _ROW_CHARS)))
    if rows:
        output().print(table("id", "from", "at (UTC)", "", "reason", rows=rows))
    notes().print(f"{len(rows):,} dead letters")


def page(letter: Letter) -> str:
    """One letter for a person, all of it."""
    c = letter.content
    state = f"{letter.done.action} at {utc(letter.done.at)}" if letter.done is not None else "open"
    parsed = parse(c.raw)
    if parsed is not None:
        raw = to_json(parsed)
    else:
        raw = f"not JSON: {printable(c.raw, 4_000)}" if c.raw else "no bytes at all"
    lines = [
        f"letter    {letter.place} ({state})",
        f"from      {letter.origin}",
        f"key       {printable(c.key, TEXT_CHARS) if c.key else 'not known'}",
        f"refused   {utc(c.failed_at)} UTC",
        f"reason    {printable(c.reason, 2_000)}",
        f"record    {_size(letter)}",
        "\n".join(f"  {printable(text, 1_000)}" for text in raw.splitlines()),
    ]
    return "\n".join(lines)


def _size(letter: Letter) -> str:
    """How large the record is, and how much of it the letter holds."""
    c = letter.content
    what = f"offsets {c.offset} to {c.last_offset}, as they are in the log, " if c.last_offset is not None else ""
    cut = f" of {c.raw_bytes:,} (sha256 {c.raw_sha256}); the letter holds the first" if c.raw_bytes is not None else ""
    return f"{what}{len(c.raw):,} bytes{cut}"


def document(letter: Letter) -> dict[str, Any]:
    """One letter for programs."""
    c, done = letter.content, letter.done
    state = "open" if done is None else done.action
    # As it is on the wire: `model_dump` would leave bytes, which JSON does not have.
    held: dict[str, Any] = orjson.loads(c.model_dump_json())
    return {"id": str(letter.place), "origin": str(letter.origin), "state": state, **held}


def _short(place: Place) -> str:
    return f"{place.partition}-{place.offset}"
