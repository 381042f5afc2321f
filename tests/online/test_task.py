"""Task files: what is wrong is said by its path, with the value, the limit and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ValidationError

from weir.online.durations import format_duration, parse_duration
from weir.online.errors import TaskError
from weir.online.frozen import FrozenModel
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*ROOT.glob("benchmarks/protocols/*.toml"), *ROOT.glob("streams/**/tasks/*.toml")])

TASK = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean"]
windows = ["1d"]
[[entities.labels]]
name = "bad"
ops = ["share"]
windows = ["7d"]
[model]
kind = "logistic"
[labels]
negative_rate = 0.5
[labels.join]
keep_s = "30d"
[threshold]
kind = "budget"
alerts_per_day = 20
[alerts]
cooldown_s = "1h"
[drift]
block_events = 256
[retrain]
cooldown = "1d"
[metrics]
rolling = 100
[source]
time_format = "auto"
"""


def read(old: str = "", new: str = "") -> TaskSpec:
    assert old in TASK
    return TaskSpec.from_toml(TASK.replace(old, new, 1), "fraud.toml")


USER = "[[entities]] 1 (user)"
AMOUNT = USER + ", aggregates 1 (amount)"


def test_the_task_of_these_tests_is_right() -> None:
    TaskPipeline(read(), MemoryFeatureStore())


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        # unknown keys, at every depth
        ('entity = "user"', 'entity = "user"\nspeed = 3', "", "unknown key 'speed'; there are: name"),
        ('key = "user_id"', 'key = "user_id"\nkeys = "x"', USER, "unknown key 'keys'; did you mean 'key'?"),
        ('value = "amount"', 'value = "amount"\nwindow = "1d"', AMOUNT, "did you mean 'windows'?"),
        ('ops = ["share"]', 'ops = ["share"]\nvalue = "x"', USER + ", labels 1 (bad)", "run_min and value go together"),
        ('kind = "logistic"', 'kind = "logistic"\nlr = 1', "model", "as params = { lr = ... }"),
        ('keep_s = "30d"', 'keep = "30d"', "labels.join", "did you mean 'keep_s'?"),
        ("alerts_per_day = 20", "per_day = 20", "threshold", "did you mean 'alerts_per_day'?"),
        ('cooldown_s = "1h"', "cool = 1", "alerts", "did you mean 'cooldown_s'?"),
        ("block_events = 256", "blocks = 1", "drift", "did you mean 'block_events'?"),
        ('cooldown = "1d"', "after = 1", "retrain", "did you mean 'after_labels'?"),
        ("rolling = 100", "roll = 1", "metrics", "did you mean 'rolling'?"),
        ('time_format = "auto"', 'times = "auto"', "source", "did you mean 'time'?"),
        # wrong types
        ('name = "fraud"', "name = 3", "name", "got 3; give a text in quotes, as \"3\""),
        ("negative_rate = 0.5", 'negative_rate = "half"', "labels.negative_rate", "got 'half'; give a number"),
        ("rolling = 100", "rolling = 1.5", "metrics.rolling", "got 1.5; give a whole number"),
        ('ops = ["count", "mean"]', 'ops = "count"', AMOUNT + ", ops", "got 'count'; give a list, as ['count']"),
        ('kind = "logistic"', "kind = 1", "model.kind", "got 1; give a text in quotes"),
        # values outside their limits
        ('name = "fraud"', 'name = "Fraud 1"', "name", "got 'Fraud 1';"),
        ('name = "amount"', 'name = "a-b"', USER + ", aggregates 1 (a-b), name", "got 'a-b';"),
        ("negative_rate = 0.5", "negative_rate = 0", "labels.negative_rate", "got 0; give a number from 0.001 to 1"),
        ("negative_rate = 0.5", "negative_rate = 1.5", "labels.negative_rate", "got 1.5;"),
        ("alerts_per_day = 20", "alerts_per_day = 0", "threshold.alerts_per_day", "got 0; give a number more than 0"),
        ('ops = ["count", "mean"]', 'ops = ["median"]', AMOUNT + ", ops, item 1", "got 'median';"),
        ('ops = ["count", "mean"]', "ops = []", AMOUNT + ", ops", "give a list of 1 or more"),
        ('ops = ["count", "mean"]', 'ops = ["count", "count"]', AMOUNT, "an op is named twice"),
        ('value = "amount"\n', "", AMOUNT, "mean needs value = a column or an expression"),
        ('windows = ["1d"]\n', "", AMOUNT, "count needs windows, such as windows = ['1d', '7d']"),
        ('windows = ["1d"]', 'windows = ["0.5s"]', AMOUNT + ", windows", "0.5s is not whole seconds from 1s to 3653d"),
        ('windows = ["1d"]', 'windows = ["4000d"]', AMOUNT + ", windows", "4000d is not whole seconds from 1s to"),
        ('windows = ["1d"]', 'windows = ["1d", "24h"]', AMOUNT + ", windows", "a window is named twice"),
        ('name = "bad"', 'name = "amount"', USER, "the aggregate name 'amount' is used twice"),
        ('time_format = "auto"', 'time_format = "epoch"', "source.time_format", "got 'epoch';"),
        ('time_format = "auto"', "batch_size = 0", "source.batch_size", "got 0; give a whole number from 1 to 65536"),
        ('kind = "budget"', 'kind = "guess"', "threshold.kind", "got 'guess'; give 'fixed'"),
        # durations
        ('keep_s = "30d"', 'keep_s = "a month"', "labels.join.keep_s", "'a month' is not a duration; write a number"),
        ('keep_s = "30d"', 'keep_s = "30"', "labels.join.keep_s", "'30' is not a duration"),
        ('keep_s = "30d"', 'keep_s = "-1d"', "labels.join.keep_s", "'-1d' is not a duration"),
        ('keep_s = "30d"', "keep_s = true", "labels.join.keep_s", "True is not a duration"),
        ('keep_s = "30d"', "keep_s = 0", "labels.join.keep_s", "got 0; give a number more than 0"),
        ("rolling = 100", "every = 0", "metrics.every", "got 0; give a number more than 0"),
        ("rolling = 100", "every = inf", "metrics.every", "got inf; give a finite number more than 0"),
        ('time_format = "auto"', "row_interval = inf", "source.row_interval", "got inf; give a finite number"),
        ('windows = ["1d"]', 'windows = ["1y"]', AMOUNT + ", windows, item 1", "'1y' is not a duration"),
        # what does not fit together
        ('entity = "user"', 'entity = "card"', "", "entity = 'card' is not among the [[entities]]; there are: user"),
        ("[model]", '[[entities]]\nname = "user"\nkey = "x"\n[model]', "", "an entity is declared twice"),
        ('time_format = "auto"', 'label_delay = "60d"', "", "source.label_delay make 60d, but predictions wait"),
        ("[threshold]", '[labels.silence]\nobserve_s = "1d"\nhorizon_s = "31d"\n[threshold]', "", "raise keep_s"),
    ],
)  # fmt: skip
def test_an_error_names_the_path_and_the_value(old: str, new: str, path: str, says: str) -> None:
    with pytest.raises(TaskError) as raised:
        read(old, new)
    message = str(raised.value)
    assert message.startswith(f"fraud.toml: {path}: " if path else "fraud.toml: ")
    assert says in message


@pytest.mark.parametrize("missing", ["name", "entity", "entities", "model"])
def test_what_must_be_there_is_named(missing: str) -> None:
    with pytest.raises(TaskError, match=f"{missing} is missing; give"):
        TaskSpec.from_toml("", "empty.toml")


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(TaskError, match=r"2 mistakes: \(1\) labels.negative_rate: .* \(2\) unknown key 'speed'"):
        TaskSpec.from_toml(TASK.replace("= 0.5", "= 5").replace('entity = "user"', 'entity = "user"\nspeed = 1'))


def test_what_is_no_toml_is_said_with_its_place() -> None:
    with pytest.raises(TaskError, match=r"x.toml: not TOML: .*line 2"):
        TaskSpec.from_toml("# a task\nname =\n", "x.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# one\u2028two\x85\nb = fraud", r"line 2, column 5: b = fraud; put a text in quotes"),
        ("a = 1\r\nb = fraud\r\n", r"line 2, column 5: b = fraud; put a text in quotes"),
        ("\ufeffb = fraud", r"line 1, column 5: b = fraud; put a text in quotes"),
        ("a = 1\nb = [", r"line 2, column 6: b = \["),
        ("a = " + "[" * 5_000 + "]" * 5_000, "x.toml: lists or tables are nested too deeply"),
        ("a = " + "1" * 5_000, "x.toml: a whole number has more than 4,300 digits"),
    ],
)
def test_lines_are_those_of_toml_and_what_is_too_much_is_told(text: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        TaskSpec.from_toml(text, "x.toml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_task_file_we_ship_can_run(path: Path) -> None:
    task = TaskSpec.from_toml(path.read_text(encoding="utf-8"), str(path))
    assert TaskPipeline(task, MemoryFeatureStore()).features


def test_a_task_cannot_be_changed() -> None:
    task = read()
    with pytest.raises(ValueError, match="frozen"):
        setattr(task, "name", "other")  # noqa: B010 - mypy knows that it cannot be set


def models(of: BaseModel, path: str = "") -> dict[str, BaseModel]:
    """A model and every model inside it, by path."""
    found = {path or "": of}
    for name in type(of).model_fields:
        value: Any = getattr(of, name)
        for i, item in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(item, BaseModel):
                found |= models(item, f"{path}.{name}.{i}")
    return found


def test_no_part_of_a_task_swallows_unknown_keys() -> None:
    """A misspelt key would otherwise be a setting that is silently not set."""
    parts = models(read())
    assert len(parts) > 10
    assert not [path for path, part in parts.items() if part.model_config.get("extra") != "forbid"]
    assert not [path for path, part in parts.items() if not part.model_config.get("frozen")]


def durations(of: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    """Every field of models of ``weir.online`` that holds a duration, optional ones too."""
    for model in of.__subclasses__():
        yield from durations(model)
        for name, field in model.model_fields.items():
            notes = [*field.metadata, *(note for part in get_args(field.annotation) for note in get_args(part)[1:])]
            read = any(isinstance(note, BeforeValidator) and note.func is parse_duration for note in notes)
            if read and model.__module__.startswith("weir.online."):
                yield model, name


def test_no_duration_is_below_0_but_an_offset() -> None:
    found = set(durations(FrozenModel))
    assert len(found) > 20
    allowed = set()
    for model, name in found:
        with pytest.raises(ValidationError) as raised:
            model.model_validate({name: -1, "no_such_key": 1})
        if name not in {each["loc"][0] for each in raised.value.errors()}:
            allowed.add(name)
    assert allowed == {"utc_offset"}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**7))
def test_durations_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(float(seconds))) == seconds


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_a_task_or_a_task_error(text: str) -> None:
    with pytest.raises(TaskError):
        TaskSpec.from_toml(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_mutation_is_a_task_or_a_task_error(data: st.DataObject) -> None:
    """Lines dropped, doubled or replaced by another's value: never another exception, also when it is built."""
    lines = TASK.strip().splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["drop", "double", "value"]))
    if kind == "drop":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    else:
        name = lines[at].split("=")[0]
        value = data.draw(
            st.sampled_from(["-1", "0", "1e400", "nan", "true", "''", "[]", "{}", "[1]", "'x y'", "1979-05-27"])
        )
        lines[at] = f"{name}= {value}"
    with suppress(TaskError):
        TaskPipeline(TaskSpec.from_toml("\n".join(lines)), MemoryFeatureStore())


def test_drift_can_be_turned_off() -> None:
    head = 'name = "t"\nentity = "user"\ndrift = false\n'
    rest = '[[entities]]\nname = "user"\nkey = "user_id"\n[model]\nkind = "logistic"\n'
    assert TaskSpec.from_toml(head + rest).drift is None


DAYS = st.one_of(st.none(), st.integers(1, 90))


@given(delay=DAYS, maturity=DAYS, horizon=DAYS, keep=DAYS)
@example(delay=38, maturity=33, horizon=None, keep=None)  # what follows the maturity is just enough for the delay
@settings(max_examples=60)
def test_keep_s_that_is_not_given_follows_what_labels_wait_for(
    delay: int | None, maturity: int | None, horizon: int | None, keep: int | None
) -> None:
    """One that is given and too short is refused; where the usual 30 days are enough, nothing changes."""
    document: dict[str, Any] = {
        "name": "t", "entity": "user", "entities": [{"name": "user", "key": "user_id"}], "numbers": ["amount"],
        "model": {"kind": "logistic"}, "labels": {"join": {} if keep is None else {"keep_s": f"{keep}d"}},
    }  # fmt: skip
    if delay is not None:
        document["source"] = {"label_delay": f"{delay}d"}
    if maturity is not None:
        document["labels"]["maturity"] = f"{maturity}d"
    if horizon is not None:
        document["labels"]["silence"] = {"score": "each event", "horizon_s": f"{horizon}d"}
    longest = max((days for days in (delay, maturity, horizon) if days is not None), default=0)
    if keep is not None and keep < longest:
        with pytest.raises(ValueError, match="keep_s"):
            TaskSpec.model_validate(document)
        return
    kept = TaskSpec.model_validate(document).labels.join.keep_s / 86_400
    enough = longest < 30 or (longest == 30 and horizon != 30)  # a label of silence comes after its horizon
    follows = kept > longest or (kept == longest != horizon)
    assert kept == keep if keep is not None else kept == 30 if enough else follows
