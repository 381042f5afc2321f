"""What is wrong with a document, for the person who wrote it: where, what stands there and what to give instead.

One translator of pydantic's errors, for task files, settings and records. What would be right comes from the model's
JSON Schema: a field that takes several types has one message that names them all, and no word is pydantic's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from weir.online.durations import format_duration

Path: TypeAlias = tuple[str | int, ...]
SHOWN_CHARS: Final = 80
TABLE: Final = "a table"
_SEPARATED_FROM: Final = 100_000
_LISTED: Final = 40
# Beyond it the digits of a float are those of its binary form, and nobody wrote them.
_HUGE: Final = 1e18
_BITS: Final = dict.fromkeys(["1", "1.0", "true", "t", "yes", "y"], ", here 1") | dict.fromkeys(
    ["0", "0.0", "false", "f", "no", "n"], ", here 0"
)
_DURATION: Final = re.compile(r"[\d.]+\s*[smhdw]")
_ENDLESS: Final = ("inf", "infinity", "nan")
_PATTERNS: Final = {
    r"^[a-z][a-z0-9_]{0,47}$": "a name in lower-case letters, digits and _, a letter first, at most 48 of them",
    r"^[^\x00-\x1f\x7f-\x9f]*$": "a text without control characters",
    r"^sha256:[0-9a-f]{64}$": "sha256: and 64 hexadecimal digits",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
}


_NAMES: Final = "of letters and digits, not empty and without control characters"


class Mistake(NamedTuple):
    """One thing to correct."""

    path: Path
    words: str
    meant: tuple[str, ...] = ()
    """Of an unknown key: the known one that is nearest, else all that there are."""


def mistakes(
    model: type[BaseModel],
    error: ValidationError,
    document: Any,
    secrets: Sequence[Path] = (),
    table: str = TABLE,
    most: int = _LISTED,
) -> list[Mistake]:
    """Root causes of ``error``, each once: what follows from a mistake further inside is left out.

    ``secrets`` are paths whose values are not shown; ``table`` is what the document calls a mapping. Of more than
    ``most`` the last one says how many.
    """
    found: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_place(document, detail), []).append(detail)
    # A mistake further inside is why the table around it does not fit either.
    outer = {path[:i] for path in found for i in range(len(path))}
    roots, schema = [path for path in found if path not in outer], _Schema(_schema_of(model), table)
    told = [_mistake(path, found[path], document, schema, path in secrets) for path in roots[:most]]
    # A key that is misspelt is missing under its right name, too: that is the same mistake.
    misspelt = {(*each.path[:-1], each.meant[0]) for each in told if len(each.meant) == 1}
    more = [Mistake((), f"and {len(roots) - most} more")] if len(roots) > most else []
    return [each for each in told if each.path not in misspelt] + more


def place(path: Path, document: Any) -> str:
    """Where a key stands, as its author sees it.

    >>> place(("entities", 0, "aggregates", 1, "ops"), {"entities": [{"name": "user", "aggregates": [{}, {}]}]})
    '[[entities]] 1 (user), aggregates 2, ops'
    """
    said = ""
    for i, part in enumerate(path):
        held = at(document, path[: i + 1])
        if not isinstance(part, int):
            said += f"{'.' if said and not isinstance(path[i - 1], int) else ', ' if said else ''}{name_of(part)}"
            continue
        if not isinstance(held, Mapping):
            said += f", item {part + 1}"
            continue
        called = held.get("name", held.get("kind"))
        said = f"[[{said}]]" if i == 1 else said
        said += f" {part + 1}" + (f" ({name_of(called)})" if isinstance(called, str) else "")
    return said


def sentence(mistake: Mistake, document: Any) -> str:
    """Where it is, and what to do."""
    unknown = mistake.words.startswith("unknown key")
    where = place(mistake.path[:-1] if unknown else mistake.path, document)
    between = (" " if mistake.words.startswith("is ") else ": ") if where else ""
    return f"{where}{between}{mistake.words}"


def told(where: str, found: Sequence[str]) -> str:
    """What is wrong with the file ``where``, on one line; several mistakes are numbered."""
    if len(found) == 1:
        return f"{where}: {found[0]}"
    return f"{where}: {len(found)} mistakes: " + " ".join(f"({i}) {words}." for i, words in enumerate(found, start=1))


def at(document: Any, path: Path) -> Any:
    """What stands at ``path``, or None."""
    for part in path:
        inside = part in document if isinstance(document, Mapping) else _is_item(document, part)
        if not inside:
            return None
        document = document[part]
    return document


def near(word: object, known: Sequence[str]) -> tuple[str, ...]:
    """The known word that ``word`` was meant to be, if one is near: letters' case, ``_`` and ``-`` aside."""
    bare = {_bare(name): name for name in known}
    return tuple(bare[hit] for hit in get_close_matches(_bare(str(word)), bare, n=1, cutoff=0.6))


def did_you_mean(word: object, known: Sequence[str]) -> str:
    """The nearest of ``known``, and the list.

    >>> did_you_mean("cuont", ["count", "mean"])
    "did you mean 'count'? There are: count, mean"
    """
    meant = near(word, known)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    there = f"{', '.join(known[:_LISTED])}{more}" if known else "none"
    return f"did you mean {meant[0]!r}? There are: {there}" if meant else f"there are: {there}"


def name_of(part: object) -> str:
    """A name as it is, or in quotes and cut where a terminal should not see it."""
    text = str(part)
    return text if text.isprintable() and 0 < len(text) <= SHOWN_CHARS else shown(text)


def shown(value: object, table: str = "an object") -> str:
    """A value on one line, as TOML and JSON write it, cut to a readable length."""
    words = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, dict | list | tuple):
        if not value:
            return f"an empty {'list' if isinstance(value, list | tuple) else table.split()[-1]}"
        kind = f"{table} with" if isinstance(value, dict) else "a list of"
        inside = ", ".join(map(name_of, list(value)[:5])) if isinstance(value, dict) else str(len(value))
        return f"{kind} {inside}"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    length = len(value) if isinstance(value, str) else len(text)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS // 2]}... ({length:,} characters)"


def count_of(number: float) -> str:
    """A number for people.

    >>> count_of(1e12), count_of(0.001), count_of(24)
    ('1,000,000,000,000', '0.001', '24')
    """
    if number != int(number) or abs(number) >= _HUGE:
        return f"{number:g}"
    return f"{int(number):,}" if abs(number) >= _SEPARATED_FROM else str(int(number))


@cache
def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


class _Schema:
    """What the JSON Schema of a model says of the value at a path."""

    def __init__(self, schema: dict[str, Any], table: str) -> None:
        self._root, self.table = schema, table

    def at(self, path: Path, document: Any) -> list[dict[str, Any]]:
        """Every alternative that a value at ``path`` may be."""
        nodes = list(self._options(self._root, document))
        for i, part in enumerate(path):
            held = at(document, path[: i + 1])
            inner = [node for each in nodes for node in self._inside(each, part)]
            nodes = [option for node in inner for option in self._options(node, held)]
        return nodes

    def describe(self, nodes: list[dict[str, Any]], given: Any, key: str = "") -> str:
        """Say what would be right in the place of ``given``, whose key is ``key``."""
        words = [word for node in nodes for word in node.get("enum", [node["const"]] if "const" in node else [])]
        parts = [self._kind(node, given, key) for node in nodes if "enum" not in node and "const" not in node]
        told = [part for part in dict.fromkeys(parts) if part] + list(map(shown, dict.fromkeys(words)))
        said = " or ".join((", ".join(told[:-1]), told[-1])) if len(told) > 1 else "".join(told) or "another value"
        meant = near(given, [word for word in words if isinstance(word, str)]) if isinstance(given, str) else ()
        return said + (f"; did you mean {meant[0]!r}?" if meant else "")

    def keys(self, nodes: list[dict[str, Any]]) -> list[str]:
        """The keys that a table may have."""
        return list(dict.fromkeys(key for node in nodes for key in node.get("properties", ())))

    def _options(self, node: dict[str, Any], held: Any) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            node = self._root["$defs"][node["$ref"].rpartition("/")[2]]
        chosen = node.get("discriminator")
        tag = held.get(chosen["propertyName"]) if chosen and isinstance(held, Mapping) else None
        if chosen and isinstance(tag, str) and tag in chosen["mapping"]:
            yield from self._options({"$ref": chosen["mapping"][tag]}, held)
        elif inner := node.get("anyOf") or node.get("oneOf"):
            for each in inner:
                yield from self._options(each, held)
        else:
            yield node

    def _inside(self, node: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
        if isinstance(part, int):
            items = [*node.get("prefixItems", ())][part : part + 1] or [node.get("items")]
            return [item for item in items if isinstance(item, dict)]
        others = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
        inner = node.get("properties", {}).get(part, others if isinstance(others, dict) else None)
        return [] if inner is None else [inner]

    def _kind(self, node: dict[str, Any], given: Any, key: str) -> str:
        kind = node.get("type")
        if kind in ("number", "integer"):
            return _number(node, given)
        if kind == "string":
            return _text(node, given)
        if kind == "array":
            if self.table == TABLE and self.keys(list(self._options(node.get("items") or {}, None))):
                return f"one or more tables, each under [[{key}]]"
            if isinstance(given, str | int | float) and node.get("minItems", 0) < 2:
                return f"a list, as [{shown(given)}]"
            least, most = node.get("minItems"), node.get("maxItems")
            return f"a list of {least}{'' if least == most else ' or more'}" if least else "a list in [ ]"
        if kind == "object" and self.table != TABLE and not node.get("properties"):
            return f"{self.table} of names and values"
        named = f"{self.table}, [{key}]" if self.table == TABLE and key else self.table
        return {"boolean": "true or false", "object": named}.get(str(kind), "")


def _number(node: dict[str, Any], given: Any) -> str:
    say = format_duration if isinstance(given, str) and _DURATION.fullmatch(given) else count_of
    low, over, high = node.get("minimum"), node.get("exclusiveMinimum"), node.get("maximum")
    below = node.get("exclusiveMaximum")
    name = "a whole number" if node["type"] == "integer" else "a number" if say is count_of else "a duration"
    if name == "a number" and str(given).strip().lower().lstrip("+-") in _ENDLESS:
        name = "a finite number"
    if name == "a whole number" and low in (0, 1) and high == 1:
        return "the number 1" if low else "0 or 1" + _BITS.get(str(given).strip().lower(), "")
    if low is not None and high is not None:
        bounds = f" from {say(low)} to {say(high)}"
    else:
        found = {"more than": over, "of at least": low, "at most": high, "less than": below}
        bounds = " and".join(f" {words} {say(bound)}" for words, bound in found.items() if bound is not None)
    step = f", a multiple of {node['multipleOf']}" if "multipleOf" in node else ""
    if 1 in (high, below) and (share := _percent(given)) is not None:
        return f"{name}{bounds}, as {share:g} for {share:.0%}"
    bare = number_in(given) if isinstance(given, str) and say is count_of else None
    value = math.nan if bare is None else float(bare)
    fits = value >= (-math.inf if low is None else low) and value <= (math.inf if high is None else high)
    fits = fits and (below is None or value < below)
    return name + bounds + step + (f" without quotes, as {bare}" if fits and (over is None or value > over) else "")


def _percent(given: Any) -> float | None:
    """The share that was given in percent."""
    bare = number_in(given.removesuffix("%")) if isinstance(given, str) and given.endswith("%") else given
    try:
        return float(bare) / 100 if bare is not None and 1 < float(bare) <= 100 else None
    except (TypeError, ValueError):
        return None


def number_in(text: str) -> str | None:
    """The number that a text holds, with a point: a decimal comma, separators of thousands and a currency are known.

    >>> number_in("12,5"), number_in("$1,234.50"), number_in("1.234,50 EUR"), number_in("1,234"), number_in("n/a")
    ('12.5', '1234.50', '1234.50', None, None)
    """
    # Only of short texts: the pattern backtracks over runs of digits.
    match = len(text) < _LISTED and re.fullmatch(
        r"[^\d.,+-]{0,4}([+-]?[\d.,' ]*\d(?:[eE][+-]?\d+)?)\s*[^\d.,]{0,4}", text.strip()
    )
    bare = match[1].replace("'", "").replace(" ", "") if match else ""
    if "," in bare and "." in bare:
        # Whichever comes last is the decimal mark, the other separates thousands.
        last = max(bare.rfind(","), bare.rfind("."))
        bare = re.sub(r"[.,]", "", bare[:last]) + "." + bare[last + 1 :]
    elif "," in bare:
        # ``1,234`` is 1.234 or 1234, by where its author lives: a guess would be wrong by a thousand.
        bare = "" if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", bare) else bare.replace(",", ".")
    return bare if re.fullmatch(r"[+-]?\d*\.?\d+(?:[eE][+-]?\d+)?", bare) else None


def limit_words(detail: ErrorDetails) -> str:
    """What an option takes, from pydantic's words about the value that it was given."""
    bounds = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}
    for key, words in bounds.items():
        if key in detail.get("ctx", {}):
            return words.format(count_of(detail["ctx"][key]))
    kinds = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}
    return kinds.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:])


def _text(node: dict[str, Any], given: Any) -> str:
    if node.get("format") == "date-time":
        return "a time with its offset, as 2024-03-01T12:00:00Z"
    least, most, pattern = node.get("minLength"), node.get("maxLength"), node.get("pattern")
    plain = int(given) if isinstance(given, float) and given.is_integer() else given
    huge = _HUGE if isinstance(given, float) else 10**32  # whole numbers have all their digits
    bare = isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < huge
    quotes = f' in quotes, as "{plain}"' if bare else ""
    quotes += f" (it has {len(given):,})" if most and isinstance(given, str) and len(given) > most else ""
    if pattern is not None and isinstance(given, str) and given and len(given) <= (most or len(given)):
        limit = re.search(r",(\d+)}", pattern)
        at_most = f", at most {limit[1]}" if limit else ""
        return _PATTERNS.get(pattern, f"letters, digits, '.', '_' and '-' only{at_most}")
    length = f" of {least} to {most} characters" if most and least else f" of at most {most} characters" if most else ""
    length = length or (f" of {least} or more characters" if least else "")
    return f"a text{length}{quotes}"


def _mistake(path: Path, details: list[ErrorDetails], document: Any, schema: _Schema, secret: bool) -> Mistake:
    given, kinds = at(document, path), {detail["type"] for detail in details}
    if "extra_forbidden" in kinds:
        return _unknown(path, document, schema)
    if kinds & {"missing", "union_tag_not_found"}:
        if "missing" not in kinds:
            path = (*path, str(details[0]["ctx"]["discriminator"]).strip("'"))
        return Mistake(path, f"is missing; give {schema.describe(schema.at(path, document), None, _dotted(path))}")
    if "union_tag_invalid" in kinds:
        path = (*path, str(details[0]["ctx"]["discriminator"]).strip("'"))
        given = at(document, path)
    words = next((str(d["ctx"]["error"]) for d in details if d["type"] == "value_error"), None)
    if words is not None:
        scalar = type(given) in (str, int, float) and not secret and shown(given) not in words
        also = [n for n in schema.at(path, document) if "const" in n or "enum" in n]
        more = f"; or give {schema.describe(also, None)}" if also else ""
        return Mistake(path, words + (f" (got {shown(given)})" if scalar else "") + more)
    wrong = next((d for d in details if d["loc"][-1:] == ("[key]",)), None)
    if wrong is not None:
        told = wrong.get("ctx", {})
        right = f"one of at most {told['max_length']} characters" if "max_length" in told else f"one {_NAMES}"
        return Mistake(path, f"that name cannot be; give {_PATTERNS.get(told.get('pattern', ''), right)}")
    if "too_long" in kinds:
        most = details[0]["ctx"].get("max_length", 0)
        return Mistake(path, f"has {len(given):,} items; give at most {most:,}")
    right = schema.describe(schema.at(path, document), None if secret else given, _dotted(path))
    return Mistake(path, f"give {right} in quotes" if secret else f"got {shown(given, schema.table)}; give {right}")


def _dotted(path: Path) -> str:
    """The table of TOML at ``path``."""
    return ".".join(part for part in path if isinstance(part, str))


def _unknown(path: Path, document: Any, schema: _Schema) -> Mistake:
    key, known, top = str(path[-1]), schema.keys(schema.at(path[:-1], document)), schema.keys(schema.at((), {}))
    words, meant = f"unknown key {key!r}; {did_you_mean(key, known)}", near(key, known)
    homes = [name for name in top if key in schema.keys(schema.at((name,), {}))]
    if not meant and len(path) > 1 and key in top:
        words += f". {key} belongs at the top: before the first [table], or as [{key}] if it is one"
    elif not meant and homes:
        words += f". {key} belongs under [{homes[0]}]"
    # Of a learner or detector: there what is no key of ours is mostly a parameter of theirs.
    elif not meant and "params" in known:
        words += f". A parameter goes into params, as params = {{ {key} = ... }}"
    return Mistake(path, words, meant or tuple(known))


def _place(document: Any, detail: ErrorDetails) -> Path:
    """The path of an error in the document: pydantic's, without the branches of unions that it names on the way."""
    path: list[str | int] = []
    for i, part in enumerate(detail["loc"]):
        inside = part in document if isinstance(document, Mapping) else _is_item(document, part)
        if inside:
            document = document[part]
        # What is missing is not in the document, so that its own name would look like the branch of a union.
        if inside or (detail["type"] == "missing" and i == len(detail["loc"]) - 1):
            path.append(part)
    return tuple(path)


def _is_item(document: Any, part: object) -> bool:
    return isinstance(document, list | tuple) and isinstance(part, int) and part < len(document)


def _bare(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
