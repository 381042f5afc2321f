"""Compiled trees and forests against River's own, node by node and answer by answer."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from river import drift, forest, tree

from weir.online.drift import adwin
from weir.online.learners.hoeffding.adaptive_forest import AdaptiveForest
from weir.online.learners.hoeffding.adaptive_tree import AdaptiveTree
from weir.online.learners.hoeffding.grove import (
    ALTERNATE,
    CUT,
    ERROR_RATE,
    FEATURE,
    HIGH,
    LEFT,
    LOW,
    MEAN,
    NO,
    RIGHT,
    SQUARES,
    WATCH,
    WEIGHT,
    YES,
    Grove,
    fresh_grove,
)

NAMES = ("zeta", "alpha", "mid", "beta")  # not sorted: River's forests draw columns in the order of their names
ADWIN: Any = drift.ADWIN  # untyped in River
Rows = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]


def positive_share(proba: dict[Any, float]) -> float:
    """Probability of ``True`` from River's answer, which lacks classes not seen yet; .5 when it knows nothing."""
    total = sum(proba.values())
    return min(float(proba.get(True, 0.0) / total), 1.0) if total > 0 else 0.5


def turning(n: int, seed: int = 12) -> Rows:
    """The concept turns round twice: alternates come and go, trees are replaced."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    y = (x[:, 0] > 0) ^ (np.arange(n) * 3 // n == 1) ^ (rng.random(n) < 0.05)
    return x, y, np.ones(n)


def returning(n: int) -> Rows:
    """Two rules by turns, one of them of several columns: a leaf beside a branch overtakes it, or falls behind."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    first = (x[:, 0] > 0) ^ (x[:, 1] > 0.3) & (x[:, 2] > 0)
    y = np.where(np.arange(n) // 1500 % 2 == 0, first, x[:, 0] < 0)
    return x, y ^ (rng.random(n) < 0.1), np.ones(n)


def assert_alike(ours: Any, river: Any, rows: Rows, *, weighted: bool = False) -> None:
    """Every answer just before a row is learned is River's, but for rounding."""
    x, y, w = rows
    before = ours.score_and_judge(x[:0], np.empty(0, np.int64), x, y, w)[1]
    for i, row in enumerate(x.tolist()):
        named = dict(zip(NAMES, row, strict=True))
        assert before[i] == pytest.approx(positive_share(river.predict_proba_one(named)), abs=1e-9), i
        river.learn_one(named, bool(y[i]), **({"w": float(w[i])} if weighted else {}))


def assert_same_tree(theirs: Any, grove: Grove, at: int) -> int:
    """Compare splits and what leaves have seen; how many nodes there are."""
    links, values = grove.links[at], grove.values[at]
    for label, column in ((False, NO), (True, YES)):
        assert values[column] == pytest.approx(theirs.stats.get(label, 0.0), rel=1e-9)
    assert values[ERROR_RATE] == pytest.approx(theirs._mean_error.get(), abs=1e-12)
    if hasattr(theirs, "children"):
        assert (NAMES[links[FEATURE]], values[CUT]) == (theirs.feature, pytest.approx(theirs.threshold, rel=1e-9))
        assert (links[ALTERNATE] >= 0) == (theirs._alternate_tree is not None)
        pairs = zip(theirs.children, (links[LEFT], links[RIGHT]), strict=True)
        return 1 + sum(assert_same_tree(child, grove, int(below)) for child, below in pairs)
    for j, name in enumerate(NAMES):
        seen = theirs.splitters.get(name)
        for label in (False, True):
            gaussian = grove.gaussians[links[WATCH], j, int(label)]
            if seen is None or label not in seen._att_dist_per_class:
                assert gaussian[WEIGHT] == 0.0
                continue
            var = seen._att_dist_per_class[label]._var
            assert gaussian[[WEIGHT, MEAN, SQUARES]].tolist() == pytest.approx([var.mean.n, var.mean._mean, var._S])
            assert (gaussian[LOW], gaussian[HIGH]) == (seen._min_per_class[label], seen._max_per_class[label])
    return 1


@pytest.mark.parametrize("leaf", ["mc", "nb", "nba"])
def test_an_adaptive_tree_is_rivers_tree(leaf: str) -> None:
    settings: dict[str, Any] = {"grace_period": 50, "delta": 0.01, "seed": 3, "max_depth": 10, "leaf_prediction": leaf}
    river: Any = tree.HoeffdingAdaptiveTreeClassifier(**settings)
    ours = AdaptiveTree(NAMES, **settings)
    assert_alike(ours, river, turning(4500))
    assert river.n_alternate_trees > 0
    assert assert_same_tree(river._root, ours._grove, int(ours._grove.roots[0, 0])) >= 3


def test_a_leaf_beside_a_branch_takes_its_place_or_goes_when_rivers_does() -> None:
    settings: dict[str, Any] = {"grace_period": 700, "delta": 0.05, "tau": 0.2, "max_depth": 6}
    river: Any = tree.HoeffdingAdaptiveTreeClassifier(seed=0, **settings)
    assert_alike(AdaptiveTree(NAMES, seed=0, **settings), river, returning(9000))
    assert river.n_switch_alternate_trees > 1
    assert river.n_pruned_alternate_trees > 0


def test_row_weights_and_a_small_depth_are_rivers() -> None:
    x, y, _ = turning(2500)
    w = np.random.default_rng(1).choice([0.5, 1.0, 3.0, 20.0], len(x))
    settings: dict[str, Any] = {"grace_period": 50, "delta": 0.01, "max_depth": 2, "bootstrap_sampling": False}
    river: Any = tree.HoeffdingAdaptiveTreeClassifier(**settings)
    assert_alike(AdaptiveTree(NAMES, **settings), river, (x, y, w), weighted=True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"leaf_prediction": "mc", "max_features": 4}, {"leaf_prediction": "nb", "max_depth": 3, "max_features": 0.8}],
)
def test_a_forest_is_rivers_forest(settings: dict[str, Any]) -> None:
    x, y, w = turning(1500)
    y ^= x[:, 1] > 0.5
    river: Any = forest.ARFClassifier(n_models=4, seed=3, **settings)
    assert_alike(AdaptiveForest(NAMES, n_models=4, seed=3, **({"max_depth": 99} | settings)), river, (x, y, w))
    assert river.n_drifts_detected() > 0
    assert river.n_warnings_detected() > river.n_drifts_detected() / 2


def test_a_row_of_a_weight_is_so_many_rows_to_a_forest() -> None:
    """River's own forest has no weights: a weight scales what each tree draws."""
    x, y, _ = turning(400)
    one, other = (AdaptiveForest(NAMES, n_models=2, grace_period=10**9) for _ in range(2))
    one.learn_many(x, y, np.full(400, 2.0))
    other.learn_many(x, y, np.ones(400))
    assert (one._grove.values[:, [NO, YES]] == 2 * other._grove.values[:, [NO, YES]]).all()


def test_a_forest_draws_only_columns_that_there_are() -> None:
    for given, columns in (("sqrt", 2), ("log2", 2), (3, 3), (0, 1), (9, 4), (0.5, 2)):
        model = AdaptiveForest(NAMES, n_models=1, max_features=given)  # type: ignore[arg-type]  # shares, too
        model.learn_many(*turning(300))
        assert model._grove.columns.shape[1] == columns
    with pytest.raises(ValueError, match="'all'"):
        AdaptiveForest(NAMES, max_features="all")


@pytest.mark.parametrize("delta", [0.3, 0.002])
def test_a_window_is_rivers_adwin_to_the_bit(delta: float) -> None:
    rng = random.Random(5)
    river, grove = ADWIN(delta=delta), fresh_grove(1, 1, 1, 0, windows=False)
    window = grove.sums, grove.totals, grove.held, 1
    fired = 0
    for i in range(20_000):
        mistake = float(rng.random() < (0.2 if i // 1500 % 2 else 0.7))
        river.update(mistake)
        changed = adwin.changes(mistake, delta, *window)
        assert changed == river.drift_detected
        fired += changed
        if not changed:
            assert tuple(grove.sums[1, :3]) == (river.width, river.total, river.variance)
    assert fired > 5
