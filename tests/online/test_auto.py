"""What ``auto`` promises: as good as its best member, whichever that is by now, and calibrated; late labels too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.online.said_before import predict_learn
from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.learners.auto import Auto
from weir.online.learners.boosted import BoostedTrees
from weir.online.learners.curved import CurvedLogistic
from weir.online.learners.factory import AUTO_MEMBERS, LearnerSpec, build_learner, hasty
from weir.online.learners.logistic import ScaledLogistic, sigmoid_many
from weir.streams.workbench.measures import reliability

NAMES = ("a", "b", "c")


class Says:
    """A member that knows a column's log-odds from the start, and learns nothing."""

    features: tuple[str, ...] = NAMES

    def __init__(self, column: int, times: float = 1.0) -> None:
        self.column, self.times = column, times

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        return sigmoid_many(np.ascontiguousarray(self.times * x[:, self.column]))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Nothing."""

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        return np.where(np.arange(3) == self.column, self.times * x, 0.0)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """Nothing."""


class Repeats(Says):
    """Says of every row what the last one learned was: right while labels come in runs and are known at once."""

    last = 0.0

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        return sigmoid_many(np.full(len(x), self.last))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        if len(y):
            self.last = 4.0 if y[-1] else -4.0


def loss(p: FloatVector, y: BoolVector) -> float:
    return float(-np.log(np.clip(np.where(y, p, 1.0 - p), 1e-9, 1.0)).mean())


def rows(n: int, seed: int, turn: int) -> tuple[FloatMatrix, BoolVector, FloatVector]:
    """Labels drawn by the first column's log-odds up to the row ``turn``, by the second's from there on."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 2.0, size=(n, 3))
    z = np.where(np.arange(n) < turn, x[:, 0], x[:, 1])
    return x, rng.random(n) < sigmoid_many(z), np.ones(n)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0, 500]), st.permutations([0, 1, 2]), st.floats(0.3, 3.0))
def test_it_is_not_worse_than_its_best_member(seed: int, lag: int, order: list[int], times: float) -> None:
    x, y, w = rows(6_000, seed, turn=6_000)
    model = Auto(NAMES, members=[Says(k, times) for k in order], lag=lag)
    said = predict_learn(model, x, y, w)
    best = Says(0, times).predict_many(x)
    assert loss(said[1_000:], y[1_000:]) < loss(best[1_000:], y[1_000:]) + 0.01


@pytest.mark.parametrize("lag", [0, 500])
def test_it_follows_when_another_member_is_the_best(lag: int) -> None:
    x, y, w = rows(16_000, seed=1, turn=8_000)
    said = predict_learn(Auto(NAMES, members=[Says(0), Says(1), Says(2)], lag=lag), x, y, w)
    late = slice(12_000, None)
    assert loss(said[late], y[late]) < loss(Says(1).predict_many(x[late]), y[late]) + 0.02


@pytest.mark.parametrize("times", [0.4, 2.5])
def test_members_that_are_too_timid_or_too_sure_are_put_right(times: float) -> None:
    x, y, w = rows(20_000, seed=2, turn=20_000)
    model = Auto(NAMES, members=[Says(0, times)])
    model.learn_many(x, y, w)
    fresh, truth, _ = rows(20_000, seed=3, turn=20_000)
    p = model.predict_many(fresh)
    bins = np.minimum((p * 10).astype(int), 9)
    gaps = [abs(p[bins == k].mean() - truth[bins == k].mean()) for k in range(10)]
    assert max(gaps) < 0.05, gaps


def test_a_member_that_is_too_timid_in_the_middle_and_too_sure_at_the_ends_is_put_right() -> None:
    """As mixed log-odds are; lines that bend at 0 cannot tell the middle from the ends."""
    rng = np.random.default_rng(11)
    x = rng.normal(0.0, 2.5, size=(40_000, 3))
    y = rng.random(len(x)) < sigmoid_many(3.0 * np.tanh(x[:, 0] / 1.5))
    p = predict_learn(Auto(NAMES, members=[Says(0)], lag=0), x, y, np.ones(len(x)))
    late = slice(20_000, None)
    assert reliability(y[late], Says(0).predict_many(x[late])).ece > 0.055
    assert reliability(y[late], p[late]).ece < 0.03  # by bends alone it is .041


def test_with_late_labels_a_member_earns_nothing_by_what_it_has_just_learned() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(rng.random(200) < 0.5, 40)  # runs of 40: whoever sees the label before knows the next
    x = np.column_stack([np.where(y, 1.0, -1.0) + rng.normal(size=len(y)), np.zeros((len(y), 2))])
    shares = {}
    for lag in (0, 2_000):
        model = Auto(NAMES, members=[Says(0), Repeats(0)], lag=lag)
        model.learn_many(x, y, np.ones(len(y)))
        at = model._stack.contributions(np.array([[0.0, 0.0], [0.0, 4.0]]))
        shares[lag] = float(at[1, 1] - at[0, 1])
    assert shares[0] > 2.0 > 0.5 > shares[2_000]  # of 4 that the second one says


def test_what_is_restored_continues_bit_for_bit_with_its_stand_ins() -> None:
    spec = LearnerSpec(kind="auto", params={"lag": 256})
    x, y, w = rows(1_500, seed=4, turn=700)
    one, other = build_learner(spec, NAMES), build_learner(spec, NAMES)
    for at in range(0, 1_500, 300):  # between two looks, and in the midst of doubling
        one.learn_many(x[at : at + 300], y[at : at + 300], w[at : at + 300])
        other.restore(one.snapshot())
        assert other.snapshot() == one.snapshot()
        one, other = other, one
    whole = build_learner(spec, NAMES)
    whole.learn_many(x, y, w)
    assert whole.snapshot() == one.snapshot()


def test_a_state_of_before_the_calibrator_saw_the_probability_goes_on_and_is_calibrated_anew() -> None:
    x, y, w = rows(1_500, seed=4, turn=1_500)
    old, new = (Auto(NAMES, members=[ScaledLogistic(NAMES)], lag=0) for _ in range(2))
    old.learn_many(x, y, w)
    learned = old.members[0].snapshot()
    old._calibrator = old._new_calibrator(("all", "above 0", "below -4"))
    new.restore(old.snapshot())
    assert new.members[0].snapshot() == learned
    assert new.shares.tolist() == old.shares.tolist()
    assert new._calibrator.snapshot() == Auto(NAMES, members=[ScaledLogistic(NAMES)])._calibrator.snapshot()
    old._calibrator = old._new_calibrator(("all", "another"))
    with pytest.raises(ValueError, match="features"):
        new.restore(old.snapshot())


def test_a_stand_in_of_trees_scores_alike_and_is_small() -> None:
    x, y, w = rows(3_000, seed=5, turn=3_000)
    model = BoostedTrees(NAMES, every=100)
    model.learn_many(x, y, w)
    copy = model.for_scoring()
    before = copy.predict_many(x)
    assert before.tobytes() == model.predict_many(x).tobytes()
    model.learn_many(x, ~y, w)
    assert copy.predict_many(x).tobytes() == before.tobytes()
    assert len(copy.snapshot()) < len(model.snapshot()) / 2


def test_contributions_add_up_to_the_log_odds_but_for_the_calibrator() -> None:
    x, y, w = rows(4_000, seed=6, turn=4_000)
    model = Auto(NAMES, members=[Says(0), Says(1)])
    model.learn_many(x, y, w)
    p, parts = model.predict_many(x[:200]), model.contributions(x[:200])
    assert np.corrcoef(np.log(p / (1 - p)), parts.sum(axis=1))[0, 1] > 0.99
    assert np.abs(parts[:, 2]).max() == 0.0


def test_a_task_names_no_members_and_gets_those_that_suit_most_streams() -> None:
    model: Any = build_learner(LearnerSpec(kind="auto"), NAMES)
    assert len(model.learner.members) == len(AUTO_MEMBERS)
    assert [m.params.get("every") for m in hasty(LearnerSpec(kind="auto")).members[:2]] == [16, 16]
    own = LearnerSpec(kind="auto", members=(LearnerSpec(kind="logistic"), LearnerSpec(kind="boosted")))
    named: Any = build_learner(own, NAMES)
    assert len(named.learner.members) == 2
    for params in ({"half_life": 0.0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match="above 0"):
            build_learner(LearnerSpec(kind="auto", params=params), NAMES)


def test_bent_columns_say_what_a_line_cannot() -> None:
    rng = np.random.default_rng(7)
    x: NDArray[np.float64] = np.exp(rng.normal(3.0, 3.0, size=(3_000, 1))) * (rng.random((3_000, 1)) < 0.8)
    y = (x[:, 0] > 20.0) | (x[:, 0] == 0.0)
    model = CurvedLogistic(("amount",))
    model.learn_many(x, y, np.ones(len(x)))
    assert ((model.predict_many(x) > 0.5) == y).mean() > 0.95
    wide = CurvedLogistic(tuple(map(str, range(80))))
    assert wide.predict_many(np.ones((2, 80))).shape == (2,)
