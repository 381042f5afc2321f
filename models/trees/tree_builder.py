"""Trains boosted trees on the labelled rows of a training set (LightGBM: Ke et al., NeurIPS 2017).

Trees have no memory: all they know of the past is in the columns. Training takes seconds, so it keeps no checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weir.models.dataset.split import Rows, train_rows, validation_rows
from weir.models.errors import ModelError
from weir.models.evaluation.gate import quality
from weir.models.trees.convert import to_onnx
from weir.models.types import Built, FloatVector, History, Progress, TrainingSet, TrainingStoppedError


@dataclass(frozen=True, slots=True)
class TreeParams:
    """What is grown, and from which rows."""

    rounds: int = 300
    """At most so many trees are grown; fewer where the validation rows say so."""
    patience: int = 50
    """Trees without a better log loss on the validation rows after which growing stops."""
    learning_rate: float = 0.05
    leaves: int = 15
    min_rows: int = 60
    """A leaf holds at least so many rows."""
    min_hessian: float = 5.0
    l2: float = 10.0
    row_share: float = 0.7
    column_share: float = 0.6
    bins: int = 1023
    hard_share: float = 0.1
    """Part of the negatives, those the online model scored highest, that is always learned from."""
    easy_per_positive: float = 6.0
    """The other negatives are thinned to this many for each positive, weighing the more; not below ``easy_rows``."""
    easy_rows: int = 20_000

    def lightgbm(self, seed: int) -> dict[str, Any]:
        """The parameters as LightGBM calls them; the same seed gives the same trees."""
        return {
            "objective": "binary",
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_rows,
            "min_sum_hessian_in_leaf": self.min_hessian,
            "lambda_l2": self.l2,
            "bagging_fraction": self.row_share,
            "bagging_freq": 1,
            "feature_fraction": self.column_share,
            "max_bin": self.bins,
            "metric": "binary_logloss",
            "seed": seed,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,  # sums of floats are the same only in the same order
            "verbose": -1,
        }


def thinned(rows: Rows, score: FloatVector, params: TreeParams, seed: int) -> Rows:
    """Every positive, the negatives that are hard to tell from one, and some of the others, which weigh the more.

    Parameters
    ----------
    rows : to learn from.
    score : of every row of the history, what the online model said at the time: negatives it scored high are hard.
    seed : of the draw.

    Raises
    ------
    ModelError
        When there are no positives or no negatives.
    """
    negatives = np.flatnonzero(~rows.y)
    positives = len(rows) - len(negatives)
    if positives == 0 or len(negatives) == 0:
        raise ModelError(
            f"{positives} positives and {len(negatives)} negatives to learn from, at least one of each is needed: "
            "wait for labels, or lengthen window or shorten validation in [full.training]"
        )
    said = score[rows.row[negatives]]
    # Ties at the quantile are easy, so that a constant score leaves something to thin.
    easy = negatives[said <= np.quantile(said, 1.0 - params.hard_share)]
    share = max(params.easy_per_positive * positives, params.easy_rows) / max(len(easy), 1)
    if share >= 1.0:
        return rows
    weight, kept = rows.weight.copy(), np.ones(len(rows), dtype=np.bool_)
    weight[easy] /= share  # the logit stays that of all rows
    kept[easy] = np.random.default_rng(seed).random(len(easy)) < share
    return Rows(rows.row[kept], rows.y[kept], weight[kept])


MODEL_FILE = "model.txt"
"""LightGBM's own text form, for explaining a model and for comparing two."""


class TreesBuilder:
    """A ``weir.models.types.Builder`` of kind ``trees``.

    Parameters
    ----------
    params : what is grown and from which rows.
    """

    kind = "trees"

    def __init__(self, params: TreeParams | None = None) -> None:
        self.params = params if params is not None else TreeParams()

    def build(
        self,
        data: TrainingSet,
        work: Path,
        seed: int,
        *,
        warm_start: Mapping[str, bytes] | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Built:
        """Train on ``data``; the same data and seed give the same bytes.

        Parameters
        ----------
        work, warm_start : not used: trees are always grown anew, in seconds.
        stop : asked after every tree; when true, raises ``TrainingStoppedError``.

        Raises
        ------
        ModelError
            When there are no positives or no negatives to learn from.
        """
        del work, warm_start
        history = data.history
        if not history.inputs:
            raise ModelError("the history has 0 input columns, trees need at least one: name some in [full] inputs")
        learn, valid = thinned(train_rows(data), history.score, self.params, seed), validation_rows(data)
        booster = self._grow(history, learn, valid, seed, _watch(self.params.rounds, progress, stop))
        metrics = {"rounds": float(booster.num_trees()), "rows": float(len(learn)), "positives": float(learn.y.sum())}
        if _both(valid):
            said = booster.predict(history.x[valid.row], raw_score=True)
            metrics |= {f"valid_{name}": value for name, value in quality(valid.y, said, valid.weight).items()}
        files = {MODEL_FILE: booster.model_to_string().encode()}
        return Built(
            self.kind, to_onnx(booster, history.inputs), history.inputs, files=files, metrics=metrics, seed=seed
        )

    def _grow(self, history: History, learn: Rows, valid: Rows, seed: int, after: Callable[[Any], None]) -> Any:
        """Grow a booster up to its best number of trees; it keeps all of them where nothing can be validated."""
        import lightgbm as lgb

        names, params, rounds = plain_names(history.inputs), self.params.lightgbm(seed), self.params.rounds
        quiet = {"verbose": -1}
        train = lgb.Dataset(history.x[learn.row], learn.y, weight=learn.weight, feature_name=names, params=quiet)
        if not _both(valid):
            return lgb.train(params, train, rounds, callbacks=[after])
        # In the bins of what is learned from, as LightGBM evaluates by no others.
        held = lgb.Dataset(history.x[valid.row], valid.y, weight=valid.weight, reference=train)
        # By log loss, which moves with every tree; a ranking would be too coarse to stop by.
        ends = lgb.early_stopping(self.params.patience, verbose=False)
        booster = lgb.train(params, train, rounds, [held], ["valid"], callbacks=[after, ends])
        # A booster holds the trees after its best, too; written out and read again, it has only those up to it.
        return lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def plain_names(inputs: Sequence[str]) -> list[str]:
    """Names of columns as LightGBM takes them; the graph goes by their order.

    >>> plain_names(["amount", "Price [EUR]"])
    ['amount', 'Price__EUR_']
    """
    # LightGBM refuses what its JSON would have to escape, and makes underscores of spaces itself.
    plain = [re.sub(r'[\s",:\[\]{}]', "_", name) for name in inputs]
    return plain if len(set(plain)) == len(plain) else [f"column_{i}" for i in range(len(inputs))]


def _both(rows: Rows) -> bool:
    """Say whether there are positives and negatives."""
    return bool(rows.y.any() and not rows.y.all())


def _watch(rounds: int, progress: Progress | None, stop: Callable[[], bool]) -> Callable[[Any], None]:
    """Make the callback that LightGBM calls after every tree."""

    def after(env: Any) -> None:
        if progress is not None:
            progress("trees", env.iteration + 1, rounds)
        if stop():
            raise TrainingStoppedError(f"asked to stop after {env.iteration + 1} of {rounds} trees")

    return after
