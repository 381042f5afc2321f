"""A float32 graph in float16 where that is safe: from the first matrix products on, outputs back in float32.

What computes on raw inputs stays in float32: an amount of 70,000 is infinite in float16, and a tree's threshold moves.
So do operators that are not known to run in float16 (trees among them).
"""

from __future__ import annotations

from typing import Any, Final

PRODUCTS: Final = frozenset({"MatMul", "Gemm"})
_HALF: Final = PRODUCTS | {
    "Add", "Clip", "Concat", "Div", "Erf", "Gelu", "Identity", "LayerNormalization", "LeakyRelu", "Mul", "Neg", "Relu",
    "Reshape", "Sigmoid", "Slice", "Softplus", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip


def to_float16(onnx: bytes) -> bytes:
    """The graph with its products, and what follows them, in float16; inputs and outputs stay float32."""
    from onnx import load_model_from_string, shape_inference

    model = shape_inference.infer_shapes(load_model_from_string(onnx))  # types are needed to know where a cast belongs
    _Halving(model.graph).run()
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Halving:
    """Rewrites a graph node by node, with a cast wherever the two precisions meet."""

    def __init__(self, graph: Any) -> None:
        from onnx import TensorProto

        self.single, self.half = TensorProto.FLOAT, TensorProto.FLOAT16
        self.graph = graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        held = [*graph.value_info, *graph.input, *graph.output]
        self.type = {value.name: value.type.tensor_type.elem_type for value in held}
        self.type |= {name: tensor.data_type for name, tensor in self.weights.items()}
        self.nodes: list[Any] = []
        self.made: dict[tuple[str, int], str] = {}
        self.halved: set[str] = set()
        """What operators in half precision gave."""

    def run(self) -> None:
        nodes, raw, kept = list(self.graph.node), {"x"}, {output.name for output in self.graph.output}
        for node in nodes:
            given = [name for name in node.input if name and name not in self.weights]
            # What no product has touched yet is raw, or only scaled: it can be too large for float16.
            if node.op_type not in PRODUCTS and all(name in raw for name in given):
                raw.update(node.output)
            if node.op_type in _HALF and not node.domain and not raw.issuperset(node.output):
                self._halve(node, kept)
            else:
                self._take(node, self.single)
        self.graph.ClearField("node")
        self.graph.node.extend(self.nodes)
        # They say float32 of what is float16 now.
        self.graph.ClearField("value_info")
        used = {name for node in self.nodes for name in node.input}
        # Float32 copies that nobody uses any more would keep the file as large as before.
        left = [tensor for name, tensor in self.weights.items() if name in used]
        self.graph.ClearField("initializer")
        self.graph.initializer.extend(left)

    def _halve(self, node: Any, kept: set[str]) -> None:
        """Take a node in float16; an output of the graph is cast back, others when a float32 node wants them."""
        outputs = [name for name in node.output if self.type.get(name) == self.single]
        self._take(node, self.half)
        for i, name in enumerate(node.output):
            if name in outputs:
                node.output[i] = self.made[name, self.half] = f"{name}_half"
                self.type[f"{name}_half"] = self.half
                self.halved.add(name)
                if name in kept:
                    self._cast(f"{name}_half", name, self.single)

    def _take(self, node: Any, wanted: int) -> None:
        for i, name in enumerate(node.input):
            if self.type.get(name) == self.single:
                node.input[i] = self._as(name, wanted)
        self.nodes.append(node)

    def _as(self, name: str, wanted: int) -> str:
        """The name of a float tensor in the precision that is wanted."""
        if wanted == self.single:
            # A copy in half precision does not mean that it was made so: it may be there in single precision, too.
            if name not in self.halved or (name, self.single) in self.made or name in self._outputs():
                return name
            self._cast(self.made[name, self.half], name, self.single)
            self.made[name, self.single] = name
            return name
        if (name, self.half) not in self.made:
            self.made[name, self.half] = f"{name}_half"
            if name in self.weights:
                self._convert(name, f"{name}_half")
            else:
                self._cast(name, f"{name}_half", self.half)
        return self.made[name, self.half]

    def _outputs(self) -> set[str]:
        return {output.name for output in self.graph.output}

    def _cast(self, source: str, target: str, to: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [source], [target], to=to))

    def _convert(self, name: str, target: str) -> None:
        import numpy as np
        from onnx import numpy_helper

        largest = np.finfo(np.float16).max  # a weight beyond it would be infinite, and with it every logit
        values = np.clip(numpy_helper.to_array(self.weights[name]), -largest, largest).astype(np.float16)
        self.weights[target] = numpy_helper.from_array(values, target)
