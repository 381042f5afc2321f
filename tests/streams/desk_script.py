"""What a person writes against ``import weir``: mypy holds the types (strict, with the rest), a test runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import pandas as pd

import weir


def alerts_of(path: Path, frame: pd.DataFrame) -> list[str]:
    """The entities that a run over a frame would have told of."""
    task = weir.Task.load(path)
    assert_type(task, weir.Task)
    run = task.backtest(frame, label_delay="7d")
    assert_type(run, weir.Backtest)
    assert_type(run.report, dict[str, Any])
    assert_type(run.notes, list[str])
    return sorted({*run.alerts["entity_id"].to_pylist()})


def scores_of(task: weir.Task, frame: pd.DataFrame) -> Iterator[float]:
    """The same event by event."""
    stream = task.stream()
    assert_type(stream, weir.Stream)
    for each in task.simulate_qa(frame):
        if isinstance(each, weir.Answer):
            stream.learn_one(each.event_id, each.label, each.known_at)
            continue
        decision = stream.decide_one(each)
        assert_type(decision, weir.Decision | None)
        if decision is not None:
            assert_type(decision.features, dict[str, float])
            yield decision.score


async def sent(rows: list[dict[str, Any]]) -> None:
    """The same events to a service."""
    async with weir.AsyncClient("http://localhost:8000", "a-key") as client:
        await client.send_events(rows)
