"""Measures of scores: equal to scikit-learn's, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, precision_recall_curve, roc_auc_score

from weir.streams.workbench import measures
from weir.streams.workbench.measures import at_line, bootstrap, interval, measure, precision_recall, row_costs


def rows(n: int, seed: int = 1, positive: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < positive
    return y, np.round(1 / (1 + np.exp(-(2.0 * y - 2.0 + rng.normal(0, 1.0, n)))), 2)  # with many ties


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 300), st.integers(0, 1000))
def test_measures_are_those_of_scikit_learn(n: int, seed: int) -> None:
    y, s = rows(n, seed, 0.4)
    if not y.any() or y.all():
        assert np.isnan(measure(y, s)["roc_auc"])
        return
    found = measure(y, s)
    assert found["average_precision"] == pytest.approx(average_precision_score(y, s))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, s))
    assert found["log_loss"] == pytest.approx(log_loss(y, s))
    assert found["brier"] == pytest.approx(brier_score_loss(y, s))
    many = np.random.default_rng(seed).integers(1, 4, n)
    again = np.repeat(np.arange(n), many)
    assert measure(y, s, weight=many.astype(float)) == pytest.approx(measure(y[again], s[again]))


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 200), st.integers(0, 1000))
def test_a_resample_is_measured_as_the_rows_it_stands_for(n: int, seed: int) -> None:
    y, s = rows(n, seed, 0.5)
    groups = np.random.default_rng(seed).integers(0, 7, n)
    drawn = bootstrap(y, [s], groups, resamples=3, seed=seed)
    unit, count = measures.units_of(groups, rng := np.random.default_rng(seed))
    weight = rng.poisson(1.0, (count, 3))
    for r in range(3):
        again = np.repeat(np.arange(n), weight[unit, r])
        expected = measure(y[again], s[again])
        for name in measures.MEASURES:
            assert drawn[name][0, r] == pytest.approx(expected[name], nan_ok=True)


def test_the_paired_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    truth, held = None, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        entity = np.repeat(np.arange(200), 3)
        y = np.repeat(rng.random(200) < 0.3, 3)
        shared = np.repeat(rng.normal(0, 1, 200), 3)  # rows of one entity are alike
        a, b = (1 / (1 + np.exp(-(y + shared + rng.normal(0, noise, 600)))) for noise in (0.5, 1.0))
        if truth is None:  # of a table a hundred times as large
            big = np.repeat(rng.random(20_000) < 0.3, 3)
            of = np.repeat(rng.normal(0, 1, 20_000), 3)
            good, bad = (measures.roc_auc(big, big + of + rng.normal(0, noise, 60_000)) for noise in (0.5, 1.0))
            truth = good - bad
        drawn = bootstrap(y, [b, a], entity, resamples=100)["roc_auc"]
        found = interval(0.0, drawn[1] - drawn[0], 200)
        held += found.low <= truth <= found.high
    assert held >= 24  # of 30; 28 are expected


def test_many_groups_put_together_give_an_interval_as_wide() -> None:
    y, s = rows(30_000)
    alone = bootstrap(y, [s], np.arange(30_000), resamples=200)["brier"]
    assert np.std(alone) == pytest.approx(np.std((s - y) ** 2) / np.sqrt(30_000), rel=0.2)


def test_the_curve_and_the_line_agree_with_counting() -> None:
    y, s = rows(500)
    curve, (precision, recall, _) = precision_recall(y, s, 50), precision_recall_curve(y, s)
    there = {(round(p, 9), round(r, 9)) for p, r in zip(precision, recall, strict=True)}
    assert {(round(p, 9), round(r, 9)) for p, r in zip(curve.precision, curve.recall, strict=True)} <= there
    assert curve.recall[-1] == 1.0
    told = at_line(y, s, s >= 0.3)
    assert told["hits"] / told["alerts"] == told["precision"]
    assert told["lowest"] >= 0.3
    assert np.isnan(at_line(y, s, np.zeros(500, np.bool_))["precision"])


def test_costs_are_those_of_the_threshold() -> None:
    y, alerted = np.array([True, True, False, False]), np.array([True, False, True, False])
    costs = {"false_positive": 5.0, "false_negative": 2.0, "review": 1.0}
    assert row_costs(y, alerted, costs, None).tolist() == [1.0, 2.0, 6.0, 0.0]
    assert row_costs(y, alerted, costs, np.array([9.0, 30.0, 9.0, 9.0])).tolist() == [1.0, 60.0, 6.0, 0.0]
