"""The stack against a slow oracle, and what its weights promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.online.said_before import predict_learn
from weir.online.learners.base import Learner
from weir.online.learners.bayesian import BayesianLogistic
from weir.online.learners.logistic import ScaledLogistic, logit_of
from weir.online.learners.stack import Stack

Vector = NDArray[np.float64]
NAMES = ("a", "b", "c")


class Fixed:
    """A member that always answers what it was told, and counts what it learned."""

    features: tuple[str, ...] = NAMES

    def __init__(self, p: float) -> None:
        self.p = p
        self.learned = 0
        self.seen_at_score: list[int] = []

    def predict_many(self, x: Vector) -> Vector:
        self.seen_at_score.append(self.learned)
        return np.full(len(x), self.p)

    def learn_many(self, x: Vector, y: NDArray[np.bool_], weight: Vector) -> None:
        self.learned += len(x)

    def contributions(self, x: Vector) -> Vector:
        return np.full(x.shape, self.p)

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        del state


def rows(n: int, seed: int = 0) -> tuple[Vector, NDArray[np.bool_], Vector]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, x[:, 0] - x[:, 1] + rng.normal(size=n) > 0, rng.choice([0.5, 1.0, 4.0], size=n)


def members() -> list[Learner]:
    return [ScaledLogistic(NAMES, lr=0.1), BayesianLogistic(NAMES), ScaledLogistic(NAMES, lr=0.001)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.02]), st.sampled_from([5.0, 300.0]))
def test_the_fold_is_score_then_weigh_then_learn_row_by_row(seed: int, lr: float, half_life: float) -> None:
    x, y, w = rows(80, seed)
    stack = Stack(NAMES, members=members(), half_life=half_life, temperature=0.1, combiner_lr=lr, combiner_l2=0.01)
    got = predict_learn(stack, x, y, w)
    oracle = members()
    loss, beta, bias = [math.log(2)] * 3, [0.0] * 3, 0.0
    for i in range(len(x)):
        z_m = [float(logit_of(m.predict_many(x[i : i + 1]), 8.0)[0]) for m in oracle]
        raw = [math.exp(-value / 0.1) for value in loss]
        z = bias + sum((r / sum(raw) + b) * z_one for r, b, z_one in zip(raw, beta, z_m, strict=True))
        assert got[i] == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-9)
        sign = 1.0 if y[i] else -1.0
        keep = 0.5 ** (w[i] / half_life)
        loss = [keep * a + (1 - keep) * math.log(1 + math.exp(-sign * b)) for a, b in zip(loss, z_m, strict=True)]
        step = -lr * sign / (1 + math.exp(sign * z)) * w[i]
        beta = [b - step * z_one - lr * 0.01 * b for b, z_one in zip(beta, z_m, strict=True)]
        bias -= step
        for m in oracle:
            m.learn_many(x[i : i + 1], y[i : i + 1], w[i : i + 1])


def test_a_member_never_scores_a_row_it_has_learned() -> None:
    member = Fixed(0.5)
    x, y, w = rows(6)
    predict_learn(member, x, y, w)
    assert member.seen_at_score == [0, 1, 2, 3, 4, 5]


def test_the_better_member_takes_over_and_gives_way_when_the_world_turns() -> None:
    optimist, pessimist = Fixed(0.9), Fixed(0.1)
    stack = Stack(NAMES, members=(optimist, pessimist), half_life=50)
    x = np.zeros((400, 3))
    stack.learn_many(x, np.ones(400, bool), np.ones(400))
    assert stack.shares[0] > 0.99
    assert stack.predict_many(x[:1])[0] == pytest.approx(0.9, abs=0.01)
    stack.learn_many(x, np.zeros(400, bool), np.ones(400))
    assert stack.shares[1] > 0.99


def test_shares_start_even_and_sum_to_one() -> None:
    stack = Stack(NAMES, members=members())
    np.testing.assert_allclose(stack.shares, 1 / 3)
    stack.learn_many(*rows(200))
    assert stack.shares.sum() == pytest.approx(1.0)


def test_it_keeps_up_with_its_best_member() -> None:
    x, y, w = rows(4000, seed=2)
    w[:] = 1.0
    losses = []
    for model in [*members(), Stack(NAMES, members=members())]:
        p = np.clip(predict_learn(model, x, y, w)[500:], 1e-9, 1 - 1e-9)
        losses.append(float(-np.where(y[500:], np.log(p), np.log(1 - p)).mean()))
    assert losses[-1] < min(losses[:-1]) + 0.01


def test_the_combiner_sharpens_timid_members() -> None:
    y = np.random.default_rng(0).random(3000) < 0.95
    x = np.zeros((3000, 3))
    stack = Stack(NAMES, members=(Fixed(0.6), Fixed(0.55)), combiner_lr=0.05)
    stack.learn_many(x, y, np.ones(3000))
    assert stack.predict_many(x[:1])[0] == pytest.approx(0.95, abs=0.03)


def test_contributions_are_the_members_by_their_slopes() -> None:
    parts = members()
    stack = Stack(NAMES, members=parts, combiner_lr=0.01)
    x, y, w = rows(300)
    stack.learn_many(x, y, w)
    expected = sum(s * m.contributions(x[:5]) for s, m in zip(stack.slopes, parts, strict=True))
    np.testing.assert_allclose(stack.contributions(x[:5]), expected)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="half_life 0"):
        Stack(NAMES, members=members(), half_life=0)
    with pytest.raises(ValueError, match="temperature -1"):
        Stack(NAMES, members=members(), temperature=-1.0)
    with pytest.raises(ValueError, match="member 0 has 3 features"):
        Stack(("a",), members=members())
