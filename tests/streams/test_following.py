"""Models that follow a log: any version again, the same on every replica, whatever the cuts, repeats and restarts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import ExampleBatch
from weir.online.errors import StateError
from weir.online.learners.beside import FULL
from weir.online.learners.factory import REGISTRY, LearnerSpec, build_learner
from weir.online.learners.online_model import OnlineModel
from weir.streams.errors import ReplicaDiverged
from weir.streams.model_replicas.fold import ARITHMETIC, ExampleFold, FoldState, Identities, arithmetic_of
from weir.streams.model_replicas.model_snapshots import ModelKeeper, ModelSnapshots, kept_versions
from weir.streams.model_replicas.timeline import ModelTimeline, VersionNotKept
from weir.streams.redis.store_errors import StoreUnavailable

FEATURES = ("a", "b", "c")
BOOSTED = LearnerSpec(kind="boosted", params={"every": 20, "buffer": 80, "trees": 6, "depth": 3, "min_hessian": 0.5})
SPECS = {
    **{kind: LearnerSpec(kind=kind) for kind in REGISTRY},
    "adaptive_tree": LearnerSpec(kind="adaptive_tree", params={"grace_period": 25}),
    "adaptive_forest": LearnerSpec(kind="adaptive_forest", params={"n_models": 2}),
    "boosted": BOOSTED,
    "column": LearnerSpec(kind="column", params={"column": "a"}),
    "stack": LearnerSpec(kind="stack", members=(BOOSTED, LearnerSpec(kind="logistic"))),
    "beside_full": LearnerSpec(kind="beside_full", members=(BOOSTED,)),
    "river": LearnerSpec(kind="river", estimator="naive_bayes.GaussianNB", params={"memory": 60}),
}
KINDS = sorted(SPECS)


def names_of(kind: str) -> tuple[str, ...]:
    """Three columns, as a learner of this kind wants them."""
    return ("a", *FULL) if kind == "beside_full" else FEATURES


def examples(count: int, seed: int = 0) -> ExampleBatch:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, len(FEATURES)))
    y = x[:, 0] + x[:, 1] * x[:, 2] > 0.3
    return ExampleBatch(
        event_id=[f"e{i}" for i in range(count)],
        n=np.zeros(count, np.int64),
        ts=1.7e9 + np.arange(count, dtype=np.float64),
        x=x,
        score=np.full(count, 0.5),
        y=y,
        weight=rng.choice([1.0, 5.0], count),
        correction=np.zeros(count, np.bool_),
    )


def cut(batch: ExampleBatch, cuts: list[int]) -> list[ExampleBatch]:
    edges = sorted({0, len(batch), *(c for c in cuts if c < len(batch))})
    return [batch.slice(a, b) for a, b in pairwise(edges)]


def timeline(spec: LearnerSpec, **options: Any) -> ModelTimeline:
    return ModelTimeline("fraud", lambda: build_learner(spec, names_of(spec.kind)), **options)


# -- any version again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(cuts=st.lists(st.integers(1, 159), max_size=6), asked=st.lists(st.integers(0, 160), min_size=1, max_size=4))
def test_every_kept_version_is_the_model_of_then(kind: str, cuts: list[int], asked: list[int]) -> None:
    batch = examples(160)
    model = timeline(SPECS[kind], keep=100, every=16, rebuilt=2)
    for piece in cut(batch, cuts):
        model.learn(piece)
    assert model.version == 160
    assert 0 < model.oldest <= 60
    for version in asked:
        if version < model.oldest:
            with pytest.raises(VersionNotKept, match=f"oldest is {model.oldest}"):
                model.at(version)
            continue
        live = OnlineModel(build_learner(SPECS[kind], names_of(kind)))
        live.learn(batch.slice(0, version))
        again = model.at(version)
        assert again.predict_many(batch.x).tobytes() == live.score(batch.x)[0].tobytes()
        assert again.snapshot() == live.snapshot().state


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_those_of_each_rows_version(kind: str) -> None:
    batch = examples(120)
    model = timeline(SPECS[kind], every=32)
    model.learn(batch)
    versions = np.array([120, 7, 64, 7, 120])
    x = batch.x[: len(versions)]
    found = model.contributions(x, versions)
    for row, version in enumerate(versions.tolist()):
        live = build_learner(SPECS[kind], names_of(kind))
        past = batch.slice(0, version)
        live.learn_many(past.x, past.y, past.weight)
        np.testing.assert_allclose(found[row], live.contributions(x[row : row + 1])[0], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_what_is_scored_beside_it(kind: str) -> None:
    """Else a score could not be made again from its own record alone."""
    model = build_learner(SPECS[kind], names_of(kind))
    past = examples(150)
    model.learn_many(past.x, past.y, past.weight)
    x = examples(2048, seed=1).x * 10.0
    together = model.predict_many(x)
    alone = np.concatenate([model.predict_many(x[i : i + 1]) for i in range(0, 2048, 9)])
    assert together[::9].tobytes() == alone.tobytes()


def test_the_past_does_not_move_when_the_model_goes_on() -> None:
    batch = examples(100)
    model = timeline(SPECS["logistic"], every=10)
    model.learn(batch.slice(0, 50))
    then = model.at(50)
    before = then.snapshot()
    model.learn(batch.slice(50, 100))
    assert then.snapshot() == before != model.learner.snapshot()


def test_a_version_to_come_is_refused() -> None:
    model = timeline(SPECS["logistic"])
    model.learn(examples(5))
    with pytest.raises(VersionNotKept, match="version 6 was not reached yet, this process has learned 5"):
        model.contributions(np.zeros((1, 3)), np.array([6]))


def test_forgetting_lets_go_of_the_past_and_begins_a_new_one() -> None:
    batch = examples(100)
    model = timeline(SPECS["logistic"], every=10)
    model.learn(batch.slice(0, 60), remember=False)
    assert model.oldest == model.version == 60
    assert model.at(60).snapshot() == model.learner.snapshot()
    model.learn(batch.slice(60, 100))
    assert model.oldest == 60
    live = OnlineModel(build_learner(SPECS["logistic"], FEATURES))
    live.learn(batch.slice(0, 75))
    assert model.at(75).snapshot() == live.snapshot().state


@pytest.mark.parametrize("budget", [1, 3_000, 10_000])
def test_large_snapshots_are_fewer_and_every_version_stays(budget: int) -> None:
    batch = examples(400)
    model = timeline(SPECS["boosted"], keep=128, every=4, budget_bytes=budget)
    for piece in cut(batch, list(range(0, 400, 7))):
        model.learn(piece)
    assert model.oldest <= 400 - 128
    assert len(model._marks) < 128 // 4
    for version in (model.oldest, 333, 399):
        live = OnlineModel(build_learner(SPECS["boosted"], FEATURES))
        live.learn(batch.slice(0, version))
        assert model.at(version).snapshot() == live.snapshot().state


# -- the fold ----------------------------------------------------------------------------------------------------


def with_repeats(batch: ExampleBatch, seed: int) -> tuple[ExampleBatch, list[int]]:
    """A log in which runs of earlier examples come again, and which rows of it are first ones."""
    rng = np.random.default_rng(seed)
    rows: list[int] = []
    for at in range(len(batch)):
        rows.append(at)
        if rng.random() < 0.1:
            rows += range(int(rng.integers(0, at + 1)), at + 1)
    first = [rows.index(row) for row in range(len(batch))]
    return batch.take(np.array(rows)), sorted(first)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 400), max_size=5), stored=st.integers(0, 79))
def test_replicas_agree_whatever_the_repeats_the_cuts_and_the_start(
    kind: str, seed: int, cuts: list[int], stored: int
) -> None:
    plain = examples(80)
    log, _ = with_repeats(plain, seed)
    offsets = np.arange(len(log)) * 2 + 10
    linear = OnlineModel(build_learner(SPECS[kind], names_of(kind)))
    linear.learn(plain)

    one = ExampleFold("fraud", SPECS[kind], names_of(kind))
    one.take(log, offsets, until=stored)
    state = one.state()
    assert state.version == stored
    other = ExampleFold("fraud", SPECS[kind], names_of(kind))
    other.restore(state)
    at = 0
    for piece in cut(log, cuts):
        place = offsets[at : at + len(piece)]
        at += len(piece)
        one.take(piece, place, mark_every=7)
        other.take(piece, place, remember=False)
    assert one.model.version == other.model.version == 80
    assert one.repeats == len(log) - 80
    assert one.state() == other.state()
    assert one.state().digest == linear.snapshot().digest


def test_marks_come_at_their_multiples_and_hold_the_place_in_the_log() -> None:
    log, first = with_repeats(examples(60), 3)
    fold = ExampleFold("fraud", SPECS["logistic"], FEATURES)
    marks = fold.take(log, np.arange(len(log)), mark_every=25)
    assert [mark.version for mark in marks] == [25, 50]
    for mark in marks:
        assert mark.next_offset > first[mark.version - 1]
        again = ExampleFold("fraud", SPECS["logistic"], FEATURES)
        again.restore(mark)
        again.take(log, np.arange(len(log)))
        assert again.state() == fold.state()


def test_the_number_of_an_events_examples_is_part_of_its_identity() -> None:
    batch = examples(3)
    twice = replace(batch, event_id=["e", "e", "e"], n=np.array([0, 1, 0]))
    fold = ExampleFold("fraud", SPECS["logistic"], FEATURES)
    fold.take(twice, np.arange(3))
    assert (fold.model.version, fold.repeats) == (2, 1)


def test_another_learner_or_other_features_do_not_fit() -> None:
    fits = {
        ExampleFold("fraud", SPECS["logistic"], FEATURES).fit,
        ExampleFold("fraud", SPECS["bayesian_logistic"], FEATURES).fit,
        ExampleFold("fraud", LearnerSpec(kind="logistic", params={"lr": 0.5}), FEATURES).fit,
        ExampleFold("fraud", SPECS["logistic"], (*FEATURES[::-1],)).fit,
    }
    assert len(fits) == 4
    assert ExampleFold("churn", SPECS["logistic"], FEATURES).fit in fits


@pytest.mark.parametrize("kind", ["auto", "adaptive_tree", "adaptive_forest"])
def test_what_computes_anew_does_so_wherever_it_is_a_member_and_other_kinds_go_on(kind: str) -> None:
    changed = LearnerSpec(kind=kind, members=(SPECS["logistic"],) if kind == "auto" else ())
    within = LearnerSpec(kind="stack", members=(SPECS["logistic"], changed))
    assert arithmetic_of(changed) == arithmetic_of(within) > ARITHMETIC
    assert arithmetic_of(SPECS["logistic"]) == arithmetic_of(LearnerSpec(kind="boosted")) == ARITHMETIC


def test_a_damaged_state_is_refused_and_changes_nothing() -> None:
    fold = ExampleFold("fraud", SPECS["logistic"], FEATURES)
    fold.take(examples(10), np.arange(10))
    before = fold.state()
    for damaged in (
        replace(before, model=before.model[:-1]),
        replace(before, digest="0" * 64),
        replace(before, identities=b"123"),
    ):
        with pytest.raises(StateError):
            fold.restore(damaged)
        assert fold.state() == before


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 1)), max_size=60), st.integers(1, 9))
def test_identities_are_those_of_the_newest_that_were_new(ids: list[tuple[str, int]], capacity: int) -> None:
    seen, newest = Identities(capacity), list[tuple[str, int]]()
    for at, (event_id, n) in enumerate(ids):
        if at % 5 == 4:
            state = seen.snapshot()
            seen = Identities(capacity)
            seen.restore(state)
        expected = (event_id, n) not in newest
        assert seen.keep([event_id], np.array([n])).tolist() == [expected]
        if expected:
            newest = [*newest, (event_id, n)][-capacity:]


# -- what is stored ----------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 12))
def test_stored_versions_thin_out_and_never_leave_a_wide_gap(count: int, newest: int) -> None:
    kept: set[int] = set()
    for version in range(0, count * 10, 10):
        kept = kept_versions([*kept, version], newest)
        ordered = sorted(kept)
        assert ordered[0] == 0
        assert ordered[-newest:] == list(range(version, -1, -10))[:newest][::-1]
        for low, high in pairwise(ordered):
            assert high - low <= max(10, 2 * (version - low))
    assert len(kept) <= newest + 14


class FakeSnapshots:
    """Snapshots that take what they are given when they are let, or fail as told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.saved = error, list[int]()
        self.open = asyncio.Event()

    async def save(self, fold: ExampleFold, state: FoldState) -> bool:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.saved.append(state.version)
        return True


def keeper(fake: FakeSnapshots | None, interval_s: float = 1e9) -> ModelKeeper:
    return ModelKeeper(cast(ModelSnapshots, fake) if fake is not None else None, interval_s)


async def test_while_one_model_is_written_only_the_newest_waits() -> None:
    fake = FakeSnapshots()
    made, fold = keeper(fake), ExampleFold("fraud", SPECS["logistic"], FEATURES)
    for first in range(0, 40, 10):
        fold.take(examples(10), np.arange(10))
        fold.next_offset = 0
        state = replace(fold.state(), version=first)
        made.put(fold, state)
        await asyncio.sleep(0)
    fake.open.set()
    await made.stop([(fold, replace(fold.state(), version=99))])
    assert fake.saved == [0, 99]


async def test_learning_goes_on_when_a_model_cannot_be_stored() -> None:
    fake = FakeSnapshots(StoreUnavailable("away"))
    fake.open.set()
    made, fold = keeper(fake), ExampleFold("fraud", SPECS["logistic"], FEATURES)
    made.put(fold, fold.state())
    await made.stop([])
    made.check()
    fake.error = None
    made.put(fold, fold.state())
    await made.stop([])
    assert fake.saved == [0]


async def test_a_diverged_replica_is_told_at_the_next_turn() -> None:
    fake = FakeSnapshots(ReplicaDiverged("differs"))
    fake.open.set()
    made, fold = keeper(fake), ExampleFold("fraud", SPECS["logistic"], FEATURES)
    made.check()
    made.put(fold, fold.state())
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(ReplicaDiverged, match="differs"):
        made.check()


async def test_a_model_is_due_when_the_interval_is_over_and_something_was_learned() -> None:
    fake = FakeSnapshots()
    made, fold = keeper(fake, interval_s=0.0), ExampleFold("fraud", SPECS["logistic"], FEATURES)
    assert not made.due(fold)
    fold.take(examples(3), np.arange(3))
    assert made.due(fold)
    made.stored(fold, 3)
    assert not made.due(fold)
    fold.take(examples(2, seed=1), np.arange(3, 5))
    assert not made.due(fold), "the same event ids: repeats"
    patient, nowhere = keeper(fake), keeper(None, interval_s=0.0)
    assert not patient.due(fold)
    assert patient.lacks(fold)
    assert not nowhere.due(fold)
