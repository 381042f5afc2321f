"""A number of a task file or of the settings has an end, but where no end is what is meant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from weir.online.errors import TaskError
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings, load_settings
from weir.streams.errors import UsageError

ENDLESS = {
    "Aggregate.windows",  # ever
    "Category.windows",
    "LabelAggregate.windows",
    "Entity.ttl",  # nothing is forgotten
    "FullSpec.ttl",
    "NextTask.ttl",
    "SilencePolicy.remember_s",
    "TaskSpec.missing",  # of readings: not finite is missing as it is
    "Anomaly.params",  # checked where it is known of what
    "LearnerSpec.params",
    "SourceSpec.missing",  # words
    "SourceSpec.negative",
    "SourceSpec.positive",
    "SourceSpec.unlabelled",
}  # fmt: skip
SHAPES: list[Any] = [
    lambda v: v, lambda v: [v], lambda v: [v, v], lambda v: [v, v, v], lambda v: {"a": v}, lambda v: {"a": [v]},
    lambda v: {"a": [v, v]},
]  # fmt: skip
TASK = """
name = "fraud"
entity = "user"
model = { kind = "logistic" }
[[entities]]
name = "user"
key = "user_id"
"""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def endless_fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """The fields, also of tables inside, that take an infinite number or NaN in any shape."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if any(taken(model, name, shape(v)) for v in (math.inf, -math.inf, math.nan) for shape in SHAPES):
            yield f"{model.__name__}.{name}"
        for inner in models_in(field.annotation):
            yield from endless_fields(inner, seen)


def taken(model: type[BaseModel], name: str, value: object) -> bool:
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return not any(detail["loc"][:1] == (name,) for detail in error.errors())
    return True


def test_what_has_to_end_is_refused_without_an_end() -> None:
    seen = set[type[BaseModel]]()
    found = {name for top in (TaskSpec, NextTask, Settings) for name in endless_fields(top, seen)}
    assert found == ENDLESS
    assert len(seen) > 40


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[alerts]\ncooldown_s = inf", "alerts.cooldown_s: got inf; give a finite number of at least 0"),
        ("[labels.join]\nkeep_s = nan", "labels.join.keep_s: got nan; give a finite number more than 0"),
        ("[full.training.encoder]\nrate = inf", "rate: got inf; give a finite number, a text or true or false"),
    ],
)
def test_the_value_and_what_is_right_are_told(line: str, told: str) -> None:
    with pytest.raises(TaskError) as refused:
        TaskSpec.from_toml(TASK + line)
    assert told in str(refused.value)


def test_so_are_settings_of_the_environment() -> None:
    with pytest.raises(UsageError, match=r"drain_s: got 'nan'; give a finite number from 0 to 300"):
        load_settings(environ={"WEIR_WORKER__DRAIN_S": "nan"})


def test_ever_is_still_a_window() -> None:
    for window in ('"ever"', "inf"):
        aggregate = f'aggregates = [{{ name = "n", ops = ["count"], windows = [{window}] }}]'
        assert TaskSpec.from_toml(TASK + aggregate).entities[0].aggregates[0].windows == (math.inf,)
    forever = '[labels.silence]\nscore = "each event"\nhorizon_s = "1d"\nremember_s = inf'
    silence = TaskSpec.from_toml(TASK + forever).labels.silence
    assert silence is not None
    assert silence.remember_s == math.inf
