"""Prequential metrics against scikit-learn, and the promises about cuts, weights, corrections and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from tests.online.scored_rows import feed_rows
from weir.online.errors import StateError
from weir.online.metrics.binned_metrics import CumulativeMetrics, FadingMetrics
from weir.online.metrics.ledger import Ledger
from weir.online.metrics.metric import Metrics
from weir.online.metrics.rolling import RollingMetrics
from weir.online.metrics.series import MetricSeries

Columns = dict[str, Any]
MAKERS: list[Callable[[], Metrics]] = [
    CumulativeMetrics,
    lambda: FadingMetrics(half_life=7),
    lambda: RollingMetrics(rows=13),
]
NAMES = ["cumulative", "fading", "rolling"]

score_values = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))


@st.composite
def columns(draw: st.DrawFn, max_size: int = 40, corrections: bool = True) -> Columns:
    """Rows whose corrections replace a row that came earlier, with its score and threshold, once."""
    n = draw(st.integers(1, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    score = np.array(draw(st.lists(score_values, min_size=n, max_size=n)))
    y = rng.random(n) < 0.4
    data: Columns = {
        "ts": np.cumsum(rng.integers(0, 4, n)) - rng.integers(0, 3, n) + 0.0,
        "score": score,
        "y": y,
        "weight": rng.choice([1.0, 2.0, 10.0], n),
        "threshold": rng.choice([0.3, 0.5, 0.8], n),
        "correction": np.zeros(n, dtype=bool),
        "event_id": [f"e{i}" for i in range(n)],
    }
    for i in range(1, n):
        earlier = int(rng.integers(0, i))
        if corrections and rng.random() < 0.2 and data["event_id"].count(f"e{earlier}") == 1:
            for name in ("ts", "score", "threshold", "event_id"):
                data[name][i] = data[name][earlier]
            data["correction"][i], data["y"][i] = True, not data["y"][earlier]
    return data


def feed(metrics: Metrics | MetricSeries, data: Columns, start: int = 0, end: int | None = None) -> None:
    feed_rows(metrics, **{name: column[start:end] for name, column in data.items()})


def in_pieces(metrics: Metrics | MetricSeries, data: Columns, cuts: list[int]) -> None:
    n = len(data["score"])
    for start, end in pairwise([0, *sorted(min(cut, n) for cut in cuts), n]):
        feed(metrics, data, start, end)


def corrected(data: Columns) -> Columns:
    """The rows as they would have been had every label been right at once (each keeps the place of its first row)."""
    out = {name: list(column) for name, column in data.items()}
    place: dict[str, int] = {}
    for i, event_id in enumerate(out["event_id"]):
        if out["correction"][i]:
            out["y"][place[event_id]], out["weight"][place[event_id]] = out["y"][i], out["weight"][i]
        else:
            place[event_id] = i
    kept = [i for i in range(len(out["y"])) if not out["correction"][i]]
    return {name: [column[i] for i in kept] for name, column in out.items()}


def oracle(score: NDArray[Any], y: NDArray[Any], weight: NDArray[Any], threshold: NDArray[Any]) -> dict[str, float]:
    """scikit-learn's values, of the metrics that are defined."""
    alert, w = score >= threshold, {"sample_weight": weight}
    out = {
        "accuracy": sk.accuracy_score(y, alert, **w),
        "brier": float(np.average((score - y) ** 2, weights=weight)),
        "log_loss": sk.log_loss(y, score, labels=[False, True], **w),
        "positive_rate": float(np.average(y, weights=weight)),
    }
    if alert.any():
        out["precision"] = sk.precision_score(y, alert, **w)
    if y.any():
        out["recall"] = sk.recall_score(y, alert, **w)
        out["average_precision"] = sk.average_precision_score(y, score, **w)
    if y.any() or alert.any():
        out["f1"] = sk.f1_score(y, alert, **w)
    if y.any() and not y.all():
        out["roc_auc"] = sk.roc_auc_score(y, score, **w)
        out["kappa"] = sk.cohen_kappa_score(y, alert, **w)
    return out


def as_arrays(data: Columns) -> tuple[NDArray[Any], ...]:
    return tuple(np.asarray(data[name]) for name in ("score", "y", "weight", "threshold"))


@settings(max_examples=20, deadline=None)
@given(data=columns())
def test_cumulative_equals_scikit_learn_on_the_corrected_rows(data: Columns) -> None:
    metrics = CumulativeMetrics()
    feed(metrics, data)
    found = metrics.get()
    expected = oracle(*as_arrays(corrected(data)))
    for name, value in expected.items():
        # The two rank metrics are binned: they promise their own bound. The rest are sums.
        bound = found.get(f"{name}_bound", 0.0) + 1e-9
        assert found[name] == pytest.approx(value, abs=bound, rel=1e-9), name
    assert set(found) <= set(expected) | {
        "n", "weight", "ece", "kappa", "kappa_temporal", "roc_auc_bound", "average_precision_bound"
    }  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(data=columns(), rows=st.integers(1, 40))
def test_rolling_equals_scikit_learn_on_the_newest_rows(data: Columns, rows: int) -> None:
    metrics = RollingMetrics(rows=rows)
    feed(metrics, data)
    window = tuple(column[-rows:] for column in as_arrays(corrected(data)))
    found = metrics.get()
    for name, value in oracle(*window).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["n"] == len(window[0])


@settings(max_examples=20, deadline=None)
@given(data=columns(), half_life=st.integers(1, 50))
def test_fading_equals_weights_that_halve_every_half_life(data: Columns, half_life: int) -> None:
    metrics = FadingMetrics(half_life=half_life)
    feed(metrics, data)
    score, y, weight, threshold = as_arrays(corrected(data))
    # A row that is older than the memory fades to nothing; the oracle keeps it, so stay inside.
    assume(len(score) <= 10 * half_life)
    faded = weight * 0.5 ** (np.arange(len(score))[::-1] / half_life)
    found = metrics.get()
    for name, value in oracle(score, y, faded, threshold).items():
        bound = found.get(f"{name}_bound", 0.0) + 1e-7
        assert found.get(name, 0.0) == pytest.approx(value, abs=bound, rel=1e-7), name


def test_fading_stays_right_past_the_rescaling_of_its_sums() -> None:
    rng = np.random.default_rng(3)
    y, score = rng.random(3000) < 0.3, rng.random(3000)
    metrics = FadingMetrics(half_life=5)  # 600 half-lives: a gain of 2 ** 600 without rescaling
    feed_rows(metrics, np.arange(3000.0), score, y)
    faded = 0.5 ** (np.arange(3000)[::-1] / 5)
    assert metrics.get()["brier"] == pytest.approx(np.average((score - y) ** 2, weights=faded), rel=1e-9)


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
@settings(max_examples=20, deadline=None)
@given(data=columns(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_cuts_change_nothing(make: Callable[[], Metrics], data: Columns, cuts: list[int]) -> None:
    whole, pieces = make(), make()
    feed(whole, data)
    in_pieces(pieces, data, cuts)
    assert whole.get() == pieces.get()
    assert whole.snapshot() == pieces.snapshot()


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(data=columns(max_size=60), at=st.integers(0, 60))
def test_a_restored_snapshot_continues_bit_identically(make: Callable[[], Metrics], data: Columns, at: int) -> None:
    straight, first, second = make(), make(), make()
    feed(straight, data)
    feed(first, data, 0, at)
    second.restore(first.snapshot())
    feed(second, data, at)
    assert second.snapshot() == straight.snapshot()
    assert second.get() == straight.get()


@settings(max_examples=15, deadline=None)
@given(data=columns(corrections=False))
def test_a_weight_is_worth_that_many_rows(data: Columns) -> None:
    weighted, repeated = CumulativeMetrics(), CumulativeMetrics()
    feed(weighted, data)
    times = data["weight"].astype(int)
    rows = {name: np.repeat(data[name], times) for name in ("ts", "score", "y", "threshold")}
    feed_rows(repeated, rows["ts"], rows["score"], rows["y"], threshold=rows["threshold"])
    found, expected = weighted.get(), repeated.get()
    for name in expected.keys() - {"n", "kappa_temporal"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name


def test_sampled_negatives_give_unbiased_values() -> None:
    """Negatives kept with rate 1/10 and weight 10; over 60 samples the mean is within 4 standard errors."""
    rng = np.random.default_rng(11)
    y = rng.random(20_000) < 0.05
    score = 1.0 / (1.0 + np.exp(-(rng.normal(size=20_000) + 2.0 * y - 2.5)))
    full = CumulativeMetrics()
    feed_rows(full, np.arange(20_000.0), score, y)
    found: dict[str, list[float]] = {}
    for _ in range(60):
        kept = y | (rng.random(20_000) < 0.1)
        sampled = CumulativeMetrics()
        feed_rows(sampled, np.flatnonzero(kept) + 0.0, score[kept], y[kept], np.where(y[kept], 1.0, 10.0))
        for name, value in sampled.get().items():
            found.setdefault(name, []).append(value)
    for name in ("accuracy", "precision", "log_loss", "brier", "roc_auc", "average_precision", "positive_rate"):
        error = np.std(found[name]) / np.sqrt(60)
        assert np.mean(found[name]) == pytest.approx(full.get()[name], abs=4 * error), name


def test_a_correction_takes_back_the_weight_the_row_was_counted_with() -> None:
    metrics = CumulativeMetrics()
    feed_rows(metrics, [0.0, 1.0], [0.9, 0.1], [0, 0], [10.0, 10.0], event_id=["a", "b"])
    feed_rows(metrics, [0.0], [0.9], [1], [1.0], correction=True, event_id=["a"])
    found = metrics.get()
    assert found["weight"] == 11.0
    assert found["precision"] == 1.0
    assert found["roc_auc"] == 1.0


def test_a_correction_of_a_row_that_left_the_window_does_nothing() -> None:
    rolling = RollingMetrics(rows=2)
    feed_rows(rolling, [0.0, 1.0, 2.0], [0.9, 0.8, 0.2], [0, 1, 0], event_id=["a", "b", "c"])
    before = rolling.get()
    feed_rows(rolling, [0.0], [0.9], [1], correction=True, event_id=["a"])
    assert rolling.get() == before


def test_undefined_metrics_are_absent_and_nothing_is_nan() -> None:
    for make in MAKERS:
        metrics = make()
        assert metrics.get() == {"n": 0.0}
        feed_rows(metrics, [0.0, 1.0], [0.1, 0.2], [0, 0])
        found = metrics.get()
        assert not {"precision", "recall", "f1", "roc_auc", "average_precision", "kappa"} & found.keys()
        assert all(np.isfinite(value) for value in found.values())


def test_kappa_agrees_with_scikit_learn_and_kappa_temporal_is_zero_for_the_last_label() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat(rng.random(200) < 0.4, 5)
    score = np.concatenate(([0.0], y[:-1].astype(float)))  # repeats the last label
    metrics = CumulativeMetrics()
    feed_rows(metrics, np.arange(1000.0), score, y)
    assert metrics.get()["kappa"] == pytest.approx(sk.cohen_kappa_score(y, score >= 0.5))
    assert metrics.get()["kappa_temporal"] == pytest.approx(0.0, abs=0.01)  # the first row has no last label
    better = CumulativeMetrics()
    feed_rows(better, np.arange(1000.0), y.astype(float), y)
    assert better.get()["kappa_temporal"] == pytest.approx(1.0)


def test_calibration_of_a_calibrated_and_of_an_overconfident_score() -> None:
    rng = np.random.default_rng(9)
    p = rng.random(200_000)
    y = rng.random(200_000) < p
    fair, bold = CumulativeMetrics(), CumulativeMetrics()
    feed_rows(fair, np.arange(200_000.0), p, y)
    feed_rows(bold, np.arange(200_000.0), np.where(p > 0.5, 1.0, 0.0), y)
    assert fair.get()["ece"] < 0.01
    assert bold.get()["ece"] == pytest.approx(0.25, abs=0.01)  # says 1 where 3/4 happen, 0 where 1/4 do


def test_binning_costs_little_on_skewed_fraud_scores() -> None:
    rng = np.random.default_rng(1)
    y = rng.random(100_000) < 0.01
    score = 1.0 / (1.0 + np.exp(-(rng.normal(size=100_000) + 3.0 * y - 6.0)))
    metrics = CumulativeMetrics()
    feed_rows(metrics, np.arange(100_000.0), score, y)
    found = metrics.get()
    assert found["roc_auc_bound"] < 1e-3
    assert abs(found["roc_auc"] - sk.roc_auc_score(y, score)) < 1e-5
    assert abs(found["average_precision"] - sk.average_precision_score(y, score)) < found["average_precision_bound"]
    assert abs(found["average_precision"] - sk.average_precision_score(y, score)) < 2e-3


def test_fading_forgets_and_rolling_drops_what_cumulative_keeps() -> None:
    old, new = np.zeros(2000), np.ones(2000)
    score = np.full(4000, 0.9)
    y = np.concatenate((old, new))
    values = []
    for metrics in (CumulativeMetrics(), FadingMetrics(half_life=200), RollingMetrics(rows=1000)):
        feed_rows(metrics, np.arange(4000.0), score, y)
        values.append(metrics.get()["accuracy"])
    assert values == pytest.approx([0.5, 1.0 - 2.0**-10, 1.0])


@settings(max_examples=15, deadline=None)
@given(data=columns(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6), every=st.sampled_from([1.0, 7.5, 1e6]))
def test_a_series_does_not_depend_on_cuts_and_resumes(data: Columns, cuts: list[int], every: float) -> None:
    whole, pieces, resumed = (MetricSeries(CumulativeMetrics(), every) for _ in range(3))
    feed(whole, data)
    in_pieces(pieces, data, cuts)
    assert pieces.points() == whole.points()
    points = whole.points()
    assert sum(point["n"] for point in points) == len(data["score"])
    assert all(a["ts"] < b["ts"] for a, b in pairwise(points))
    half = len(data["score"]) // 2
    first = MetricSeries(CumulativeMetrics(), every)
    feed(first, data, 0, half)
    resumed.restore(first.snapshot())
    feed(resumed, data, half)
    assert resumed.points() == points


def test_a_series_point_holds_only_what_was_known_by_its_time() -> None:
    series = MetricSeries(CumulativeMetrics(), every_s=10.0)
    # The last row is an old event whose label came late: it belongs to the interval in which it became known.
    feed_rows(series, [1.0, 9.0, 35.0, 2.0], [0.9, 0.9, 0.1, 0.9], [1, 0, 0, 0])
    points = series.points()
    assert [(point["ts"], point["n"]) for point in points] == [(10.0, 2), (40.0, 2)]
    assert [point["metrics"]["accuracy"] for point in points] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("score", 1.5, "score of row 1 is"),
        ("score", float("nan"), "score of row 1 is"),
        ("weight", 0.0, "weight of row 1 is"),
        ("ts", float("inf"), "ts of row 1 is"),
        ("threshold", float("nan"), "threshold of row 1 is"),
    ],
)
def test_rows_no_metric_is_defined_on_are_refused_whole(column: str, value: float, words: str) -> None:
    data = {name: np.array([0.5, 0.5]) for name in ("ts", "score", "weight", "threshold")} | {"y": np.array([0.0, 1.0])}
    data[column][1] = value
    for make in MAKERS:
        metrics = make()
        with pytest.raises(ValueError, match=words):
            feed(metrics, data)
        assert metrics.get() == {"n": 0.0}


def test_snapshots_of_another_kind_are_refused() -> None:
    with pytest.raises(StateError, match="build it with the same parameters"):
        RollingMetrics(rows=5).restore(RollingMetrics(rows=6).snapshot())
    with pytest.raises(StateError, match="not a snapshot"):
        CumulativeMetrics().restore(b"junk")
    with pytest.raises(StateError, match="not a snapshot"):
        MetricSeries(CumulativeMetrics(), 1.0).restore(b"junk")


def test_a_snapshot_of_what_is_no_number_is_refused() -> None:
    for make in MAKERS:
        with pytest.raises(StateError, match="is not a plain number"):
            make().restore(make().snapshot().replace(b"<f8", b"|O8"))


@given(
    names=st.lists(st.sampled_from("abcdefgh"), max_size=30), cuts=st.sets(st.integers(1, 29)), most=st.integers(1, 9)
)
def test_a_ledger_notes_many_as_it_notes_each(names: list[str], cuts: set[int], most: int) -> None:
    together, alone = Ledger(most), Ledger(most)
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(names)), len(names)]):
        together.note_many(names[start:end], start, [float(i) for i in range(start, end)])
    for row, name in enumerate(names):
        alone.note(name, row, float(row))
    held, kept = together.arrays(), alone.arrays()
    assert held[1] == kept[1]
    assert all(held[0][name].tolist() == kept[0][name].tolist() for name in kept[0])
