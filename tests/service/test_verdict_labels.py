"""What a verdict says to the model, and what taking it back does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.running import TASKS
from weir.online.task.spec import TaskSpec
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.cases import undone_labels, verdict_labels
from weir.streams.task_files import load_task

ROW = AlertRow("fraud:u1:e1", "fraud", "u1", updated_at=1.7e9, event_ids='["e1","e2"]')


def task(match: str = "event") -> TaskSpec:
    document = load_task(TASKS / "fraud.toml").model_dump()
    document["labels"]["join"] |= {"match": match, "range_s": 60.0}
    return TaskSpec.model_validate(document)


def said(records: Any) -> list[tuple[str | None, int]]:
    return [(label.get("event_id"), label["value"]) for label in (json.loads(record.value) for record in records)]


def ids(records: Any) -> set[str]:
    return {json.loads(record.value)["label_id"] for record in records}


def test_labels_are_of_events_or_of_the_entity_as_the_task_joins_them() -> None:
    assert said(verdict_labels(ROW, task(), 1, 1, "case:ana", 1.7e9)) == [("e1", 1), ("e2", 1)]
    assert said(verdict_labels(ROW, task(), 0, 1, "case:ana", 1.7e9)) == [(None, 0), ("e1", 0), ("e2", 0)]
    for value in (0, 1):
        assert said(verdict_labels(ROW, task("entity_range"), value, 1, "case:ana", 1.7e9)) == [(None, value)]


def test_the_same_verdict_has_the_same_ids_and_any_other_has_others() -> None:
    first = ids(verdict_labels(ROW, task(), 1, 1, "case:ana", 1.7e9))
    assert first == ids(verdict_labels(ROW, task(), 1, 1, "case:ben", 1.8e9))
    others = [ids(verdict_labels(ROW, task(), value, n, "case:ana", 1.7e9)) for value, n in ((0, 1), (1, 2), (0, 2))]
    assert len(set().union(first, *others)) == 2 + 3 + 2 + 3


@pytest.mark.parametrize(
    ("standing", "value"),
    [
        (["confirmed"], 0),
        (["false_alarm"], 1),
        (["confirmed", "false_alarm"], 0),
        (["confirmed", "unsure", "confirmed"], None),
        (["unsure", "confirmed"], None),
    ],
)
def test_an_undo_says_what_was_known_before_or_the_opposite(standing: list[str], value: int | None) -> None:
    expected = [] if value is None else [("e1", value), ("e2", value)]
    assert said(undone_labels(ROW, task(), standing, "ana", 1.7e9)) == expected
