"""River's estimators by name: what they say is River's own, and what is stored of them is numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import linear_model, optim, preprocessing

from tests.online.said_before import predict_learn
from weir.online.errors import StateError
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.learners.river.by_name import RiverByName
from weir.online.learners.stack import Stack
from weir.online.learners.state import pack_arrays, seal, unpack_arrays, unseal

NAMES = ("zeta", "alpha", "mid")
SCALED = "preprocessing.StandardScaler | linear_model.LogisticRegression"


def rows(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, x[:, 0] - x[:, 1] + rng.normal(size=n) > 0, rng.choice([0.4, 1.0, 2.6], n)


def made(estimator: str = SCALED, memory: int = 60, **params: Any) -> RiverByName:
    return RiverByName(NAMES, estimator=estimator, params=params, memory=memory)


@pytest.mark.parametrize(
    ("estimator", "params"),
    [
        (SCALED, {"optimizer": {"river": "optim.Adam", "lr": 0.1}}),
        ("linear_model.PAClassifier", {}),
        ("naive_bayes.GaussianNB", {}),
        ("neighbors.KNNClassifier", {"n_neighbors": 3}),
        ("tree.HoeffdingAdaptiveTreeClassifier", {"grace_period": 20}),
        ("forest.AMFClassifier", {"n_estimators": 2}),
        ("ensemble.ADWINBaggingClassifier", {"model": {"river": "tree.HoeffdingTreeClassifier"}, "n_models": 2}),
    ],
)
def test_one_that_is_stored_at_any_time_goes_on_as_if_it_had_not_been(estimator: str, params: Any) -> None:
    x, y, w = rows(210)
    straight = made(estimator, **params)
    for a, b in pairwise([0, 1, 59, 60, 61, 119, 133, 180, 210]):
        straight.learn_many(x[a:b], y[a:b], w[a:b])
        state, resumed = straight.snapshot(), made(estimator, **params)
        resumed.restore(state)
        said = straight.predict_many(x[:20])
        assert resumed.predict_many(x[:20]).tobytes() == said.tobytes()
        assert resumed.snapshot() == state
        assert ((said >= 0.0) & (said <= 1.0)).all()
        assert len(unpack_arrays(unseal(state, "river", NAMES))["x"]) < 120


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 150), max_size=5))
def test_how_rows_are_cut_changes_nothing(cuts: list[int]) -> None:
    x, y, w = rows(150)
    whole, parts = made(), made()
    whole.learn_many(x, y, w)
    for a, b in pairwise([0, *sorted(cuts), 150]):
        parts.learn_many(x[a:b], y[a:b], w[a:b])
    assert parts.snapshot() == whole.snapshot()
    assert parts.predict_many(x).tobytes() == whole.predict_many(x).tobytes()


def test_it_says_what_rivers_own_object_says_until_it_forgets() -> None:
    x, y, w = rows(100)
    own = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.3))
    model = made(memory=50, optimizer={"river": "optim.SGD", "lr": 0.3})
    for i, row in enumerate(x.tolist()):
        named = dict(enumerate(row))
        p = own.predict_proba_one(named)[True]
        if i < 100:
            assert model.predict_many(x[i : i + 1])[0] == p
        own.learn_one(named, bool(y[i]), w=float(w[i]))
        model.learn_many(x[i : i + 1], y[i : i + 1], w[i : i + 1])
    late = made(memory=50, optimizer={"river": "optim.SGD", "lr": 0.3})
    late.learn_many(x[50:], y[50:], w[50:])
    assert model.predict_many(x).tobytes() == late.predict_many(x).tobytes()


def test_an_estimator_without_weights_learns_a_row_as_often_as_it_weighs() -> None:
    x, y, _ = rows(40)
    heavy, often = made("naive_bayes.GaussianNB", 1000), made("naive_bayes.GaussianNB", 1000)
    heavy.learn_many(x, y, np.full(40, 3.2))
    often.learn_many(np.repeat(x, 3, axis=0), np.repeat(y, 3), np.ones(120))
    assert heavy.predict_many(x).tobytes() == often.predict_many(x).tobytes()


def test_in_a_batch_each_row_is_scored_by_what_the_one_before_it_taught() -> None:
    x, y, w = rows(90)
    whole, single = (Stack(NAMES, members=(made(), made("naive_bayes.GaussianNB"))) for _ in range(2))
    before = predict_learn(whole, x, y, w)
    for i in range(90):
        assert single.predict_many(x[i : i + 1])[0] == before[i]
        single.learn_many(x[i : i + 1], y[i : i + 1], w[i : i + 1])


def test_a_member_is_named_in_a_task_file() -> None:
    table = {"kind": "auto", "members": [{"kind": "boosted"}, {"kind": "river", "estimator": SCALED}]}
    model, (x, y, w) = build_learner(LearnerSpec.model_validate(table), NAMES), rows(200)
    model.learn_many(x, y, w)
    other = build_learner(LearnerSpec.model_validate(table), NAMES)
    other.restore(model.snapshot())
    assert other.predict_many(x).tobytes() == model.predict_many(x).tobytes()
    assert "estimator" not in LearnerSpec(kind="boosted").model_dump()  # digests of before stay


@pytest.mark.parametrize(
    ("estimator", "params", "says"),
    [
        ("os.system", {}, "MODULE.CLASS"),
        ("river.tree.HoeffdingTreeClassifier", {}, "MODULE.CLASS"),
        ("trees.HoeffdingTreeClassifier", {}, "no module river.trees"),
        ("tree.HoeffdingTreeClasifier", {}, "did you mean 'HoeffdingTreeClassifier'"),
        ("linear_model.LinearRegression", {}, "one classifier"),
        ("linear_model.Perceptron | preprocessing.StandardScaler", {}, "one classifier"),
        ("tree.HoeffdingTreeClassifier", {"grace": 3}, "no parameter grace; did you mean 'grace_period'"),
        ("tree.HoeffdingTreeClassifier", {"leaf_prediction": {"river": "os.System"}}, "no module river.os"),
        ("ensemble.BaggingClassifier", {}, "missing 1 required"),
        ("linear_model.LogisticRegression", {"optimizer": 3}, "name another one"),
        ("linear_model.Perceptron", {"memory": 0}, "memory = 0"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_learned(estimator: str, params: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_learner(LearnerSpec(kind="river", estimator=estimator, params=params), NAMES)


@pytest.mark.parametrize("spec", [{"kind": "river"}, {"kind": "boosted", "estimator": SCALED}])
def test_an_estimator_belongs_to_river(spec: Any) -> None:
    with pytest.raises(ValueError, match="needs an estimator, no other kind takes one"):
        build_learner(LearnerSpec.model_validate(spec), NAMES)


@pytest.mark.parametrize("change", [{"at": [0, 9]}, {"at": [30, 40]}, {"at": [0]}, {"y": np.zeros(10)}, {"x": 1.0}])
def test_numbers_that_are_no_such_rows_are_refused_and_change_nothing(change: Any) -> None:
    model, (x, y, w) = made(), rows(10)
    model.learn_many(x, y, w)
    good = model.snapshot()
    arrays = unpack_arrays(unseal(good, "river", NAMES)) | {name: np.asarray(v) for name, v in change.items()}
    with pytest.raises(StateError):
        model.restore(seal("river", NAMES, pack_arrays(arrays)))
    assert model.snapshot() == good
