"""Gradient boosting as an online fold: a fixed ring of trees, one of them regrown after every few examples.

Batch boosting fits tree after tree to what the earlier ones leave over. Here the ensemble always has the same size and
never stops learning: after every ``every`` examples the oldest tree is taken out and a new one is grown on what all the
others leave over, over a bounded buffer of the newest examples. That is the backfitting step of additive models
(Breiman & Friedman 1985; the move BART makes) used as a rolling update, with rows and columns subsampled as in
stochastic gradient boosting (Friedman 2002). A concept that changes is forgotten when its examples leave the buffer
and its trees the ring.

Whatever the cuts into calls, work happens when the count of examples reaches a multiple of ``every``, so two replicas
are bit-identical. It knows matrices of features, not events or time.
Memory: the buffer, ``buffer * (5 F + 24)`` bytes, and ``24 * trees * 2^depth`` bytes of trees.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.binned import (
    Rows,
    Trees,
    add_tree,
    bin_rows,
    grow_tree,
    quantile_edges,
    sum_trees,
    walk_trees,
)
from weir.online.learners.interleaved import pieces
from weir.online.learners.logistic import sigmoid
from weir.online.learners.state import copy_into, pack_arrays, seal, unpack_arrays, unseal


@njit(cache=True, nogil=True)
def boosted_scores(x: Rows, trees: Trees, count: int, depth: int, bias: float, out: FloatVector) -> None:
    """Probabilities ``out (n,)`` of ``x (n, F)`` by the first ``count`` trees; a call costs more than a few rows."""
    out[:] = bias
    sum_trees(x, trees, count, depth, out)
    for i in range(out.size):
        out[i] = sigmoid(out[i])


LIMITS: dict[str, tuple[float, float]] = {
    "trees": (1, 4096),
    "depth": (1, 10),
    "learning_rate": (1e-6, 1.0),
    "every": (1, 1 << 20),
    "buffer": (1, 1 << 24),
    "bins": (3, 256),
    "l2": (0.0, 1e12),
    "min_hessian": (1e-12, 1e12),
    "row_share": (1e-6, 1.0),
    "column_share": (1e-6, 1.0),
}


@dataclass(eq=False, repr=False)
class BoostedTrees:
    """Online gradient-boosted trees for the logistic loss.

    Parameters
    ----------
    features : names of the F columns.
    trees : size of the ensemble; scoring costs ``trees * depth`` steps a row.
    depth : splits on every path.
    learning_rate : share of each leaf's Newton step that is taken.
    every : examples between two regrown trees; learning costs about ``buffer * row_share * column_share * F * depth``
        histogram updates each time.
    buffer : newest examples that trees are grown on; a multiple of ``every`` is not needed, at least ``every`` is.
    bins : histogram bins a column.
    l2 : penalty on leaf values.
    min_hessian : least sum of ``weight * p * (1 - p)`` on either side of a split.
    row_share, column_share : share of the buffered rows and of the columns that a tree sees.
    seed : of the row and column draws; the draws depend on it and on how many trees were grown, on nothing else.

    Raises
    ------
    ValueError
        On a parameter outside its limits.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(2000, 2))
    >>> y = (x[:, 0] > 0) & (x[:, 1] > 0)
    >>> model = BoostedTrees(("a", "b"), every=100, buffer=1000)
    >>> model.learn_many(x, y, np.ones(2000))
    >>> [round(float(p)) for p in model.predict_many(np.array([[1.0, -1.0], [1.0, 1.0]]))]
    [0, 1]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    trees: int = 64
    depth: int = 5
    learning_rate: float = 0.15
    every: int = 250
    buffer: int = 65_536
    bins: int = 128
    l2: float = 5.0
    min_hessian: float = 5.0
    row_share: float = 0.5
    column_share: float = 0.8
    seed: int = 0
    kind: ClassVar[str] = "boosted"

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"boosted: {name} = {getattr(self, name)} is outside {low:g} to {high:g}")
        if self.every > self.buffer:
            told = f"every = {self.every} is more than buffer = {self.buffer}"
            raise ValueError(f"boosted: {told}: new examples would be lost")
        self._reset()

    def _reset(self) -> None:
        inner = (1 << self.depth) - 1
        width = len(self.features)
        self._x = np.zeros((self.buffer, width), np.float32)
        self._y = np.zeros(self.buffer, np.bool_)
        self._weight = np.zeros(self.buffer)
        self._margin = np.zeros(self.buffer)  # what the trees now say of each buffered row
        self._binned = np.zeros((self.buffer, width), np.uint8)
        self._edges = np.zeros((width, self.bins - 1), np.float32)
        self._model: dict[str, NDArray[Any]] = {
            "edge_counts": np.zeros(width, np.int64),
            "feature": np.zeros((self.trees, inner), np.int64),
            "threshold": np.full((self.trees, inner), np.inf, np.float32),
            "value": np.zeros((self.trees, 2 * inner + 1)),
            "bias": np.zeros(1),
            "counts": np.array([0, 0, self.every]),  # examples seen, trees grown, next new edges
        }
        self._trees = Trees(
            *(self._model[name] for name in Trees._fields)
        )  # one object: made anew it costs a row's score

    @property
    def seen(self) -> int:
        """How many examples were learned."""
        return int(self._model["counts"][0])

    @property
    def _grown(self) -> int:
        """Trees in use."""
        return min(int(self._model["counts"][1]), self.trees)

    def logit_many(self, x: NDArray[Any]) -> FloatVector:
        """Log-odds, ``(n, F)`` to ``(n,)``."""
        out = np.full(len(x), self._bias())
        sum_trees(np.ascontiguousarray(x), self._trees, self._grown, self.depth, out)
        return out

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; the base rate until the first tree is grown."""
        out = np.empty(len(x))
        boosted_scores(np.ascontiguousarray(x), self._trees, self._grown, self.depth, self._bias(), out)
        return out

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """Change in log-odds along the paths, by feature split on, ``(n, F)``; up from the mean row."""
        out = np.zeros((len(x), len(self.features)))
        walk_trees(np.ascontiguousarray(x), self._trees, self._grown, self.depth, out)
        return out

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Buffer rows in order; regrow a tree whenever another ``every`` of them have come."""
        # No tree falls due, as nearly always where rows come one by one: nothing is cut.
        if 0 < len(x) < self.every - self.seen % self.every:
            self._learn(x, y, weight)
            return
        for low, high in self._pieces(len(x)):
            self._learn(x[low:high], y[low:high], weight[low:high])

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        scores, before = np.empty(len(rows)), np.empty(len(x))
        # Trees stand still within a piece; until the first one is grown the base rate moves with every row.
        first = 0 if self._grown else min(self.every - self.seen % self.every, len(x))
        ends = [*range(1, first), *(high for _, high in self._pieces(len(x)))]
        for piece, between in pieces(learned, ends):
            if between.start < between.stop:
                scores[between] = self.predict_many(rows[between])
            if piece.start < piece.stop:
                before[piece] = self.predict_many(x[piece])
                self._learn(x[piece], y[piece], weight[piece])
        return scores, before

    def _pieces(self, n: int) -> list[tuple[int, int]]:
        """Cut ``n`` coming rows where a tree will be regrown."""
        first = self.every - self.seen % self.every
        ends = [*range(first, n, self.every), n]
        return list(zip([0, *ends[:-1]], ends, strict=True)) if n else []

    def _learn(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Buffer the rows of one piece."""
        seen, n = self.seen, len(x)
        start = seen % self.buffer
        # A slice takes a fraction of the time of a row of places, which only a piece over the ring's end needs.
        at = slice(start, start + n) if start + n <= self.buffer else np.arange(start, start + n) % self.buffer
        self._x[at], self._y[at], self._weight[at] = x, y, weight
        self._model["counts"][0] = seen + n
        if (seen + n) % self.every == 0:
            self._step()

    def snapshot(self) -> bytes:
        """Trees, edges and the filled part of the buffer; deterministic bytes."""
        n = min(self.seen, self.buffer)
        rows = {"x": self._x[:n], "y": self._y[:n], "weight": self._weight[:n], "margin": self._margin[:n]}
        return seal(self.kind, self.features, pack_arrays({**self._model, "edges": self._edges, **rows}))

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, other features or another shape."""
        arrays = unpack_arrays(unseal(state, self.kind, self.features))
        fresh = replace(self)  # of the same parameters, with nothing learned
        # Into a fresh one first: a snapshot that does not fit leaves this one as it was.
        copy_into({**fresh._model, "edges": fresh._edges}, arrays)
        n = min(fresh.seen, self.buffer)
        rows = {"x": fresh._x[:n], "y": fresh._y[:n], "weight": fresh._weight[:n], "margin": fresh._margin[:n]}
        copy_into(rows, arrays)
        bin_rows(fresh._x, np.arange(n), fresh._edges, fresh._model["edge_counts"], fresh._binned)
        self.__dict__.update(fresh.__dict__)

    def for_scoring(self) -> BoostedTrees:
        """A copy of the trees without what is buffered: scores alike from the first tree on, and is not to learn."""
        # The smallest buffer that there may be.
        copy = replace(self, buffer=self.every)
        for name, array in self._model.items():
            copy._model[name][...] = array
        return copy

    def _bias(self) -> float:
        """Log-odds of the base rate: of what is buffered until the first tree, then fixed."""
        if self._model["counts"][1] > 0:
            return float(self._model["bias"][0])
        n = min(self.seen, self.buffer)
        weight = self._weight[:n]
        # Half a row of each class: a rate of 0 or 1 has no log-odds.
        positive = float(weight[self._y[:n]].sum()) + 0.5
        return float(np.log(positive / (float(weight.sum()) + 1.0 - positive)))

    def _step(self) -> None:
        """Bring the new rows in, then replace the oldest tree."""
        m = self._model
        n = min(self.seen, self.buffer)
        new = np.arange(self.seen - self.every, self.seen) % self.buffer
        if self.seen >= m["counts"][2]:
            self._edges, m["edge_counts"] = quantile_edges(self._x[:n], self._y[:n], self.bins)
            bin_rows(self._x, np.arange(n), self._edges, m["edge_counts"], self._binned)
            # Ever more rarely, up to once a buffer: quantiles of a larger sample move less.
            m["counts"][2] = min(2 * self.seen, self.seen + self.buffer)
        else:
            bin_rows(self._x, new, self._edges, m["edge_counts"], self._binned)
        if m["counts"][1] == 0:
            m["bias"][0] = self._bias()
        # Margins of older rows are kept up below, tree by tree; only new rows are scored by all trees.
        self._margin[new] = self.logit_many(self._x[new])
        slot, every_row = int(m["counts"][1]) % self.trees, np.arange(n)
        tree = Trees(*(of_all[slot] for of_all in self._trees))
        add_tree(self._x, every_row, tree, self.depth, -1.0, self._margin)  # the oldest tree; zeros where none is
        self._regrow(n, tree)
        add_tree(self._x, every_row, tree, self.depth, 1.0, self._margin)
        m["counts"][1] += 1

    def _regrow(self, n: int, tree: Trees) -> None:
        """Grow a tree in place on a draw of the first ``n`` buffered rows and of the columns that vary."""
        counts = self._model["edge_counts"]
        # Keyed by the number of the tree, not by a running state: a restored replica draws the same rows.
        rng = np.random.Generator(np.random.Philox(key=[self.seed, int(self._model["counts"][1])]))
        rows = np.flatnonzero(rng.random(n) < self.row_share)
        columns = np.flatnonzero(counts)
        columns = np.sort(rng.permutation(columns)[: int(np.ceil(columns.size * self.column_share))])
        tree.feature[:], tree.threshold[:], tree.value[:] = 0, np.inf, 0.0
        if rows.size == 0 or columns.size == 0:
            return
        p = 1.0 / (1.0 + np.exp(-np.clip(self._margin[rows], -500.0, 500.0)))
        weight = self._weight[rows]
        grow_tree(
            self._binned, rows, columns, self._edges, counts, weight * (p - self._y[rows]), weight * p * (1.0 - p),
            weight, self.depth, self.l2, self.min_hessian, self.learning_rate, tree,
        )  # fmt: skip
