"""Graphs whose weights a test knows, as a worker loads them, and histories to run them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from weir.models.serving.model_runner import FullRunner
from weir.models.serving.ort_model import OrtModel
from weir.models.serving.state_row import StateLayout
from weir.models.types import Float32Matrix, History
from weir.online.task.full_spec import FullSpec

INPUTS = ("a", "b", "c")
S, E = 4, 2


def runner_of(spec: FullSpec, inputs: Sequence[str]) -> FullRunner:
    return FullRunner(StateLayout(spec.state, spec.history, inputs), spec.embedding, spec.reasons, bool(spec.surprise))


def weights(seed: int = 0) -> dict[str, Float32Matrix]:
    rng = np.random.default_rng(seed)
    shapes = {"wx": (len(INPUTS), S), "ws": (S, S), "wo": (S, 1)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def graph(seed: int = 0, *, state: int = S, inputs: int = len(INPUTS), **changes: Any) -> bytes:
    """``state_out = tanh(x wx + state ws)``, ``logit = state_out wo``, ``embedding`` the state's first coordinates."""
    w = {**weights(seed), **changes}
    constants = [numpy_helper.from_array(value, name) for name, value in w.items()]
    constants += [
        numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (("from", [0]), ("to", [E]), ("ax", [1]))
    ]
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
    nodes = [
        helper.make_node("MatMul", ["x", "wx"], ["xw"]),
        helper.make_node("MatMul", ["state", "ws"], ["sw"]),
        helper.make_node("Add", ["xw", "sw"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["state_out"]),
        helper.make_node("MatMul", ["state_out", "wo"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["logit"]),
        helper.make_node("Slice", ["state_out", "from", "to", "ax"], ["embedding"]),
    ]
    takes = [value("x", "n", inputs), value("state", "n", state)]
    gives = [value("logit", "n"), value("state_out", "n", state), value("embedding", "n", E)]
    return model_of(nodes, takes, gives, constants)


def value(name: str, *shape: str | int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(nodes: list[Any], takes: list[Any], gives: list[Any], constants: list[Any]) -> bytes:
    made = helper.make_graph(nodes, "g", takes, gives, constants)
    raw: bytes = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    return raw


def stateless(bias: float = 0.0) -> bytes:
    """``logit = a + bias``, with no memory."""
    constants = [numpy_helper.from_array(np.array([[1.0], [0.0], [0.0]], np.float32), "w")]
    constants += [numpy_helper.from_array(np.array([bias], np.float32), "bias")]
    constants += [numpy_helper.from_array(np.array([-1], np.int64), "flat")]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["column"]),
        helper.make_node("Add", ["column", "bias"], ["moved"]),
        helper.make_node("Reshape", ["moved", "flat"], ["logit"]),
    ]
    return model_of(nodes, [value("x", "n", 3)], [value("logit", "n")], constants)


def load(onnx_bytes: bytes | None = None, version: int = 1, **options: Any) -> OrtModel:
    options = {"provider": "cpu", "buckets": (1, 4, 16), **options}
    return OrtModel.load(graph() if onnx_bytes is None else onnx_bytes, version, INPUTS, **options)


def rows(n: int, seed: int = 1) -> Float32Matrix:
    return np.random.default_rng(seed).normal(size=(n, len(INPUTS))).astype(np.float32)


def history(n: int, entities: int, seed: int = 1) -> History:
    rng = np.random.default_rng(seed)
    nothing, codes = np.full(n, np.nan), np.full(n, -1, np.int64)
    of = (rng.pareto(1.0, n) % entities).astype(np.int64) * 7 - 3  # skewed; codes need not be dense
    ids = [f"e{i}" for i in range(n)]
    return History(INPUTS, ids, of, np.arange(float(n)), rows(n, seed), nothing, codes, (), nothing, codes)
