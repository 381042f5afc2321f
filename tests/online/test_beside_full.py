"""An online learner beside the full model: whose word counts how much."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.online.said_before import predict_learn
from weir.online.learners.beside import FULL, HedgedLearner
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.guard import GuardedLearner
from weir.online.learners.logistic import ScaledLogistic, logit_of, sigmoid_many
from weir.online.learners.state import seal_with

NAMES = ("a", *FULL, "full.e0")
SPEC = LearnerSpec(
    kind="beside_full",
    params={"half_life": 500.0, "temperature": 0.05},
    members=(LearnerSpec(kind="logistic", params={"lr": 0.05}),),
)
Rows = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


def build() -> HedgedLearner:
    guarded = build_learner(SPEC, NAMES)
    assert isinstance(guarded, GuardedLearner)
    model = guarded.learner
    assert isinstance(model, HedgedLearner)
    return model


def rows(n: int, slope: float, known: float = 1.0, seed: int = 0) -> Rows:
    """Labels follow the sum of two hidden columns; the learner sees one, the full model ``slope`` times the sum."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    y = rng.random(n) < 1 / (1 + np.exp(-2 * (a + b)))
    there = rng.random(n) < known
    x = np.column_stack([a, np.where(there, slope * (a + b), 0.0), there, np.zeros(n)])
    return x, y, np.ones(n)


def test_the_member_does_not_see_the_logit_but_does_see_the_embedding() -> None:
    assert build().members[0].features == ("a", "full.e0")


def test_until_anything_is_learned_the_full_model_counts_an_eighth() -> None:
    x, _, _ = rows(50, slope=2.0)
    assert build().share == pytest.approx(0.12, abs=0.001)
    assert np.allclose(build().predict_many(x), sigmoid_many(build().share * x[:, 1]))


@pytest.mark.parametrize(("slope", "least", "most"), [(2.0, 0.9, 1.0), (0.0, 0.0, 0.05), (-0.5, 0.0, 0.001)])
def test_a_few_hundred_labels_decide_also_where_the_past_fades_slowly(slope: float, least: float, most: float) -> None:
    """At first the past weighed as half_life says, 72,000 rows: a bad model had its half for tens of thousands."""
    model = build_learner(SPEC.model_copy(update={"params": {}}), NAMES)
    model.learn_many(*rows(1000, slope))
    assert isinstance(model, GuardedLearner)
    assert isinstance(model.learner, HedgedLearner)
    assert least <= model.learner.share <= most


def test_a_state_of_before_goes_on_as_it_did() -> None:
    """Its losses were means over as many rows as half_life ever holds, from the start."""
    x, y, w = rows(300, slope=1.0)
    old, fresh = build(), build()
    arrays = {"loss": np.full(2, math.log(2.0))}
    old.restore(seal_with([fresh.members[0].snapshot()], "beside_full", NAMES, arrays))
    assert old.share == 0.5
    own = logit_of(ScaledLogistic(("a", "full.e0"), lr=0.05).predict_many(np.ascontiguousarray(x[:1, [0, 3]])), 12.0)
    old.learn_many(x[:1], y[:1], w[:1])
    keep = 0.5 ** (1 / 500)
    lost = [math.log1p(math.exp(-(1 if y[0] else -1) * z)) for z in (own[0], x[0, 1])]
    assert np.allclose(old._state["loss"], [keep * math.log(2.0) + (1 - keep) * one for one in lost], rtol=1e-14)


def test_a_row_without_the_full_model_is_the_learner_s_alone() -> None:
    x, y, w = rows(2000, slope=2.0, known=0.5)
    model, alone = build(), ScaledLogistic(("a", "full.e0"), lr=0.05)
    model.learn_many(x, y, w)
    alone.learn_many(np.ascontiguousarray(x[:, [0, 3]]), y, w)
    off = x[:, 2] == 0
    assert np.allclose(model.predict_many(x[off]), alone.predict_many(np.ascontiguousarray(x[off][:, [0, 3]])))


def test_the_better_one_gets_the_share_and_loses_it_when_it_turns_bad() -> None:
    model = build()
    model.learn_many(*rows(3000, slope=2.0))
    good = model.share
    model.learn_many(*rows(3000, slope=-2.0, seed=1))
    assert good > 0.9
    assert model.share < 0.01


def test_rows_without_the_full_model_do_not_move_the_shares() -> None:
    model = build()
    model.learn_many(*rows(500, slope=2.0))
    share = model.share
    model.learn_many(*rows(2000, slope=0.0, known=0.0))
    assert model.share == share


def test_it_equals_its_pieces_in_any_cuts_and_after_a_snapshot() -> None:
    x, y, w = rows(900, slope=1.0, known=0.8)
    whole, pieces, restored = build(), build(), build()
    before = predict_learn(whole, x, y, w)
    said = [predict_learn(pieces, x[a:b], y[a:b], w[a:b]) for a, b in ((0, 1), (1, 400), (400, 900))]
    assert np.concatenate(said).tobytes() == before.tobytes()
    assert pieces.snapshot() == whole.snapshot()
    restored.restore(whole.snapshot())
    assert restored.predict_many(x).tobytes() == whole.predict_many(x).tobytes()
    with pytest.raises(ValueError):
        restored.restore(ScaledLogistic(NAMES).snapshot())


def test_inputs_may_be_read_only_and_contributions_add_up() -> None:
    x, y, w = rows(400, slope=1.0, known=0.5)
    for array in (x, y, w):
        array.setflags(write=False)
    model = build()
    model.learn_many(x, y, w)
    parts = model.contributions(x)
    on = x[:, 2] > 0
    seen = np.ascontiguousarray(x[:, [0, 3]])
    reference = logit_of(model.members[0].predict_many(seen), 12.0) - model.members[0].contributions(seen).sum(axis=1)
    assert np.allclose(parts[on, 1], model.share * (x[on, 1] - reference[on]))
    assert np.allclose(parts.sum(axis=1) + reference, logit_of(model.predict_many(x), 12.0)), (
        "of either, from one start"
    )
    assert (parts[~on, 1] == 0).all()
    assert (parts[:, 2] == 0).all()
    own = model.members[0].contributions(seen)
    assert np.allclose(parts[on][:, [0, 3]], (1 - model.share) * own[on])


@pytest.mark.parametrize(
    ("names", "spec", "message"),
    [
        (("a",), SPEC, "give the task a \\[full\\] table"),
        (NAMES, LearnerSpec(kind="beside_full"), "0 members"),
        (NAMES, SPEC.model_copy(update={"params": {"temperature": 0.0}}), "temperature = 0.0 must be > 0"),
    ],
)
def test_what_cannot_be_built_says_why(names: tuple[str, ...], spec: LearnerSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_learner(spec, names)
