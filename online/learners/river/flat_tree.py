"""River's trees mirrored in two matrices that a Numba kernel walks: scoring without dictionaries.

The mirror follows River objects that learn: a leaf that learned is packed again before the next score, a leaf that
split is replaced, nothing else is touched. It knows numeric binary splits and naive Bayes leaves, not how trees learn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from weir.online.jit import njit
from weir.online.learners.base import FloatMatrix, FloatVector

ROW_BOUND = 1e100
"""Values are clipped to +- this: River squares them in plain Python, which raises ``OverflowError`` past 1e154."""
NEVER = 2**62
"""Rows after which River measures the size of a tree, which depends on the interpreter; ``max_depth`` bounds it."""
_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_HEAD = 5  # of a leaf row: naive Bayes or not, two log priors (or shares), strength, monitored features
_PER_FEATURE = 7  # column, then for each class: mean, -1 / (2 variance), log normaliser


@njit(cache=True)
def _leaf_vote(x: FloatMatrix, i: int, leaf: FloatMatrix, strength: float, votes: FloatMatrix) -> None:
    no, yes = leaf[1], leaf[2]
    strength *= leaf[3]
    if leaf[0] > 0.0:
        for k in range(int(leaf[4])):
            at = 5 + k * 7
            value = x[i, int(leaf[at])]
            no += (value - leaf[at + 1]) ** 2 * leaf[at + 2] + leaf[at + 3]
            yes += (value - leaf[at + 4]) ** 2 * leaf[at + 5] + leaf[at + 6]
        # Against the larger one: both exponentials of a row far from all means would be 0.
        top = max(no, yes)
        no, yes = math.exp(no - top), math.exp(yes - top)
        strength /= no + yes
    votes[i, 0] += no * strength
    votes[i, 1] += yes * strength


@njit(cache=True)
def vote(x: FloatMatrix, nodes: FloatMatrix, leaves: FloatMatrix, strength: float, votes: FloatMatrix) -> None:
    """Add one tree's class probabilities, times ``strength``, to ``votes (n, 2)``; River's naive Bayes formulas."""
    for i in range(x.shape[0]):
        at = 0
        while nodes[at, 0] >= 0.0:
            if nodes[at, 4] >= 0.0:
                _leaf_vote(x, i, leaves[int(nodes[at, 4])], strength, votes)
            at = int(nodes[at, 2]) if x[i, int(nodes[at, 0])] <= nodes[at, 1] else int(nodes[at, 3])
        _leaf_vote(x, i, leaves[int(nodes[at, 2])], strength, votes)


class FlatTree:
    """A mirror of one River tree.

    ``nodes (N, 5)``: feature or -1, threshold, left child or leaf row, right child, alternate leaf row or -1.
    ``leaves (L, W)``: ``_HEAD`` numbers, then ``_PER_FEATURE`` for each of at most ``width`` monitored features.
    """

    def __init__(self, tree: Any, column: dict[str, int], width: int) -> None:
        self.tree = tree
        self._column = column
        self.nodes = np.zeros((8, 5))
        self.leaves = np.zeros((4, _HEAD + _PER_FEATURE * width))
        self._n_nodes = 0
        self._objects: list[Any] = []
        self._row_of: dict[int, int] = {}
        self._stale: set[int] = set()
        self._add(tree._root, self._new_node())

    def touch(self, leaf: Any) -> None:
        """Mark a leaf that learned."""
        self._stale.add(self._row_of[id(leaf)])

    def grown(self, leaf: Any, branch: Any) -> None:
        """Put the ``branch`` that River grew where ``leaf`` was."""
        row = self._row_of.pop(id(leaf))
        self._stale.discard(row)
        used = self.nodes[: self._n_nodes]
        self._add(branch, int(np.flatnonzero((used[:, 0] < 0) & (used[:, 2] == row))[0]))

    def refresh(self) -> None:
        """Pack the leaves that learned since the last call."""
        for row in sorted(self._stale):
            self._pack(self._objects[row], self.leaves[row])
        self._stale.clear()

    def _new_node(self) -> int:
        if self._n_nodes == len(self.nodes):
            # Doubled, so that a tree that grows node by node is copied a few times only.
            self.nodes = np.concatenate([self.nodes, np.zeros_like(self.nodes)])
        self._n_nodes += 1
        return self._n_nodes - 1

    def _new_leaf(self, leaf: Any) -> int:
        row = len(self._objects)
        if row == len(self.leaves):
            self.leaves = np.concatenate([self.leaves, np.zeros_like(self.leaves)])
        self._objects.append(leaf)
        if leaf is not None:  # a tree that has learned nothing has no root
            self._row_of[id(leaf)] = row
            self._stale.add(row)
        return row

    def _add(self, node: Any, at: int) -> None:
        if not hasattr(node, "children"):
            self.nodes[at] = -1.0, 0.0, self._new_leaf(node), 0.0, -1.0
            return
        left, right = self._new_node(), self._new_node()
        alternate = getattr(node, "_alternate_tree", None)
        other = -1 if alternate is None else self._new_leaf(alternate)
        self.nodes[at] = self._column[node.feature], node.threshold, left, right, other
        self._add(node.children[0], left)
        self._add(node.children[1], right)

    def _pack(self, leaf: Any, out: Any) -> None:
        out[:] = 0.0
        stats = leaf.stats
        total = sum(stats.values())
        out[3] = _strength(leaf)
        # Naive Bayes needs both classes; with one River answers 1 for it, which is what the shares say too.
        if total == 0 or len(stats) < 2 or not uses_naive_bayes(leaf, self.tree._leaf_prediction):
            for label, weight in stats.items():
                out[2 if label else 1] = weight / total if total else 0.0
            return
        out[0] = 1.0
        for label, weight in stats.items():
            out[2 if label else 1] = math.log(weight / total) if weight > 0 else 0.0
        out[4] = len(leaf.splitters)
        for k, (name, splitter) in enumerate(leaf.splitters.items()):
            at = _HEAD + k * _PER_FEATURE
            out[at] = self._column[name]
            for label, gaussian in splitter._att_dist_per_class.items():
                if stats.get(label, 0.0) > 0:
                    first = at + (4 if label else 1)
                    out[first : first + 3] = _gaussian_terms(gaussian)


def positive_share(votes: FloatMatrix) -> FloatVector:
    """The second column's part of ``votes (n, 2)``, ``(n,)``; .5 where there are none."""
    total = votes.sum(axis=1)
    return np.asarray(np.divide(votes[:, 1], total, out=np.full(len(votes), 0.5), where=total > 0))


def check_leaf_prediction(words: str) -> None:
    """Raise ``ValueError`` where River has no such way to answer from a leaf."""
    if words not in ("mc", "nb", "nba"):
        raise ValueError(f"leaf_prediction {words!r}: want 'mc', 'nb' or 'nba'")


def uses_naive_bayes(leaf: Any, leaf_prediction: str) -> bool:
    """Whether River answers from this leaf by naive Bayes ("nba": while that was right at least as often)."""
    if not leaf.is_active() or leaf_prediction == "mc":
        return False
    return leaf_prediction == "nb" or bool(leaf._nb_correct_weight >= leaf._mc_correct_weight)


def _strength(leaf: Any) -> float:
    """1, or in an adaptive tree 1 / error^2, by which River weighs a leaf against the alternates on the path."""
    error = leaf._mean_error.get() if hasattr(leaf, "_mean_error") else 0.0
    return 1.0 / (error * error) if error > 0.0 else 1.0


def _gaussian_terms(gaussian: Any) -> tuple[float, float, float]:
    """Mean, -1 / (2 variance) and log normaliser; zeros (adds nothing) where River's density is undefined."""
    var = gaussian._var
    n = var.mean.n
    if n > var.ddof:
        variance = var._S / (n - var.ddof)
        if variance > 0.0:
            return var.mean._mean, -0.5 / variance, -_HALF_LOG_TAU - 0.5 * math.log(variance)
    return 0.0, 0.0, 0.0
