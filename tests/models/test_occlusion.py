"""Explanations of a logit: exact where they can be known, the same for any graph, paid for only where it is high."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.parser import parse_model

from tests.models.served_graphs import runner_of
from weir.models.errors import ModelError
from weir.models.serving.active_models import Pair
from weir.models.serving.occlusion import Baseline, Occlusion
from weir.models.serving.ort_model import OrtModel
from weir.models.types import Float32Matrix
from weir.online.task.full_spec import FullSpec, columns
from weir.streams.embedded.memory_store import MemoryFeatureStore

INPUTS = ("a", "b", "c", "d")
WEIGHT = (2.0, -1.0, 0.5, 0.0)
USUAL = Baseline((1.0, 1.0, 0.0, 5.0), above=3.0)


def linear() -> OrtModel:
    """``logit = 2 a - b + c / 2``."""
    graph = parse_model("""<ir_version: 10, opset_import: ["" : 18]> g (float[n, 4] x) => (float[n] logit)
    <float[4, 1] w = {2.0, -1.0, 0.5, 0.0}, int64[1] axis = {1}>
    { wide = MatMul (x, w) logit = Squeeze (wide, axis) }""")
    return OrtModel.load(graph.SerializeToString(), 3, INPUTS, provider="cpu")


def summing() -> OrtModel:
    """The state is the sum of what was seen of ``a``; the logit is that sum, and ``a`` again where it is over 3."""
    graph = parse_model("""<ir_version: 10, opset_import: ["" : 18]>
    g (float[n, 2] x, float[n, 1] state) => (float[n] logit, float[n, 1] state_out)
    <float[2, 1] w = {1.0, 0.0}, int64[1] axis = {1}, float most = {3.0}>
    { a = MatMul (x, w) state_out = Add (state, a) over = Sub (state_out, most) more = Relu (over)
      both = Add (state_out, more) logit = Squeeze (both, axis) }""")
    return OrtModel.load(graph.SerializeToString(), 5, ("a", "b"), provider="cpu")


class Counted:
    """A model whose rows are counted."""

    def __init__(self, model: OrtModel) -> None:
        self.model, self.rows = model, 0
        self.version, self.provider, self.inputs = model.version, model.provider, model.inputs
        self.precision = model.precision
        self.state, self.embedding, self.usual = model.state, model.embedding, USUAL
        self.surprise = model.surprise

    def step(self, x: Float32Matrix, state: Float32Matrix) -> tuple[Float32Matrix, Float32Matrix, Float32Matrix]:
        self.rows += len(x)
        return self.model.step(x, state)


def test_the_parts_of_a_linear_model_are_those_of_its_terms() -> None:
    x = np.array([[4.0, 1.0, 2.0, 9.0], [1.0, -2.0, 0.0, 5.0], [1.0, 1.0, 0.0, 0.0]], np.float32)
    found = Occlusion(USUAL, 3, np.arange(1, 5)).explain(linear(), x, np.empty((3, 0), np.float32))
    gains = np.maximum((x - np.array(USUAL.usual)) * WEIGHT, 0.0)
    assert found[0].tolist() == [1, 6.0 / 7.0, 3, 1.0 / 7.0, 0, 0], "what raises it, the largest first"
    assert found[1].tolist() == [2, 1.0, 0, 0, 0, 0]
    assert found[2].tolist() == [0] * 6, "nothing does"
    np.testing.assert_array_equal(gains.sum(axis=1), [7.0, 3.0, 0.0])


def test_numbers_are_those_of_the_tasks_inputs_whatever_order_the_model_takes_them_in() -> None:
    x = np.array([[4.0, 1.0, 2.0, 9.0]], np.float32)
    found = Occlusion(USUAL, 2, np.array([7, 5, 2, 1])).explain(linear(), x, np.empty((1, 0), np.float32))
    assert found[0, ::2].tolist() == [7, 2]


def test_an_event_is_explained_with_the_state_from_before_it() -> None:
    """The second event of an entity in one batch: its own ``a`` is what counts, not that of the first."""
    store, runner = MemoryFeatureStore(), runner_of(FullSpec(state=1, history=0, reasons=1), ("a", "b"))
    store.create("t", runner.row_bytes, runner.schema, 60.0)
    model = summing()
    model.usual = Baseline((0.0, 0.0), above=4.0)
    runner.slots.swap(Pair(model))
    x = np.array([[2.0, 7.0], [2.0, 7.0], [0.0, 7.0]])
    made = runner.score("t", store, ["u", "u", "u"], np.ones(3), x)
    assert made[:, 0].tolist() == [2.0, 5.0, 5.0]
    assert made[:, -2:].tolist() == [[0, 0], [1, 1.0], [0, 0]], "the last is high by what came before, not by itself"


def test_only_a_high_logit_is_explained_and_only_where_it_is_asked_for() -> None:
    store, x = MemoryFeatureStore(), np.zeros((100, 4))
    x[:, 0] = np.where(np.arange(100) < 3, 2.0, 0.5)
    for reasons, rows in ((0, 100), (2, 100 + 3 * 5)):
        runner = runner_of(FullSpec(state=0, reasons=reasons), INPUTS)
        model = Counted(linear())
        runner.slots.swap(Pair(model))
        made = runner.score("t", store, [f"u{k}" for k in range(100)], np.ones(100), x)
        assert model.rows == rows
        assert made.shape == (100, len(columns(FullSpec(state=0, reasons=reasons))))
    assert made[:3, -4:].tolist() == [[1, 2 / 3, 2, 1 / 3]] * 3
    assert not made[3:, -4:].any()


def test_explaining_does_not_change_what_is_said_nor_a_shadow_what_is_told() -> None:
    store, x = MemoryFeatureStore(), np.random.default_rng(1).normal(0, 3, (200, 4))
    said = []
    for reasons, shadow in ((0, False), (3, False), (3, True)):
        runner, model, other = runner_of(FullSpec(state=0, reasons=reasons), INPUTS), linear(), linear()
        model.usual = other.usual = USUAL
        runner.slots.swap(Pair(model, other if shadow else None))
        said.append(runner.score("t", store, ["u"] * 200, np.ones(200), x))
    np.testing.assert_array_equal(said[0][:, :3], said[1][:, :3])
    np.testing.assert_array_equal(said[1][:, 6:], said[2][:, 6:])


def test_what_is_explained_is_the_highest_of_all_events_not_of_the_labelled_ones() -> None:
    """Frauds are all labelled, of the rest one in a hundred, which stands for a hundred."""
    logit = np.concatenate([np.full(50, 5.0), np.linspace(-4.0, 4.0, 450)]).astype(np.float32)
    weight = np.where(np.arange(500) < 50, 1.0, 100.0)
    usual = Baseline.of(np.arange(12, dtype=np.float32).reshape(6, 2), logit, weight)
    assert usual.usual == (5.0, 6.0)
    share = weight[logit >= usual.above].sum() / weight.sum()
    assert share == pytest.approx(0.05, abs=0.003)
    assert Baseline.decode(usual.encode(), 2) == usual
    for data, inputs in ((b"{}", 2), (usual.encode(), 3)):
        with pytest.raises(ModelError, match=r"register (the model again|anew)"):
            Baseline.decode(data, inputs)
