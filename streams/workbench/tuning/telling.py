"""Which inputs tell something of the label: those by which boosted trees divide a sample of rows, the best first.

A search may leave out the others: most learners lose by what tells nothing, and learn a row in the time of the square
of their inputs. It knows columns and labels, no task. Source: Breiman et al. 1984, CART (gain of splits).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector, IntVector
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.backtest.notes import RunWatch

_MOST_ROWS: Final = 100_000
_TREES: Final[dict[str, Any]] = {"n_estimators": 100, "learning_rate": 0.1, "num_leaves": 15, "min_child_samples": 50}
_DRAWN: Final[dict[str, Any]] = {"subsample": 0.7, "subsample_freq": 1, "colsample_bytree": 0.5, "random_state": 1}
_SAME: Final[dict[str, Any]] = {
    "importance_type": "gain",
    "n_jobs": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


class InputSample:
    """Keeps the inputs of every k-th row of a run; k doubles where that is too many."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._held: list[tuple[IntVector, FloatMatrix]] = []
        self._rows = self._kept = 0
        self._every = 1

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """A run begins."""
        del watch
        self._names = pipeline.features

    def add(self, out: StepOutput) -> None:
        """Take in what a step scored."""
        if out.predictions is None:
            return
        at = np.arange(self._rows, self._rows + len(out.predictions))
        chosen = at % self._every == 0
        self._held.append((at[chosen], out.predictions.features[chosen].astype(np.float32)))
        self._rows, self._kept = self._rows + len(at), self._kept + int(chosen.sum())
        if self._kept > _MOST_ROWS:
            self._every *= 2
            self._held = [(rows[even], x[even]) for rows, x in self._held if (even := rows % self._every == 0).any()]
            self._kept = sum(len(rows) for rows, _ in self._held)

    def ranked(self, label: FloatVector) -> list[str]:
        """The inputs that tell something of labels ``(m,)``, NaN where not known, of the m rows that came first."""
        import lightgbm as lgb

        rows, x = (np.concatenate(each) for each in zip(*self._held, strict=True))
        known = rows < len(label)
        known[known] = ~np.isnan(label[rows[known]])
        y = label[rows[known]] == 1.0
        if y.all() or not y.any():
            return []
        trees = lgb.LGBMClassifier(**_TREES, **_DRAWN, **_SAME).fit(x[known], y)
        gain = np.asarray(trees.feature_importances_, dtype=np.float64)
        return [self._names[k] for k in np.argsort(-gain, kind="stable") if gain[k] > 0.0]
