"""A Hoeffding adaptive tree: River's ``HoeffdingAdaptiveTreeClassifier`` behind the ``Learner`` port.

River's objects learn row by row; a flat mirror scores. Contributions follow the path: each split's feature gets
the change in log-odds from the node to its child, and in a naive Bayes leaf each feature gets its own log-likelihood
ratio. Memory is bounded by ``max_depth`` (at most 2^max_depth leaves, each with a Gaussian pair per feature, plus one
alternate leaf a branch).
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from river import tree

from weir.online.learners.base import BoolVector, FloatMatrix, FloatVector
from weir.online.learners.river.flat_tree import (
    NEVER,
    ROW_BOUND,
    FlatTree,
    check_leaf_prediction,
    positive_share,
    uses_naive_bayes,
    vote,
)
from weir.online.learners.river.numberstream import Reader, Writer
from weir.online.learners.river.tree_numbers import read_random, read_tree, write_random, write_tree
from weir.online.learners.state import seal, unseal

_NB_BOUND = 12.0


def class_log_odds(stats: dict[bool, float]) -> float:
    """Smoothed log-odds of a node's class weights."""
    return math.log((stats.get(True, 0.0) + 0.5) / (stats.get(False, 0.0) + 0.5))


def _bounded(x: FloatMatrix) -> list[list[float]]:
    rows: list[list[float]] = np.clip(x, -ROW_BOUND, ROW_BOUND).tolist()
    return rows


# Parameters that River has, too.
_OF_RIVER = ("grace_period", "delta", "tau", "leaf_prediction", "max_depth", "bootstrap_sampling", "seed")


@dataclass(eq=False, repr=False)
class AdaptiveTree:
    """Hoeffding tree that grows alternate branches where its error drifts (Bifet & Gavalda, IDA 2009).

    Parameters
    ----------
    features : names of the F columns.
    grace_period : weight a leaf sees between split attempts. Large row weights use it up faster.
    delta, tau : split confidence and tie threshold.
    leaf_prediction : "mc", "nb" or "nba" (majority class, naive Bayes, the better of both).
    max_depth : splits on a path at most: bounds memory.
    bootstrap_sampling : Poisson(1) resampling in the leaves, drawn from ``seed``.
    seed : of the tree's own random numbers.

    Examples
    --------
    >>> model = AdaptiveTree(("a", "b"), seed=1)
    >>> x = np.random.default_rng(0).random((500, 2))
    >>> model.learn_many(x, x[:, 0] > 0.5, np.ones(500))
    >>> [bool(p > 0.5) for p in model.predict_many(np.array([[0.9, 0.5], [0.1, 0.5]]))]
    [True, False]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    grace_period: int = 200
    delta: float = 1e-7
    tau: float = 0.05
    leaf_prediction: str = "nba"
    max_depth: int = 10
    bootstrap_sampling: bool = True
    seed: int = 0
    kind: ClassVar[str] = "adaptive_tree"

    def __post_init__(self) -> None:
        check_leaf_prediction(self.leaf_prediction)
        self._column = {name: j for j, name in enumerate(self.features)}
        self._model = self._fresh()
        self._flat: FlatTree | None = None

    def _fresh(self) -> Any:
        """A tree that has learned nothing; River types its nodes too narrowly."""
        own = {name: getattr(self, name) for name in _OF_RIVER}
        return tree.HoeffdingAdaptiveTreeClassifier(**own, memory_estimate_period=NEVER)

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        if self._flat is None:
            self._flat = FlatTree(self._model, self._column, len(self.features))
        self._flat.refresh()
        votes = np.zeros((x.shape[0], 2))
        rows = np.ascontiguousarray(np.clip(x, -ROW_BOUND, ROW_BOUND))
        vote(rows, self._flat.nodes, self._flat.leaves, 1.0, votes)
        return positive_share(votes)

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        for row, label, w in zip(_bounded(x), y.tolist(), weight.tolist(), strict=True):
            named = dict(zip(self.features, row, strict=True))
            # Looked up on both sides of learning: River does not tell what it changed.
            before = _path(self._model._root, named)
            self._model.learn_one(named, label, w=w)
            self._note_changes(before, _path(self._model._root, named))

    def _note_changes(self, before: list[Any], after: list[Any]) -> None:
        if self._flat is None:
            return
        if [id(node) for node in before] != [id(node) for node in after]:
            self._flat = None  # a split, or an alternate that came, went or took over: rare, so mirror anew
            return
        for node in after:
            if not hasattr(node, "children"):
                self._flat.touch(node)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Path contributions against the root's class log-odds, ``(n, F)``."""
        out = np.zeros(x.shape)
        for i, row in enumerate(_bounded(x)):
            self._follow(dict(zip(self.features, row, strict=True)), out[i])
        return out

    def _follow(self, x: dict[str, float], out: FloatVector) -> None:
        node = self._model._root
        while node is not None and hasattr(node, "children"):
            child = node.next(x)
            out[self._column[node.feature]] += class_log_odds(child.stats) - class_log_odds(node.stats)
            node = child
        if node is None or not uses_naive_bayes(node, self.leaf_prediction):
            return
        for name, splitter in node.splitters.items():
            ratio = splitter.cond_log_proba(x[name], True) - splitter.cond_log_proba(x[name], False)
            if math.isfinite(ratio):
                out[self._column[name]] += min(max(ratio, -_NB_BOUND), _NB_BOUND)

    def snapshot(self) -> bytes:
        """The whole learned state as numbers (``river.tree_numbers``)."""
        out = Writer(self.features)
        write_random(out, self._model._rng)
        write_tree(out, self._model)
        return seal(self.kind, self.features, out.encode())

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``StateError`` when of another kind, other features or not a tree."""
        inp = Reader(unseal(state, self.kind, self.features), self.features)
        model = self._fresh()
        read_random(inp, model._rng)
        read_tree(inp, model)
        inp.end()
        self._model, self._flat = model, None


def _path(node: Any, x: dict[str, float]) -> list[Any]:
    """The nodes a row passes, alternates included; everything ``learn_one`` may change lies on it."""
    nodes = [] if node is None else [node]
    while node is not None and hasattr(node, "children"):
        if node._alternate_tree is not None:
            nodes.append(node._alternate_tree)
        node = node.next(x)
        nodes.append(node)
    return nodes
