"""docs/TASKS.md has every key of a task file with its meaning and an example, and what it says of ranges holds."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from docs.pages.task_examples import EXAMPLES, PARAM_RANGES
from docs.pages.task_tables import Key, Table, tables
from docs.pages.tasks import PAGE, page
from weir.online.full_columns import SEEN
from weir.online.learners.factory import REGISTRY, LearnerSpec, build_learner
from weir.online.task.spec import TaskSpec

TABLES = list(tables())
LEARNERS = [(table, key) for table in TABLES for key in table.keys if key.owner in REGISTRY]
KEYS = [(table, key) for table in TABLES for key in table.keys]
FEATURES = ("amount", "silent_days", "machine.state", *SEEN)


def named(each: object) -> str:
    return f"{each.owner}.{each.name}" if isinstance(each, Key) else ""


def value_of(key: Key) -> Any:
    return tomllib.loads(f"value = {key.example}")["value"]


def refused(model: type, document: dict[str, Any]) -> set[str | int]:
    """The keys that are wrong; what a table lacks as a whole is nobody's fault."""
    try:
        TypeAdapter(model).validate_python(document)
    except ValidationError as error:
        return {part for each in error.errors() for part in each["loc"][:1]}
    return set()


def built(kind: str, params: dict[str, Any]) -> None:
    members = (LearnerSpec(kind="logistic"),) if kind in ("auto", "stack", "beside_full") else ()
    given = {"column": "machine.state"} if kind == "column" else {}
    river = "naive_bayes.GaussianNB" if kind == "river" else None
    build_learner(LearnerSpec(kind=kind, params=given | params, members=members, estimator=river), FEATURES)


def test_the_page_is_the_code() -> None:
    text = PAGE.read_text()
    assert text == page(text), "run: python -m docs.pages.tasks"


def test_every_table_of_a_task_file_is_there_once() -> None:
    titles = [table.title for table in TABLES]
    assert len(titles) == len({*titles})
    assert {"`[[entities.aggregates]]`", "`[labels.silence]`", "`[full.training.encoder]`", "`[source]`"} <= {*titles}


def says_what_it_means(key: Key) -> None:
    assert len(key.meaning.split()) >= 3, f"write a docstring for {named(key)}"
    assert key.example not in ("", "[]", "{}"), f"give an example of {named(key)} in docs/pages/task_examples.py"
    assert key.type, named(key)


def test_every_key_says_what_it_means_and_shows_it() -> None:
    for _, key in KEYS:
        says_what_it_means(key)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_example_is_taken(table: Table) -> None:
    must = {each.name: value_of(each) for each in table.keys if each.default == "must be given"}
    keys = [key for key in table.keys if key.owner not in REGISTRY]
    assert [key.name for key in keys if key.name in refused(table.model, must | {key.name: value_of(key)})] == []


@pytest.mark.parametrize(("table", "key"), LEARNERS, ids=named)
def test_every_parameter_is_taken_in_its_range_and_refused_beyond_it(table: Table, key: Key) -> None:
    built(key.owner, {key.name: value_of(key)})
    low = re.search(r"(>=?) (\S+)|, (\S+) to (\S+)", key.type)
    if low is None:
        return
    whole = key.type.startswith("integer")
    beyond = [float(low[2]) - (low[1] == ">=")] if low[1] else [float(low[3]) - 1, float(low[4]) + 1]
    for value in beyond:
        with pytest.raises(ValueError, match=key.name):
            built(key.owner, {key.name: int(value) if whole else value})


def test_a_wrong_example_would_be_told() -> None:
    assert refused(TaskSpec, {"metrics": {"rolling": 3}, "indicators": "perhaps"}) >= {"metrics", "indicators"}


def test_no_example_is_of_a_key_that_is_gone() -> None:
    there = {(key.owner, key.name) for _, key in KEYS}
    assert {*EXAMPLES, *PARAM_RANGES} <= there


def test_a_key_without_a_docstring_would_be_told() -> None:
    class Bare(BaseModel):
        key: int = 1

    with pytest.raises(AssertionError, match="write a docstring for Bare"):
        says_what_it_means(Key("Bare", "key", "integer", "`1`", "1", ""))
