"""Thins the rows that trees are grown from: most negatives say the same. It knows rows, not trees."""

from __future__ import annotations

import numpy as np

from weir.models.dataset.split import Rows
from weir.models.errors import ModelError
from weir.models.trees.tree_params import TreeParams
from weir.models.types import FloatVector


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
