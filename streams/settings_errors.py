"""Says what is wrong with settings: unknown keys by their nearest known one, wrong values unless they are secret."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from streams.errors import UsageError

_SECRET: Final = re.compile(r"password|secret|token|url|key$", re.IGNORECASE)


def check_keys(model: type[BaseModel], document: Mapping[str, Any], where: str, shown: str | None = None) -> None:
    """Raise ``UsageError`` for the first key of ``document`` that ``model`` does not have, at any depth.

    ``shown`` is what the person wrote where that is not a TOML key: the name of an environment variable.
    """
    _check(model, document, where, (), shown)


def _check(annotation: Any, found: Any, where: str, path: tuple[str, ...], shown: str | None) -> None:
    model = _model_of(annotation)
    if model is None or not isinstance(found, Mapping):
        return
    if get_origin(model) is dict:
        for key, value in found.items():
            _check(get_args(model)[1], value, where, (*path, key), shown)
        return
    known = model.model_fields
    for key, value in found.items():
        if key not in known:
            raise UsageError(_unknown(key, list(known), where, path, shown))
        _check(known[key].annotation, value, where, (*path, key), shown)


def _model_of(annotation: Any) -> Any:
    """The model (or ``dict`` of models) that a field holds, if it holds one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((m for m in map(_model_of, get_args(annotation)) if m is not None), None)
    if get_origin(annotation) is dict:
        return annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _unknown(key: str, known: list[str], where: str, path: tuple[str, ...], shown: str | None) -> str:
    table = ".".join(path)
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    if shown is None:
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{where}: unknown key {'.'.join((*path, key))!r}; {f'in [{table}]: ' if table else ''}{hint}"
    names = ["WEIR_" + "__".join((*path, name)).upper() for name in (near or known)]
    hint = f"did you mean {names[0]}?" if near else f"known are {', '.join(names)}"
    return f"{where}: unknown variable {shown}; {hint}"


def explain(exc: ValidationError, document: Mapping[str, Any]) -> str:
    """Every wrong value by its path, with what was given unless it may be a secret."""
    lines: list[str] = []
    for error in exc.errors(include_input=False, include_url=False):
        path = [
            str(part) for part in error["loc"] if not str(part).startswith(("function-", "literal[", "constrained-"))
        ]
        message = error["msg"].removeprefix("Value error, ")
        given = _at(document, path)
        secret = any(_SECRET.search(part) for part in path) or "@" in str(given)
        shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) and not secret else ""
        lines.append(f"{'.'.join(path) or '(top)'}: {message[:1].lower()}{message[1:]}{shown}")
    return "; ".join(dict.fromkeys(lines))


def _at(document: Mapping[str, Any], path: list[str]) -> object:
    found: object = document
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else found
    return found
