"""Several budgets of one task: each segment of events has a line and a cap of its own. It knows rows, not entities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.decisions.threshold import NEVER, Decide, Threshold
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.errors import UNREADABLE, StateError


class SegmentedThreshold:
    """A ``Threshold`` for each of a policy's ``budgets``, and one for the rest; each sees its own rows alone.

    Parameters
    ----------
    parts : the policies, that of the rest first; see ``BudgetThreshold.parts``.
    budgets : what says which row is of which.
    columns : of the features ``(n, F)``, that of each budget's input.
    """

    def __init__(self, policy: BudgetThreshold, parts: Sequence[BudgetThreshold], columns: Sequence[int]) -> None:
        self.policy, self._columns = policy, columns
        self._parts = [Threshold(part) for part in parts]
        self._of: IntVector = np.zeros(0, dtype=np.int64)
        """Of the rows that are being decided on."""

    @property
    def threshold(self) -> float:
        """The threshold in force for the rest."""
        return self._parts[0].threshold

    def segments(self, x: FloatMatrix) -> IntVector:
        """Which part each of rows ``x (n, F)`` is of, ``(n,)``: 0 is the rest."""
        out = np.zeros(len(x), dtype=np.int64)
        # From the last to the first: an event is of the first budget whose range it is in, which is so written last.
        for number, (each, column) in reversed([*enumerate(zip(self.policy.budgets, self._columns, strict=True), 1)]):
            value, (low, high) = np.nan_to_num(x[:, column]), each.range
            out[(value >= low) & (value < high)] = number
        return out

    def admit(self, mark: float, ts: float, row: int) -> bool:
        """As ``Threshold.admit``, by the budget of row ``row`` of the call of ``thresholds`` that decides on it."""
        return self._parts[int(self._of[row])].admit(mark, ts)

    def thresholds(
        self,
        ts: FloatVector,
        score: FloatVector,
        decide: Decide | None = None,
        amount: FloatVector | None = None,
        *,
        segment: IntVector | None = None,
    ) -> FloatVector:
        """As ``Threshold.thresholds``; ``segment (n,)`` says of which part each row is, 0 for all when not given."""
        segment = np.zeros(len(ts), dtype=np.int64) if segment is None else segment
        self._of, out, start = segment, np.full(len(ts), NEVER), 0
        score = np.where(score == score, score, 0.0)
        decide = partial(self._each_row, np.maximum.accumulate(ts), score) if decide is None else decide
        places = [np.flatnonzero(segment == number) for number in range(len(self._parts))]
        walks = [
            (part, at, part.begin(ts[at], score[at], None if amount is None else amount[at]))
            for part, at in zip(self._parts, places, strict=True)
            if len(at)
        ]
        # Alerts open in the order of all rows, as an open one makes events of its entity free: each run ends where the
        # line of any part may change.
        while start < len(ts):
            walks = [walk for walk in walks if walk[2].taken < len(walk[1])]
            ends = [(at, part.upto(rows)) for part, at, rows in walks]
            end = min((int(at[upto]) if upto < len(at) else len(ts)) for at, upto in ends)
            for part, at, rows in walks:
                upto = int(np.searchsorted(at, end))
                out[at[rows.taken : upto]] = part.lines(rows, upto)
            decide(start, end, out)
            for part, at, rows in walks:
                if (upto := int(np.searchsorted(at, end))) > rows.taken:
                    part.take(rows, upto)
            start = end
        return out

    def _each_row(self, ts: FloatVector, score: FloatVector, start: int, stop: int, out: FloatVector) -> None:
        """Each row over its threshold is an alert."""
        for row in (start + np.flatnonzero(score[start:stop] >= out[start:stop])).tolist():
            if not self.admit(float(ts[row]), float(ts[row]), row):
                out[row] = NEVER

    def update_labels(
        self, score: FloatVector, y: BoolVector, weight: FloatVector, correction: BoolVector | None = None
    ) -> None:
        """Take labelled scores in: budgets have no use for them."""

    def thin(self, part: float) -> None:
        """As ``Threshold.thin``."""
        for each in self._parts:
            each.thin(part)

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack, by the names of budgets."""
        return msgspec.msgpack.encode({n: part.snapshot() for n, part in zip(self._names, self._parts, strict=True)})

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of other budgets."""
        try:
            held = msgspec.msgpack.decode(state, type=dict[str, bytes])
        except UNREADABLE as error:
            raise StateError(f"not a snapshot of several budgets: {error}") from error
        if [*held] != self._names:
            raise StateError(f"the snapshot is of budgets {[*held]}, the task has {self._names}; start them anew")
        for part, kept in zip(self._parts, held.values(), strict=True):
            part.restore(kept)

    @property
    def _names(self) -> list[str]:
        return ["", *(each.name for each in self.policy.budgets)]
