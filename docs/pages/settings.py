"""docs/SETTINGS.md, made from the models of the settings: ``python -m docs.pages.settings > docs/SETTINGS.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from docs.pages.model_fields import default_of, docs_of, plain, toml_of, type_of
from weir.online.durations import format_duration
from weir.streams.config.settings import Settings
from weir.streams.config.topic_settings import TopicOverride

_HEAD: Final = """# Settings

Settings say where Weir runs: brokers, store, topics, sizes, patience. What is computed stands in task files
([TASKS.md](TASKS.md)). They come from one TOML file (`--config`, else `$WEIR_CONFIG`, else `./weir.toml`) and from the
environment, which wins. A variable has two underscores between levels: `WEIR_KAFKA__BOOTSTRAP=kafka-1:9092`. Lists are
written with commas there, and dashes of a topic's name as underscores: `WEIR_TOPICS__NAMES__USER_EVENTS=shop.events`.
An unknown key is an error, and so is a value out of its range; the message names the file or variable.

A duration is a number with a unit, such as `"90s"`, `"15m"`, `"1h"`, `"7d"`; a bare number is seconds in the file,
while a variable needs the unit (`0s`). Secrets are never shown.

Made by `python -m docs.pages.settings > docs/SETTINGS.md`; a test holds it to the code.
"""
_EXAMPLE: Final = """
## All of it as a file

Every key with its default; keys without one are comments.

```toml
"""
_COLUMNS: Final = "| key | type | default | unit | variable | meaning |\n|---|---|---|---|---|---|\n"
_UNITS: Final[Mapping[str, str]] = {
    "max_batch": "records", "window": "records", "max_in_flight": "batches", "cache_rows": "rows",
    "dedupe_capacity": "ids", "partitions": "partitions", "replication": "copies", "min_insync_replicas": "copies",
    "processes": "processes", "threads": "threads", "share": "share of 1",
}  # fmt: skip


class Key(NamedTuple):
    """One key of one table."""

    table: str
    name: str
    model: type[BaseModel]
    info: FieldInfo


def keys(model: type[BaseModel] = Settings, table: str = "") -> Iterator[Key]:
    """Every key of every table, inner tables after what stands beside them."""
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, info in model.model_fields.items():
        path = f"{table}.{name}" if table else name
        of = info.annotation
        if isinstance(of, type) and issubclass(of, BaseModel):
            inner.append((path, of))
            continue
        yield Key(table, name, model, info)
        if TopicOverride in get_args(of):
            inner.append((f"{path}.TOPIC", TopicOverride))
    for path, below in inner:
        yield from keys(below, path)


def page() -> str:
    """The whole page."""
    return f"{_HEAD}{''.join(_tables())}{_EXAMPLE}{example()}```\n"


def example() -> str:
    """A settings file that says what holds without one."""
    lines: list[str] = []
    table = ""
    for key in keys():
        if key.table != table:
            table = key.table
            commented = "# " if table.endswith(".TOPIC") else ""
            lines.append(f"\n{commented}[{table.replace('TOPIC', 'user-events')}]")
        value = default_of(key.info)
        if isinstance(value, dict):
            continue
        absent = value is None
        lines.append(f"# {key.name} =" if absent else f"{key.name} = {_written(key)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _tables() -> Iterator[str]:
    table = None
    for key in keys():
        if key.table != table:
            table = key.table
            yield f"\n## `[{table}]`\n\n{_COLUMNS}"
        yield _row(key)


def _row(key: Key) -> str:
    schema: Any = key.model.model_json_schema()
    told = type_of(schema["properties"][key.name], schema.get("$defs", {}))
    told = told.replace("; or null", "; or absent")
    if is_duration(key):
        told = told.replace("number", "duration")
    secret = "Secret" in repr(key.info.annotation)
    told = "secret text" if secret else told
    default = default_of(key.info)
    written = "-" if default in (None, (), {}) else f"`{_written(key)}`"
    cells = [f"`{key.name}`", told, written, _unit(key), f"`{variable_of(key)}`", plain(docs_of(key.model)[key.name])]
    return f"| {' | '.join(cells)} |\n"


def variable_of(key: Key) -> str:
    """The variable that sets a key; ``TOPIC`` in it stands for a topic's name."""
    return f"WEIR_{key.table}.{key.name}".upper().replace(".", "__")


def is_duration(key: Key) -> bool:
    """Whether a text with a unit is a number to it; some take no less than a day, others less than that."""
    for text in ("1h", "1d"):
        try:
            return isinstance(getattr(key.model.model_validate({key.name: text}), key.name), float)
        except ValidationError:
            continue
    return False


def _written(key: Key) -> str:
    default = default_of(key.info)
    return toml_of(format_duration(default) if is_duration(key) else default)


def _unit(key: Key) -> str:
    if key.name.endswith("_per_s"):
        return "a second"
    if key.name.endswith("_s") or is_duration(key):
        return "seconds"
    return "bytes" if key.name.endswith("bytes") else _UNITS.get(key.name, "-")


if __name__ == "__main__":
    print(page(), end="")
