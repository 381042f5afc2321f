"""The gate: its metrics are scikit-learn's, its intervals cover, and it says what it says in the right cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from weir.models.errors import ModelError
from weir.models.evaluation.gate import Metric, choose, compare, measure
from weir.models.types import BoolVector, FloatVector, IntVector

METRICS: dict[Metric, Any] = {"average_precision": average_precision_score, "roc_auc": roc_auc_score}


def draw(n: int, rate: float, seed: int, better: float = 0.3) -> tuple[BoolVector, FloatVector, FloatVector]:
    """Labels, and the logits of a champion and of a candidate that is ``better`` by so much."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < rate
    common = 0.8 * rng.normal(0, 1, n)
    noise = 0.6 * rng.normal(0, 1, (2, n))
    return y, 1.2 * y + common + noise[0], (1.2 + better) * y + common + noise[1]


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("seed", [1, 2])
def test_metrics_equal_scikit_learns_with_weights_and_ties(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    y, logit, _ = draw(300, 0.2, seed)
    logit = logit.round(decimals)
    weights = rng.poisson(1.0, (5, 300)) * rng.uniform(0.1, 3.0, (5, 300))
    for metric, reference in METRICS.items():
        expected = [reference(y, logit, sample_weight=w) for w in weights]
        np.testing.assert_allclose(measure(metric, y, logit)(weights), expected, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_cover_the_true_difference_about_as_often_as_they_say(metric: Metric) -> None:
    y, a, b = draw(100_000, 0.1, 0)
    truth = METRICS[metric](y, b) - METRICS[metric](y, a)
    runs, inside = 80, 0
    for seed in range(runs):
        y, a, b = draw(400, 0.1, 100 + seed)
        found = compare(y, np.ones(400), a, b, metric=metric, seed=seed, resamples=120)
        inside += found.low <= truth <= found.high
    assert 0.79 < inside / runs < 0.98


def clustered(entities: int, each: int, seed: int) -> tuple[BoolVector, FloatVector, FloatVector, IntVector]:
    """Some rows of each of many entities, which are alike: in how often they are positive, and in what models say."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(0, 1, (3, entities)), each, axis=1)  # (3, n): label rate, and both models' habits
    n = entities * each
    y = rng.random(n) < 1 / (1 + np.exp(1.5 - 2.0 * own[0]))
    noise = rng.normal(0, 0.5, (2, n))
    return y, y + own[1] + noise[0], 1.2 * y + own[2] + noise[1], np.repeat(np.arange(entities), each)


@pytest.mark.parametrize("metric", METRICS)
def test_entities_drawn_whole_cover_where_rows_drawn_alone_do_not(metric: Metric) -> None:
    y, a, b, _ = clustered(20_000, 5, 0)
    truth = METRICS[metric](y, b) - METRICS[metric](y, a)
    runs, inside = 80, {"entities": 0, "rows": 0}
    for seed in range(runs):
        y, a, b, entity = clustered(80, 12, 100 + seed)
        for what, groups in (("entities", entity), ("rows", None)):
            found = compare(y, np.ones(len(y)), a, b, metric=metric, seed=seed, resamples=120, groups=groups)
            inside[what] += found.low <= truth <= found.high
    assert 0.79 < inside["entities"] / runs < 0.98
    assert inside["rows"] / runs < 0.7, "the interval of 90 % is far too short"


def test_a_model_against_itself_is_not_worse_and_a_bad_one_is_worse() -> None:
    y, a, b = draw(1000, 0.2, 3, better=1.0)
    ones = np.ones(len(y))
    same = compare(y, ones, a, a)
    assert (same.outcome, same.difference, same.low, same.high, same.passed) == ("not worse", 0.0, 0.0, 0.0, True)
    assert compare(y, ones, a, b).outcome == "better"
    assert compare(y, ones, b, a).outcome == "worse"
    assert compare(y, ones, b, -b).outcome == "worse"


def test_what_only_looks_a_little_worse_is_undecided() -> None:
    y, a, _ = draw(300, 0.2, 4)
    found = compare(y, np.ones(300), a, a - 0.05 * y + np.random.default_rng(1).normal(0, 0.1, 300))
    assert found.low < 0 < found.high
    assert found.difference < 0
    assert (found.outcome, found.passed) == ("undecided", False)


@pytest.mark.parametrize("positives", [0, 5, 996, 1000])
def test_too_few_of_either_label_are_undecided(positives: int) -> None:
    y = np.arange(1000) < positives
    found = compare(y, np.ones(1000), np.zeros(1000), np.arange(1000.0))
    assert found.outcome == "undecided"
    assert "below 10" in found.reason


def test_without_a_champion_a_candidate_must_beat_a_constant() -> None:
    y, a, _ = draw(500, 0.2, 5)
    assert compare(y, np.ones(500), None, a).outcome == "better"
    noise = np.random.default_rng(1).normal(0, 1, 500)
    assert not compare(y, np.ones(500), None, noise).passed
    assert not compare(y, np.ones(500), None, np.zeros(500)).passed, "a constant does not beat a constant"


def test_rows_of_one_group_are_drawn_together() -> None:
    """A hundred copies of each row tell nothing new; taken for rows of their own, the interval would shrink."""
    y, a, b = draw(200, 0.2, 6)
    alone = compare(y, np.ones(200), a, b)
    many_y, many_a, many_b = np.repeat(y, 20), np.repeat(a, 20), np.repeat(b, 20)
    grouped = compare(many_y, np.ones(4000), many_a, many_b, groups=np.repeat(np.arange(200), 20))
    ungrouped = compare(many_y, np.ones(4000), many_a, many_b)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert ungrouped.high - ungrouped.low < 0.4 * (alone.high - alone.low)


def test_the_same_seed_gives_the_same_verdict_and_the_best_is_chosen_by_its_lower_bound() -> None:
    y, a, b = draw(600, 0.1, 7)
    assert compare(y, np.ones(600), a, b, seed=3) == compare(y, np.ones(600), a, b, seed=3)
    ranked = choose(y, np.ones(600), {"a": a, "b": b, "noise": np.random.default_rng(0).normal(0, 1, 600)})
    assert list(ranked) == ["b", "a", "noise"]
    assert all(low < value for value, low in ranked.values())


def test_what_cannot_be_compared_is_refused() -> None:
    y, a, b = draw(100, 0.2, 8)
    ones = np.ones(100)
    with pytest.raises(ModelError, match="not finite"):
        compare(y, ones, a, np.where(np.arange(100) == 3, np.nan, b))
    with pytest.raises(ModelError, match="one of each"):
        compare(y, ones, a[:50], b)
    with pytest.raises(ModelError, match="weight is -1"):
        compare(y, -ones, a, b)
    with pytest.raises(ModelError, match="confidence"):
        compare(y, ones, a, b, confidence=0.4)
