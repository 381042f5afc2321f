"""What every registered learner owes its users, and what the factory and the versioned model add."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weir.online.batch import ExampleBatch
from weir.online.learners.base import Learner
from weir.online.learners.factory import REGISTRY, LearnerSpec, build_learner, known_parameters
from weir.online.learners.interleaved import score_between
from weir.online.learners.online_model import ModelSnapshot, OnlineModel

NAMES = ("zeta", "alpha", "mid", "beta")  # not sorted: River sorts some names, we must not depend on it
STACK = LearnerSpec(
    kind="stack",
    params={"half_life": 50, "combiner_lr": 0.01},
    members=(
        LearnerSpec(kind="logistic", params={"lr": 0.05}),
        LearnerSpec(kind="bayesian_logistic"),
        LearnerSpec(kind="adaptive_tree", params={"grace_period": 50, "delta": 0.01}),
    ),
)
SMALL: dict[str, dict[str, Any]] = {
    "logistic": {"lr": 0.05, "intercept_lr": 0.05},
    "adaptive_tree": {"grace_period": 40, "delta": 0.01},
    "adaptive_forest": {"n_models": 2},
}
LINEAR = ("logistic", "bayesian_logistic")


RIVER = LearnerSpec(  # its estimators change places in nearly every test
    kind="river",
    estimator="preprocessing.StandardScaler | linear_model.LogisticRegression",
    params={"memory": 190, "optimizer": {"river": "optim.SGD", "lr": 0.1}},
)


def spec_of(kind: str) -> LearnerSpec:
    return {"stack": STACK, "river": RIVER}.get(kind) or LearnerSpec(kind=kind, params=SMALL.get(kind, {}))


def build(kind: str) -> Learner:
    return build_learner(spec_of(kind), NAMES)


NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)  # a forest is too slow to shrink a failure with
# "column" passes a feature through and learns nothing, so most of what follows is not about it; "beside_full" answers
# what the full model says before it has learned anything (test_beside_full.py).
every_kind = pytest.mark.parametrize("kind", sorted(REGISTRY.keys() - {"column", "beside_full"}))


def concept(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Rows whose label is the sign of one column, on uneven scales."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) * [1.0, 50.0, 0.01, 3.0] + [0.0, 100.0, 0.0, -7.0]
    return x, x[:, 1] > 100.0, np.ones(n)


@every_kind
def test_before_learning_it_answers_a_half(kind: str) -> None:
    p = build(kind).predict_many(concept(5)[0])
    assert p.shape == (5,)
    assert np.all(np.abs(p - 0.5) <= 0.1)


@every_kind
def test_a_missing_value_counts_as_0(kind: str) -> None:
    """Rows have -0.0 where nothing is known, so that reasons can say so; no score may tell it from 0."""
    plus, minus = build(kind), build(kind)
    x, y, w = concept(120)
    x[::3, :2] = 0.0
    plus.learn_many(x, y, w)
    minus.learn_many(np.where(x == 0.0, -0.0, x), y, w)
    assert plus.predict_many(x).tobytes() == minus.predict_many(np.where(x == 0.0, -0.0, x)).tobytes()
    np.testing.assert_array_equal(plus.contributions(x), minus.contributions(np.where(x == 0.0, -0.0, x)))


@every_kind
def test_no_rows_is_fine(kind: str) -> None:
    model = build(kind)
    x, y, w = concept(0)
    model.learn_many(x, y, w)
    assert model.predict_many(x).shape == (0,)
    assert model.contributions(x).shape == (0, 4)


@every_kind
def test_inputs_are_not_changed_and_may_be_read_only(kind: str) -> None:
    model = build(kind)
    arrays = concept(120)
    kept = [a.tobytes() for a in arrays]
    for array in arrays:
        array.setflags(write=False)
    model.learn_many(*arrays)
    model.predict_many(arrays[0])
    model.contributions(arrays[0][:3])
    assert [a.tobytes() for a in arrays] == kept


BETWEEN = {
    "boosted_soon": LearnerSpec(kind="boosted", params={"every": 40, "buffer": 100, "trees": 4}),
    "auto_at_once": LearnerSpec(kind="auto", params={"lag": 0}),
    "auto_few_rows": LearnerSpec(kind="auto", params={"lag": 30}, members=(LearnerSpec(kind="logistic"), STACK)),
    "stack_of_all": LearnerSpec(
        kind="stack",
        params={"combiner_lr": 0.01},
        members=tuple(
            LearnerSpec(kind=kind, params={"every": 40, "buffer": 100} if kind == "boosted" else SMALL.get(kind, {}))
            for kind in sorted(REGISTRY.keys() - {"beside_full", "column", "river", "stack", "auto"})
        ),
    ),
    "column": LearnerSpec(kind="column", params={"column": "mid"}),
    "beside_full": LearnerSpec(kind="beside_full", members=(LearnerSpec(kind="logistic", params={"lr": 0.1}),)),
}
BETWEEN |= {kind: spec_of(kind) for kind in sorted(REGISTRY.keys() - {"column", "beside_full"})}


@pytest.mark.parametrize("kind", BETWEEN)
@settings(max_examples=3, deadline=None, phases=NO_SHRINK)
@given(seed=st.integers(0, 1 << 30), late=st.sampled_from([0, 3, 40]), cuts=st.integers(1, 200))
def test_rows_between_examples_are_scored_as_one_by_one(kind: str, seed: int, late: int, cuts: int) -> None:
    """Whatever is scored between whichever examples, in whatever calls: the bits of a call for each, and the state."""
    slow = "forest" in kind or kind in ("stack_of_all", "river")
    n, rng = 2_200 if kind == "logistic" else 240 if slow else 600, np.random.default_rng(seed)
    x, y, w = concept(n, seed)
    x[rng.random(n) < 0.01] *= 1e9  # that the guard refuses, some after it learned them
    w[rng.random(n) < 0.1] = 3.0
    names = (*NAMES, "full.logit", "full.known") if kind == "beside_full" else NAMES
    if kind == "beside_full":
        x = np.column_stack([x, rng.normal(size=n), rng.random(n) < 0.8])
    at = np.sort(np.minimum(np.arange(n) + 1 + rng.integers(0, late + 1, n), n))  # before which row each is known
    learned = np.searchsorted(at, np.arange(n), side="right")
    one, other = (build_learner(BETWEEN[kind], names) for _ in range(2))
    expected, done = np.empty(n), 0
    for i in range(n):
        for k in range(done, learned[i]):
            one.learn_many(x[k : k + 1], y[k : k + 1], w[k : k + 1])
        done = int(learned[i])
        expected[i] = one.predict_many(x[i : i + 1])[0]
    got, edges = np.empty(n), sorted({0, n, *rng.integers(0, n, max(1, n // cuts) if cuts > 20 else 9).tolist()})
    start = 0
    for a, b in pairwise(edges):
        stop = int(learned[b - 1])
        known = x[start:stop], y[start:stop], w[start:stop]
        got[a:b] = score_between(other, x[a:b], learned[a:b] - start, *known)
        start = stop
    assert got.tobytes() == expected.tobytes()
    assert other.snapshot() == one.snapshot()


@every_kind
def test_scoring_changes_nothing(kind: str) -> None:
    quiet, asked = build(kind), build(kind)
    x, y, w = concept(300)
    for i in range(0, 300, 30):
        quiet.learn_many(x[i : i + 30], y[i : i + 30], w[i : i + 30])
        asked.predict_many(x)
        asked.contributions(x[:2])
        asked.learn_many(x[i : i + 30], y[i : i + 30], w[i : i + 30])
        asked.snapshot()
    np.testing.assert_array_equal(quiet.predict_many(x), asked.predict_many(x))
    assert quiet.snapshot() == asked.snapshot()


@every_kind
@settings(max_examples=5, deadline=None, phases=NO_SHRINK)
@given(cuts=st.lists(st.integers(0, 250), max_size=6), score_cut=st.integers(1, 60))
def test_results_do_not_depend_on_how_rows_are_cut(kind: str, cuts: list[int], score_cut: int) -> None:
    x, y, w = concept(250, seed=3)
    w = np.where(np.arange(250) % 5 == 0, 2.5, w)
    whole, parts = build(kind), build(kind)
    whole.learn_many(x, y, w)
    edges = [0, *sorted(cuts), 250]
    for a, b in pairwise(edges):
        parts.learn_many(x[a:b], y[a:b], w[a:b])
    expected = whole.predict_many(x[:60])
    scored = np.concatenate([parts.predict_many(x[i : min(i + score_cut, 60)]) for i in range(0, 60, score_cut)])
    assert scored.tobytes() == expected.tobytes()


@every_kind
def test_snapshot_continues_bit_identically(kind: str) -> None:
    straight, resumed = build(kind), build(kind)
    x, y, w = concept(500, seed=1)
    straight.learn_many(x[:300], y[:300], w[:300])
    state = straight.snapshot()
    resumed.learn_many(x[:7], ~y[:7], w[:7])  # what it knew is replaced
    resumed.restore(state)
    assert resumed.snapshot() == state
    for model in (straight, resumed):
        model.learn_many(x[300:], y[300:], w[300:])
    assert straight.predict_many(x).tobytes() == resumed.predict_many(x).tobytes()


@every_kind
def test_a_foreign_snapshot_is_refused(kind: str) -> None:
    model = build(kind)
    other = build("bayesian_logistic" if kind == "logistic" else "logistic")
    narrower = build_learner(LearnerSpec(kind="logistic"), ("one",))
    for state in (b"", b"junk", other.snapshot(), narrower.snapshot(), model.snapshot()[:-3]):
        with pytest.raises(ValueError):
            model.restore(state)


@every_kind
def test_it_learns_a_separable_concept(kind: str) -> None:
    model = build(kind)
    x, y, w = concept(2000)
    model.learn_many(x, y, w)
    fresh, truth, _ = concept(1000, seed=9)
    assert ((model.predict_many(fresh) > 0.5) == truth).mean() > 0.88


@every_kind
def test_probabilities_stay_probabilities_on_wild_rows(kind: str) -> None:
    model = build(kind)
    model.learn_many(*concept(300))
    wild = np.array([[1e12, -1e12, 1e12, 0.0], [0.0, 0.0, 0.0, 0.0], [-1e300, 1.0, 1.0, 1.0]])
    p = model.predict_many(wild)
    assert np.all((p >= 0) & (p <= 1))


@every_kind
def test_one_class_only_is_no_accident(kind: str) -> None:
    model = build(kind)
    x, _, w = concept(200)
    model.learn_many(x, np.zeros(200, bool), w)
    p = model.predict_many(x)
    assert np.all((p >= 0) & (p <= 0.5))
    assert np.all(np.isfinite(model.contributions(x[:3])))


@every_kind
def test_weights_move_the_answer(kind: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(800, 4))
    y = rng.random(800) < 0.5
    equal, heavy = build(kind), build(kind)
    equal.learn_many(x, y, np.ones(800))
    heavy.learn_many(x, y, np.where(y, 5.0, 1.0))
    assert heavy.predict_many(x[:400]).mean() > equal.predict_many(x[:400]).mean() + 0.05


@every_kind
def test_contributions_point_at_the_column_that_decides(kind: str) -> None:
    model = build(kind)
    x, y, w = concept(2000)
    model.learn_many(x, y, w)
    high, low = np.array([[0.0, 160.0, 0.0, -7.0]]), np.array([[0.0, 40.0, 0.0, -7.0]])
    up, down = model.contributions(high), model.contributions(low)
    assert up.shape == (1, 4)
    assert int(np.abs(up[0]).argmax()) == int(np.abs(down[0]).argmax()) == 1
    assert up[0, 1] > 0 > down[0, 1]


@every_kind
def test_the_seed_decides_and_nothing_else(kind: str) -> None:
    a, b = build(kind), build(kind)
    x, y, w = concept(400, seed=5)
    for model in (a, b):
        model.learn_many(x, y, w)
    assert a.snapshot() == b.snapshot()
    assert "seed" in known_parameters(kind)


@every_kind
def test_state_stays_bounded(kind: str) -> None:
    model = build(kind)
    x, y, w = concept(600, seed=6)
    y = np.random.default_rng(0).random(600) < 0.5  # no structure: a tree that splits on noise would grow for ever
    for _ in range(4 if kind in LINEAR else 0):  # the first rows are kept for a while
        model.learn_many(x, y, w)
    sizes = []
    for _ in range(3):
        model.learn_many(x, y, w)
        sizes.append(len(model.snapshot()))
    assert sizes[-1] < 4_000_000
    if kind in LINEAR:
        assert sizes[0] == sizes[-1]


# -- factory ---------------------------------------------------------------------------------------------------------


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'logit'.*did you mean 'logistic'.*boosted"):
        build_learner(LearnerSpec(kind="logit"), NAMES)


def test_unknown_parameter_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no parameter learning_rate; there are: .*lr"):
        build_learner(LearnerSpec(kind="logistic", params={"learning_rate": 1}), NAMES)


@pytest.mark.parametrize(
    ("spec", "features", "says"),
    [
        (LearnerSpec(kind="stack"), NAMES, "0 members"),
        (LearnerSpec(kind="logistic", members=(LearnerSpec(kind="boosted"),)), NAMES, "takes no members"),
        (LearnerSpec(kind="alma"), NAMES, "'alma' was removed.*bayesian_logistic instead"),
        (LearnerSpec(kind="logistic"), ("a", "b", "a"), "repeated: \\['a'\\]"),
        (LearnerSpec(kind="logistic"), (), "at least one"),
        (LearnerSpec(kind="adaptive_tree", params={"leaf_prediction": "best"}), NAMES, "'best'"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(spec: LearnerSpec, features: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_learner(spec, features)


def test_a_spec_reads_from_plain_tables() -> None:
    table = {"kind": "stack", "members": [{"kind": "logistic", "params": {"lr": 0.5}}, {"kind": "boosted"}]}
    assert build_learner(LearnerSpec.model_validate(table), NAMES).features == NAMES


# -- the versioned model -----------------------------------------------------------------------------------------------


def examples(n: int, seed: int = 0) -> ExampleBatch:
    x, y, w = concept(n, seed)
    ids = [f"e{i}" for i in range(n)]
    ts = np.arange(n, dtype=np.float64)
    return ExampleBatch(ids, ts, x, np.full(n, 0.5), y, w, np.zeros(n, dtype=bool))


def part(batch: ExampleBatch, a: int, b: int) -> ExampleBatch:
    s = slice(a, b)
    return ExampleBatch(
        batch.event_id[s], batch.ts[s], batch.x[s], batch.score[s], batch.y[s], batch.weight[s], batch.correction[s]
    )


@every_kind
@settings(max_examples=5, deadline=None, phases=NO_SHRINK)
@given(stop=st.integers(0, 200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_a_run_that_goes_on_from_a_snapshot_equals_a_straight_one(kind: str, stop: int, cuts: list[int]) -> None:
    log = examples(200)
    straight, stopped, resumed = (OnlineModel(build(kind)) for _ in range(3))
    straight.learn(log)
    stopped.learn(part(log, 0, stop))
    resumed.restore(stopped.snapshot())
    assert resumed.version == stop
    for a, b in pairwise([stop, *sorted(c for c in cuts if c > stop), 200]):
        resumed.learn(part(log, a, b))
    assert resumed.version == straight.version == 200
    assert resumed.score(log.x[:50])[0].tobytes() == straight.score(log.x[:50])[0].tobytes()
    assert resumed.snapshot().digest == straight.snapshot().digest


def test_a_damaged_snapshot_is_an_error_and_leaves_the_model_alone() -> None:
    model = OnlineModel(build("logistic"))
    model.learn(examples(10))
    good = model.snapshot()
    with pytest.raises(ValueError, match="digest"):
        model.restore(ModelSnapshot(3, good.digest, good.state + b"x"))
    assert model.snapshot() == good


def test_examples_of_another_width_are_an_error() -> None:
    model = OnlineModel(build_learner(LearnerSpec(kind="logistic"), ("only",)))
    with pytest.raises(ValueError, match="shape \\(3, 4\\)"):
        model.learn(examples(3))
