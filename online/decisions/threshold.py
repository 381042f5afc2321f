"""Where to draw the line: a policy over a stream of scores. It knows scores, not entities or alerts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np

from weir.online.batch import BoolVector, FloatVector, IntVector, filled
from weir.online.decisions.alert_cap import DAY_S, AlertCap
from weir.online.decisions.histogram import LIMIT, bin_edges, bin_of, tail
from weir.online.decisions.threshold_policy import BudgetThreshold, CostThreshold, FixedThreshold, PrecisionThreshold
from weir.online.errors import UNREADABLE, StateError

NEVER = math.inf
"""A threshold that no score reaches."""
Decide = Callable[[int, int, FloatVector], None]
"""Opens the alerts of rows ``start`` to ``stop`` by their thresholds, and makes those ``NEVER`` that may open none."""

_NUMBERS = (
    "_threshold", "_watermark", "_refreshed_at", "_rows", "_seen", "_started_at", "_exposure_days",
)  # fmt: skip
# What a snapshot holds of a threshold, in this order: numbers, the pending histogram, the faded ones.
_COUNTS = ("_scores", "_positives", "_negatives", "_labels")
_OLD = len(_NUMBERS) + 1 + len(_COUNTS)
# What was added later, and what it is in older ones; two that were rows' own budget are no longer read.
_ADDED: dict[str, float] = {"_by_budget": True, "_unused": 0.0, "_unused_too": 0.0, "_pull": 0.0, "_limit": LIMIT}
PULL_TO, PULL_A_DAY, MOST_PULL = 0.93, 4.0, 7.0
"""How much of the cap is to be used, and how strongly what is not moves the line, in log of rows a day; its limit."""
JUMP, JUMP_ROWS, KEPT_DAYS = 3.0, 10.0, 0.25
"""So many times as many rows over the line as it was made for, and some, are a new level; so are so few of those that
came. Of what was before few days count then."""
UNUSED, FASTER = 0.75, 8.0
"""While so much of the cap is unused, the past fades so many times as fast: the level may have fallen."""


@dataclass(slots=True)
class _Rows:
    """Rows of one call, and how many of them a threshold has taken."""

    marks: FloatVector
    bins: IntVector
    worth: FloatVector | None
    taken: int = 0


class Threshold:
    """A policy's threshold over a stream of scores.

    It is computed anew at boundaries that depend on the rows alone, from what came before the boundary. So the
    threshold of a row never depends on how rows were cut into calls, nor on its own score.

    Parameters
    ----------
    policy : of the task.
    every_rows, every_s : a boundary is the first row after so many rows or so many seconds of event time.

    Examples
    --------
    >>> at = Threshold(CostThreshold(false_positive=10, false_negative=90))
    >>> at.thresholds(np.array([0.0, 1.0]), np.array([0.05, 0.5])).tolist()
    [0.1, 0.1]
    """

    def __init__(
        self,
        policy: FixedThreshold | CostThreshold | BudgetThreshold | PrecisionThreshold,
        *,
        every_rows: int = 512,
        every_s: float = 3600.0,
    ) -> None:
        self.policy, self.every_rows, self.every_s = policy, every_rows, every_s
        self._budget = policy if isinstance(policy, BudgetThreshold) else getattr(policy, "fallback", None)
        self._adaptive = isinstance(policy, BudgetThreshold | PrecisionThreshold)
        self._threshold = NEVER
        if isinstance(policy, FixedThreshold):
            self._threshold = policy.value
        elif isinstance(policy, CostThreshold) and policy.value is None:
            self._threshold = float(policy.line())
        self._cap = None if self._budget is None else AlertCap(self._budget.limits)
        bins = getattr(policy, "bins", 16)
        # Losses, in any currency, reach further than odds: twice the bins, each as wide as without.
        wide = 2 if self._budget is not None and self._budget.value is not None else 1
        bins *= wide
        self._limit = wide * LIMIT
        self._edges = bin_edges(bins, self._limit)
        self._watermark = -math.inf
        self._refreshed_at = 0.0
        self._rows = 0  # since the last boundary
        self._seen = 0
        self._started_at = 0.0
        self._exposure_days = 0.0
        self._by_budget = self._budget is not None
        self._unused = self._unused_too = 0.0
        self._pull = 0.0
        """Log of how many more rows than alerts are to be over the line, so that the alerts come to the budget."""
        # Whole numbers until a boundary fades them in: sums of whole numbers do not depend on cuts.
        self._pending = np.zeros(bins, dtype=np.int64)
        self._scores = np.zeros(bins)
        self._positives = np.zeros(bins)
        self._negatives = np.zeros(bins)
        self._labels = np.zeros(bins)

    @property
    def threshold(self) -> float:
        """The threshold in force: a score at or over it is an alert; infinite while nothing is to alert."""
        return self._threshold

    def admit(self, mark: float, ts: float, row: int = 0) -> bool:  # noqa: ARG002 - thresholds by segment need the row
        """Take in an alert that is to open at watermark ``mark`` by a row of time ``ts``; whether the cap lets it."""
        return self._cap is None or not self._by_budget or self._cap.admit(mark, ts)

    def thresholds(
        self, ts: FloatVector, score: FloatVector, decide: Decide | None = None, amount: FloatVector | None = None
    ) -> FloatVector:
        """Return the threshold in force at each row and take the rows in.

        Parameters
        ----------
        ts : ``(n,) float64`` event time at each row, epoch seconds; the largest so far counts. Minus infinity while it
            is not known: such rows are counted, and nothing is over the threshold by them.
        score : ``(n,) float64`` probabilities; NaN counts as 0.
        decide : called for rows in order, once their thresholds are there; it asks ``admit`` before an alert opens.
            Without it each row over the threshold is an alert.
        amount : ``(n,) float64``, for policies with ``value``; no row without an amount is over the threshold by them.
        """
        n, start = len(ts), 0
        out = filled(n, self._threshold)
        if not score.dot(score) >= 0.0:  # as of NaN
            score = np.where(score == score, score, 0.0)
        if decide is None:
            decide = partial(self._each_row, np.maximum.accumulate(ts), score)
        if not self._adaptive or n == 0:
            if isinstance(self.policy, CostThreshold) and self.policy.value is not None:
                assert amount is not None
                out = self.policy.line(amount)
                out[out > 1.0] = NEVER
            decide(0, n, out)
            return out
        rows = self.begin(ts, score, amount)
        while start < n:
            end = self.upto(rows)
            out[start:end] = self.lines(rows, end)
            decide(start, end, out)
            self.take(rows, end)
            start = end
        return out

    def begin(self, ts: FloatVector, score: FloatVector, amount: FloatVector | None) -> _Rows:
        """Make rows ready, as of ``thresholds``, to be taken boundary by boundary: ``upto``, ``lines``, ``take``."""
        marks = np.maximum(np.maximum.accumulate(ts), self._watermark)
        if len(marks) and self._watermark == -math.inf < marks[-1]:
            # The first time that is known, not 0: else the years since 1970 would be time in which nothing came.
            self._refreshed_at = self._started_at = float(marks[marks > -math.inf][0])
        worth = None if self._budget is None or self._budget.value is None else amount
        return _Rows(marks, bin_of(score if worth is None else _rank(score, worth), self._edges), worth)

    def upto(self, rows: _Rows) -> int:
        """Where the next boundary is: up to there one line holds. What came before the first row is closed."""
        if self._due(float(rows.marks[rows.taken])):
            self._fade_in(float(rows.marks[rows.taken]))
        by_time = int(rows.marks.searchsorted(self._refreshed_at + self.every_s))
        by_rows = rows.taken + self.every_rows - self._rows
        # One row at least: before a time is known rows are counted beyond ``every_rows``, and no boundary closes them.
        return min(len(rows.marks), max(min(by_rows, by_time), rows.taken + 1))

    def lines(self, rows: _Rows, end: int) -> FloatVector | float:
        """The threshold of each row not taken yet up to ``end``, or of all of them."""
        if rows.worth is None:
            return self._threshold
        return self._of_amounts(rows.worth[rows.taken : end])

    def take(self, rows: _Rows, end: int) -> None:
        """Count the rows up to ``end``, which have been decided on."""
        self._pending += np.bincount(rows.bins[rows.taken : end], minlength=len(self._pending))
        self._rows += end - rows.taken
        self._seen += end - rows.taken
        rows.taken, self._watermark = end, float(rows.marks[end - 1])

    def update_labels(
        self, score: FloatVector, y: BoolVector, weight: FloatVector, correction: BoolVector | None = None
    ) -> None:
        """Take labelled scores in; they count from the next boundary on.

        A correction also takes back as much of the other value. Only ``precision`` policies use labels.
        """
        if not isinstance(self.policy, PrecisionThreshold):
            return
        index = bin_of(np.nan_to_num(score, nan=0.0), self._edges)
        redone = np.zeros(len(y), dtype=np.bool_) if correction is None else correction
        taken_back = np.where(redone, -weight, 0.0)
        # add.at adds one by one in order: the sums do not depend on cuts, as those of bincount would.
        np.add.at(self._positives, index, np.where(y, weight, taken_back))
        np.add.at(self._negatives, index, np.where(y, taken_back, weight))
        np.add.at(self._labels, index, np.where(redone, 0.0, 1.0))

    def thin(self, part: float) -> None:
        """From now on it sees only this part of the stream that it saw: so many scores a day less are expected."""
        self._scores = self._scores * part

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        counts = [array.tobytes() for array in (self._pending, *(getattr(self, name) for name in _COUNTS))]
        numbers, added = ([getattr(self, name) for name in names] for names in (_NUMBERS, _ADDED))
        cap = b"" if self._cap is None else self._cap.snapshot()
        return msgspec.msgpack.encode([self.policy.kind, len(self._pending), *numbers, *counts, *added, cap])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of another policy."""
        try:
            kind, bins, *held = msgspec.msgpack.decode(state, type=list[Any])
            numbers = msgspec.convert(held[: len(_NUMBERS)], list[int | float])
            pending, *counts = msgspec.convert(held[len(_NUMBERS) : _OLD], list[bytes])
            cap = held.pop() if isinstance(held[-1], bytes) and len(held) > _OLD else b""
            added = _ADDED | dict(zip(_ADDED, msgspec.convert(held[_OLD:], list[bool | int | float]), strict=False))
        except (*UNREADABLE, ValueError) as error:
            raise StateError(f"not a snapshot of a threshold: {error}") from error
        if added.pop("_limit") < self._limit:  # of a version before, whose bins are those in the middle
            pending, *counts = (_widened(each) for each in (pending, *counts))
            bins *= 2
        if (kind, bins) != (self.policy.kind, len(self._pending)):
            raise StateError(
                f"the snapshot is of kind {kind!r} with {bins} bins, this threshold of {self.policy.kind!r} "
                f"with {len(self._pending)}; start it anew"
            )
        # A line that the task file gives is that of the file now, not of the file that the snapshot was made under.
        fixed = {} if self._adaptive else {"_threshold": self._threshold}
        self.__dict__.update(dict(zip(_NUMBERS, numbers, strict=True)) | added | fixed)
        self._by_budget = bool(self._by_budget) and self._budget is not None
        if self._cap is not None and cap:
            self._cap.restore(cap)
        self._pending = np.frombuffer(pending, dtype=np.int64).copy()
        self.__dict__.update(zip(_COUNTS, (np.frombuffer(each).copy() for each in counts), strict=True))

    def _each_row(self, ts: FloatVector, score: FloatVector, start: int, stop: int, out: FloatVector) -> None:
        """Each row over its threshold is an alert."""
        for row in (start + np.flatnonzero(score[start:stop] >= out[start:stop])).tolist():
            mark = max(self._watermark, float(ts[row]))
            if not self.admit(mark, mark):
                out[row] = NEVER

    def _of_amounts(self, amount: FloatVector) -> FloatVector:
        """The line of expected loss as one of probability for each row; ``NEVER`` where its amount cannot reach it."""
        assert self._budget is not None
        if not self._threshold < 1.0:
            return np.full(len(amount), NEVER)
        # The inverse of `_rank`: the histogram, and so the line, is on its scale.
        loss = self._threshold / (1.0 - self._threshold)
        out = np.maximum(loss / np.maximum(amount, 1e-300), self._budget.min_score)
        return np.where(out > 1.0, NEVER, out)

    def _due(self, mark: float) -> bool:
        full = self._rows >= self.every_rows
        return mark > -math.inf and (full or mark >= self._refreshed_at + self.every_s)

    def _fade_in(self, mark: float) -> None:
        """Close the rows since the last boundary at time ``mark`` and compute the threshold anew."""
        days = self._lived(mark - self._refreshed_at) / DAY_S
        if self._budget is not None:
            fade = 0.5 ** (days / self._budget.half_life_days * self._follow(mark, days))
            self._exposure_days = self._exposure_days * fade + days
            self._scores = self._scores * fade + self._pending
        if isinstance(self.policy, PrecisionThreshold):
            fade = 0.5 ** (days / self.policy.half_life_days)
            for values in (self._positives, self._negatives, self._labels):
                values *= fade
        self._pending[:] = 0
        self._refreshed_at, self._rows = mark, 0
        self._threshold = self._compute(mark)

    def _lived(self, seconds: float) -> float:
        """How much of the time since the last boundary counts: of a gap in the stream a day at most.

        Nothing could be over the threshold in it, so it earns no alerts for later, and what was learned before it is
        as true as it was. Nor does a gap count for longer than the stream has been seen: one clock that was never set
        before the first row is no day of experience.
        """
        seen = self._exposure_days * DAY_S if self._budget is not None else DAY_S
        lived = min(seconds, max(min(DAY_S, seen), self.every_s))
        self._started_at += seconds - lived
        return lived

    def _compute(self, mark: float) -> float:
        if isinstance(self.policy, PrecisionThreshold):
            found = self._of_precision(self.policy)
            if found is not None:
                self._by_budget = False
                return found
        self._by_budget = self._budget is not None
        return NEVER if self._budget is None else self._of_budget(self._budget, mark)

    def _of_budget(self, policy: BudgetThreshold, mark: float) -> float:
        days = (mark - self._started_at) / DAY_S
        if self._seen < policy.min_scores or days < policy.min_days or self._exposure_days <= 0.0:
            return NEVER
        if np.count_nonzero(self._scores) < 2:
            return NEVER  # all scores are alike, as before anything is learned: which of them would be the alerts?
        mass = np.cumsum(self._scores[::-1])  # of the most certain bin, of the two most certain, ...
        wanted = self._a_day(policy) * math.exp(self._pull) * self._exposure_days
        within = int(np.searchsorted(mass, wanted, side="right"))
        if (mass[within - 1] if within else 0.0) < 0.5 * math.floor(wanted) and within < len(mass):
            within += 1  # many scores are one and the same: the first of them are the alerts
        line = float(self._edges[len(mass) - within]) if within else 1.0
        return max(line, self._floor(policy))

    def _floor(self, policy: BudgetThreshold) -> float:
        """No alert is as improbable as the mean of all scores: a budget may be larger than the stream."""
        mean = float(self._scores @ self._edges[:-1]) / max(float(self._scores.sum()), 1e-300)
        return mean if policy.value else max(mean, policy.min_score)

    def _a_day(self, policy: BudgetThreshold) -> float:
        return min(alerts * DAY_S / seconds for alerts, seconds in policy.limits)

    def _follow(self, mark: float, days: float) -> float:
        """Lower the line where the cap is not used up, and forget the past where the level of scores has changed.

        Returns how many times as fast as usual the past fades.
        """
        if self._threshold == NEVER or self._cap is None or self._budget is None or not self._by_budget:
            return 1.0
        unused = 1.0 - self._cap.used(mark)
        missing = unused - (1.0 - PULL_TO)
        if self._threshold <= self._floor(self._budget):
            missing = min(missing, 0.0)  # it cannot fall
        over = int(np.searchsorted(self._edges, self._threshold))
        expected = float(self._scores[over:].sum()) / self._exposure_days * days
        rows, came = (
            float(self._scores[over:].sum() / self._scores.sum() * self._rows),
            float(self._pending[over:].sum()),
        )
        if came > JUMP * expected + JUMP_ROWS or rows > JUMP * came + JUMP_ROWS:
            # Scores and days alike: the rate over the line stays what it was, and only weighs less.
            keep = min(1.0, KEPT_DAYS / self._exposure_days)
            self._scores *= keep
            self._exposure_days *= keep
        # A gap is no time in which alerts were missing: it moves the line no more than two boundaries do.
        step = PULL_A_DAY * missing * min(days, 2.0 * self.every_s / DAY_S)
        self._pull = min(max(self._pull + step, 0.0), MOST_PULL)
        return FASTER if unused > UNUSED else 1.0

    def _of_precision(self, policy: PrecisionThreshold) -> float | None:
        # A correction takes back the whole weight, part of which may have faded: a bin can be below 0.
        positives = tail(np.maximum(self._positives, 0.0))
        negatives = tail(np.maximum(self._negatives, 0.0))
        enough = tail(self._labels) >= policy.min_labels
        met = enough & (positives >= policy.precision * (positives + negatives)) & (positives > 0.0)
        return float(self._edges[int(np.argmax(met))]) if met.any() else None


def _widened(counts: bytes) -> bytes:
    """Counts of bins, eight bytes each, with half as many empty ones on either side."""
    bins = len(counts) // 8
    return bytes(8 * (bins // 2)) + counts + bytes(8 * (bins - bins // 2))


def _rank(score: FloatVector, amount: FloatVector) -> FloatVector:
    """Expected loss on the scale of the histogram: its logarithm takes the place of the log-odds."""
    loss = score * np.maximum(amount, 0.0)
    return loss / (1.0 + loss)
