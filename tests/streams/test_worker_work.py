"""Steps of label lanes that are gathered: nothing is lost, and only neighbours are put together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from weir.online.batch import PredictionBatch, ScoredBatch
from weir.streams.config import topics
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.labelling.publisher import PendingStep, together


def scored(start: int, rows: int) -> ScoredBatch:
    ids = [f"e{start + i}" for i in range(rows)]
    numbers = np.arange(start, start + rows, dtype=np.float64)
    versions = np.zeros(rows, dtype=np.int64)
    predictions = PredictionBatch(ids, list(ids), numbers, numbers, versions, numbers[:, None])
    return ScoredBatch(predictions, numbers[:, None], numbers[:, None], {"merchant_id": list(ids)})


def handed(start: int, rows: int, task: str = "fraud") -> PendingStep:
    return PendingStep(OffsetRange(topics.PREDICTIONS, start, start + rows), {task: scored(start, rows)}, handed=1)


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["next", "gap", "labels"])), max_size=12))
def test_runs_of_neighbours_become_one_step(parts: list[tuple[int, str]]) -> None:
    works, at, runs = list[PendingStep](), 0, 0
    for rows, kind in parts:
        before = works[-1] if works else None
        if kind == "labels":
            works.append(PendingStep(OffsetRange(topics.LABELS, at, at + rows)))
            runs += 1
            continue
        at += 3 if kind == "gap" else 0
        works.append(handed(at, rows))
        at += rows
        runs += not (before is not None and before.handed and before.step.stop == works[-1].step.start)
    joined = together(works)
    assert len(joined) == runs
    assert sum(work.handed for work in joined) == sum(work.handed for work in works)
    for made in joined:
        for of in made.scored.values():
            numbers = np.arange(made.step.start, made.step.stop, dtype=np.float64)
            assert of.predictions.ts.tolist() == of.masks[:, 0].tolist() == numbers.tolist()
            assert of.entities["merchant_id"] == of.predictions.event_id == [f"e{n:.0f}" for n in numbers]


def test_tasks_of_neighbours_stay_apart() -> None:
    (one,) = together([handed(0, 2), handed(2, 1, "churn"), handed(3, 2)])
    assert {task: of.predictions.event_id for task, of in one.scored.items()} == {
        "fraud": ["e0", "e1", "e3", "e4"],
        "churn": ["e2"],
    }
    assert one.step == OffsetRange(topics.PREDICTIONS, 0, 5)
