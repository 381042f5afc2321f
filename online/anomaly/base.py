"""The port of the unsupervised per-entity detectors. State lives in rows that the caller keeps, loads and stores."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class AnomalyDetector(Protocol):
    """Scores each value of many independent series before it learns from it.

    The state of one series is one row of ``state_width`` float64; a row of zeros is a series not seen yet. The caller
    owns the rows (they are what the feature store keeps), so a detector holds parameters only.
    """

    state_width: int

    def score_many(
        self,
        state: NDArray[np.float64],
        slots: NDArray[np.int64],
        ts: NDArray[np.float64],
        values: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Score ``values (n,)`` in order, then update the rows in place.

        Parameters
        ----------
        state : (S, state_width) float64, changed in place.
        slots : (n,) int64, the row of ``state`` each value belongs to.
        ts : (n,) float64, event time in epoch seconds; may repeat or step back a little inside a series.
        values : (n,) float64; NaN is a missing value (scored 0, nothing learned).

        Returns
        -------
        (n,) float64 in [0, 1]; 1 is the most anomalous. The result does not depend on how values are cut into calls.
        """
        ...
