"""The shape of a task, known without a store: its tables, what is logged for labels, and what cannot run in lanes."""

from __future__ import annotations

import pytest

from tests.online.stages_apart import MANY, Apart, logged, together
from tests.online.task_streams import FRAUD
from weir.online.batch import ScoredBatch
from weir.online.errors import TaskError
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.embedded.memory_store import MemoryFeatureStore


def test_the_shape_of_a_task_is_known_without_a_store() -> None:
    task = TaskSpec.from_toml(MANY)
    shape = shape_of(task)
    assert shape == ScoringStage(task, MemoryFeatureStore(), side=True).shape
    assert (shape.masks, shape.secondary, shape.watched) == (4, ("merchant_id",), ("amount",))
    scored = next(item for item in logged(1, toml=MANY) if isinstance(item, ScoredBatch))
    assert (scored.masks.shape[1], tuple(scored.entities), scored.watched.shape[1]) == (4, ("merchant_id",), 1)
    assert shape_of(task.model_copy(update={"drift": None})).watched == ()


def test_labels_and_events_of_an_entity_are_tables_of_their_own() -> None:
    """A change to the one leaves the rows of the other readable."""
    kinds = {t.name: (t.key, t.side) for t in Apart(MANY).engine.tables}
    assert kinds == {
        "fraud.merchant": ("merchant_id", True),
        "fraud.merchant.labels": ("merchant_id", True),
        "fraud.user": ("user_id", False),
        "fraud.user.labels": ("user_id", True),
        "fraud.everyone": ("*", True),
        "fraud.everyone.labels": ("*", True),
    }
    assert not any(t.side for t in together(MANY).engine.tables)
    other = MANY.replace("prior = 2", "prior = 3")
    schemas = [{t.name: t.schema for t in together(toml).engine.tables} for toml in (MANY, other)]
    assert {name for name in schemas[0] if schemas[0][name] != schemas[1][name]} == {"fraud.user.labels"}


def test_an_anomaly_may_not_take_the_name_of_the_label_table() -> None:
    toml = FRAUD.replace(
        'name = "user"\nkey', 'name = "user"\nanomalies = [{ name = "labels", value = "amount" }]\nkey'
    )
    with pytest.raises(TaskError, match="entity user: the anomaly name 'labels' is taken by label aggregates"):
        shape_of(TaskSpec.from_toml(toml))


WATCHED = """
[[entities]]
name = "merchant"
key = "merchant_id"
anomalies = [{ name = "odd", value = "amount" }]

[model]"""


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (FRAUD.replace("\n[model]", WATCHED.replace('"merchant"', '"shop"')), "no worker sees all its values in order"),
        (MANY.replace('entity = "user"', 'entity = "everyone"'), r"keyed by '\*', but user-events is partitioned by"),
        (MANY.replace('entity = "user"', 'entity = "merchant"'), "Score an entity with key = 'user_id', or run the"),
    ],
    ids=["anomaly", "everyone", "merchant"],
)  # fmt: skip
def test_what_needs_all_events_of_another_entity_is_refused_in_lanes(toml: str, message: str) -> None:
    task = TaskSpec.from_toml(toml)
    assert ScoringStage(task, MemoryFeatureStore()).features  # embedded it runs
    with pytest.raises(TaskError, match=message):
        ScoringStage(task, MemoryFeatureStore(), side=True)
