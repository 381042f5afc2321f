"""Several budgets of one task: each is what a task of its rows alone would have, and none takes from another."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.online.stages_apart import labelling_of, logged
from tests.online.task_streams import DAY, FRAUD, T0, seeds
from weir.online.batch import FloatVector, PredictionBatch, ScoredBatch
from weir.online.decisions.segments import SegmentedThreshold
from weir.online.decisions.threshold import Threshold
from weir.online.decisions.threshold_policy import BudgetThreshold, PrecisionThreshold, SegmentBudget
from weir.online.errors import StateError, TaskError
from weir.online.task.spec import TaskSpec

BUDGETS = (
    SegmentBudget(name="large", input="amount", at_least=500, alerts_per_day=10, min_score=0.2),
    SegmentBudget(name="small", input="amount", below=20, alerts_per_day=40),
)
POLICY = BudgetThreshold(alerts_per_day=24, min_scores=50, min_days=0.1, budgets=BUDGETS)


def segmented() -> SegmentedThreshold:
    return SegmentedThreshold(POLICY, POLICY.parts, [0, 0])


def stream(seed: int, n: int) -> tuple[FloatVector, FloatVector, FloatVector]:
    """Times of three days, scores whose level jumps, amounts of each segment."""
    rng = np.random.default_rng(seed)
    ts = T0 + np.sort(rng.random(n)) * 3 * DAY
    score = rng.beta(1, 9, n) ** np.where(rng.random() < 0.5, 1.0, np.where(ts > T0 + 2 * DAY, 0.3, 1.0))
    return ts, score, rng.choice([5.0, 100.0, 900.0, np.nan], n)


@settings(max_examples=10)
@given(seeds, st.sets(st.integers(1, 2_999), max_size=6))
def test_each_budget_is_that_of_its_rows_alone(seed: int, cuts: set[int]) -> None:
    ts, score, amount = stream(seed, 3_000)
    of = segmented()
    segment = of.segments(amount[:, None])
    assert segment.tolist() == [1 if a >= 500 else 2 if not a >= 20 else 0 for a in amount]  # missing is 0
    lines = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), len(ts)]):
        lines.append(of.thresholds(ts[start:stop], score[start:stop], segment=segment[start:stop]))
        state, of = of.snapshot(), segmented()
        of.restore(state)
    found = np.concatenate(lines)
    for number, part in enumerate(POLICY.parts):
        mine = segment == number
        assert np.array_equal(found[mine], Threshold(part).thresholds(ts[mine], score[mine])), number
    assert (found[segment == 1] >= 0.2).all()


def test_alerts_of_a_storm_in_one_segment_take_none_from_another() -> None:
    stage = labelling_of(TaskSpec.from_toml(FRAUD).model_copy(update={"threshold": POLICY}))
    assert isinstance(stage.threshold, SegmentedThreshold)
    ts, score, amount = stream(1, 4_000)
    score[(amount < 20) & (ts > T0 + DAY)] = 0.99
    like = next(item for item in logged(3) if isinstance(item, ScoredBatch)).take(np.zeros(len(ts), dtype=np.int64))
    x = like.predictions.features.copy()
    x[:, stage.typical.features.index("amount")] = np.nan_to_num(amount)
    ids = [f"e{k}" for k in range(len(ts))]
    rows = replace(like, predictions=PredictionBatch(ids, ids, ts, score, like.predictions.model_version, x))
    at = dict(zip(ids, np.nan_to_num(amount).tolist(), strict=True))
    made = [stage.scored(rows.slice(start, start + 500)) for start in range(0, len(ts), 500)]
    opened = [at[alert.event_ids[0]] for out in made for alert in out.alerts if alert.status == "open"]
    by_segment = [sum(a < 20 for a in opened), sum(20 <= a < 500 for a in opened), sum(a >= 500 for a in opened)]
    assert 80 <= by_segment[0] <= 3 * 40
    assert 24 < by_segment[1] <= 3 * 24
    assert 10 < by_segment[2] <= 3 * 10
    again = labelling_of(stage.task)
    again.restore(stage.snapshot())
    assert again.snapshot() == stage.snapshot()


def test_what_is_no_set_of_budgets_is_told() -> None:
    with pytest.raises(ValidationError, match="budget 'x': from 5 to below 5 is no range of 'amount'"):
        SegmentBudget(name="x", input="amount", at_least=5, below=5, alerts_per_day=1)
    with pytest.raises(ValidationError, match="no range of 'amount'; give `at_least`"):
        SegmentBudget(name="x", input="amount", alerts_per_day=1)
    with pytest.raises(ValidationError, match="large, large: two have the same name"):
        BudgetThreshold(alerts_per_day=1, budgets=(BUDGETS[0], BUDGETS[0]))
    with pytest.raises(ValidationError, match="a fallback is one budget"):
        PrecisionThreshold(precision=0.5, fallback=POLICY)
    other = POLICY.model_copy(update={"budgets": (BUDGETS[0].model_copy(update={"input": "amout"}),)})
    with pytest.raises(TaskError, match=r"budget 'large' is for a range of 'amout'.*did you mean 'amount'"):
        labelling_of(TaskSpec.from_toml(FRAUD).model_copy(update={"threshold": other}))
    with pytest.raises(StateError, match="start them anew"):
        SegmentedThreshold(other, other.parts, [0]).restore(segmented().snapshot())


def test_task_files_without_them_keep_their_digest() -> None:
    assert "budgets" not in BudgetThreshold(alerts_per_day=1).model_dump()
    assert POLICY.most_a_day == 74
