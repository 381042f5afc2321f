"""Logs the rows of small batches for their labels together: a call of the joiner costs more than a row.

It waits only where nobody can tell: while no label came before its row, and none falls due by time alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from weir.online.batch import FloatVector, ScoredBatch, side_by_side
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinResult

TOGETHER: Final = 256
"""So many rows are logged at once; a larger batch is by itself."""


class RowLog:
    """What a joiner is told of scores, perhaps later: whoever asks for the joiner finds every row in it."""

    def __init__(self, joiner: LabelJoiner) -> None:
        self._joiner = joiner
        self._held: list[tuple[ScoredBatch, FloatVector, FloatVector]] = []
        self._rows_held = 0

    @property
    def joiner(self) -> LabelJoiner:
        """The joiner, with every row that was logged."""
        self.settle()
        return self._joiner

    def log(
        self, scored: ScoredBatch, thresholds: FloatVector, marks: FloatVector, ripens_s: FloatVector | None, *,
        between: bool,
    ) -> JoinResult:  # fmt: skip
        """As `LabelJoiner.log`; ``thresholds (n,)`` are those that rows met. The caller changes no array any more."""
        if between or not self._may_wait(scored):
            self.settle()
            return self._tell(scored, thresholds, marks, ripens_s, between=between)
        self._held.append((scored, thresholds, marks))
        self._rows_held += len(scored)
        if self._rows_held >= TOGETHER:
            self.settle()
        return self._joiner.no_pairs

    def settle(self) -> None:
        """Let no row wait any more."""
        if self._held:
            held, self._held, self._rows_held = self._held, [], 0
            scored, thresholds, marks = held[0]
            if len(held) > 1:
                batches, *numbers = zip(*held, strict=True)
                scored, (thresholds, marks) = ScoredBatch.concat(batches), map(np.concatenate, numbers)
            self._tell(scored, thresholds, marks, None)

    def _may_wait(self, scored: ScoredBatch) -> bool:
        joiner = self._joiner
        by_time = joiner.policy.negative_after_s is not None or joiner.matures
        # What was lent is for this very call, where rows are read back.
        return not by_time and not joiner.waiting and scored.offsets is None and len(scored) < TOGETHER

    def _tell(
        self, scored: ScoredBatch, thresholds: FloatVector, marks: FloatVector, ripens_s: FloatVector | None, *,
        between: bool = False,
    ) -> JoinResult:  # fmt: skip
        noted = side_by_side(thresholds, scored.masks)
        given = scored.predictions, noted, scored.entities, marks, scored.offsets, ripens_s
        return self._joiner.log(*given, between=between)
