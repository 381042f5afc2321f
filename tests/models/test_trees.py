"""Boosted trees: the ONNX graph says what LightGBM says, and the builder learns what it may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from weir.models.dataset.split import train_rows
from weir.models.errors import ModelError
from weir.models.trees.convert import round_down, to_onnx
from weir.models.trees.tree_builder import TreeParams, TreesBuilder, thinned
from weir.models.types import Built, Float32Matrix, History, Labels, TrainingSet, TrainingStoppedError

DAY = 86_400.0
SMALL = TreeParams(rounds=30, patience=10, min_rows=5, min_hessian=0.1)


def session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def logits(graph: bytes, x: Float32Matrix) -> NDArray[np.float32]:
    out: NDArray[np.float32] = session(graph).run(["logit"], {"x": x})[0]
    return out


def booster_of(x: NDArray[Any], y: NDArray[Any], rounds: int = 40, **params: Any) -> lgb.Booster:
    known = {"objective": "binary", "num_leaves": 15, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1, **params}
    categorical = known.pop("categorical", "auto")
    data = lgb.Dataset(x, y, categorical_feature=categorical, params={"verbose": -1})
    return lgb.train(known, data, rounds)


def thresholds_of(booster: lgb.Booster) -> NDArray[np.float64]:
    found: list[float] = []
    waiting = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while waiting:
        node = waiting.pop()
        if "threshold" in node:
            found.append(node["threshold"])
            waiting += [node["left_child"], node["right_child"]]
    return np.array(found)


def edges(booster: lgb.Booster, width: int) -> Float32Matrix:
    """Every threshold and its float32 neighbours in every column, and the values where comparisons go wrong."""
    near = np.unique(thresholds_of(booster).astype(np.float32))
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-35, 1e-38, -1e-38, 3e38, -3e38], dtype=np.float32)
    values = np.concatenate(
        [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)), odd]
    )
    rng = np.random.default_rng(1)
    return np.stack([rng.permutation(values) for _ in range(width)], axis=1)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_graph_agrees_with_lightgbm_on_random_and_edge_rows(missing: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x: NDArray[Any] = rng.normal(size=(3000, 4)).astype(dtype)
    x[:, 1] = np.round(x[:, 1], 1)  # many equal values, so that thresholds fall between float32 neighbours
    x[:, 2] *= 1e6
    y = x[:, 0] + x[:, 1] * (x[:, 2] > 0) > 0.3
    x[rng.random(x.shape) < missing] = np.nan
    booster = booster_of(x, y)
    graph = to_onnx(booster, ("a", "b", "c", "d"))
    wild = (rng.normal(size=(2000, 4)) * [1, 1, 1e6, 1]).astype(np.float32)
    for rows in (x[:500].astype(np.float32), wild, edges(booster, 4)):
        want = booster.predict(rows.astype(np.float64), raw_score=True)
        assert np.abs(logits(graph, rows) - want).max() < 1e-5


def test_splits_on_float32_ties_keep_every_row_on_its_side() -> None:
    """Training values that are one float32 apart: a threshold rounded to the nearest would move half of them."""
    steps = np.float32(1.0) + np.arange(64, dtype=np.float32) * np.spacing(np.float32(1.0))
    x = np.repeat(steps, 40)[:, None]
    booster = booster_of(x, np.arange(len(x)) // 40 % 3 == 0, rounds=20)
    assert np.abs(logits(to_onnx(booster, ("a",)), x) - booster.predict(x, raw_score=True)).max() < 1e-5


def test_rounding_down_is_the_greatest_float32_not_above() -> None:
    values = np.array([0.1, -0.1, 1.0, 1e-34, -1e-34, 1e300, -1e300, 16_777_217.0])
    down = round_down(values)
    assert (down.astype(np.float64) <= values).all()
    with np.errstate(over="ignore"):
        up = np.nextafter(down, np.float32(np.inf)).astype(np.float64)
    assert (up > values).all()


def test_thresholds_at_zero_let_all_that_lightgbm_reads_as_zero_pass_or_none() -> None:
    x = np.repeat(np.array([-1.0, 0.0, 1.0], dtype=np.float32), 100)[:, None]
    tiny = np.array([0.0, -0.0, 1e-35, -1e-35, 1e-40, -1e-40, 2e-35, -2e-35], dtype=np.float32)[:, None]
    for y in (x[:, 0] < 0, x[:, 0] > 0):
        booster = booster_of(x, y, rounds=5)
        assert (np.abs(thresholds_of(booster)) < 1e-34).any()
        assert np.abs(logits(to_onnx(booster, ("a",)), tiny) - booster.predict(tiny, raw_score=True)).max() < 1e-5


def test_any_number_of_rows_and_trees_of_one_leaf() -> None:
    x = np.zeros((200, 2), dtype=np.float32)
    booster = booster_of(x, np.arange(200) < 60, rounds=1)
    graph = to_onnx(booster, ("a", "b"))
    for n in (0, 1, 7):
        found = logits(graph, np.ones((n, 2), dtype=np.float32))
        assert found.shape == (n,)
        assert found.dtype == np.float32
        assert np.allclose(found, np.log(60 / 140), atol=1e-4)


def test_the_graph_states_its_contract() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    model = onnx.load_from_string(to_onnx(booster_of(x, x[:, 0] > 0, rounds=2), ("a", "b")))
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["logit"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "ai.onnx.ml": 3}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"categorical": [0]}, "numeric splits"),
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"objective": "regression"}, "binary sigmoid:1"),
        ({"sigmoid": 2.0}, "binary sigmoid:1"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "averages"),
    ],
)
def test_what_cannot_be_stated_is_refused(params: dict[str, Any], message: str) -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 9, 500), rng.normal(size=500)])
    x[::3, 1] = 0.0
    with pytest.raises(ModelError, match=message):
        to_onnx(booster_of(x, (x[:, 0] % 2 > 0) ^ (x[:, 1] > 0), rounds=3, **params), ("a", "b"))


def test_other_columns_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    with pytest.raises(ModelError, match="2 columns, inputs name 1"):
        to_onnx(booster_of(x, x[:, 0] > 0, rounds=1), ("a",))


def data_of(n: int = 4000, delay: float = DAY, seed: int = 0) -> TrainingSet:
    """``n`` events over 20 days; positives where two columns are high; a third column is noise."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.uniform(0, 20 * DAY, n))
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = (x[:, 0] > 0.5) & (x[:, 1] > 0.5) & (rng.random(n) < 0.9)
    none = np.full(n, -1, dtype=np.int64)
    ids = [f"e{i}" for i in range(n)]
    score = 1 / (1 + np.exp(-x[:, 0].astype(np.float64)))
    history = History(
        ("a", "b", "noise"), ids, np.arange(n) % 50, ts, x, score, none, (), np.full(n, np.nan), none
    )  # fmt: skip
    known = np.flatnonzero(ts + delay <= 20 * DAY)
    labels = Labels(known, y[known], np.ones(len(known)), ts[known] + delay)
    return TrainingSet(history, labels, 20 * DAY, 15 * DAY)


def test_learns_and_says_how_well(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    built = TreesBuilder(SMALL).build(data_of(), tmp_path, 3, progress=lambda *at: seen.append(at))
    assert (built.kind, built.inputs, built.state, built.embedding) == ("trees", ("a", "b", "noise"), 0, 0)
    assert built.metrics["valid_roc_auc"] > 0.9
    assert built.metrics["valid_average_precision"] > 0.7
    assert 1 <= built.metrics["rounds"] <= 30
    assert seen[0] == ("trees", 1, 30)
    fresh = data_of(seed=9).history.x
    booster = lgb.Booster(model_str=built.files["model.txt"].decode())
    assert booster.num_trees() == built.metrics["rounds"]
    assert np.abs(logits(built.onnx, fresh) - booster.predict(fresh, raw_score=True)).max() < 1e-5
    high = (fresh[:, 0] > 0.5) & (fresh[:, 1] > 0.5)
    assert logits(built.onnx, fresh[high]).min() > np.median(logits(built.onnx, fresh[~high]))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def build(seed: int) -> Built:
        return TreesBuilder(SMALL).build(data_of(), tmp_path, seed)

    one, again, other = build(1), build(1), build(2)
    assert one.onnx == again.onnx
    assert one.files == again.files
    assert one.onnx != other.onnx


@pytest.mark.parametrize(
    "inputs", [("Price [EUR]", 'a,"b":{c}', "Preis netto"), ("a b", "a_b", "a:b"), ("Größe", "%", "x")]
)
def test_columns_may_have_any_names(inputs: tuple[str, ...], tmp_path: Path) -> None:
    data = data_of()
    built = TreesBuilder(SMALL).build(replace(data, history=replace(data.history, inputs=inputs)), tmp_path, 1)
    assert built.inputs == inputs
    assert built.onnx == TreesBuilder(SMALL).build(data, tmp_path, 1).onnx


def test_learns_no_row_whose_label_came_after_the_validation_began(tmp_path: Path) -> None:
    data = data_of(delay=2 * DAY)
    built = TreesBuilder(SMALL).build(data, tmp_path, 0)
    known = data.history.ts < 13 * DAY  # labels of days 13 to 15 come later than day 15, where validation begins
    assert built.metrics["rows"] == np.count_nonzero(known)


def test_labels_that_came_in_another_order_give_the_same_model(tmp_path: Path) -> None:
    data = data_of()
    order = np.random.default_rng(0).permutation(len(data.labels.row))
    own = data.labels
    labels = Labels(own.row[order], own.y[order], own.weight[order], own.known_at[order])
    mixed = TrainingSet(data.history, labels, data.cutoff, data.valid_from)
    build = TreesBuilder(TreeParams(rounds=5, easy_rows=100)).build
    assert build(data, tmp_path, 1).files == build(mixed, tmp_path, 1).files


def test_thinning_keeps_positives_hard_negatives_and_the_weight_of_the_rest() -> None:
    data = data_of(n=40_000)
    score, rows = data.history.score, train_rows(data)
    whole = thinned(rows, score, TreeParams(easy_rows=10**9), 0)
    thin = thinned(rows, score, TreeParams(easy_rows=0, easy_per_positive=1.0), 0)
    assert whole is rows
    assert len(thin) < len(whole) / 3
    assert thin.y.sum() == whole.y.sum()
    assert (thin.weight[thin.y] == 1.0).all()
    hard = score > np.quantile(score[whole.row[~whole.y]], 0.9)
    assert np.count_nonzero(hard[thin.row] & ~thin.y) == np.count_nonzero(hard[whole.row] & ~whole.y) > 0
    assert thin.weight.sum() == pytest.approx(whole.weight.sum(), rel=0.03)


def test_validation_without_positives_still_trains(tmp_path: Path) -> None:
    data = data_of()
    late = TrainingSet(data.history, data.labels, data.cutoff, 20 * DAY)
    built = TreesBuilder(SMALL).build(late, tmp_path, 1)
    assert built.metrics["rounds"] == SMALL.rounds
    assert "valid_roc_auc" not in built.metrics


@pytest.mark.parametrize(("y", "message"), [(False, "0 positives"), (True, "0 negatives")])
def test_what_cannot_be_trained_says_why(y: bool, message: str, tmp_path: Path) -> None:
    data = data_of()
    labels = Labels(data.labels.row, np.full_like(data.labels.y, y), data.labels.weight, data.labels.known_at)
    data = TrainingSet(data.history, labels, data.cutoff, data.valid_from)
    with pytest.raises(ModelError, match=message):
        TreesBuilder(SMALL).build(data, tmp_path, 1)


def test_stops_when_asked(tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(TrainingStoppedError, match="after 3 of 30 trees"):
        TreesBuilder(SMALL).build(data_of(), tmp_path, 1, stop=lambda: next(asked))
