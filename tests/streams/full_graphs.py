"""Small graphs, registries and a task for tests of the full model: a version is known by its logit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from weir.models.manifest import DataRange
from weir.models.registry.registry import Registry, relative_uri
from weir.models.types import Built
from weir.online.codec.wire import ModelUpdate
from weir.online.task.spec import TaskSpec

TASK = """
name = "spend"
entity = "user"
inputs = ["amount", "user.*"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "paid", value = "amount", ops = ["count"], windows = ["1h"] }]
[model]
kind = "logistic"
[full]
state = 4
history = 3
"""
DATA = DataRange(start=0.0, end=1.0, cutoff=1.0)
LOGIT = 100.0
"""Version ``v`` says ``LOGIT * v`` plus how many events of the entity it has taken in, at most 8, or so it believes."""


def graph(inputs: int, state: int, bias: float) -> bytes:
    """A graph that counts: ``logit = bias + count``, where the state counts events up to 8."""
    const = [
        numpy_helper.from_array(np.zeros((inputs, max(state, 1)), np.float32), "w"),
        numpy_helper.from_array(np.ones((1, max(state, 1)), np.float32), "one"),
        numpy_helper.from_array(np.array(8, np.float32), "most"),
        numpy_helper.from_array(np.array(-8, np.float32), "least"),
        numpy_helper.from_array(np.array(bias, np.float32), "bias"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(1e-20, np.float32), "tiny"),
    ]
    nodes = [helper.make_node("Mul", ["x", "tiny"], ["small"]), helper.make_node("MatMul", ["small", "w"], ["zero"])]
    ins = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs])]
    outs = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"])]
    counted = "zero"
    if state:
        ins.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", state]))
        outs.append(helper.make_tensor_value_info("state_out", TensorProto.FLOAT, ["n", state]))
        nodes += [
            helper.make_node("Add", ["zero", "state"], ["held"]),
            helper.make_node("Add", ["held", "one"], ["more"]),
            helper.make_node("Clip", ["more", "least", "most"], ["state_out"]),
        ]
        counted = "state_out"
    nodes += [
        helper.make_node("ReduceMean", [counted, "axis"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["logit"]),
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "g", ins, outs, const), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class Models:
    """A registry with versions of a task, and the updates that name them."""

    def __init__(self, folder: Path, task: TaskSpec, inputs: tuple[str, ...]) -> None:
        self.registry, self.task, self.inputs = Registry(str(folder)), task.name, inputs
        assert task.full is not None
        self._state, self._at = task.full.state, 0

    def register(
        self, bias: float | None = None, state: int | None = None, extra: tuple[str, ...] = (), *, stage: bool = True
    ) -> int:
        """A further version; its number. Without a stage it is a candidate, which serves nobody."""
        inputs = (*self.inputs, *extra)
        number = max(self.registry.versions(self.task), default=0) + 1
        states = self._state if state is None else state
        onnx_ = graph(len(inputs), states, LOGIT * number if bias is None else bias)
        built = Built("trees", onnx_, inputs, states)
        made = self.registry.register(self.task, built, data=DATA, created_at=1.0).version
        if stage:
            self.registry.set_stage(self.task, made, "shadow", at=1.0)
        return made

    def folder(self, version: int) -> Path:
        """Where a version lies."""
        return Path(self.registry.uri(self.task, version).removeprefix("file://"))

    def update(self, action: str, version: int, digest: str | None = None) -> ModelUpdate:
        """An update that is not like any before it."""
        self._at += 1
        if digest is None:
            digest = self.registry.manifest(self.task, version).digest
        return ModelUpdate.model_validate({
            "task": self.task, "version": str(version), "action": action, "digest": digest,
            "uri": relative_uri(self.task, version), "created_at": 1.7e9 + self._at,
        })  # fmt: skip
