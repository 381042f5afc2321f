from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.models.graphs import INPUTS, candidate, linear_graph, recurrent_graph
from weir.models.errors import ModelError
from weir.models.onnx.blend import BlendWeights, blend, blend_graphs, fit_weights
from weir.models.onnx.graph import GraphSpec, check_graph, open_session, run_graph
from weir.models.types import Built


def trees() -> Built:
    return Built("trees", linear_graph(np.array([0.3, -0.2, 0.1], np.float32)), INPUTS, files={"model.txt": b"tree"})


def test_the_blend_is_the_weighted_sum_of_its_parts_over_carried_states() -> None:
    parts, weights = [recurrent_graph(1), trees().onnx, recurrent_graph(2, state=3, embedding=0)], (0.5, 1.5, 0.25)
    merged = blend_graphs(parts, weights, -0.7)
    assert check_graph(merged) == GraphSpec(3, 7, 2, 18)
    sessions = [open_session(data) for data in (merged, *parts)]
    rng = np.random.default_rng(0)
    state, first, third = np.zeros((40, 7), np.float32), np.zeros((40, 4), np.float32), np.zeros((40, 3), np.float32)
    for _ in range(20):
        x = rng.normal(scale=3, size=(40, 3)).astype(np.float32)
        got = run_graph(sessions[0], x, state)
        a, b, c = (run_graph(s, x, of) for s, of in zip(sessions[1:], (first, None, third), strict=True))
        wanted = -0.7 + 0.5 * a["logit"] + 1.5 * b["logit"] + 0.25 * c["logit"]
        np.testing.assert_allclose(got["logit"], wanted, atol=1e-5)
        np.testing.assert_allclose(got["state_out"], np.hstack([a["state_out"], c["state_out"]]), atol=1e-6)
        np.testing.assert_allclose(got["embedding"], a["embedding"], atol=1e-6)
        state, first, third = got["state_out"], a["state_out"], c["state_out"]


def test_a_blend_is_one_candidate_with_the_files_of_all() -> None:
    parts = [candidate(), trees(), replace(candidate(1), files={"weights.safetensors": b"other"})]
    built = blend(parts, BlendWeights((0.5, 0.0, 0.5), 0.1))
    assert (built.kind, built.state, built.embedding, built.inputs) == ("blend", 8, 4, INPUTS)
    assert built.files == {**parts[0].files, "encoder.weights.safetensors": b"other"}, "trees have no weight"
    assert built.metrics["blend_bias"] == 0.1
    assert check_graph(built.onnx).state == 8


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="trees and encoder take other inputs"):
        blend([candidate(), replace(trees(), inputs=("x", "y", "z"))], BlendWeights((1.0, 1.0), 0.0))
    with pytest.raises(ModelError, match="2 parts and 1 weights"):
        blend([candidate(), trees()], BlendWeights((1.0,), 0.0))
    with pytest.raises(ModelError, match="nothing to blend"):
        blend([candidate(), trees()], BlendWeights((0.0, 0.0), 0.0))
    with pytest.raises(ModelError, match=r"the graphs take \[3, 2\] inputs"):
        blend_graphs([recurrent_graph(), linear_graph(np.ones(2, np.float32))], (1.0, 1.0), 0.0)


def test_weights_are_those_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(scale=2, size=(20_000, 2))
    y = rng.random(20_000) < 1 / (1 + np.exp(-(0.8 * z[:, 0] + 0.4 * z[:, 1] - 2)))
    fitted = fit_weights(z, y)
    np.testing.assert_allclose([*fitted.each, fitted.bias], [0.8, 0.4, -2], atol=0.05)
    weight = np.where(z[:, 0] > 0, 1.0, 2.0)  # weights of rows do not move what is true for all of them
    np.testing.assert_allclose(fit_weights(z, y, weight).each, [0.8, 0.4], atol=0.06)


def test_a_part_that_helps_only_when_contradicted_gets_nothing() -> None:
    rng = np.random.default_rng(1)
    good = rng.normal(size=5000)
    y = rng.random(5000) < 1 / (1 + np.exp(-2 * good))
    fitted = fit_weights(np.column_stack([good, -good + 0.1 * rng.normal(size=5000), good]), y)
    assert fitted.each[1] == 0.0
    assert min(fitted.each) >= 0
    assert fitted.each[0] + fitted.each[2] == pytest.approx(2, abs=0.2)


def test_separable_and_rare_labels_give_finite_weights() -> None:
    z = np.linspace(-30, 30, 200)[:, None]
    fitted = fit_weights(z, z[:, 0] > 0)
    assert np.isfinite([*fitted.each, fitted.bias]).all()
    one = np.arange(200) == 199
    assert np.isfinite(fit_weights(z, one).each).all()


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ModelError, match="both kinds are needed"):
        fit_weights(np.ones((4, 1)), np.zeros(4, bool))
    with pytest.raises(ModelError, match="1 of 4 logits are not finite"):
        fit_weights(np.array([[1.0], [np.nan], [1.0], [2.0]]), np.array([True, False, True, False]))
