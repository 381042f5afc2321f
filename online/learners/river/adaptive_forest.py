"""Adaptive random forest: River's ``ARFClassifier`` learns, flat arrays score.

``WeightedForest`` is River's forest with row weights (River's own ignores them); at weight 1 it is the same fold. For
scoring every tree is mirrored in flat arrays; learning a row marks the leaves it touched, and only those are packed
again before the next score. Memory is bounded by ``n_models``
(twice, with background trees) and ``max_depth``: at most 2^max_depth leaves a tree.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from river import drift
from river.forest import ARFClassifier
from river.utils.random import poisson

from weir.online.learners.base import BoolVector, FloatMatrix, FloatVector
from weir.online.learners.logistic import logit_of
from weir.online.learners.river.flat_tree import (
    NEVER,
    ROW_BOUND,
    FlatTree,
    check_leaf_prediction,
    positive_share,
    vote,
)
from weir.online.learners.river.forest_numbers import read_forest, write_forest
from weir.online.learners.river.numberstream import Reader, Writer
from weir.online.learners.state import copy_into, pack_arrays, seal, unpack_arrays, unseal


class WeightedForest(ARFClassifier):
    """River's adaptive random forest whose rows may carry a weight, and that tells which trees a row changed."""

    def learn_one(self, x: dict[str, float], y: bool, w: float = 1.0) -> None:  # type: ignore[override] # no weight in River's
        """Learn one row: River's ``BaseForest.learn_one`` with the Poisson count times ``w`` as the trees' weight."""
        if len(self) == 0:
            self._init_ensemble(sorted(x))
        for i in range(self.n_models):
            self._learn_tree(i, x, y, w)

    def _learn_tree(self, i: int, x: dict[str, float], y: bool, w: float) -> None:
        model = self.data[i]
        y_pred = model.predict_one(x)
        self._metrics[i].update(y_true=y, y_pred=y_pred)
        k = poisson(rate=self.lambda_value, rng=self._rng)
        if k == 0:
            return
        background: Any = self._background[i]
        if background is not None:
            background.learn_one(x=x, y=y, w=k * w)
        model.learn_one(x=x, y=y, w=k * w)
        error = self._drift_detector_input(i, y, y_pred)
        self._warning_detectors[i].update(error)
        if self._warning_detectors[i].drift_detected:
            self._background[i] = _new_tree(self)
            self._warning_detectors[i] = self.warning_detector.clone()
            self._warning_tracker[i] += 1
        self._drift_detectors[i].update(error)
        if self._drift_detectors[i].drift_detected:
            self._swap(i)

    def _swap(self, i: int) -> None:
        if self._background[i] is not None:
            self.data[i] = self._background[i]
            self._background[i] = None
            self._warning_detectors[i] = self.warning_detector.clone()
        else:
            self.data[i] = _new_tree(self)
        self._drift_detectors[i] = self.drift_detector.clone()
        self._metrics[i] = self.metric.clone()
        self._drift_tracker[i] += 1


def _new_tree(forest: Any) -> Any:
    """A tree drawn from the forest's generator; River leaves the method untyped."""
    return forest._new_base_model()


# Parameters that River has, too.
_OF_RIVER = (
    "n_models", "lambda_value", "grace_period", "delta", "tau", "leaf_prediction", "max_features", "max_depth", "seed",
)  # fmt: skip


@dataclass(eq=False, repr=False)
class AdaptiveForest:
    """Adaptive random forest (Gomes et al., Machine Learning 106, 2017).

    Parameters
    ----------
    features : names of the F columns.
    n_models : trees. Learning costs about 60 us a tree and row.
    lambda_value : mean of the Poisson resampling count.
    grace_period : weight a leaf sees between split attempts. Large row weights use it up faster.
    delta, tau : split confidence and tie threshold.
    leaf_prediction : "mc", "nb" or "nba" (majority class, naive Bayes, the better of both).
    max_features : features a leaf monitors, a count or "sqrt".
    max_depth : splits on a path at most: bounds memory.
    drift_delta, warning_delta : ADWIN confidences of a tree's replacement and of its background tree's start.
    seed : of resampling and feature choice.

    Examples
    --------
    >>> model = AdaptiveForest(("a", "b"), n_models=3, seed=1)
    >>> x = np.random.default_rng(0).random((300, 2))
    >>> model.learn_many(x, x[:, 0] > 0.5, np.ones(300))
    >>> [bool(p > 0.5) for p in model.predict_many(np.array([[0.9, 0.5], [0.1, 0.5]]))]
    [True, False]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    n_models: int = 10
    lambda_value: int = 6
    grace_period: int = 50
    delta: float = 0.01
    tau: float = 0.05
    leaf_prediction: str = "nba"
    max_features: int | str = "sqrt"
    max_depth: int = 10
    drift_delta: float = 0.001
    warning_delta: float = 0.01
    seed: int = 0
    kind: ClassVar[str] = "adaptive_forest"

    def __post_init__(self) -> None:
        check_leaf_prediction(self.leaf_prediction)
        self._column = {name: j for j, name in enumerate(self.features)}
        self._model = self._fresh()
        self._centre = np.zeros(len(self.features) + 1)  # running means, then how many rows
        self._flat: list[FlatTree] = []

    def _fresh(self) -> WeightedForest:
        """A forest that has learned nothing."""
        adwin: Any = drift.ADWIN  # untyped in River
        own = {name: getattr(self, name) for name in _OF_RIVER}
        detectors = {
            "drift_detector": adwin(delta=self.drift_delta),
            "warning_detector": adwin(delta=self.warning_delta),
        }
        return WeightedForest(**own, **detectors, memory_estimate_period=NEVER)

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        votes = np.zeros((x.shape[0], 2))
        rows = np.ascontiguousarray(np.clip(x, -ROW_BOUND, ROW_BOUND))
        for i, flat in enumerate(self._mirrors()):
            strength = self._model._metrics[i].get()
            vote(rows, flat.nodes, flat.leaves, strength if strength > 0.0 else 1.0, votes)
        return positive_share(votes)

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        rows = np.clip(x, -ROW_BOUND, ROW_BOUND)
        for row, label, w in zip(rows.tolist(), y.tolist(), weight.tolist(), strict=True):
            named = dict(zip(self.features, row, strict=True))
            # Looked up before the forest learns: a leaf that splits is no longer in its tree afterwards.
            spots = [_leaf_of(tree, named) for tree in self._model.data]
            self._model.learn_one(named, label, w=w)
            self._note_changes(spots)
        for row_values in rows:
            self._centre[-1] += 1
            self._centre[:-1] += (row_values - self._centre[:-1]) / self._centre[-1]

    def _note_changes(self, spots: list[tuple[Any, int, Any]]) -> None:
        for i, flat in enumerate(self._flat):
            tree = self._model.data[i]
            if tree is not flat.tree:
                self._flat[i] = self._mirror(tree)
                continue
            parent, side, leaf = spots[i]
            now = tree._root if parent is None else parent.children[side]
            if leaf is None:
                self._flat[i] = self._mirror(tree)
            elif now is leaf:
                flat.touch(leaf)
            else:
                flat.grown(leaf, now)

    def _mirror(self, tree: Any) -> FlatTree:
        return FlatTree(tree, self._column, int(self._model.max_features))

    def _mirrors(self) -> list[FlatTree]:
        if not self._flat:
            self._flat = [self._mirror(tree) for tree in self._model.data]
        for flat in self._flat:
            flat.refresh()
        return self._flat

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Log-odds lost when a feature is set to its running mean, one at a time, ``(n, F)``."""
        n, width = x.shape
        without = np.repeat(x[:, None, :], width, axis=1)  # (n, F, F): row i with feature j replaced
        each = np.arange(width)
        without[:, each, each] = self._centre[:-1]
        ablated = logit_of(self.predict_many(without.reshape(n * width, width))).reshape(n, width)
        return np.asarray(logit_of(self.predict_many(x))[:, None] - ablated)

    def snapshot(self) -> bytes:
        """The whole learned state: the forest as numbers (``forest_numbers``), and the running means."""
        out = Writer(self.features)
        write_forest(out, self._model)
        body = pack_arrays({"centre": self._centre, "forest": np.frombuffer(out.encode(), np.uint8)})
        return seal(self.kind, self.features, body)

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``StateError`` when of another kind, other features or not a forest."""
        arrays = unpack_arrays(unseal(state, self.kind, self.features))
        inp = Reader(arrays["forest"].tobytes() if "forest" in arrays else b"", self.features)
        model, centre = self._fresh(), np.zeros_like(self._centre)
        read_forest(inp, model)
        inp.end()
        copy_into({"centre": centre}, arrays)
        # All three at once, when nothing can be refused any more.
        self._model, self._centre, self._flat = model, centre, []


def _leaf_of(tree: Any, x: dict[str, float]) -> tuple[Any, int, Any]:
    """The leaf ``x`` falls into, with its parent (None at the root) and its place there."""
    parent, side, node = None, 0, tree._root
    while node is not None and hasattr(node, "children"):
        parent, side = node, 0 if x[node.feature] <= node.threshold else 1
        node = node.children[side]
    return parent, side, node
