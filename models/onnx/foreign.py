"""A classifier that another library exported to ONNX, as it is: read, understood and run.

``weir.models.onnx.adopt`` makes of it what is served, and holds that against ``Foreign.says``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.onnx.foreign_inputs import ForeignInput, feed, read_inputs
from weir.models.onnx.foreign_output import ForeignOutput, as_columns, choose_output, read_output, zipped_classes
from weir.models.onnx.graph import open_session, read_graph, run_feeds
from weir.models.onnx.input_map import InputMap
from weir.models.types import Float32Matrix, FloatVector

FILE_MAX: Final = 256 * 1024**2
"""Bytes of a graph: a worker holds that of the champion and of the shadow, and reads each whole."""
IR_VERSION: Final = 10
"""What is read is taken for no newer: later ones add kinds of weights, and a graph that has those is still refused."""
RUN_S: Final = 60.0
"""What the original may take for the rows on which it is compared."""
_LIMIT: Final = re.compile(r"Opset (\d+) is under development.*domain (\S+) is till opset (\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A graph with its map."""

    model: Any
    """``onnx.ModelProto``, in versions that the runtime has."""
    session: Any
    map: InputMap
    inputs: dict[str, ForeignInput]
    output: ForeignOutput

    @property
    def rows(self) -> int | None:
        """How many rows it takes at once; ``None`` for any number."""
        return next((given.rows for given in self.inputs.values() if given.rows is not None), None)

    def raw(self, x: Float32Matrix) -> NDArray[Any]:
        """Its output ``(n, C)`` for ``x (n, D)`` of ``map.features``, by the graph as it came."""
        some, parts = self.rows or max(len(x), 1), []
        for start in range(0, len(x), some):
            piece = x[start : start + some]
            # Padded with a row that is asked anyway: zeros may be what the model cannot take.
            whole = np.concatenate([piece, np.repeat(piece[-1:], some - len(piece), 0)]) if self.rows else piece
            feeds = {name: feed(given, self.map.inputs[name], self.map, whole) for name, given in self.inputs.items()}
            out = run_feeds(self.session, feeds, RUN_S)[self.output.name]
            parts.append(as_columns(out, self.output.zipped)[: len(piece)])
        return np.concatenate(parts)

    def says(self, x: Float32Matrix) -> FloatVector:
        """The logit ``(n,)`` of the positive class for ``x (n, D)``."""
        return self.output.logit(self.raw(x))


def read_foreign(data: bytes, mapping: InputMap) -> Foreign:
    """Read a graph, find what of it counts, and try it on rows of zeros, of ones and of nothing.

    Raises
    ------
    ModelError
        No graph that can be run here, a map that does not fit it, or no classifier of two classes.
    """
    model, session = _loaded(checked_graph(data))
    output = ForeignOutput(name := choose_output(session, mapping), zipped=zipped_classes(model, name))
    found = Foreign(model, session, mapping, read_inputs(model, mapping), output)
    few = np.array([0.0, 1.0, -0.0], np.float32)[:, None].repeat(len(mapping.features), axis=1)  # the last is missing
    raw = found.raw(few)
    found = replace(found, output=read_output(model, output.name, raw, mapping))
    found.output.logit(raw)  # it can be a probability
    return found


def checked_graph(data: bytes) -> Any:
    """The ``onnx.ModelProto`` of a file; raises ``ModelError``."""
    if len(data) > FILE_MAX:
        raise ModelError(f"the graph has {len(data):,} bytes; the limit is {FILE_MAX:,}: give a smaller model")
    from onnx import TensorProto

    model = read_graph(data)
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{len(data):,} bytes hold no graph with an output: is it a model that was exported to ONNX?")
    graph = model.graph
    names = [text for node in graph.node for text in (node.name, node.domain, *node.input, *node.output)]
    names += [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    names += [imported.domain for imported in model.opset_import]
    # protobuf reads bytes that are no UTF-8 as bytes; kinds that it does not know stay numbers.
    known = all(v.type.tensor_type.elem_type in TensorProto.DataType.values() for v in (*graph.input, *graph.output))
    if not known or not all(isinstance(name, str) for name in names):
        raise ModelError("names or types in the graph are none: the file is corrupt; export it again")
    del graph.value_info[:]  # shapes between nodes, which may hold a fixed number of rows
    model.ir_version = min(model.ir_version, IR_VERSION)
    return model


def _loaded(model: Any) -> tuple[Any, Any]:
    """The graph in versions that the runtime has, and its session."""
    try:
        return model, open_session(model.SerializeToString())
    except ModelError as refused:
        # In the runtime's own words: our message holds the beginning of them only.
        if (found := _LIMIT.search(str(refused.__cause__))) is None:
            raise
    domain, limit = found[2], int(found[3])
    from onnx import version_converter

    try:
        converted = version_converter.convert_version(model, limit) if domain == "ai.onnx" else None
    except Exception:  # noqa: BLE001 - its errors have no base of their own
        converted = None
    if converted is None:
        setting = "opset_version" if domain == "ai.onnx" else "target_opset"
        raise ModelError(
            f"the graph uses opset {found[1]} of {domain}, this ONNX Runtime knows up to {limit}: export it with "
            f"{setting} = {limit} or less, or upgrade onnxruntime"
        )
    return converted, open_session(converted.SerializeToString())
