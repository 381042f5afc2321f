"""Says what is wrong with settings, by where they were set: file, variable or option; secrets are not shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from weir.online.mistakes import Mistake, Path, mistakes, name_of, sentence, told

_SECRET: Final = re.compile(r"password|secret|token|url|key$", re.IGNORECASE)


def refusal(
    model: type[BaseModel], error: ValidationError, document: Any, where: str, origins: Mapping[Path, str]
) -> str:
    """Every mistake in ``document``.

    ``where`` is the file; ``origins`` has, by path, the variable that set a value, or nothing for an option.
    """
    secrets = [path for path, value in _leaves(document, ()) if _is_secret(path, value)]
    found, files = [], set()
    for each in mistakes(model, error, document, secrets):
        origin = next((path for path in origins if path[: len(each.path)] == each.path), None)
        variable = origins[origin] if origin is not None else ""
        own = origin is None or (len(origin) > len(each.path) and not each.meant)
        files.add(where if own else "the environment" if variable else "the command line")
        if not own and variable and each.meant:
            found.append(f"unknown variable {variable}; {_variables(each)}")
        else:
            named = f"{variable}, which is " if not own and variable else ""
            found.append(named + sentence(each, document))
    return told(" and ".join(sorted(files)), list(dict.fromkeys(found)))


def _variables(unknown: Mistake) -> str:
    names = ["WEIR_" + "__".join(map(str, (*unknown.path[:-1], name))).upper() for name in unknown.meant]
    return f"did you mean {names[0]}?" if len(names) == 1 else f"known are {', '.join(names)}"


def _is_secret(path: Path, value: object) -> bool:
    return any(_SECRET.search(name_of(part)) for part in path) or "@" in str(value)


def _leaves(held: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every value at any depth, tables and lists too."""
    yield path, held
    inside = held.items() if isinstance(held, Mapping) else enumerate(held) if isinstance(held, list) else ()
    for part, value in inside:
        yield from _leaves(value, (*path, part))
