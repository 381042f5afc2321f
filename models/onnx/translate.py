"""A torch module's forward as an ONNX graph, operator by operator, over what ``torch.fx`` sees of it.

It knows the few functions that a step of an encoder is made of, on tensors whose first axis are rows; another one is an
error that names it. In exchange the graph has no operator that the module does not have (torch's own exporters leave
shape arithmetic behind, or take ten seconds), any number of rows, and the same bytes for the same weights.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from weir.models.errors import ModelError

IR_VERSION: Final = 10
OPSET: Final = 18
"""Of every graph that Weir makes. Blending needs one for all parts, and float16 and int8 rewrite its operators."""
_PLAIN: Final = {
    "abs": "Abs", "add": "Add", "exp": "Exp", "mul": "Mul", "neg": "Neg", "reciprocal": "Reciprocal",
    "sigmoid": "Sigmoid", "sign": "Sign", "sub": "Sub", "tanh": "Tanh", "where": "Where",
}  # fmt: skip
"""Names of functions, and the operator that does just that."""

_Handler = Callable[["_Call"], Any]


def translate(module: Any, widths: dict[str, int], outputs: dict[str, int | None]) -> bytes:
    """Translate ``module(*inputs)``.

    Parameters
    ----------
    module : a ``torch.nn.Module`` in eval mode that returns a tuple.
    widths : names of its inputs, each float32 ``(n, width)``.
    outputs : names of its outputs, each float32 ``(n, width)``, or ``(n,)`` for ``None``.
    """
    import torch
    from onnx import TensorProto, checker, helper
    from torch.fx.passes.shape_prop import ShapeProp

    traced = torch.fx.symbolic_trace(module)
    traced.graph.eliminate_dead_code()  # else every unused value would have to be translated
    device = next(module.parameters()).device
    with torch.no_grad():
        # Shapes are for axes that count from the end, and for the sizes of a split; the number of rows goes into
        # nothing.
        ShapeProp(traced).propagate(*(torch.zeros(2, width, device=device) for width in widths.values()))
    made = _Translation(traced, list(widths), list(outputs))
    made.run()
    ins = [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["n", width]) for key, width in widths.items()]
    shapes: dict[str, list[str | int | None]] = {key: ["n"] if w is None else ["n", w] for key, w in outputs.items()}
    outs = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items()]
    graph = helper.make_graph(made.nodes, "encoder", ins, outs, list(made.constants.values()))
    imports = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="weir")
    # Here a mistake names its operator; ONNX Runtime would only say that the graph is invalid.
    checker.check_model(model, full_check=True)
    # The same weights have to make the same bytes, whose digest the registry keeps.
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Translation:
    """Goes through the nodes of an fx graph in order."""

    def __init__(self, traced: Any, inputs: list[str], outputs: list[str]) -> None:
        self.traced, self.outputs = traced, outputs
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.values: dict[Any, Any] = {}
        """What each fx node is: the name of a tensor, or a tuple of them."""
        self._inputs = iter(inputs)

    def run(self) -> None:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = next(self._inputs)
            elif node.op == "get_attr":
                self.values[node] = self.tensor(node.target, self._attribute(node.target))
            elif node.op == "output":
                for given, name in zip(self.value(node.args[0]), self.outputs, strict=True):
                    self.emit("Identity", [given], name)
            else:
                self.values[node] = self._call(node)

    def _call(self, node: Any) -> Any:
        args, kwargs = self.value(list(node.args)), self.value(node.kwargs)
        if node.op == "call_module":
            module = self._attribute(node.target)
            kind = type(module).__name__
            if kind == "Dropout":  # in eval mode it changes nothing
                return args[0]
            args, word = [*args, (node.target, module)], kind
        else:
            word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if (handler := _handlers().get(word)) is not None:
            return handler(_Call(self, node, args, kwargs))
        if word not in _PLAIN or kwargs:
            raise ModelError(f"no translation of {word!r} to ONNX is known; add it to models/onnx/translate.py")
        return self.emit(_PLAIN[word], [self.operand(a) for a in args], node.name)

    def value(self, of: Any) -> Any:
        """Arguments with every fx node replaced by what it became."""
        from torch.fx.node import map_arg

        return map_arg(of, lambda node: self.values[node])

    def emit(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add an operator with one output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}_{output}", **attributes))
        return output

    def operand(self, value: Any) -> str:
        """The name of an argument; a number becomes a constant."""
        # In float32, as all tensors of a step are: ONNX adds no two types.
        return value if isinstance(value, str) else self.array(np.array(value, np.float32))

    def tensor(self, name: str, value: Any) -> str:
        """A parameter or buffer as a constant under its own name."""
        from onnx import numpy_helper

        self.constants.setdefault(name, numpy_helper.from_array(value.detach().cpu().numpy(), name))
        return name

    def array(self, values: Any) -> str:
        """An unnamed constant; the same values share one."""
        from onnx import numpy_helper

        name = f"{values.dtype}_{'_'.join(map(repr, values.reshape(-1).tolist()))}_{values.ndim}"
        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def _attribute(self, path: str) -> Any:
        return operator.attrgetter(path)(self.traced)


@dataclass(frozen=True, slots=True)
class _Call:
    """One node to translate, its arguments already translated; a module is the last one, with its path."""

    to: _Translation
    node: Any
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def shape(self) -> list[int]:
        return list(self.node.meta["tensor_meta"].shape)


@cache
def _handlers() -> dict[str, _Handler]:
    """Functions, methods and modules that are no single operator."""
    return {
        "cat": _cat, "chunk": _chunk, "clamp": _clamp, "flatten": _flatten, "gelu": _gelu, "getitem": _item,
        "index_select": _index_select, "linear": _gemm, "Linear": _linear_module, "log1p": _log1p, "split": _chunk,
        "squeeze": _squeeze, "sum": _sum, "unsqueeze": _unsqueeze,
    }  # fmt: skip


def _cat(c: _Call) -> str:
    axis = c.kwargs.get("dim", c.args[1] if len(c.args) > 1 else 0)
    return c.to.emit("Concat", c.args[0], c.name, axis=axis % len(c.shape))


def _chunk(c: _Call) -> tuple[str, ...]:
    from onnx import helper

    axis = c.kwargs.get("dim", c.args[2] if len(c.args) > 2 else 0)
    sizes = [meta.shape[axis] for meta in c.node.meta["tensor_meta"]]
    rank = len(c.node.meta["tensor_meta"][0].shape)
    # `split` comes here too: what torch made of its sizes is in the shapes, so its argument need not be understood.
    names = tuple(f"{c.name}_{i}" for i in range(len(sizes)))
    given = [c.args[0], c.to.array(np.array(sizes, np.int64))]
    c.to.nodes.append(helper.make_node("Split", given, list(names), name=f"Split_{c.name}", axis=axis % rank))
    return names


def _clamp(c: _Call) -> str:
    low, high = (c.kwargs.get(key, c.args[i] if len(c.args) > i else None) for i, key in ((1, "min"), (2, "max")))
    return c.to.emit("Clip", [c.args[0], *("" if v is None else c.to.operand(v) for v in (low, high))], c.name)


def _flatten(c: _Call) -> str:
    shape = c.to.array(np.array([-1, *c.shape[1:]], np.int64))  # -1 are the rows, of which there may be none
    return c.to.emit("Reshape", [c.args[0], shape], c.name)


def _gelu(c: _Call) -> str:
    name, x = c.name, c.args[0]
    if c.kwargs.get("approximate", "none") != "none":
        raise ModelError("gelu with an approximation has no translation to ONNX; use the exact one")
    # Opset 18 has no Gelu: x * (1 + erf(x / sqrt 2)) / 2.
    scaled = c.to.emit("Div", [x, c.to.operand(math.sqrt(2))], f"{name}_scaled")
    risen = c.to.emit("Add", [c.to.emit("Erf", [scaled], f"{name}_erf"), c.to.operand(1.0)], f"{name}_risen")
    return c.to.emit("Mul", [c.to.emit("Mul", [x, risen], f"{name}_twice"), c.to.operand(0.5)], name)


def _item(c: _Call) -> str:
    if isinstance(c.args[0], tuple) and isinstance(c.args[1], int):
        return str(c.args[0][c.args[1]])
    raise ModelError(f"no translation of the index {c.args[1]!r} to ONNX is known; add it to models/onnx/translate.py")


def _index_select(c: _Call) -> str:
    x, axis, index = c.args
    return c.to.emit("Gather", [x, index], c.name, axis=axis % len(c.shape))


def _gemm(c: _Call) -> str:
    if len(c.shape) != 2:
        raise ModelError(f"a linear layer of shape {c.shape} has no translation to ONNX; use it on (n, width)")
    return c.to.emit("Gemm", c.args, c.name, transB=1)


def _linear_module(c: _Call) -> str:
    x, (path, module) = c.args
    given = [x, c.to.tensor(f"{path}.weight", module.weight), c.to.tensor(f"{path}.bias", module.bias)]
    return _gemm(_Call(c.to, c.node, given, {}))


def _log1p(c: _Call) -> str:
    return c.to.emit("Log", [c.to.emit("Add", [c.args[0], c.to.operand(1.0)], f"{c.name}_risen")], c.name)


def _squeeze(c: _Call) -> str:
    axis = c.kwargs.get("dim", c.args[1] if len(c.args) > 1 else None)
    if axis is None:
        raise ModelError("squeeze without an axis has no translation to ONNX; name the axis")
    return c.to.emit("Squeeze", [c.args[0], c.to.array(np.array([axis % (len(c.shape) + 1)], np.int64))], c.name)


def _sum(c: _Call) -> str:
    axis = c.kwargs.get("dim", c.args[1] if len(c.args) > 1 else None)
    if axis is None:
        raise ModelError("sum over everything has no translation to ONNX; name the axis")
    axes = c.to.array(np.array([axis % (len(c.shape) + 1)], np.int64))
    return c.to.emit("ReduceSum", [c.args[0], axes], c.name, keepdims=0)


def _unsqueeze(c: _Call) -> str:
    axis = c.kwargs.get("dim", c.args[1] if len(c.args) > 1 else 0)
    return c.to.emit("Unsqueeze", [c.args[0], c.to.array(np.array([axis % len(c.shape)], np.int64))], c.name)
