"""LightGBM to ONNX: a booster's trees as one ``TreeEnsembleRegressor`` (``ai.onnx.ml``), logits exact to float32.

LightGBM compares a value with a float64 threshold, ONNX with a float32 one. For a float32 value, ``x <= t`` holds just
when ``x`` is at most the greatest float32 that is not above ``t``, so thresholds are rounded down and no row changes
side. What remains is the rounding of leaf values and of their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.onnx.translate import OPSET
from weir.models.types import Float32Vector, FloatVector

ML_OPSET, IR_VERSION = 3, 8
_ZERO = np.float32(1e-35)
"""LightGBM reads a value this close to 0 as 0; it calls this kZeroThreshold."""


def to_onnx(booster: Any, inputs: Sequence[str]) -> bytes:
    """The graph of a ``lightgbm.Booster`` of the binary objective, up to its best iteration.

    Input ``x`` float32 ``(n, D)``, output ``logit`` float32 ``(n,)``. A missing value (NaN) goes where LightGBM sends
    it: in the default direction of a split that saw missing values in training, else where 0 goes.

    Parameters
    ----------
    inputs : D names of the columns, in order.

    Raises
    ------
    ModelError
        When the booster has other columns, another objective, or splits that ONNX cannot state.
    """
    from onnx import TensorProto, checker, helper

    model = booster.dump_model()
    _check(model, inputs)
    nodes = _Nodes()
    for tree in model["tree_info"]:
        nodes.add(tree["tree_structure"])
    d = len(inputs)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", d])
    logit = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(
        [
            helper.make_node("TreeEnsembleRegressor", ["x"], ["trees.sum"], domain="ai.onnx.ml", **nodes.attributes()),
            helper.make_node("Reshape", ["trees.sum", "trees.shape"], ["logit"]),
        ],
        "trees",
        [x],
        [logit],
        [helper.make_tensor("trees.shape", TensorProto.INT64, [1], [-1])],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    made = helper.make_model(graph, opset_imports=imports, producer_name="weir", ir_version=IR_VERSION)
    checker.check_model(made, full_check=True)
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def round_down(thresholds: FloatVector) -> Float32Vector:
    """The greatest float32 at which LightGBM still goes left, for each threshold: not above it, but for zero.

    LightGBM reads a value within 1e-35 of 0 as 0, so a threshold as near to 0 lets all of those pass or none.

    >>> float(round_down(np.array([0.1]))[0]) <= 0.1 < float(np.float32(0.1))
    True
    """
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))
    down: Float32Vector = np.where(near.astype(np.float64) > thresholds, below, near)
    zero = np.abs(thresholds) <= _ZERO
    return np.where(zero, np.where(thresholds >= 0.0, _ZERO, np.nextafter(-_ZERO, np.float32(-np.inf))), down)


def _check(model: dict[str, Any], inputs: Sequence[str]) -> None:
    width, objective = model["max_feature_idx"] + 1, str(model.get("objective", ""))
    if width != len(inputs):
        raise ModelError(
            f"the booster has {width} columns, inputs name {len(inputs)}: give the names it was trained on"
        )
    if objective.split() != ["binary", "sigmoid:1"]:
        raise ModelError(
            f"the booster's objective is {objective!r}, only 'binary sigmoid:1' makes logits: train with it"
        )
    if model["num_tree_per_iteration"] != 1 or model["average_output"]:
        raise ModelError("the booster averages its trees or has several outputs: use boosting 'gbdt' and one class")
    if not model["tree_info"]:
        raise ModelError("the booster has 0 trees: train it for at least one round")


class _Nodes:
    """The trees as the parallel lists that the operator wants."""

    def __init__(self) -> None:
        self._trees = 0
        self._of: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "feature", "mode", "missing")}
        self._threshold: list[float] = []
        self._children: list[tuple[int, int]] = []
        self._leaves: list[tuple[int, int, float]] = []

    def add(self, root: dict[str, Any]) -> None:
        """Add a tree, in preorder."""
        if "leaf_value" in root:  # a tree of one leaf: a split whose two sides agree
            root = {"decision_type": "<=", "missing_type": "None", "default_left": True, "split_feature": 0,
                    "threshold": 0.0, "left_child": root, "right_child": root}  # fmt: skip
        first, numbers = len(self._children), 0
        waiting: list[tuple[dict[str, Any], int, int]] = [(root, -1, 0)]
        while waiting:
            node, parent, side = waiting.pop()
            if parent >= 0:
                pair = self._children[first + parent]
                self._children[first + parent] = (numbers, pair[1]) if side == 0 else (pair[0], numbers)
            if "leaf_value" in node:
                self._add("LEAF", numbers, 0, 0.0, missing=False)
                self._leaves.append((self._trees, numbers, node["leaf_value"]))
            else:
                self._split(node, numbers)
                waiting += [(node["right_child"], numbers, 1), (node["left_child"], numbers, 0)]
            numbers += 1
        self._trees += 1

    def _split(self, node: dict[str, Any], number: int) -> None:
        kind, missing = node["decision_type"], node["missing_type"]
        if kind != "<=" or missing == "Zero":
            raise ModelError(
                f"a split is {kind!r} with missing type {missing!r}; only numeric splits can be served: train without "
                "categorical columns and with zero_as_missing = false"
            )
        threshold = float(node["threshold"])
        # Without missing values in training, LightGBM reads NaN as 0.
        left = node["default_left"] if missing == "NaN" else threshold >= 0.0
        self._add("BRANCH_LEQ", number, node["split_feature"], threshold, missing=bool(left))

    def _add(self, mode: str, number: int, feature: int, threshold: float, *, missing: bool) -> None:
        for name, value in zip(self._of, (self._trees, number, feature, mode, int(missing)), strict=True):
            self._of[name].append(value)
        self._threshold.append(threshold)
        self._children.append((0, 0))

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of ``TreeEnsembleRegressor``."""
        of, trees, leaves = self._of, [t for t, _, _ in self._leaves], [n for _, n, _ in self._leaves]
        # To the nearest, unlike thresholds: no row changes its side by it.
        values: NDArray[np.float32] = np.array([v for _, _, v in self._leaves], dtype=np.float32)
        return {
            "n_targets": 1,
            "aggregate_function": "SUM",
            "post_transform": "NONE",
            "nodes_treeids": of["tree"],
            "nodes_nodeids": of["node"],
            "nodes_featureids": of["feature"],
            "nodes_modes": of["mode"],
            "nodes_values": round_down(np.array(self._threshold, dtype=np.float64)).tolist(),
            "nodes_missing_value_tracks_true": of["missing"],
            "nodes_truenodeids": [left for left, _ in self._children],
            "nodes_falsenodeids": [right for _, right in self._children],
            "target_treeids": trees,
            "target_nodeids": leaves,
            "target_ids": [0] * len(leaves),
            "target_weights": values.tolist(),
        }
