"""The labelling stage by itself: repeats count nowhere, a snapshot resumes, examples keep their names, lanes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.pipeline_runs import plain_examples
from tests.online.stages_apart import MANY, Logged, labelling_of, logged
from tests.online.task_streams import DAY, FRAUD, T0, seeds
from weir.online.batch import PredictionBatch, ScoredBatch, UpdateBatch
from weir.online.decisions.threshold_policy import BudgetThreshold, CostThreshold, PrecisionThreshold
from weir.online.errors import StateError
from weir.online.stages.labelling import LabellingStage, LabelOutput
from weir.online.stages.lane_threshold import share_of
from weir.online.task.spec import TaskSpec


def plain_labelled(made: Sequence[LabelOutput]) -> list[Any]:
    return [
        [[] if m.thresholds is None else m.thresholds.tolist() for m in made if m.scored is not None],
        [a for m in made for a in m.alerts],
        plain_examples([e for m in made for e in m.examples]),
        [str(d) for m in made for d in m.detections],
        [r for m in made for r in m.requests],
        [plain_updates(m.updates) for m in made],
        [m.scored.predictions.event_id for m in made if m.scored is not None],
        [e.n.tolist() for m in made for e in m.examples],
    ]


def plain_updates(updates: dict[str, UpdateBatch]) -> list[Any]:
    return [(k, u.update_id, u.entity_id, u.ts.tolist(), u.values.tobytes()) for k, u in updates.items()]


def feed(stage: LabellingStage, item: Logged) -> LabelOutput:
    return stage.scored(item) if isinstance(item, ScoredBatch) else stage.labels(item)


# -- repeats and snapshots ---------------------------------------------------------------------------------------------


def with_repeats(log: list[Logged], seed: int) -> list[Logged]:
    """The same log, with rows repeated in later batches and in batches of their own, by a newer model."""
    rng = np.random.default_rng(seed)
    past: list[ScoredBatch] = []
    out: list[Logged] = []
    for item in log:
        if isinstance(item, ScoredBatch) and past and rng.random() < 0.6:
            again = _again(past[int(rng.integers(len(past)))], rng)
            out += [_joined(again, item)] if rng.random() < 0.5 else [again, _joined(item, _again(item, rng))]
        else:
            out.append(item)
        if isinstance(item, ScoredBatch):
            past.append(item)
    return out


def _again(s: ScoredBatch, rng: np.random.Generator) -> ScoredBatch:
    rows = np.sort(rng.choice(len(s), int(rng.integers(1, len(s) + 1)), replace=False))
    p = s.predictions.take(rows)
    other = replace(p, score=rng.random(len(p)), model_version=p.model_version + 7, features=p.features + 1.0)
    return replace(s.take(rows), predictions=other)


def _joined(a: ScoredBatch, b: ScoredBatch) -> ScoredBatch:
    p, q = a.predictions, b.predictions
    both: Any = np.concatenate
    predictions = PredictionBatch(
        p.event_id + q.event_id,
        p.entity_id + q.entity_id,
        both([p.ts, q.ts]),
        both([p.score, q.score]),
        both([p.model_version, q.model_version]),
        both([p.features, q.features]),
    )
    entities = {k: a.entities[k] + b.entities[k] for k in a.entities}
    return ScoredBatch(predictions, both([a.masks, b.masks]), both([a.watched, b.watched]), entities)


def nothing_scored(made: LabelOutput) -> bool:
    return made.scored is None and not (made.alerts or made.examples or made.updates or made.detections)


@settings(max_examples=7, deadline=None)
@given(seeds, seeds)
def test_a_repeated_prediction_counts_nowhere(seed: int, repeats: int) -> None:
    """Not in thresholds, alerts, typical values, drift, metrics, examples or updates, whoever scored it again."""
    log = logged(seed)
    once, twice = labelling_of(TaskSpec.from_toml(FRAUD)), labelling_of(TaskSpec.from_toml(FRAUD))
    more = with_repeats(log, repeats)
    expected = [feed(once, item) for item in log]
    got = [made for made in (feed(twice, item) for item in more) if not nothing_scored(made)]
    assert plain_labelled(got) == plain_labelled([made for made in expected if not nothing_scored(made)])
    assert twice.counts.repeats == sum(len(i) for i in more) - sum(len(i) for i in log)
    twice.counts.repeats = 0
    parts = twice.parts()
    del parts["seen"]  # which knows places in the log, where the repeats were, too
    assert {name: part.snapshot() for name, part in parts.items()} == {
        name: part.snapshot() for name, part in once.parts().items() if name in parts
    }


def test_the_repeats_of_that_test_would_count() -> None:
    """Without the memory of ids they do: the property above is not empty."""
    log = logged(3)
    once, twice = (labelling_of(TaskSpec.from_toml(FRAUD), dedupe=False) for _ in range(2))
    for item in log:
        feed(once, item)
    for item in with_repeats(log, 1):
        feed(twice, item)
    differ = {name for name, part in once.parts().items() if part.snapshot() != twice.parts()[name].snapshot()}
    assert differ >= {"threshold", "typical", "drift", "counts"}


@settings(max_examples=7, deadline=None)
@given(seeds, st.floats(0, 1))
def test_labelling_resumes_from_a_snapshot_as_if_nothing_happened(seed: int, at: float) -> None:
    """And from one that is older: what it makes again is what it made, id by id."""
    task, log = TaskSpec.from_toml(MANY), logged(seed, toml=MANY)
    cut = round(at * len(log))
    straight, second = labelling_of(task), labelling_of(task)
    for item in log[:cut]:
        feed(straight, item)
    held = straight.snapshot()
    expected = [feed(straight, item) for item in log[cut:]]
    second.restore(held)
    assert second.snapshot() == held
    assert plain_labelled([feed(second, item) for item in log[cut:]]) == plain_labelled(expected)
    assert second.snapshot() == straight.snapshot()
    assert second.evaluation.get() == straight.evaluation.get()


def test_what_is_no_state_of_labelling_is_refused() -> None:
    with pytest.raises(StateError, match=r"task fraud: not a snapshot of its parts: .*; run 'weir features rebuild'"):
        labelling_of(TaskSpec.from_toml(FRAUD)).restore(b"nonsense")


# -- the names of examples ---------------------------------------------------------------------------------------------


@settings(max_examples=4, deadline=None)
@given(seeds)
def test_an_example_has_the_same_name_whatever_is_sampled(seed: int) -> None:
    """``(event_id, n)`` is unique, n counts up, and sampling leaves out rows without renaming the rest."""
    named: dict[float, list[tuple[str, int, bool]]] = {}
    for rate in (1.0, 0.3):
        toml = FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}")
        stage = labelling_of(TaskSpec.from_toml(toml))
        made = [e for item in logged(seed) for e in feed(stage, item).examples]
        named[rate] = [row for e in made for row in zip(e.event_id, e.n.tolist(), e.y.tolist(), strict=True)]
    seen: dict[str, int] = {}
    for event_id, n, _ in named[1.0]:
        assert n == seen.get(event_id, 0)
        seen[event_id] = n + 1
    rest = iter(named[1.0])
    assert all(row in rest for row in named[0.3])


# -- several lanes -----------------------------------------------------------------------------------------------------


def test_lanes_split_a_budget() -> None:
    budget = BudgetThreshold(alerts_per_day=20)
    assert share_of(budget, 1.0) == budget
    quarter = share_of(PrecisionThreshold(precision=0.5, fallback=budget), 0.25)
    assert isinstance(quarter, PrecisionThreshold)
    assert quarter.fallback is not None
    assert quarter.fallback.alerts_per_day == 5.0
    cost = CostThreshold(false_positive=1, false_negative=9)
    assert share_of(cost, 0.25) == cost
    with pytest.raises(ValueError, match=r"share is 0.0; it must be in \(0, 1\]"):
        share_of(budget, 0.0)


@pytest.mark.parametrize("lanes", [2, 3, 7, 8, 24])
@pytest.mark.parametrize("daily", [24.0, 25.0, 100.0, 1_000.0])
def test_the_whole_alerts_of_lanes_are_those_of_the_task(daily: float, lanes: int) -> None:
    split = [share_of(BudgetThreshold(alerts_per_day=daily), 1.0 / lanes, lane) for lane in range(lanes)]
    parts = [each.alerts_per_day for each in split if isinstance(each, BudgetThreshold)]
    assert sum(parts) == daily
    assert all(part == int(part) > 0 for part in parts)
    assert max(parts) - min(parts) <= 1
    few = share_of(BudgetThreshold(alerts_per_day=1.0), 1.0 / lanes, lanes - 1)
    assert isinstance(few, BudgetThreshold)
    assert few.limits[0][0] == pytest.approx(1.0 / lanes)


def test_lanes_with_a_share_alert_as_often_together() -> None:
    """Four lanes, a quarter of the scores and of the budget each: as many rows over the threshold as in one lane."""
    rng = np.random.default_rng(2)
    n, task = 20_000, TaskSpec.from_toml(FRAUD)
    task = task.model_copy(update={"threshold": BudgetThreshold(alerts_per_day=40, min_scores=20, min_days=0.01)})
    ts, score, lane = T0 + 20 * DAY * np.arange(n) / n, rng.beta(1, 8, n), rng.integers(0, 4, n)
    whole = labelling_of(task)
    over = int(np.sum(score >= whole.threshold.thresholds(ts, score)))
    split = 0
    for k in range(4):
        part = labelling_of(task, share=0.25).threshold
        mine = lane == k
        split += int(np.sum(score[mine] >= part.thresholds(ts[mine], score[mine])))
    assert over == pytest.approx(800, rel=0.15)
    assert split == pytest.approx(over, rel=0.15)


def test_requests_of_lanes_have_ids_of_their_own() -> None:
    log, task = logged(3, 400), TaskSpec.from_toml(FRAUD)
    ids = []
    for lane in ("0", "1"):
        stage = labelling_of(task, lane=lane)
        ids += [r.request_id for item in log for r in feed(stage, item).requests]
    assert len(ids) == len(set(ids)) >= 2
