"""The boosted fold and its binned trees: brute-force oracles, invariance to cuts, and what it must be able to learn."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.online.said_before import predict_learn
from tests.work import calls_of
from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.learners.base import Learner
from weir.online.learners.binned import Trees, bin_rows, grow_tree, leaf_of, quantile_edges
from weir.online.learners.boosted import BoostedTrees

NAMES = ("a", "b", "c", "noise")
SMALL: dict[str, Any] = {"trees": 12, "depth": 3, "every": 50, "buffer": 400, "bins": 16}


def rows(n: int, seed: int = 0) -> tuple[FloatMatrix, BoolVector, FloatVector]:
    """Rows whose label needs a pair of columns, with unequal weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(NAMES)))
    x[:, 2] = np.floor(4 * x[:, 2])
    y = (x[:, 0] > 0.3) & (x[:, 1] > -0.2) | (rng.random(n) < 0.03)
    return x, y, np.where(y, 1.0, 2.0)


def learned(n: int, **params: Any) -> BoostedTrees:
    model = BoostedTrees(NAMES, **{**SMALL, **params})
    model.learn_many(*rows(n))
    return model


@cache
def whole() -> bytes:
    """State after 730 rows in one call, for the tests that cut them."""
    return learned(730).snapshot()


def log_loss(model: Learner, x: FloatMatrix, y: BoolVector) -> float:
    p = np.clip(model.predict_many(x), 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(y, np.log(p), np.log(1 - p))))


def test_is_a_learner() -> None:
    model: Learner = BoostedTrees(NAMES)
    assert model.features == NAMES


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 730), max_size=8))
def test_cuts_into_calls_change_nothing(cuts: list[int]) -> None:
    model = BoostedTrees(NAMES, **SMALL)
    x, y, weight = rows(730)
    edges = [0, *sorted(cuts), 730]
    for low, high in pairwise(edges):
        model.predict_many(x[low:high])  # looking must not change what is learned
        model.learn_many(x[low:high], y[low:high], weight[low:high])
    assert model.snapshot() == whole()


def test_scores_while_learning_are_those_from_just_before_each_row() -> None:
    x, y, weight = rows(730)
    model, slow = BoostedTrees(NAMES, **SMALL), BoostedTrees(NAMES, **SMALL)
    before = np.concatenate(
        [predict_learn(model, x[a:b], y[a:b], weight[a:b]) for a, b in pairwise([0, 3, 60, 60, 350, 730])]
    )
    for i in range(730):
        assert slow.predict_many(x[i : i + 1])[0] == before[i]
        slow.learn_many(x[i : i + 1], y[i : i + 1], weight[i : i + 1])
    assert model.snapshot() == whole()


@pytest.mark.parametrize("at", [0, 1, 49, 50, 399, 401, 650])
def test_restored_state_continues_bit_identically(at: int) -> None:
    x, y, weight = rows(730)
    first = BoostedTrees(NAMES, **SMALL)
    first.learn_many(x[:at], y[:at], weight[:at])
    second = learned(333, seed=0)  # what it held before must not shine through
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    second.learn_many(x[at:], y[at:], weight[at:])
    assert second.snapshot() == whole()


def test_snapshot_of_another_learner_is_refused_and_changes_nothing() -> None:
    model = learned(200)
    before = model.snapshot()
    for other in (
        BoostedTrees(NAMES, **{**SMALL, "trees": 13}),
        BoostedTrees(("a", "b", "c", "d"), **SMALL),
    ):
        with pytest.raises(ValueError, match="snapshot"):
            model.restore(other.snapshot())
    for junk in (b"", b"junk", before[:-7]):
        with pytest.raises(ValueError, match="snapshot"):
            model.restore(junk)
    assert model.snapshot() == before


@pytest.mark.parametrize("n", [0, 20, 120, 700])
def test_contributions_add_up_to_the_log_odds(n: int) -> None:
    model = learned(n)
    x = rows(64, seed=1)[0]
    reference = model.logit_many(x) - model.contributions(x).sum(axis=1)
    np.testing.assert_allclose(reference, reference[0], atol=1e-9)


def test_contributions_name_the_columns_that_matter() -> None:
    model = learned(2000, buffer=2000, trees=30)
    said = np.abs(model.contributions(rows(200, seed=1)[0])).mean(axis=0)
    assert min(said[0], said[1]) > 5 * max(said[2], said[3])


def test_probability_of_a_row_does_not_depend_on_its_batch() -> None:
    model = learned(700)
    x = rows(100, seed=2)[0]
    alone = np.concatenate([model.predict_many(x[i : i + 1]) for i in range(100)])
    assert np.array_equal(alone, model.predict_many(x))
    assert np.array_equal(alone, model.predict_many(np.asfortranarray(x)))
    assert np.all((alone >= 0) & (alone <= 1))


def test_before_the_first_tree_it_says_the_weighted_base_rate() -> None:
    assert BoostedTrees(NAMES).predict_many(np.zeros((1, 4)))[0] == 0.5
    model = BoostedTrees(NAMES)
    model.learn_many(np.zeros((9, 4)), np.arange(9) < 1, np.where(np.arange(9) < 1, 1.0, 10.0))
    assert model.predict_many(np.zeros((1, 4)))[0] == pytest.approx(1.5 / 82)


def test_sampled_negatives_with_weights_stay_calibrated() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40_000, 4))
    y = rng.random(40_000) < 1 / (1 + np.exp(3.5 - x[:, 0]))
    keep = y | (rng.random(40_000) < 0.1)
    model = BoostedTrees(NAMES, trees=32, depth=3, every=50, buffer=8000)
    model.learn_many(x[keep], y[keep], np.where(y[keep], 1.0, 10.0))
    assert model.predict_many(x).mean() == pytest.approx(y.mean(), rel=0.1)


def test_learns_an_interaction_a_linear_model_cannot() -> None:
    model = learned(3000, buffer=2000, trees=40)
    x, y, _ = rows(2000, seed=4)
    base = y.mean()
    assert log_loss(model, x, y) < 0.5 * -(base * np.log(base) + (1 - base) * np.log(1 - base))


def test_forgets_a_concept_that_turned_round() -> None:
    model = learned(2000, learning_rate=0.4)
    x, y, weight = rows(3000, seed=5)
    turned = ~y
    before = log_loss(model, x[2000:], turned[2000:])
    model.learn_many(x[:2000], turned[:2000], weight[:2000])
    assert log_loss(model, x[2000:], turned[2000:]) < 0.25 * before


def test_one_class_and_constant_columns_are_survived() -> None:
    model = BoostedTrees(NAMES, **SMALL)
    model.learn_many(np.ones((200, 4)), np.zeros(200, np.bool_), np.ones(200))
    p = model.predict_many(np.full((1, 4), 1e300))[0]
    assert 0 < p < 0.02


@pytest.mark.parametrize(("name", "value"), [("trees", 0), ("depth", 11), ("bins", 257), ("row_share", 0.0)])
def test_parameters_outside_their_limits_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        BoostedTrees(NAMES, **{name: value})  # type: ignore[arg-type]


def test_buffer_smaller_than_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="every = 300"):
        BoostedTrees(NAMES, every=300, buffer=200)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 5, 16, 256]))
def test_bins_count_the_edges_below(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice([rng.normal(size=60), rng.integers(0, 3, 60)], size=3).T.astype(np.float32)
    y = rng.random(60) < rng.choice([0.0, 0.2, 1.0])
    edges, counts = quantile_edges(np.ascontiguousarray(x), y, bins)
    out = np.zeros(x.shape, np.uint8)
    bin_rows(np.ascontiguousarray(x), np.arange(60), edges, counts, out)
    for f in range(3):
        used = edges[f, : counts[f]]
        assert np.all(np.diff(used) > 0)
        assert np.all(used < x[:, f].max())
        assert np.array_equal(out[:, f], (x[:, [f]] > used).sum(axis=1))


def best_gain(binned: NDArray[np.uint8], g: FloatVector, h: FloatVector, l2: float) -> float:
    """Largest drop in the loss over all columns and cuts, the slow way."""
    best = 0.0
    for f in range(binned.shape[1]):
        for cut in range(int(binned[:, f].max())):
            left = binned[:, f] <= cut
            parts = [(g[m].sum(), h[m].sum()) for m in (left, ~left)]
            best = max(best, sum(a * a / (b + l2) for a, b in parts) - g.sum() ** 2 / (h.sum() + l2))
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 5.0]))
def test_a_split_is_the_best_one_and_leaves_are_newton_steps(seed: int, l2: float) -> None:
    rng = np.random.default_rng(seed)
    n = 80
    x = rng.integers(0, 6, size=(n, 3)).astype(np.float32)
    g, h = rng.normal(size=n) + (x[:, 1] > 3), rng.random(n) + 0.1
    edges, counts = quantile_edges(x, np.zeros(n, np.bool_), 16)
    binned = np.zeros(x.shape, np.uint8)
    every = np.arange(n)
    bin_rows(x, every, edges, counts, binned)
    feature, threshold, value = np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(3)
    tree = Trees(feature, threshold, value)
    grow_tree(
        binned, every, np.arange(3), edges, counts, g, h, h, 1, l2, 1e-12, 0.3, tree
    )  # fmt: skip
    leaf = np.array([leaf_of(x, i, tree, 1) for i in range(n)])
    gain = -(g.sum() ** 2) / (h.sum() + l2)
    for k in (1, 2):
        inside = leaf == k
        gain += g[inside].sum() ** 2 / (h[inside].sum() + l2)
        assert value[k] == pytest.approx(-0.3 * g[inside].sum() / (h[inside].sum() + l2))
    assert gain == pytest.approx(best_gain(binned, g, h, l2), abs=1e-8)
    assert value[0] == pytest.approx((value[leaf] * h).sum() / h.sum())


def test_the_hot_path_is_compiled() -> None:
    """Python's part is the same however many rows there are; benchmarks/bench_learners.py has the seconds."""
    model, x = learned(500), rows(1_000)[0]
    model.predict_many(x)  # compiles
    assert calls_of(lambda: model.predict_many(x[:2])) == calls_of(lambda: model.predict_many(x)) < 30

    def learning(every: int) -> int:
        model, batch = learned(every, every=every), rows(every)
        return calls_of(lambda: model.learn_many(*batch))

    assert learning(100) == learning(400) < 500
