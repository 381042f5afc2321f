"""What a foreign graph takes: its inputs held against the map, and fed from logged features in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.onnx.input_map import Column, InputMap
from weir.models.types import Float32Matrix

TEXT: Final = 8
"""``onnx.TensorProto.STRING``."""
_FLOATS: Final = ("float", "double", "float16")


@dataclass(frozen=True, slots=True)
class ForeignInput:
    """One input."""

    kind: int
    """Of its elements, as ``onnx.TensorProto`` numbers them."""
    vector: bool
    """Whether it is ``(n,)``; else ``(n, width)``."""
    rows: int | None
    """How many rows it takes at once; ``None`` for any number."""


def graph_inputs(model: Any) -> dict[str, Any]:
    """Inputs that have to be given; weights may be listed as inputs too."""
    weights = {weight.name for weight in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def describe(model: Any) -> str:
    """What a graph takes, as the beginning of a map.

    >>> from onnx.parser import parse_model
    >>> print(describe(parse_model('<ir_version: 8, opset_import: ["" : 18]> g (float[n, 2] a) => (float[n, 2] b)'
    ...     '{ b = Sigmoid(a) }')))
    [inputs]
    "a" = ["FEATURE", "FEATURE"]    # float (n, 2)
    """
    lines = ["[inputs]"]
    for name, value in graph_inputs(model).items():
        dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        width = dims[1] if len(dims) == 2 and isinstance(dims[1], int) else 1
        column = '{ feature = "FEATURE", categories = ["TEXT OF 0"] }' if _kind(value) == "string" else '"FEATURE"'
        shape = ", ".join(map(str, dims))
        lines.append(f'"{name}" = [{", ".join([column] * width)}]    # {_kind(value)} ({shape})')
    return "\n".join(lines)


def read_inputs(model: Any, mapping: InputMap) -> dict[str, ForeignInput]:
    """The inputs by name; raises ``ModelError`` where the map does not fit them."""
    given = graph_inputs(model)
    found = {name: _input(name, value) for name, value in given.items()}
    if set(found) != set(mapping.inputs):
        raise ModelError(
            f"[inputs] of the map names {', '.join(mapping.inputs)}; the graph takes {', '.join(found) or 'nothing'}: "
            f"name each of its inputs once, no other"
        )
    for name, value in given.items():
        dims, columns = value.type.tensor_type.shape.dim, mapping.inputs[name]
        width = 1 if len(dims) == 1 else dims[1].dim_value if len(dims) == 2 else 0
        if width and width != len(columns):
            raise ModelError(
                f"inputs.{name} has {len(columns)} features; the graph takes {width} columns there: give a feature for "
                "each, in the order in which the model was trained"
            )
        for column in columns:
            _check_column(f"inputs.{name}: {column.feature}", _kind(value), column, mapping)
    return found


def _kind(value: Any) -> str:
    from onnx import TensorProto

    return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type)).lower()


def _input(name: str, value: Any) -> ForeignInput:
    dims = value.type.tensor_type.shape.dim
    if not value.type.HasField("tensor_type") or len(dims) > 2:
        raise ModelError(
            f"input {name} has {len(dims)} axes; only (n, width) and (n,) can be fed: export a model that takes one "
            "row of numbers or texts for each event"
        )
    rows = dims[0].dim_value if dims and dims[0].HasField("dim_value") else 0
    return ForeignInput(value.type.tensor_type.elem_type, len(dims) == 1, rows or None)


def _check_column(where: str, kind: str, column: Column, mapping: InputMap) -> None:
    missing = mapping.fill(column)
    if kind == "string":
        if not column.categories:
            raise ModelError(f"{where} is a number, the graph takes a text: give categories, the texts of 0, 1, 2...")
    elif column.categories or isinstance(missing, str):
        raise ModelError(f"{where} has categories or a text for missing, but the graph takes {kind}: leave them out")
    elif missing != missing and kind not in _FLOATS:
        raise ModelError(f"{where}: missing is nan, which {kind} cannot hold: give a number for it")


def feed(given: ForeignInput, columns: tuple[Column, ...], mapping: InputMap, x: Float32Matrix) -> NDArray[Any]:
    """What one input is given for ``x (n, D)`` of ``mapping.features``."""
    from onnx import helper

    held = [_values(column, x[:, mapping.features.index(column.feature)], mapping, given.kind) for column in columns]
    dtype = object if given.kind == TEXT else helper.tensor_dtype_to_np_dtype(given.kind)
    made: NDArray[Any] = np.stack(held, axis=1).astype(dtype)
    return made[:, 0] if given.vector else made


def _values(column: Column, values: NDArray[np.float32], mapping: InputMap, kind: int) -> NDArray[Any]:
    absent = (values == 0) & np.signbit(values)  # a missing value is logged as -0.0
    fill = mapping.fill(column)
    if kind == TEXT:
        k = len(column.categories)
        known = (values >= 0) & (values < k) & ~absent
        return np.array([*column.categories, str(fill)], object)[np.where(known, values, k).astype(np.int64)]
    cut = values if mapping.clip is None else np.clip(values, -mapping.clip, mapping.clip)
    return np.where(absent, np.float32(fill), cut)
