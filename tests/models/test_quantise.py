from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.models.graphs import INPUTS, candidate, linear_graph, recurrent_graph, text_graph
from weir.models.errors import ModelError
from weir.models.evaluation.quantise import FLOAT16, INT8, measure, variants, with_variants
from weir.models.onnx.graph import GraphSpec, check_graph, open_session, run_graph
from weir.models.types import Built, History


def history(n: int = 1200) -> History:
    rng = np.random.default_rng(0)
    x = rng.normal(scale=2, size=(n, 3)).astype(np.float32)
    unknown = np.full(n, -1)
    return History(
        INPUTS, [str(i) for i in range(n)], rng.integers(0, 60, n), np.arange(n, dtype=float), x, np.zeros(n), unknown,
        (), np.full(n, np.nan), unknown,
    )  # fmt: skip


def labels(of: History) -> np.ndarray:
    return of.x[:, 0] + np.random.default_rng(1).normal(size=len(of)) > 1


def test_variants_are_graphs_of_the_same_contract_in_other_precisions() -> None:
    import onnx

    data = recurrent_graph(state=16)
    made = variants(data)
    assert set(made) == {INT8, FLOAT16}
    for graph in made.values():
        assert check_graph(graph, independent=False) == check_graph(data)
    kinds = {t.data_type for t in onnx.load_model_from_string(made[INT8]).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    halves = [t for t in onnx.load_model_from_string(made[FLOAT16]).graph.initializer if t.data_type == 10]
    assert {t.name for t in halves} == {"a_half", "b_half", "c_half", "d_half", "e_half"}, "all weights, no limits"


def test_float16_keeps_raw_inputs_in_float32() -> None:
    """A float16 holds no 70,000: were x cast at once, the first row would be infinite and the second 0."""
    graph = text_graph(
        "g (float[n, 1] x) => (float[n] logit) <float s = {1e-6}, float l = {-99}, float h = {99}, float[1, 1] w = {2},"
        "int64[1] one = {1}> { a = Mul(x, s) b = Clip(a, l, h) c = MatMul(b, w) logit = Squeeze(c, one) }"
    )
    x = np.array([[7e7], [-3e5]], np.float32)
    got = run_graph(open_session(variants(graph)[FLOAT16]), x)["logit"]
    np.testing.assert_allclose(got, [140, -0.6], rtol=1e-3)


def test_what_both_precisions_use_is_there_in_both() -> None:
    """``e`` and the constant ``h`` are wanted in float16, then in float32, as which they are there already."""
    graph = text_graph(
        "g (float[n, 2] x) => (float[n] logit) <float l = {-9}, float h = {9}, float[2, 2] w = {1, 2, 3, 4},"
        "int64[1] one = {1}> { b = Clip(x, l, h) c = MatMul(b, w) d = Clip(c, l, h) e = Exp(d) f = Mul(b, e)"
        "g = Min(e, h) i = Add(f, g) logit = ReduceSum <keepdims = 0> (i, one) }"
    )
    x = np.array([[0.5, -0.25], [1.0, 2.0]], np.float32)
    wanted, got = (run_graph(open_session(each), x)["logit"] for each in (graph, variants(graph)[FLOAT16]))
    np.testing.assert_allclose(got, wanted, rtol=0.01)


def test_two_products_of_int8_fit_into_16_bits() -> None:
    """A CPU without VNNI adds them there: 2 * 255 * 64 fits, 2 * 255 * 127 is cut, and the logit is another one."""
    import onnx
    from onnx import numpy_helper

    made = onnx.load_model_from_string(variants(recurrent_graph(state=16))[INT8])
    weights = [numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert {len(w.shape) for w in weights if w.size > 16} == {2}
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == 64


def test_what_a_variant_costs_is_measured_on_a_replay() -> None:
    of = history()
    rows = np.arange(600, 1200)
    built = with_variants(candidate(), of, rows, labels(of)[rows])
    said = built.variants
    assert set(said) == {INT8, FLOAT16}
    assert set(built.files) == {"weights.safetensors", INT8, FLOAT16}
    for name, limit in ((INT8, 0.2), (FLOAT16, 0.01)):
        cost = said[name].measured
        assert 0 < cost["max_logit_change"] < limit
        assert abs(cost["average_precision_loss"]) < 0.02
        assert abs(cost["roc_auc_loss"]) < 0.02
        assert cost["speed_ratio"] > 0
        assert cost["size_ratio"] == len(built.files[name]) / len(built.onnx)
    assert said[FLOAT16].measured["max_batch_effect"] < 1e-3 < said[INT8].measured["max_batch_effect"]


def test_a_variant_that_is_worse_is_said_to_be() -> None:
    of = history()
    y = of.x[:, 0] > 1
    right, wrong = (linear_graph(np.array([w, 0, 0], np.float32)) for w in (1, -1))
    cost = measure(right, {INT8: wrong}, of, np.arange(1200), y)[INT8].measured
    assert cost["average_precision_loss"] > 0.5
    assert cost["roc_auc_loss"] == pytest.approx(1)


def test_trees_have_no_variants() -> None:
    body = """g (float[n, 1] x) => (float[n] logit) <int64[1] flat = {-1}> {
        t = ai.onnx.ml.TreeEnsembleRegressor<
            n_targets = 1, nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [0, 0, 0],
            nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.5, 0.0, 0.0],
            nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0], target_treeids = [0, 0],
            target_nodeids = [1, 2], target_ids = [0, 0], target_weights = [1.0, 2.0]>(x)
        logit = Reshape(t, flat)
    }"""
    graph = text_graph(body, '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>')
    assert check_graph(graph).inputs == 1
    built = Built("trees", graph, ("a",))
    assert with_variants(built, history(), np.arange(4), np.array([True, False, True, False])) == built


def test_labels_of_one_kind_say_nothing() -> None:
    with pytest.raises(ModelError, match="0 of 4 labels of 4 rows are positive"):
        measure(recurrent_graph(), {}, history(), np.arange(4), np.zeros(4, bool))


def test_the_log_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers)
    variants(recurrent_graph())
    assert logging.getLogger().handlers == before
    assert capfd.readouterr() == ("", "")


def test_a_precision_that_overflows_is_left_out_and_the_candidate_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """The fourth power of what reaches 2e4 fits into a float32; into a float16 not even the square does."""
    graph = text_graph(
        "g (float[n, 2] x) => (float[n] logit) <float[2, 1] w = {1e-3, 2}, int64[1] one = {1}, float l = {-1e4},"
        "float h = {1e4}> { b = Clip(x, l, h) c = MatMul(b, w) d = Mul(c, c) e = Mul(d, d) logit = Squeeze(e, one) }"
    )
    assert set(variants(graph)) == {INT8}
    assert "no model.float16.onnx of this model: logit is not finite where inputs reach" in caplog.text


def test_a_precision_that_says_no_number_for_a_logged_event_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the probe did not find: here its checks are passed over."""
    monkeypatch.setattr("weir.models.evaluation.quantise.check_graph", lambda *_, **__: GraphSpec(3, 0, 0, 18))
    graph = text_graph(
        "g (float[n, 3] x) => (float[n] logit) <float[3, 1] w = {1, 1, 1}, int64[1] one = {1}>"
        "{ c = MatMul(x, w) d = Mul(c, c) logit = Squeeze(d, one) }"
    )
    large = history()
    large.x[7] = 300.0
    built = with_variants(Built("trees", graph, INPUTS), large, np.arange(len(large)), labels(large))
    assert set(built.variants) == set(built.files) == {INT8}
