"""No learner is spoilt by a hundred hostile rows among twenty thousand good ones, wherever they come."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from weir.online.learners.base import Learner
from weir.online.learners.beside import FULL
from weir.online.learners.column import ColumnPrefix
from weir.online.learners.factory import REGISTRY, LearnerSpec, build_learner
from weir.online.learners.guard import JUDGED_AGAIN, GuardedLearner
from weir.online.learners.online_model import OnlineModel

COLUMNS = ("zeta", "alpha", "mid", "beta", "still", "never")
GOOD, HOSTILE, JUDGED, BLOCK = 12_000, 100, 5_000, 250
BOOSTED = LearnerSpec(kind="boosted", params={"every": 250, "buffer": 8_000, "trees": 24, "depth": 3})
TREE = LearnerSpec(kind="adaptive_tree", params={"grace_period": 100, "delta": 0.001})
LOGISTIC = LearnerSpec(kind="logistic", params={"lr": 0.05, "intercept_lr": 0.05})
SPECS = {
    "logistic": LOGISTIC,
    "bayesian_logistic": LearnerSpec(kind="bayesian_logistic", params={"half_life": 20_000}),
    "curved_logistic": LearnerSpec(kind="curved_logistic"),
    "boosted": BOOSTED,
    "auto": LearnerSpec(kind="auto", members=(LOGISTIC, BOOSTED)),
    "beside_full": LearnerSpec(kind="beside_full", members=(BOOSTED,)),
    "adaptive_tree": TREE,
    "adaptive_forest": LearnerSpec(kind="adaptive_forest", params={"n_models": 2}),
    "stack": LearnerSpec(kind="stack", params={"combiner_lr": 0.01}, members=(LOGISTIC, BOOSTED)),
    "river": LearnerSpec(kind="river", estimator="preprocessing.StandardScaler | linear_model.LogisticRegression"),
}
QUICK = ("logistic", "bayesian_logistic", "curved_logistic", "boosted", "beside_full", "stack")
ALLOWED = (1e12, -1e15, 1e15, -1e4, 3e5, 5e-324, 0.0)
"""What the limits let through, and ordinary mistakes."""
BEYOND = (1.7e308, -1.7e308, 1e18, -1e12, 1e5, 5e-324)
"""With what no record can bring."""
PLACES = ("first", "early", "middle", "late", "spread")
CASES = [
    *((kind, place, ALLOWED) for kind in QUICK for place in PLACES),
    *((kind, place, BEYOND) for kind in QUICK for place in ("first", "spread")),
    *(("auto", place, ALLOWED) for place in ("first", "spread")),
    *(("adaptive_tree", place, ALLOWED) for place in ("first", "spread")),
    ("adaptive_forest", "spread", ALLOWED),
    ("river", "spread", ALLOWED),
]


class Rows(NamedTuple):
    x: NDArray[np.float64]
    y: NDArray[np.bool_]
    weight: NDArray[np.float64]


def names_of(kind: str) -> tuple[str, ...]:
    return (*COLUMNS, *FULL) if kind == "beside_full" else COLUMNS


def build(kind: str) -> Learner:
    return build_learner(SPECS[kind], names_of(kind))


@lru_cache(maxsize=4)
def good(width: int) -> Rows:
    """A learnable problem on uneven scales, with a column that never varies and one that is always 0."""
    rng = np.random.default_rng(0)
    x = np.zeros((GOOD, width))
    x[:, :4] = rng.normal(size=(GOOD, 4)) * [1.0, 50.0, 0.01, 3.0] + [0.0, 100.0, 0.0, -7.0]
    x[:, 4] = 7.0
    logit = 1.5 * x[:, 0] + (x[:, 1] - 100.0) / 50.0 - 80.0 * x[:, 2]
    if width > len(COLUMNS):
        x[:, -2], x[:, -1] = logit + rng.normal(size=GOOD), 1.0
    return Rows(x, rng.random(GOOD) < 1.0 / (1.0 + np.exp(-logit)), np.where(rng.random(GOOD) < 0.1, 3.0, 1.0))


def hostile(rows: Rows, values: tuple[float, ...], seed: int) -> Rows:
    """Good rows with any subset of their columns at extremes, labels that say nothing and weights at the limit."""
    rng = np.random.default_rng(seed)
    x = rows.x[rng.integers(0, GOOD, HOSTILE)].copy()
    broken = rng.random(x.shape) < rng.random((HOSTILE, 1))
    x[broken] = rng.choice(values, int(broken.sum()))
    return Rows(x, rng.random(HOSTILE) < rng.random(), rng.choice([1.0, 1_000.0, 1e9], HOSTILE))


def among(rows: Rows, bad: Rows, place: str, seed: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Both in one stream, and which are the good ones."""
    start = {"first": 0, "early": 700, "middle": GOOD // 2, "late": GOOD - JUDGED}
    spread = np.sort(np.random.default_rng(seed).integers(0, GOOD, HOSTILE))
    at = spread if place == "spread" else np.full(HOSTILE, start[place])
    x, y, weight = (np.insert(a, at, b, axis=0) for a, b in zip(rows, bad, strict=True))
    return Rows(x, y, weight), np.insert(np.ones(GOOD, np.bool_), at, False)


def auc(kind: str, rows: Rows, mine: NDArray[np.bool_]) -> float:
    """Prequential AUC over the newest good rows."""
    model, p = build(kind), np.empty(len(rows.y))
    for a in range(0, len(p), BLOCK):
        part = slice(a, a + BLOCK)
        p[part] = model.predict_many(rows.x[part])
        model.learn_many(rows.x[part], rows.y[part], rows.weight[part])
        assert_finite(model)
    assert np.isfinite(p).all()
    return float(roc_auc_score(rows.y[mine][-JUDGED:], p[mine][-JUDGED:]))


def assert_finite(model: Any) -> None:
    """Every array of the state, of members and of what is inside, and an answer."""
    for held in (getattr(model, "_state", {}), model._model if isinstance(getattr(model, "_model", 0), dict) else {}):
        for name, array in held.items():
            assert np.isfinite(array).all() or name == "threshold", name  # +inf sends all rows left
    for inner in (*getattr(model, "members", ()), *([model.learner] if hasattr(model, "learner") else [])):
        assert_finite(inner)
    probe = np.zeros((1, len(model.features)))
    assert np.isfinite(model.predict_many(probe)).all()
    assert np.isfinite(model.contributions(probe)).all()


@lru_cache(maxsize=16)
def undisturbed(kind: str) -> float:
    return auc(kind, good(len(names_of(kind))), np.ones(GOOD, np.bool_))


def test_every_kind_that_learns_is_tried() -> None:
    assert {kind for kind, *_ in CASES} == REGISTRY.keys() - {"column"}  # which passes an input through


@pytest.mark.parametrize(("kind", "place", "values"), CASES)
def test_a_hundred_hostile_rows_spoil_no_learner(kind: str, place: str, values: tuple[float, ...]) -> None:
    rows = good(len(names_of(kind)))
    mixed, mine = among(rows, hostile(rows, values, seed=3), place, seed=5)
    assert auc(kind, mixed, mine) > undisturbed(kind) - 0.02


@pytest.mark.parametrize("kind", QUICK)
def test_replicas_agree_on_what_to_learn_however_rows_are_cut(kind: str) -> None:
    rows = good(len(names_of(kind)))
    (x, y, weight), _ = among(rows, hostile(rows, ALLOWED, seed=1), "first", seed=1)
    n = JUDGED_AGAIN[-1] + 200
    whole, parts, resumed = build(kind), build(kind), build(kind)
    whole.learn_many(x[:n], y[:n], weight[:n])
    edges = [0, 1, 2, 255, 256, 300, 1_000, 1_025, 2_047, 2_049, n]
    for a, b in pairwise(edges):
        parts.learn_many(x[a:b], y[a:b], weight[a:b])
        resumed.restore(parts.snapshot())
    assert isinstance(whole, GuardedLearner)
    assert 0 < whole.refused < HOSTILE + 20
    assert whole.snapshot() == parts.snapshot() == resumed.snapshot()


def test_a_level_that_stays_is_learned_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6_000, 1))
    y, ones = x[:, 0] > 0, np.ones(6_000)
    model = build_learner(LOGISTIC, ("level",))
    assert isinstance(model, GuardedLearner)
    assert OnlineModel(ColumnPrefix(model, ("level", "logged"))).refused == OnlineModel(model).refused == 0
    model.learn_many(x[:3_000], y[:3_000], ones[:3_000])
    model.learn_many(x[:100] * 1e9, ~y[:100], ones[:100])
    glitch = model.refused
    model.learn_many(x[3_000:] * 1e9, ~y[3_000:], ones[3_000:])
    shifted = model.refused - glitch
    assert 90 <= glitch <= 100
    assert shifted < 250
    assert ((model.predict_many(x[3_000:] * 1e9) < 0.5) == y[3_000:]).mean() > 0.9


def test_rows_that_are_not_numbers_or_weigh_nothing_are_not_learned() -> None:
    rows = good(6)
    bad = np.array([[np.nan, 0, 0, 0, 0, 0], [np.inf, 0, 0, 0, 0, 0], [0.0] * 6, [0.0] * 6, [0.0] * 6])
    model, other = build("logistic"), build("logistic")
    for each in (model, other):
        each.learn_many(rows.x[:300], rows.y[:300], rows.weight[:300])
    model.learn_many(bad, np.ones(5, np.bool_), np.array([1.0, 1.0, np.nan, np.inf, 0.0]))
    assert model.predict_many(rows.x[:50]).tobytes() == other.predict_many(rows.x[:50]).tobytes()
