"""Writes a changed task back into its file: what did not change stays as it was written, comments too.

The text is cut at its headers into blocks, and each block into entries; an entry whose value is the same is copied. The
result is read again, and where it does not say what it should the whole document is written anew, without comments.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

_HEADER = re.compile(r"\s*(\[{1,2})\s*([\w-]+(?:\s*\.\s*[\w-]+)*)\s*\]{1,2}\s*(?:#.*)?")
_BARE = re.compile(r"[\w-]+")
Path = tuple[str | int, ...]


class _Block(NamedTuple):
    """A header with the lines up to the next one."""

    header: list[str]
    """With the comments and blanks in front of it; none for the top of the file."""
    entries: list[tuple[str, list[str]]]
    """Keys with their lines and the comments in front; "" for what stands behind the last."""


def rewritten(text: str, new: Mapping[str, Any]) -> str:
    """The text of ``new``, a document that differs from the one in ``text``.

    >>> print(rewritten('a = 1  # one' + chr(10) + 'b = 2', {"a": 1, "b": 3, "c": {"d": [True]}}))
    a = 1  # one
    b = 3
    <BLANKLINE>
    [c]
    d = [true]
    <BLANKLINE>
    """
    with suppress(tomllib.TOMLDecodeError, LookupError, TypeError, AttributeError):
        made = "\n".join(_emitted(_blocks(text), (), new, tomllib.loads(text))).strip("\n") + "\n"
        if tomllib.loads(made) == new:
            return made
    return "\n".join(_emitted({}, (), new, {})).strip("\n") + "\n"


def _blocks(text: str) -> dict[Path, _Block]:
    """The blocks of a text by where their headers lead."""
    counts: dict[Path, int] = {}
    block, before, at = _Block([], []), list[str](), 0
    found: dict[Path, _Block] = {(): block}
    lines = text.splitlines()
    while at < len(lines):
        stop = at + 1
        if header := _HEADER.fullmatch(lines[at]):
            block = found[_path(header, counts)] = _Block([*before, lines[at]], [])
            before = []
        elif not lines[at].strip() or lines[at].lstrip().startswith("#"):
            before.append(lines[at])
        else:
            while (key := _key("\n".join(lines[at:stop]))) is None:  # a value over several lines
                stop += 1
                if stop > len(lines):
                    raise KeyError(lines[at])
            block.entries.append((key, [*before, *lines[at:stop]]))
            before = []
        at = stop
    block.entries.append(("", before))
    return found


def _path(found: re.Match[str], counts: dict[Path, int]) -> Path:
    """Where a header leads: names, and behind that of an array of tables the number of the element."""
    *outer, last = (part.strip() for part in found[2].split("."))
    path: Path = ()
    for name in outer:
        path = (*path, name)
        path = (*path, counts[path]) if path in counts else path
    path = (*path, last)
    if found[1] == "[[":
        counts[path] = counts.get(path, -1) + 1
        path = (*path, counts[path])
    return path


def _key(text: str) -> str | None:
    try:
        return next(iter(tomllib.loads(text)))
    except tomllib.TOMLDecodeError:
        return None


def _emitted(
    blocks: Mapping[Path, _Block], path: Path, new: Mapping[str, Any], old: Mapping[str, Any]
) -> Iterator[str]:
    """The lines of a table ``new`` that was ``old`` at ``path``, and of all tables in it."""
    block = blocks.get(path, _Block([], []))
    yield from block.header
    there, last = {key for key, _ in block.entries}, []
    for key, lines in block.entries:
        if not key:
            last = lines
        elif key in new:
            yield from lines if old[key] == new[key] else [f"{_name(key)} = {value_text(new[key])}"]
    inner = {k: value for k, value in new.items() if k not in there and _is_table(value) and k != "params"}
    yield from (f"{_name(k)} = {value_text(v)}" for k, v in new.items() if k not in there and k not in inner)
    yield from last
    for key, value in inner.items():
        was = old.get(key, {})
        many = isinstance(value, list)
        for k, each in enumerate(value if many else [value]):
            at = _place(each, k, was) if many else None
            inside = (*path, key) if at is None else (*path, key, at)
            held = was if not many else (was[at] if at is not None and at < len(was) else {})
            if inside not in blocks and (many or not held or not all(map(_is_table, each.values()))):
                names = ".".join(_name(str(part)) for part in (*path, key) if isinstance(part, str))
                yield from ("", f"[[{names}]]" if many else f"[{names}]")
            yield from _emitted(blocks, inside, each, held)


def _place(element: Mapping[str, Any], k: int, was: Any) -> int:
    """Where an element of an array of tables was: by its name, or by its place where it has none; else behind all."""
    names = [each.get("name") for each in was] if isinstance(was, list) else []
    name = element.get("name")
    return (names.index(name) if name in names else len(names)) if name is not None else k


def _is_table(value: Any) -> bool:
    """Whether a value gets a header of its own: tables, and arrays of tables."""
    return isinstance(value, dict) or (
        isinstance(value, list) and value != [] and all(isinstance(v, dict) for v in value)
    )


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def value_text(value: Any) -> str:
    """A value in TOML on one line.

    >>> value_text({"a": [1, 0.5, "x"], "b": True})
    '{ a = [1, 0.5, "x"], b = true }'
    """
    if isinstance(value, dict):
        inside = ", ".join(f"{_name(key)} = {value_text(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else repr(value)
