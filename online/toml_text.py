"""Reads TOML that people write: what is no TOML is said with its line, and what was probably meant."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import Any, Final

from weir.online.mistakes import name_of

_PLACE: Final = re.compile(r" \(at line (\d+), column (\d+)\)| \(at end of document\)")
# The first that fits the line is told: what is narrower stands before what it is a case of.
_MEANT: Final = (
    (r"[\u2018\u2019\u201c\u201d]", "write plain quotes \" instead of typographic ones"),
    (r"=\s*(True|False)\b", "write true and false in lower case"),
    (r"=\s*(None|null|nil)\b", "TOML has no null: leave the key out"),
    (r'"[^"]*\\', "write a path between single quotes ', or double each backslash"),
    (r"=\s*\d+(\.\d+)?\s*[a-zA-Z%]", "put it in quotes, as \"7d\""),
    (r"=\s*\d+,\d+", "write a decimal point"),
    (r"=\s*[A-Za-z_][\w.-]*\s*(#.*)?$", "put a text in quotes, as name = \"fraud\""),
    (r"=\s*(#.*)?$", "give a value after ="),
    (r"=\s*\(", "write a list in [ ]"),
    (r"^\s*[\w.-]+\s*:\s", "write key = value, as TOML does"),
    (r"^\s*[\w.-]+\s+[\"\w\[]", "put = between a key and its value"),
    (r"^\s*[\w.-]+\s*$", "give it a value, as key = value"),
    (r"^\s*(//|--|;|%)", "begin a comment with #"),
)  # fmt: skip
_TWICE: Final = "it is in the file twice: remove one, or write [[name]] for each of several"


def parse_toml(text: str, where: str) -> dict[str, Any]:
    r"""Read a document; raises ``ValueError`` with line, column, the line itself and a remedy.

    >>> parse_toml("a = 1\nb = fraud", "x.toml")
    Traceback (most recent call last):
    ValueError: x.toml: not TOML: invalid value at line 2, column 5: b = fraud; put a text in quotes, as name = "fraud"
    """
    text = text.removeprefix("\ufeff")
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith(("{", "---", "<")):
        kind = {"{": "JSON", "-": "YAML", "<": "XML"}[start[0]]
        raise ValueError(f"{where}: not TOML: it looks like {kind}; write key = value, and [table] before its keys")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ValueError(f"{where}: not TOML: {_words(str(exc), text)}") from None
    except RecursionError:
        raise ValueError(f"{where}: lists or tables are nested too deeply; give each table a [name]") from None
    except ValueError:  # the one that tomllib lets through is of Python's own numbers
        digits = sys.get_int_max_str_digits()
        raise ValueError(f"{where}: a whole number has more than {digits:,} digits; write a shorter one") from None


def _words(message: str, text: str) -> str:
    # At line feeds alone, as tomllib counts: Python's own lines also end in characters that a comment may hold.
    found, lines = _PLACE.search(message), text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    fault = message[:1].lower() + (message[1 : found.start()] if found else message[1:])
    if found is None or found[1] is None:
        number, column = len(lines), len(lines[-1]) + 1
    else:
        number, column = int(found[1]), int(found[2])
    line = lines[number - 1] if number <= len(lines) else ""
    remedy = next((words for pattern, words in _MEANT if re.search(pattern, line)), "close what was opened before it")
    # tomllib shows the key as a tuple of Python.
    if fault.startswith("cannot declare"):
        fault = fault.replace("', '", ".").translate(dict.fromkeys(map(ord, "(',)")))
    if fault.startswith(("cannot", "unclosed")):
        remedy = _TWICE if fault.startswith("cannot") else "close it"
    return f"{fault} at line {number}, column {column}: {name_of(line.strip())}; {remedy}"
