"""Settings of the boosted trees; the defaults were chosen on the fraud handbook's validation weeks (docs/LOG.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
