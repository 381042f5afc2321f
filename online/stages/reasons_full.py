"""Puts the inputs behind the full model's logit in the logit's place, from what was logged with the score.

The online model says what the logit added to the log-odds; the full model said, when it scored, which of its inputs
raised the logit, and how much of the rise is due to each (``weir.models.serving.occlusion``). Multiplied, that is what
each input added by way of the full model. It knows columns only: the same prediction gives the same bits, wherever and
whenever it is explained.
"""

from __future__ import annotations

import numpy as np

from weir.online.batch import FloatMatrix, IntVector
from weir.online.full_columns import SEEN
from weir.online.task.full_spec import FullSpec


class FullReasons:
    """Hands the logit's contribution on to the inputs behind it.

    Parameters
    ----------
    spec : of the task; with ``reasons = 0`` nothing is handed on.
    features : all F names that are logged (``weir.online.task.full_spec.features_of``).

    Examples
    --------
    >>> names = ("amount", "hour", "full.logit", "full.known", "full.why0", "full.part0")
    >>> reasons = FullReasons(FullSpec(reasons=1), names)
    >>> x = np.array([[900.0, 3.0, 4.0, 1.0, 1.0, 0.75]])
    >>> reasons.handed_on(x, np.array([[0.5, 0.0, 2.0, 0.0, 0.0, 0.0]])).tolist()
    [[2.0, 0.0, 0.5, 0.0, 0.0, 0.0]]
    """

    def __init__(self, spec: FullSpec | None, features: tuple[str, ...]) -> None:
        at = {name: column for column, name in enumerate(features)}
        count = 0 if spec is None else spec.reasons
        self._pairs = [(at[f"full.why{k}"], at[f"full.part{k}"]) for k in range(count)]
        self._logit = at[SEEN[0]] if count else -1
        # The full model's inputs in their order: all that is logged but its own columns.
        inputs = [column for name, column in at.items() if not name.startswith("full.")]
        self._column: IntVector = np.array(inputs, np.int64)

    def handed_on(self, x: FloatMatrix, contributions: FloatMatrix) -> FloatMatrix:
        """Contributions ``(k, F)`` of rows ``x (k, F)``, their sums unchanged.

        What does not raise the odds is left as it is, and so is what the inputs that are named do not account for.
        """
        if not self._pairs:
            return contributions
        out = contributions.copy()
        added = np.maximum(contributions[:, self._logit], 0.0)
        for why, part in self._pairs:
            number, of_all = x[:, why].astype(np.int64), added * x[:, part]
            # 0 is none; a number beyond the inputs would be of another version of the task.
            rows = np.flatnonzero((number >= 1) & (number <= len(self._column)) & (of_all > 0.0))
            out[rows, self._column[number[rows] - 1]] += of_all[rows]
            out[rows, self._logit] -= of_all[rows]
        return out
