"""A task that gets no events, or events without a column that it reads, is told once, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest

from weir.online.batch import EventBatch
from weir.online.metrics.input_watch import SEEN, InputWatch


def events(n: int, amount: float = np.nan, country: str | None = None) -> EventBatch:
    numbers = {"amount": np.full(n, amount), "tip": np.full(n, 2.0)}
    return EventBatch(["e"] * n, np.ones(n), ["buy"] * n, {"user_id": ["u"] * n}, numbers, {"country": [country] * n})


@pytest.mark.parametrize("size", [1, 999, SEEN])
def test_a_column_that_no_event_has_is_told_once(size: int) -> None:
    watch = InputWatch("fraud", "user-events", ())
    said: list[str] = []
    for first in range(0, SEEN, size):
        assert not said  # few yet
        watch.came(size, events(min(size, SEEN - first)))
        said += watch.news()
    amount, country = said
    assert amount.startswith("task fraud: none of its first 1000 events has a value of amount")
    assert "a value of country" in country
    assert all("Correct its name in the events or in the task file" in words for words in said)
    assert not watch.open
    assert not watch.news()


def test_one_value_is_enough_and_then_nothing_is_looked_at() -> None:
    watch = InputWatch("fraud", "user-events", ())
    left = []
    for batch in (events(1, amount=3.0), events(1, country="DE")):
        watch.came(1, batch)
        left.append(watch.open)
    assert left == [True, False]
    assert not watch.news()


def test_a_task_that_gets_no_events_is_told_once_and_its_columns_later() -> None:
    watch = InputWatch("fraud", "user-events", ("purchase",))
    watch.came(SEEN - 1, events(0))
    assert not watch.news()
    watch.came(1, events(0))
    (told,) = watch.news()
    assert told.startswith("task fraud: none of the first 1000 events of user-events is of its types (purchase)")
    assert "Correct `types` in the task file" in told
    watch.came(SEEN, events(0))
    assert not watch.news()
    watch.came(SEEN, events(SEEN, amount=1.0))
    (told,) = watch.news()
    assert "a value of country" in told


def test_a_task_of_which_one_event_came_is_not_told() -> None:
    watch = InputWatch("fraud", "user-events", ("purchase",))
    watch.came(SEEN, events(1, amount=1.0, country="DE"))
    assert not watch.news()
