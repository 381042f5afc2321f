"""A foreign graph as one that Weir can serve: logged features ``x (n, D)`` float32 in, ``logit (n,)`` float32 out.

What stands before the model puts missing values and texts as the map says; what stands behind takes the logit of the
positive class, in float64. The model itself stays as it was, float64 or not, and what came out is compared with it
(``largest_difference``). A graph that takes one row at a time is run row by row (Scan) where it cannot take several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from weir.models.errors import ModelError
from weir.models.onnx.foreign import Foreign
from weir.models.onnx.foreign_inputs import TEXT, ForeignInput
from weir.models.onnx.foreign_output import FLOOR, zipped
from weir.models.onnx.graph import check_graph, open_session, run_graph
from weir.models.onnx.input_map import Column
from weir.models.types import Float32Matrix, FloatVector

TOLERANCE: Final = 1e-4
"""Between the probabilities of the original and of what is served."""
_OPSET, _ML_OPSET = 18, 3
_OLDEST: Final = 9
"""Opset from which on all that stands around a model has the same form."""


def adopt(foreign: Foreign) -> bytes:
    """The graph, checked against the contract of ``Built.onnx`` and against the original on a few rows.

    Raises
    ------
    ModelError
        It cannot be served, or is not what the original computes.
    """
    rng = np.random.default_rng(0)
    few = rng.normal(size=(7, len(foreign.map.features))).astype(np.float32)
    try:
        return _checked(foreign, _Around(foreign).made(), few)
    except ModelError:
        if foreign.rows is None:
            raise
    if foreign.rows != 1:
        raise ModelError(
            f"the graph takes exactly {foreign.rows} rows at once, and does not work with another number: export it "
            "with a dynamic first axis (of torch: dynamic_shapes), or with one row"
        )
    return _checked(foreign, _Around(foreign, by_row=True).made(), few)


def _checked(foreign: Foreign, onnx: bytes, x: Float32Matrix) -> bytes:
    try:
        check_graph(onnx)
    except ModelError as refused:
        if "finite" not in str(refused):
            raise
        raise ModelError(f"{refused}, or give clip = NUMBER in the map, beyond which inputs are cut") from refused
    largest_difference(foreign, onnx, x)
    return onnx


def largest_difference(foreign: Foreign, onnx: bytes, x: Float32Matrix) -> float:
    """How far probabilities for rows ``x (n, D)`` are from the original's; ``ModelError`` beyond ``TOLERANCE``."""
    served = run_graph(open_session(onnx), x)["logit"].astype(np.float64)
    # Of probabilities: near 0 and 1 the last bits of a float32 probability are whole units of its logit.
    gap = np.abs(_probability(served) - _probability(foreign.says(x)))
    # `not <=`: NaN is refused too.
    if not (worst := float(gap.max(initial=0.0))) <= TOLERANCE:
        row = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
        raise ModelError(
            f"what would be served is {worst:.3g} from the probability of the original on row {row} of {len(x)}; the "
            f"limit is {TOLERANCE:g}: export it in float32, with a dynamic first axis"
        )
    return worst


def _probability(logit: FloatVector) -> FloatVector:
    return 1 / (1 + np.exp(-np.clip(logit, -500, 500)))


class _Around:
    """Nodes around a model. ``by_row`` runs it once for each row."""

    def __init__(self, foreign: Foreign, by_row: bool = False) -> None:
        self._of, self._by_row = foreign, by_row
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._count = 0

    def made(self) -> bytes:
        """The whole graph."""
        from onnx import TensorProto, helper

        f = self._of
        model = _prefixed(f.model)
        features = f.map.features
        columns = [column for given in f.map.inputs.values() for column in given]
        x = self._filled(columns, [features.index(column.feature) for column in columns])
        feeds, start = {}, 0
        for name, given in f.inputs.items():
            of = f.map.inputs[name]
            feeds[f"model.{name}"] = self._fed(x, start, of, given)
            start += len(of)
        self._logit(self._run(model, feeds))
        graph = helper.make_graph(
            self._nodes, "imported", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", len(features)])],
            [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"])], self._constants,
            # Row by row they are weights of the Scan's body.
            sparse_initializer=[] if self._by_row else model.graph.sparse_initializer,
        )  # fmt: skip
        imports = [helper.make_opsetid(domain, number) for domain, number in sorted(self._versions().items())]
        whole = helper.make_model(
            graph, opset_imports=imports, producer_name="weir", ir_version=max(8, model.ir_version),
            functions=model.functions,
        )  # fmt: skip
        data: bytes = whole.SerializeToString(deterministic=True)
        return data

    def _versions(self) -> dict[str, int]:
        """Opsets by domain: the model's own, which nothing around it needs to be newer than."""
        held = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in self._of.model.opset_import}
        held = {"": _OPSET, "ai.onnx.ml": _ML_OPSET, **held}
        if held[""] < _OLDEST:
            raise ModelError(f"the graph uses opset {held['']}; the oldest to be served is {_OLDEST}: export it anew")
        return held

    def _op(self, kind: str, *inputs: str, to: str = "", to_type: int | None = None, **attributes: Any) -> str:
        """Add a node; the name of what it gives."""
        from onnx import helper

        self._count += 1
        name = to or f"around.{self._count}"
        if to_type is not None:
            attributes["to"] = to_type
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: Any) -> str:
        from onnx import helper, numpy_helper

        name, array = f"constant.{len(self._constants)}", np.asarray(value, dtype)
        if dtype is object:
            texts = [text.encode() for text in array.reshape(-1).tolist()]
            self._constants.append(helper.make_tensor(name, TEXT, array.shape, texts))
        else:
            self._constants.append(numpy_helper.from_array(array, name))
        return name

    def _filled(self, columns: list[Column], places: list[int]) -> str:
        """``(n, K)`` the columns of all inputs, what is missing as the map says."""
        m = self._of.map
        x = self._op("Gather", "x", self._constant(places, np.int64), axis=1)
        if m.clip is not None:
            most = np.array([[np.inf if column.categories else m.clip for column in columns]], np.float32)
            x = self._op("Min", self._op("Max", x, self._constant(-most, np.float32)), self._constant(most, np.float32))
        fills = [np.nan if column.categories else m.fill(column) for column in columns]
        # A missing value is logged as -0.0, the only number not below 0 whose reciprocal is -inf.
        lowest, zero = self._constant(np.finfo(np.float32).min, np.float32), self._constant(0, np.float32)
        below = self._op("Less", self._op("Reciprocal", x), lowest)
        absent = self._op("And", below, self._op("Not", self._op("Less", x, zero)))
        return self._op("Where", absent, self._constant([fills], np.float32), x)

    def _fed(self, x: str, start: int, columns: tuple[Column, ...], given: ForeignInput) -> str:
        """One input of the model."""
        if given.kind == TEXT:
            texts = [self._text(x, start + k, column) for k, column in enumerate(columns)]
            fed = texts[0] if len(texts) == 1 else self._op("Concat", *texts, axis=1)
        else:
            places = self._constant(range(start, start + len(columns)), np.int64)
            fed = self._op("Cast", self._op("Gather", x, places, axis=1), to_type=given.kind)
        return self._op("Reshape", fed, self._constant([-1], np.int64)) if given.vector else fed

    def _text(self, x: str, place: int, column: Column) -> str:
        """``(n, 1)`` the texts of one column; whatever is none of its categories is what stands for missing."""
        m, k = self._of.map, len(column.categories)
        last = str(m.fill(column))
        value = self._op("Gather", x, self._constant([place], np.int64), axis=1)
        size, zero = self._constant(k, np.float32), self._constant(0, np.float32)
        inside = self._op("And", self._op("Less", value, size), self._op("Not", self._op("Less", value, zero)))
        # First what is outside is put aside: a float beyond int64 has no cast that all runtimes agree on.
        number = self._op("Cast", self._op("Where", inside, value, size), to_type=7)
        return self._op("Gather", self._constant([*column.categories, last], object), number, axis=0)

    def _run(self, model: Any, feeds: dict[str, str]) -> str:
        """The model's output."""
        from onnx import helper

        output = f"model.{self._of.output.name}"
        if (maps := zipped(model, output)) is not None:
            output = maps.input[0]
        nodes = _needed(model.graph.node, output)
        if not self._by_row:
            for name, fed in feeds.items():
                self._op("Identity", fed, to=name)
            self._nodes += nodes
            self._constants += model.graph.initializer
            return output
        outer, self._nodes, takes = self._nodes, [], []
        for (name, given), row in zip(self._of.inputs.items(), ("row." + fed for fed in feeds.values()), strict=True):
            takes.append(helper.make_tensor_value_info(row, given.kind, None))
            one = self._constant([-1] if given.vector else [1, -1], np.int64)
            self._op("Reshape", row, one, to=f"model.{name}")
        self._nodes += nodes
        self._op("Reshape", output, self._constant([-1], np.int64), to="row.out")
        kind = next((v.type.tensor_type.elem_type for v in model.graph.output if v.name == output), 1)
        gives = [helper.make_tensor_value_info("row.out", kind, None)]
        body = helper.make_graph(
            self._nodes, "row", takes, gives, model.graph.initializer,
            sparse_initializer=model.graph.sparse_initializer,
        )  # fmt: skip
        self._nodes = outer
        return self._op("Scan", *feeds.values(), body=body, num_scan_inputs=len(feeds))

    def _logit(self, output: str) -> None:
        """``logit`` of the output; see ``ForeignOutput.logit``."""
        said, floor = self._of.output, self._constant(FLOOR, np.float64)
        if said.labels:
            sides = [self._is_label(output, said.positive)]
        else:
            wide = self._op("Reshape", output, self._constant([-1, said.width], np.int64))
            wide = self._op("Cast", wide, to_type=11)  # float64: 1 - p of a float32 loses what is near 1
            places = [said.positive, 1 - said.positive][: said.width]
            sides = [self._op("Gather", wide, self._constant(place, np.int64), axis=1) for place in places]
        if not said.logits or said.labels:
            sides = sides if len(sides) == 2 else [*sides, self._op("Sub", self._constant(1, np.float64), *sides)]
            sides = [self._op("Log", self._op("Max", side, floor)) for side in sides]
        self._op("Cast", self._op("Sub", *sides) if len(sides) == 2 else sides[0], to="logit", to_type=1)

    def _is_label(self, labels: str, label: Any) -> str:
        """``(n,)`` float64, 1 where a label is the positive one."""
        flat = self._op("Reshape", labels, self._constant([-1], np.int64))
        if isinstance(label, str):
            # In words of each version of the operator: 1 where it is the label, 0 elsewhere.
            first = self._versions()["ai.onnx.ml"] == 1
            table = {"classes_strings": ["\0", label]} if first else {"keys_strings": [label], "values_int64s": [1]}
            same = self._op("LabelEncoder", flat, domain="ai.onnx.ml", default_int64=0, **table)
        else:
            same = self._op("Equal", self._op("Cast", flat, to_type=7), self._constant(label, np.int64))
        return self._op("Cast", same, to_type=11)


def _needed(nodes: Any, output: str) -> list[Any]:
    """The nodes that ``output`` comes from, in order: a label that nobody asks for costs time."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(_taken_from_outside(node))
    return kept[::-1]


def _taken_from_outside(node: Any) -> Iterator[str]:
    """Names that loops and branches of a node may take from around it, however deep; their own are among them."""
    for graph in (graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)):
        for inner in graph.node:
            yield from inner.input
            yield from _taken_from_outside(inner)


def _prefixed(model: Any) -> Any:
    """A copy with ``model.`` before every name, so that none is one of the nodes around it."""
    from onnx import ModelProto, compose

    copy = ModelProto()
    copy.CopyFrom(model)
    # Told beforehand: `add_prefix` turns to weights only after the branches that use them, whose names for them stay.
    weights = {weight.name: f"model.{weight.name}" for weight in model.graph.initializer}
    compose.add_prefix_graph(copy.graph, "model.", inplace=True, name_map=weights)
    return copy
