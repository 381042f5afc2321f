"""A number of a task file or of the settings has an end, but where no end is what is meant."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, ValidationError

import weir.streams.cli
from weir.models.onnx.input_map import InputMap
from weir.online.errors import TaskError
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec
from weir.streams.cli.offline.simulate import simulate_command
from weir.streams.config.settings import Settings, load_settings
from weir.streams.errors import UsageError
from weir.streams.service.access.admin_routes import KeyOrder
from weir.streams.service.feed.feed_routes import FeedQuery
from weir.streams.service.store.alert_requests import Said
from weir.streams.service.views.model_routes import RetrainOrder
from weir.streams.simulate import SimulationConfig

ENDLESS = {
    "Aggregate.windows",  # ever
    "Category.windows",
    "LabelAggregate.windows",
    "Entity.ttl",  # nothing is forgotten
    "FullSpec.ttl",
    "NextTask.ttl",
    "SilencePolicy.remember_s",
    "Column.missing",  # of an imported model: NaN is a missing value
    "InputMap.missing",
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
    # What people write: files, settings, options of `weir simulate`, and bodies of requests.
    tops = (TaskSpec, NextTask, Settings, InputMap, SimulationConfig, KeyOrder, RetrainOrder, FeedQuery, Said)
    found = {name for top in tops for name in endless_fields(top, seen)}
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


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_imported_model_sees_no_infinite_number_where_one_is_missing(value: float) -> None:
    for given in ({"missing": value}, {"inputs": {"x": {"feature": "amount", "missing": value}}}):
        with pytest.raises(ValidationError, match="give a finite number, or nan"):
            InputMap.model_validate({"inputs": {"x": "amount"}} | given)


def options_in(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Options of commands that take a number with a fraction: the command, its name, what it says of itself."""
    for path in sorted(folder.rglob("*.py")):
        place = ".".join(path.relative_to(folder).with_suffix("").parts)
        module = importlib.import_module(f"weir.streams.cli.{place}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            for option, annotation in function.__annotations__.items():
                if "typer." in str(annotation) and "float" in str(annotation):
                    yield f"{place}.{name}", option, eval(annotation, vars(module)).__metadata__[0]


def test_options_have_both_ends_and_those_of_the_simulator_are_its_own() -> None:
    """NaN passes a single bound of the command line, and inf a lower one."""
    found = list(options_in(Path(weir.streams.cli.__file__).parent))
    assert len(found) > 8
    assert [(where, option) for where, option, said in found if said.min is None or said.max is None] == []
    hints = get_type_hints(simulate_command, include_extras=True)
    limits = SimulationConfig.model_json_schema()["properties"]
    for name in hints.keys() & limits.keys():
        said, schema = hints[name].__metadata__[0], limits[name]
        held = next((each for each in schema.get("anyOf", ()) if "maximum" in each), schema)
        assert said.min >= held["minimum"], name
        # Without a bound of its own a field takes any whole number.
        assert said.max <= held.get("maximum", math.inf), name


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
