"""The Numba folds of the linear learners against River's own objects and against textbook formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import linear_model, optim, preprocessing

from tests.online.said_before import predict_learn
from weir.online.learners.bayesian import BayesianLogistic
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.logistic import ScaledLogistic
from weir.online.learners.scaled import MOST_DEVIATIONS

Rows = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


@st.composite
def streams(draw: st.DrawFn) -> Rows:
    """Rows of a noisy linear concept, on scales and offsets that differ a thousandfold, some columns constant."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, width = draw(st.integers(1, 60)), draw(st.integers(1, 8))
    scale = 10.0 ** rng.uniform(-2, 2, width) * (rng.random(width) > 0.15)
    x = rng.normal(size=(n, width)) * scale + rng.normal(size=width) * 10
    y = x @ rng.normal(size=width) + rng.normal(size=n) > 0
    weight = rng.choice([0.25, 1.0, 1.0, 7.5], size=n)
    return x, y, weight


def names(x: NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(f"f{j:02d}" for j in range(x.shape[1]))


def as_dicts(x: NDArray[np.float64]) -> list[dict[str, float]]:
    return [dict(zip(names(x), row, strict=True)) for row in x.tolist()]


@settings(max_examples=60, deadline=None)
@given(streams(), st.sampled_from([0.005, 0.1, 1.0]), st.sampled_from([0.0, 0.01]), st.sampled_from([1e12, 0.5]))
def test_scaled_logistic_is_rivers_pipeline(stream: Rows, lr: float, l2: float, clip: float) -> None:
    x, y, weight = stream
    glm = linear_model.LogisticRegression(optim.SGD(lr), l2=l2, intercept_lr=0.02, clip_gradient=clip)
    river: Any = preprocessing.StandardScaler() | glm
    ours = ScaledLogistic(names(x), lr=lr, intercept_lr=0.02, l2=l2, clip_gradient=clip)
    river_before = []
    for row, label, w in zip(as_dicts(x), y.tolist(), weight.tolist(), strict=True):
        scaled = river["StandardScaler"].transform_one(row)
        assume(max(map(abs, scaled.values())) <= MOST_DEVIATIONS)  # ours clips them
        river_before.append(river.predict_proba_one(row)[True])
        river.learn_one(row, label, w=w)
    before = predict_learn(ours, x, y, weight)
    np.testing.assert_allclose(before, river_before, rtol=0, atol=1e-9)
    after = [river.predict_proba_one(row)[True] for row in as_dicts(x)]
    np.testing.assert_allclose(ours.predict_many(x), after, rtol=0, atol=1e-9)


def test_bayesian_logistic_nears_the_batch_optimum_in_one_pass() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    base = rng.normal(size=(1500, 6))
    x = base @ rng.normal(size=(6, 6)) * 3 + 5
    y = rng.random(1500) < 1 / (1 + np.exp(-(base[:, 0] * 2 - base[:, 1] - 0.5)))
    model = BayesianLogistic(tuple("abcdef"), prior_std=3.0)
    model.learn_many(x, y, np.ones(1500))
    scaled = (x - x.mean(0)) / x.std(0)
    batch = LogisticRegression(C=9.0, max_iter=5000).fit(scaled, y).predict_proba(scaled)[:, 1]
    assert np.abs(model.predict_many(x) - batch).mean() < 0.02


def test_bayesian_prior_ranks_before_the_first_label_and_yields_to_the_data() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(4000, 1))
    model = BayesianLogistic(("silence",), prior={"silence": 1.0}, intercept=0.5)
    assert model.predict_many(np.array([[0.0], [2.0]])).tolist() == pytest.approx(
        [1 / (1 + np.exp(-z)) for z in (0.5, 2.5)]
    )
    y = rng.random(4000) < 1 / (1 + np.exp(2 * x[:, 0]))
    model.learn_many(x, y, np.ones(4000))
    low, high = model.predict_many(np.array([[-1.0], [1.0]]))
    assert low == pytest.approx(1 / (1 + np.exp(-2)), abs=0.05)
    assert high == pytest.approx(1 / (1 + np.exp(2)), abs=0.05)
    with pytest.raises(ValueError, match="nowhere"):
        BayesianLogistic(("a",), prior={"nowhere": 1.0})


@pytest.mark.parametrize("prior", [{"a": np.nan}, {"a": np.inf}, {"a": "1"}, {"a": [1.0]}, {"a": True}, [1.0]])
def test_bayesian_prior_is_of_numbers(prior: Any) -> None:
    with pytest.raises(ValueError, match=r"prior (of 'a' )?is .*; give"):
        build_learner(LearnerSpec(kind="bayesian_logistic", params={"prior": prior}), ("a",))


@pytest.mark.parametrize("intercept", [np.nan, np.inf, -np.inf])
def test_bayesian_intercept_is_a_number(intercept: float) -> None:
    with pytest.raises(ValueError, match=r"intercept = -?(nan|inf); give a number"):
        build_learner(LearnerSpec(kind="bayesian_logistic", params={"intercept": intercept}), ("a",))


def test_bayesian_half_life_follows_a_concept_that_turns_round() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(6000, 2))
    y = (x[:, 0] + rng.normal(size=6000) > 0) ^ (np.arange(6000) >= 3000)
    best = ((x[:, 0] > 0) ^ (np.arange(6000) >= 3000) == y)[3400:4400].mean()
    models = (BayesianLogistic(("a", "b"), half_life=200), BayesianLogistic(("a", "b")))
    fresh, steady = (((predict_learn(m, x, y, np.ones(6000)) > 0.5) == y)[3400:4400].mean() for m in models)
    assert fresh > best - 0.05
    assert steady < 0.5


def test_bayesian_covariance_stays_within_its_prior_when_a_feature_falls_silent() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(20_000, 2))
    x[500:, 1] = 0.0
    model = BayesianLogistic(("a", "b"), half_life=50, prior_std=2.0)
    model.learn_many(x, x[:, 0] > 0, np.ones(len(x)))
    cov = model._state["cov"]
    assert np.all(np.diag(cov) <= 4.0 + 1e-9)
    assert np.linalg.eigvalsh(cov).min() > 0
    assert np.all(np.isfinite(model.predict_many(x[:10])))


@pytest.mark.parametrize("model_class", [ScaledLogistic, BayesianLogistic])
@settings(max_examples=30, deadline=None)
@given(stream=streams())
def test_linear_contributions_add_up_to_the_log_odds_above_the_mean(model_class: Any, stream: Rows) -> None:
    x, y, weight = stream
    model = model_class(names(x))
    model.learn_many(x, y, weight)
    mean = model.predict_many(model._state["mean"][None])[0]  # what a row is compared with: every feature at its mean
    assume(1e-9 < mean < 1 - 1e-9)
    log_odds = model.contributions(x).sum(axis=1) + np.log(mean / (1 - mean))
    p = model.predict_many(x)
    inside = np.abs(log_odds) < 20
    np.testing.assert_allclose(p[inside], 1 / (1 + np.exp(-log_odds[inside])), rtol=0, atol=1e-9)
