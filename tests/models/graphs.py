"""Small graphs that keep the contract, made without torch; and a candidate of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weir.models.types import Built

INPUTS = ("amount", "gap", "count")
STATE = 4


def recurrent_graph(seed: int = 0, inputs: int = 3, state: int = STATE, embedding: int = 2, opset: int = 18) -> bytes:
    """A plain recurrent network: ``state_out = tanh(clip(x) A + state B)``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(scale=0.4, size=shape).astype(np.float32), name)

    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["clipped"]),
        helper.make_node("MatMul", ["clipped", "a"], ["given"]),
        helper.make_node("MatMul", ["state", "b"], ["carried"]),
        helper.make_node("Add", ["given", "carried"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["state_out"]),
        helper.make_node("Gemm", ["state_out", "c", "d"], ["column"]),
        helper.make_node("Squeeze", ["column", "one"], ["logit"]),
        *([helper.make_node("MatMul", ["state_out", "e"], ["embedding"])] if embedding else []),
    ]
    constants = [
        weights("a", inputs, state), weights("b", state, state), weights("c", state, 1), weights("d", 1),
        *([weights("e", state, embedding)] if embedding else []),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array(-5, np.float32), "low"),
        numpy_helper.from_array(np.array(5, np.float32), "high"),
    ]  # fmt: skip
    outs = [
        value("logit", "n"),
        value("state_out", "n", state),
        *([value("embedding", "n", embedding)] * bool(embedding)),
    ]
    graph = helper.make_graph(nodes, "rnn", [value("x", "n", inputs), value("state", "n", state)], outs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def text_graph(body: str, header: str = '<ir_version: 10, opset_import: ["" : 18]>') -> bytes:
    """A graph in ONNX's text form."""
    import onnx.parser

    data: bytes = onnx.parser.parse_model(f"{header} {body}").SerializeToString()
    return data


def linear_graph(weights: NDArray[np.float32], opset: int = 18) -> bytes:
    """No memory: ``logit = x w``."""
    row = ", ".join(f"{w:.8g}" for w in weights)
    d = len(weights)
    return text_graph(
        f"g (float[n, {d}] x) => (float[n] logit) <float[{d}, 1] w = {{{row}}}, int64[1] one = {{1}}>"
        "{ column = MatMul(x, w) logit = Squeeze(column, one) }",
        f'<ir_version: 8, opset_import: ["" : {opset}]>',
    )


def candidate(seed: int = 0, **fields: object) -> Built:
    """A small encoder, not registered."""
    built = Built(
        "encoder", recurrent_graph(seed), INPUTS, STATE, 2, {"weights.safetensors": b"weights" * 20},
        {"average_precision": 0.5 + seed / 100}, seed,
    )  # fmt: skip
    from dataclasses import replace

    return replace(built, **fields)  # type: ignore[arg-type]
