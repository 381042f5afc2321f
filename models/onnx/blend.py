"""Several models as one graph: its logit is a bias and a weighted sum of theirs, so encoder and trees are one artefact.

Weights are fitted on validation logits and are never negative: a model that only helps when it is contradicted is not
one to serve. The parts share ``x``; their states lie side by side in ``state``, their embeddings in ``embedding``.

    weights = fit_weights(logits, y)        # logits (n, k) of the parts on validation rows
    built = blend([encoder, trees], weights)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.onnx.graph import GraphSpec, check_graph
from weir.models.types import BoolVector, Built, FloatVector

PRIOR: Final = 1.0
"""Strength of the pull towards the plain mean of the logits, in units of a row whose logits have variance 1."""
PARTS_MAX: Final = 6
_STEPS, _CONVERGED = 100, 1e-10


@dataclass(frozen=True, slots=True)
class BlendWeights:
    """``logit = bias + sum(each * logits)``."""

    each: tuple[float, ...]
    bias: float


def fit_weights(logits: NDArray[Any], y: BoolVector, weight: FloatVector | None = None) -> BlendWeights:
    """Logistic regression of labels on the parts' logits, with weights >= 0 and a free bias.

    The problem is convex, so its solution is the best among the sets of parts whose unconstrained weights are positive;
    each set is solved by Newton's method. A ridge towards the mean of the logits decides where labels do not.

    Parameters
    ----------
    logits : ``(n, k)``, finite, of rows that no part has learned from.
    y, weight : ``(n,)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(4000, 2))
    >>> y = rng.random(4000) < 1 / (1 + np.exp(-(2 * z[:, 0] - 1)))
    >>> fitted = fit_weights(z, y)
    >>> bool(abs(fitted.each[0] - 2) < 0.2), fitted.each[1] < 0.1
    (True, True)
    """
    z, w = np.asarray(logits, np.float64), np.ones(len(y)) if weight is None else weight
    n, k = z.shape
    if not 1 <= k <= PARTS_MAX:
        raise ModelError(f"{k} parts to blend; give 1 to {PARTS_MAX}")
    if not np.isfinite(z).all():
        raise ModelError(f"{np.count_nonzero(~np.isfinite(z))} of {z.size:,} logits are not finite; check the parts")
    if len(y) != n or not 0 < np.count_nonzero(y) < n:
        raise ModelError(f"{np.count_nonzero(y)} of {len(y)} labels are positive for {n} rows; both kinds are needed")
    best: tuple[float, NDArray[np.float64]] | None = None
    # All sets of parts, as there are 64 at most: exact, where a solver with bounds would have to converge.
    for size in range(k + 1):
        for held in combinations(range(k), size):
            loss, theta = _newton(z, y.astype(np.float64), w, list(held))
            if (theta[1:] >= 0).all() and (best is None or loss < best[0]):
                best = loss, theta
    assert best is not None, "without any part the bias alone is feasible"
    return BlendWeights(tuple(best[1][1:].tolist()), float(best[1][0]))


def _newton(
    z: NDArray[np.float64], y: FloatVector, w: FloatVector, held: list[int]
) -> tuple[float, NDArray[np.float64]]:
    """Loss and ``(1 + k,)`` parameters with the parts outside ``held`` at 0."""
    design = np.column_stack([np.ones(len(y)), z[:, held]])
    prior = np.array([0.0] + [1.0 / z.shape[1]] * len(held))
    pull = np.array([1e-9] + [PRIOR] * len(held))  # the bias is free, but for what keeps the matrix invertible
    theta, loss = prior.copy(), np.inf
    for _ in range(_STEPS):
        # Beyond 709 the exponential of a float64 overflows; at 500 the probability is 0 or 1 already.
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -500, 500)))
        gradient = design.T @ (w * (p - y)) + pull * (theta - prior)
        # The floor keeps the matrix invertible where the parts are certain of every row.
        hessian = (design * (w * np.maximum(p * (1 - p), 1e-12))[:, None]).T @ design + np.diag(pull)
        theta, new = _descend(design, y, w, theta, np.linalg.solve(hessian, gradient), prior, pull)
        if loss - new <= _CONVERGED * (1 + abs(new)):
            break
        loss = new
    full = np.zeros(1 + z.shape[1])
    full[[0, *(1 + h for h in held)]] = theta
    left_out = z.shape[1] - len(held)  # at 0, they pay their distance from the prior too
    return new + 0.5 * PRIOR * left_out / z.shape[1] ** 2, full


def _descend(
    design: NDArray[np.float64], y: FloatVector, w: FloatVector, theta: FloatVector, step: FloatVector,
    prior: FloatVector, pull: FloatVector,
) -> tuple[FloatVector, float]:  # fmt: skip
    """The Newton step, halved until it does not raise the loss."""

    def loss(at: FloatVector) -> float:
        margin = design @ at
        return float(w @ (np.logaddexp(0, margin) - y * margin) + 0.5 * pull @ (at - prior) ** 2)

    # A full step can overshoot where nearly all rows are certain, as the curvature is next to nothing there.
    now = loss(theta)
    for _ in range(30):
        after = loss(theta - step)
        if after <= now:
            return theta - step, after
        step = step / 2
    return theta, now


def blend(parts: Sequence[Built], weights: BlendWeights) -> Built:
    """One candidate of several.

    A part of weight 0 is left out. Files of the parts are kept under their names, so that each can be trained on; where
    two have the same name, the later part's gets its kind in front.

    Raises
    ------
    ModelError
        Parts of different inputs, other weights than parts, or none with a weight above 0.
    """
    if len(parts) != len(weights.each):
        raise ModelError(f"{len(parts)} parts and {len(weights.each)} weights; give one a part")
    kept = [(part, w) for part, w in zip(parts, weights.each, strict=True) if w > 0]
    if not kept:
        raise ModelError(f"no weight of {weights.each} is above 0; nothing to blend, keep one part alone")
    first = kept[0][0]
    for part, _ in kept:
        if part.inputs != first.inputs:
            raise ModelError(f"{part.kind} and {first.kind} take other inputs; train both on the same columns")
    onnx = blend_graphs([part.onnx for part, _ in kept], [w for _, w in kept], weights.bias)
    said = {f"blend_{i}_{part.kind}": w for i, (part, w) in enumerate(kept)} | {"blend_bias": weights.bias}
    return replace(
        first, kind="blend", onnx=onnx, files=_files([part for part, _ in kept]), metrics=said,
        state=sum(part.state for part, _ in kept), embedding=sum(part.embedding for part, _ in kept),
    )  # fmt: skip


def _files(parts: Sequence[Built]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for part in parts:
        for name, data in part.files.items():
            files[f"{part.kind}.{name}" if name in files else name] = data  # two encoders both have weights
    return files


def blend_graphs(graphs: Sequence[bytes], weights: Sequence[float], bias: float) -> bytes:
    """Merge graphs that keep the contract into one that does, ``logit = bias + sum(w * logit)``.

    Raises ``ModelError`` for one that does not keep it, or of other inputs or another opset than the first.
    """
    import onnx
    from onnx import TensorProto, helper

    specs = [check_graph(graph) for graph in graphs]
    if len({spec.inputs for spec in specs}) != 1:
        raise ModelError(f"the graphs take {[spec.inputs for spec in specs]} inputs; they must take the same x")
    if len({spec.opset for spec in specs}) != 1:
        raise ModelError(f"the graphs are of opsets {[spec.opset for spec in specs]}; train all with this version")
    made = _MergedGraph(specs)
    for i, (data, weight) in enumerate(zip(graphs, weights, strict=True)):
        made.add(i, onnx.load_model_from_string(data), weight)
    made.finish(bias)
    values = {"x": specs[0].inputs, "state": sum(s.state for s in specs)}
    ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n, width in values.items() if width]
    graph = helper.make_graph(made.nodes, "blend", ins, made.outputs(), made.initializers)
    imports = [helper.make_opsetid(domain, number) for domain, number in sorted(made.imports.items())]
    model = helper.make_model(graph, opset_imports=imports, producer_name="weir", ir_version=made.ir_version)
    data_out: bytes = model.SerializeToString(deterministic=True)
    check_graph(data_out)
    return data_out


class _MergedGraph:
    """Nodes of several graphs under prefixes, with what joins them."""

    def __init__(self, specs: Sequence[GraphSpec]) -> None:
        self.specs = specs
        self.imports = {"": specs[0].opset}
        self.ir_version = 8
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._terms: list[str] = []
        self._states = [f"p{i}_state" for i, spec in enumerate(specs) if spec.state]
        self._split()

    def _split(self) -> None:
        from onnx import helper, numpy_helper

        widths = [spec.state for spec in self.specs if spec.state]
        if len(widths) == 1:
            self.nodes.append(helper.make_node("Identity", ["state"], self._states))
        elif widths:
            self.initializers.append(numpy_helper.from_array(np.array(widths, np.int64), "state_widths"))
            self.nodes.append(helper.make_node("Split", ["state", "state_widths"], self._states, axis=1))

    def add(self, i: int, model: Any, weight: float) -> None:
        """Take in part ``i``; every name of it gets ``p<i>_`` in front, but ``x``."""
        from onnx import compose, helper, numpy_helper

        prefix = f"p{i}_"
        graph = compose.add_prefix(model, prefix, rename_functions=False).graph
        self.ir_version = max(self.ir_version, model.ir_version)
        for held in model.opset_import:
            domain = "" if held.domain == "ai.onnx" else held.domain
            if self.imports.setdefault(domain, held.version) != held.version:
                raise ModelError(f"parts use {domain} of versions {self.imports[domain]} and {held.version}")
        self.nodes.append(helper.make_node("Identity", ["x"], [f"{prefix}x"]))
        self.nodes.extend(graph.node)
        self.initializers.extend(graph.initializer)
        self.initializers.append(numpy_helper.from_array(np.array(weight, np.float32), f"weight_{i}"))
        self.nodes.append(helper.make_node("Mul", [f"{prefix}logit", f"weight_{i}"], [f"term_{i}"]))
        self._terms.append(f"term_{i}")

    def finish(self, bias: float) -> None:
        """Add up the logits; put states and embeddings side by side."""
        from onnx import helper, numpy_helper

        self.initializers.append(numpy_helper.from_array(np.array(bias, np.float32), "bias"))
        self.nodes.append(helper.make_node("Sum", [*self._terms, "bias"], ["logit"]))
        for name, given in self._joined().items():
            node = helper.make_node("Concat", given, [name], axis=1) if name != "surprise" else None
            self.nodes.append(node or helper.make_node("Identity", given, [name]))

    def _joined(self) -> dict[str, list[str]]:
        of = {
            "state_out": [f"p{i}_state_out" for i, spec in enumerate(self.specs) if spec.state],
            "embedding": [f"p{i}_embedding" for i, spec in enumerate(self.specs) if spec.embedding],
            # Shares of usual events do not add up: of several the first is told.
            "surprise": [f"p{i}_surprise" for i, spec in enumerate(self.specs) if spec.surprise][:1],
        }
        return {name: given for name, given in of.items() if given}

    def outputs(self) -> list[Any]:
        """Describe the outputs of the merged graph."""
        from onnx import TensorProto, helper

        widths = {"state_out": sum(s.state for s in self.specs), "embedding": sum(s.embedding for s in self.specs)}
        shapes: dict[str, list[str | int | None]] = {"logit": ["n"]}
        shapes |= {name: ["n", widths[name]] if name in widths else ["n"] for name in self._joined()}
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
