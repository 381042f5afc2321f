"""Scoring and labelling apart: lanes that only send each other batches do what one process does, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.online.pipeline_runs import plain, plain_examples
from tests.online.stages_apart import CHURN_OF_ALL, MANY, MERCHANTS, USERS, Apart, together
from tests.online.task_streams import CHURN, DAY, T0, Call, events, label, plays, purchase, script, seeds
from weir.online.batch import EventBatch, UpdateBatch
from weir.online.errors import TaskError
from weir.online.stages.pipeline import TaskPipeline
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore


def tables(of: TaskPipeline | Apart) -> dict[str, bytes]:
    """Every row of every table."""
    ids = {"*": ["*"], "user_id": [*USERS, *(f"u{i}" for i in range(5, 30)), "a", "b"], "merchant_id": MERCHANTS}
    return {t.name: of.engine.store.load(t.name, ids[t.key]).tobytes() for t in of.engine.tables}


def same(pipeline: TaskPipeline, apart: Apart, step: Call) -> None:
    """One call of both, and that they made the same."""
    kind, given_ = step
    out = getattr(pipeline, kind)(given_)
    scored, made = apart.call(step)
    expected = plain(out)
    p = scored.scored.predictions if scored is not None and scored.scored is not None else None
    assert (p is None) == (out.predictions is None)
    if p is not None:
        assert p.features.tobytes() == out.predictions.features.tobytes()
        assert [p.event_id, p.entity_id, p.ts.tolist(), p.score.tolist(), p.model_version.tolist()] == expected[0]
    assert [a for m in made for a in m.alerts] == expected[3]
    assert plain_examples([e for m in made for e in m.examples]) == expected[4]


def singly(calls: list[Call]) -> list[Call]:
    out: list[Call] = []
    for kind, b in calls:
        out += [(kind, b.slice(i, i + 1)) for i in range(len(b))] if isinstance(b, EventBatch) else [(kind, b)]
    return out


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_a_lane_that_sends_updates_scores_as_one_process_does(seed: int) -> None:
    """With late events, repeats of a moment, missing ids and values, and labels of any kind between."""
    pipeline, apart = together(MANY), Apart(MANY)
    for step in script(100, seed):
        same(pipeline, apart, step)
    assert tables(apart) == tables(pipeline)


@settings(max_examples=5, deadline=None)
@given(seeds)
def test_lanes_that_take_turns_score_as_one_process_does(seed: int) -> None:
    """Each lane sees its own users only; what it knows of merchants and of everyone came by updates."""
    pipeline, apart = together(MANY), Apart(MANY, lanes=3)
    for step in singly(script(70, seed)):
        same(pipeline, apart, step)
    assert tables(apart) == tables(pipeline)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1800, 3 * 3600)), min_size=1, max_size=40),
    st.lists(st.integers(1, 39), max_size=5),
)
def test_timers_in_a_lane_score_as_in_one_process(gaps: list[tuple[str, int]], cuts: list[int]) -> None:
    rows, now = [], 0.0
    for user, gap in gaps:
        now += gap
        rows.append((user, now))
    pipeline, apart = together(CHURN_OF_ALL), Apart(CHURN_OF_ALL)
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    for a, b in pairwise(edges):
        same(pipeline, apart, ("events", plays(rows).slice(a, b)))
    same(pipeline, apart, ("advance", T0 + now + DAY))
    assert tables(apart) == tables(pipeline)


def test_what_is_sent_is_what_feeds_the_rows_of_others() -> None:
    """No update without an entity, none for a timer, none of the lane's own rows; ids say which event, or label."""
    apart = Apart(MANY)
    out, _ = apart.call(("events", purchase(1, T0, merchant=None)))
    assert out is not None
    assert list(out.updates) == ["everyone"]
    out, _ = apart.call(("events", purchase(2, T0 + 1, amount=20)))
    assert out is not None
    assert {k: (u.update_id, u.entity_id, u.ts.tolist()) for k, u in out.updates.items()} == {
        "merchant": (["e2"], ["m1"], [T0 + 1]),
        "everyone": (["e2"], ["*"], [T0 + 1]),
    }
    assert all(u.values.shape == (1, apart.engine.width(k)) for k, u in out.updates.items())
    _, (told,) = apart.call(("labels", label(1, 2, False)))
    _, (corrected,) = apart.call(("labels", label(2, 2, True)))
    assert list(told.updates) == ["merchant.labels", "user.labels", "everyone.labels"]
    merchant, corrected_merchant = told.updates["merchant.labels"], corrected.updates["merchant.labels"]
    assert (merchant.update_id, merchant.entity_id, merchant.values.tolist()) == (["e2#0"], ["m1"], [[0.0, 1.0, 1.0]])
    assert (corrected_merchant.update_id, corrected_merchant.values.tolist()) == (["e2#1"], [[1.0, 0.0, 1.0]])
    _, (unnamed,) = apart.call(("labels", label(3, 1, True)))
    assert list(unnamed.updates) == ["user.labels", "everyone.labels"]
    assert unnamed.updates["user.labels"].entity_id == ["u1"]


def test_timers_send_nothing() -> None:
    apart = Apart(CHURN_OF_ALL)
    out, _ = apart.call(("events", plays([("a", 0.0), ("b", 10.0), *[(name, 3 * 3600.0) for name in "cde"]])))
    assert out is not None
    assert out.scored is not None
    assert out.scored.predictions.event_id == [f"a@{T0:.0f}", f"b@{T0 + 10:.0f}"]
    assert out.updates["everyone"].update_id == ["e0", "e1", "e2", "e3", "e4"]


def test_what_goes_into_records_is_finite_or_missing() -> None:
    """JSON has no infinity: a value that is infinite is a missing one, in every mode alike."""
    toml = MANY.replace("amount / merchant.paid_mean_1d", "1 / amount").replace("amount > 5", "1 / amount")
    toml = toml.replace('"run_since_negative"], value = "amount"', '"run_since_negative"], value = "2 / amount"')
    toml = toml.replace("[values]", 'watch = ["inverse"]\n[values]\ninverse = "1 / amount"')
    pipeline, apart = together(toml), Apart(toml)
    for number, amount in enumerate([0.0, 4.0, 0.0, 5e-324, 2.0]):
        step: Call = ("events", purchase(number, T0 + number, amount=amount))
        out, _ = apart.call(step)
        assert out is not None
        assert out.scored is not None
        assert not any(np.isinf(u.values).any() for u in out.updates.values())
        assert not np.isinf(out.scored.watched).any()
        assert not np.isinf(out.scored.masks).any()
        expected = pipeline.events(step[1]) if isinstance(step[1], EventBatch) else None
        assert expected is not None
        assert expected.predictions is not None
        assert out.scored.predictions.features.tobytes() == expected.predictions.features.tobytes()


def test_side_rows_are_read_and_not_saved() -> None:
    apart = Apart(MANY)
    before = tables(apart)
    out = apart.lanes[0].events(purchase(1, T0))
    changed = {name for name, rows in tables(apart).items() if rows != before[name]}
    assert changed == {"fraud.user"}
    assert out.scored is not None
    made = dict(zip(apart.engine.features, out.scored.predictions.features[0].tolist(), strict=True))
    assert made["merchant.tx_count_1d"] == made["user.amount_count_1d"] == 1.0  # the event itself counts


def test_updates_that_do_not_fit_are_refused() -> None:
    engine = Apart(MANY).engine
    batch = UpdateBatch(["e1"], ["m1"], np.array([T0]), np.zeros((1, 9)))
    with pytest.raises(TaskError, match=r"updates of 'merchant' have shape \(1, 9\), expected \(1, 3\)"):
        engine.apply("merchant", batch)
    with pytest.raises(TaskError, match=r"there is no layout 'shop'; the task has merchant, merchant\.labels, user"):
        engine.apply("shop", batch)


class Fetched(MemoryFeatureStore):
    """A store that has only what was asked for before."""

    allowed: dict[str, list[str]] | None = None

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        if self.allowed is not None and keys:
            assert set(keys) == set(self.allowed[table]), table
        return super().load(table, keys)


@pytest.mark.parametrize("toml", [MANY, CHURN_OF_ALL], ids=["fraud", "churn"])
def test_a_host_knows_beforehand_which_rows_are_needed(toml: str) -> None:
    """Those of timers that the batch makes due, too."""
    store = Fetched()
    stage = ScoringStage(TaskSpec.from_toml(toml), store, side=True)
    rows = plays([(f"u{i % 7}", 1200.0 * i) for i in range(60)])
    stream = events(60, 3) if toml is MANY else rows
    timers = 0
    for a, b in [*pairwise(range(0, 61, 6)), (60, 60)]:
        prepared = stage.prepare(stream.slice(a, b))
        timers += len(prepared.batch) - (b - a) if stage.timers is not None else 0
        store.allowed = stage.keys(prepared)
        assert all(len(set(keys)) == len(keys) for keys in store.allowed.values())
        out = stage.score(prepared)
        for layout, updates in out.updates.items():
            store.allowed = stage.engine.update_keys(layout, updates)
            stage.engine.apply(layout, updates)
    prepared = stage.prepare_advance(T0 + 10 * DAY)
    store.allowed = stage.keys(prepared)
    stage.score(prepared)
    assert (timers > 3) == (stage.timers is not None)


def test_timers_are_rebuilt_from_what_moved_them() -> None:
    task = TaskSpec.from_toml(CHURN)
    stage, again = (ScoringStage(task, MemoryFeatureStore(), side=True) for _ in range(2))
    rng = np.random.default_rng(4)
    times = np.cumsum(rng.integers(0, 3000, 200)).astype(float).tolist()
    stream = plays([(f"u{i}", t) for i, t in zip(rng.integers(0, 30, 200).tolist(), times, strict=True)])
    assert stage.timers is not None
    assert again.timers is not None
    for a, b in pairwise(range(0, 201, 20)):
        prepared = stage.prepare(replace(stream, type=["view"] * 10 + ["play"] * 190).slice(a, b))
        stage.score(prepared)
        if prepared.moved is not None:
            again.timers.advance(*prepared.moved)
    assert again.timers.snapshot() == stage.timers.snapshot()
