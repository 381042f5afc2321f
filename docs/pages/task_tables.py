"""Every table that a task file may have, found from the models: its keys with type, bounds, default and meaning.

A key that is added to a model of ``weir.online.task.spec`` is found, and so is a parameter of a learner. Where a key
has no default that could stand as its example, ``docs.pages.task_examples`` gives one.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from docs.pages.model_fields import default_of, docs_of, shown, toml_of, type_of
from docs.pages.task_examples import EXAMPLES, PARAM_RANGES
from weir.models.training.training_settings import EncoderSettings
from weir.online.anomaly.detector import AnomalyParams
from weir.online.anomaly.state_params import StateParams
from weir.online.decisions.alert_cap import DAY_S
from weir.online.durations import format_duration
from weir.online.features.spec import Anomaly
from weir.online.learners import factory
from weir.online.learners.boosted import LIMITS
from weir.online.task.full_spec import TrainingSpec
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec

_INNER: Final[Mapping[tuple[type, str], tuple[tuple[str, type], ...]]] = {
    (Anomaly, "params"): (
        ('`params` of `score = "onset"`', AnomalyParams),
        ('`params` of `score = "state"`', StateParams),
    ),
    (TrainingSpec, "encoder"): (("`[full.training.encoder]`", EncoderSettings),),
}
"""Tables that a model leaves open, for what they are of decides."""
_IS_NAME: Final = re.compile(r"text, as `\^\[[^`]*`")
_TYPES: Final = {"float": "number", "int": "integer", "bool": "boolean", "str": "text"}


class Key(NamedTuple):
    """One key of one table."""

    owner: str
    """The model or the kind of learner."""
    name: str
    type: str
    """With its bounds."""
    default: str
    """As TOML, or a word for none."""
    example: str
    """What may follow ``=``."""
    meaning: str


class Table(NamedTuple):
    """One table of a task file."""

    title: str
    model: type
    keys: tuple[Key, ...]


def tables() -> Iterator[Table]:
    """Every table in the order in which a reader meets it: the outer before the inner, learners last."""
    seen: set[type] = set()
    yield from _below(TaskSpec, "", "the top of the file", seen)
    yield from _below(NextTask, "", 'the top of a file of `kind = "next"`', seen)
    for kind in factory.REGISTRY:
        yield learner(kind)


def learner(kind: str) -> Table:
    """The parameters of a kind of ``[model]``, by its class's signature and docstring."""
    made: Any = factory._class_of(kind)
    meanings = parameters(made.__doc__ or "")
    keys = []
    for name, of in inspect.signature(made).parameters.items():
        if name in ("features", *factory.LearnerSpec.model_fields):  # told in the table of `[model]`
            continue
        required = of.default is inspect.Parameter.empty
        default = "must be given" if required else "-" if of.default is None else f"`{toml_of(of.default)}`"
        given = EXAMPLES.get((kind, name))
        example = given if given is not None else toml_of(of.default) if not required else ""
        range_ = PARAM_RANGES.get((kind, name)) or _limits(kind, name, str(of.annotation))
        meaning = meanings.get(name, "")
        keys.append(Key(kind, name, range_, default, example, meaning[:1].upper() + meaning[1:]))
    return Table(f'`[model]` `kind = "{kind}"`: `params`', made, tuple(keys))


def parameters(doc: str) -> dict[str, str]:
    r"""The parameters that a numpydoc docstring explains, by name.

    >>> parameters("It learns.\n\n    Parameters\n    ----------\n    lr, l2 : step\n        and penalty.\n")
    {'lr': 'step and penalty.', 'l2': 'step and penalty.'}
    """
    section = inspect.cleandoc(doc).partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for each in re.split(r"\n(?=\w)", section):
        names, _, text = each.partition(" : ")
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _limits(kind: str, name: str, annotation: str) -> str:
    """What a learner takes; ``weir.online.learners.factory`` refuses numbers below 0 of any kind."""
    if kind == "boosted" and name in LIMITS:
        low, high = LIMITS[name]
        return f"{_TYPES[annotation]}, {shown(low)} to {shown(high)}"
    told = _TYPES.get(annotation, annotation)
    return f"{told}, >= 0" if told in ("number", "integer") else told


def _below(model: type, path: str, title: str, seen: set[type]) -> Iterator[Table]:
    """The table of a model, then those of the models in it."""
    if model in seen:
        return
    seen.add(model)
    inner: list[tuple[type, str, str]] = []
    plain: list[str] = []
    for name, annotation in _fields(model).items():
        models = [m for m in _models(annotation) if m not in seen]
        for each in models:
            below = f"{path}.{name}".lstrip(".")
            told = f"[[{below}]]" if get_origin(annotation) is tuple else f"[{below}]"
            kind = f", `kind = {toml_of(default_of(each.model_fields['kind']))}`" if len(models) > 1 else ""
            inner.append((each, below, f"`{told}`{kind}"))
        if model is factory.LearnerSpec or (not models and name != "kind"):  # else the title says the kind
            plain.append(name)
    yield Table(title, model, tuple(_key(model, name) for name in plain))
    for name in plain:
        for inner_title, of in _INNER.get((model, name), ()):
            yield Table(inner_title, of, tuple(_key(of, each) for each in _fields(of)))
    for each, below, told in inner:
        yield from _below(each, below, told, seen)


def _fields(model: Any) -> dict[str, Any]:
    """The annotation of each field."""
    if issubclass(model, BaseModel):
        return {name: info.annotation for name, info in model.model_fields.items()}
    return {field.name: field.type for field in dataclasses.fields(model)}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold, one or several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


@cache
def _schema(model: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON Schema of each field, and the definitions that they refer to."""
    schema = TypeAdapter[Any](model).json_schema()
    definitions = schema.get("$defs", {})
    of = schema if "properties" in schema else definitions[model.__name__]  # of a model that holds itself
    return of["properties"], definitions


_meanings = cache(docs_of)


def _key(model: type, name: str) -> Key:
    properties, definitions = _schema(model)
    told = _IS_NAME.sub("name", type_of(properties[name], definitions).removesuffix("; or null"))
    default: Any = default_of(model.model_fields[name]) if issubclass(model, BaseModel) else getattr(model(), name)
    told = PARAM_RANGES.get((model.__name__, name), told)
    if duration := _is_duration(model, name):
        told = told.replace("number", "duration")
    written = "" if default is PydanticUndefined or default is None else _written(default, duration)
    told_default = "must be given" if default is PydanticUndefined else f"`{written}`" if written else "-"
    example = EXAMPLES.get((model.__name__, name), written)
    return Key(model.__name__, name, told, told_default, example, _meanings(model).get(name, ""))


def _is_duration(model: type, name: str) -> bool:
    """Whether a key takes ``7d``: its annotation holds the parser of durations."""
    if not issubclass(model, BaseModel):
        return False
    info = model.model_fields[name]
    return "parse_duration" in repr((info.annotation, info.metadata)) or "function _window" in repr(info.annotation)


def _written(default: Any, duration: bool) -> str:
    """A default as TOML; of a model or table, that there is none."""
    if isinstance(default, BaseModel):
        return ""
    if isinstance(default, dict):
        return "{}" if not default else json.dumps(default)
    if duration and isinstance(default, float):
        return json.dumps(format_duration(default)) if default < 3653 * DAY_S else "inf"
    if duration and isinstance(default, tuple):
        return json.dumps([format_duration(each) for each in default])
    return toml_of(default)
