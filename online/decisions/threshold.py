"""Where to draw the line: by costs, alerts a day, precision, or fixed. It knows scores, not entities or alerts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import msgspec
import numpy as np
from pydantic import Field, model_validator

from weir.online.batch import BoolVector, FloatVector
from weir.online.decisions.histogram import bin_edges, bin_of, tail
from weir.online.errors import UNREADABLE, StateError
from weir.online.frozen import FrozenModel

DAY_S = 86400.0
NEVER = math.inf
"""A threshold that no score reaches."""


class FixedThreshold(FrozenModel):
    """A constant."""

    kind: Literal["fixed"] = "fixed"
    value: float = Field(ge=0.0, le=1.0)


class CostThreshold(FrozenModel):
    """Alert when that is expected to be cheaper than not to; needs calibrated probabilities.

    An alert costs ``review``, and ``false_positive`` when nothing is wrong; no alert costs ``false_negative`` when
    something is. Alerting is cheaper from ``p = (false_positive + review) / (false_positive + false_negative)`` on
    (Elkan, "The foundations of cost-sensitive learning", IJCAI 2001).
    """

    kind: Literal["cost"] = "cost"
    false_positive: float = Field(ge=0.0, allow_inf_nan=False)
    false_negative: float = Field(gt=0.0, allow_inf_nan=False)
    review: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _worth_it(self) -> Self:
        if self.review >= self.false_negative:
            raise ValueError(
                f"review={self.review:g} costs no less than the false_negative={self.false_negative:g} it prevents: no "
                "alert would ever pay; correct the costs"
            )
        return self

    @property
    def value(self) -> float:
        """The Bayes threshold on the probability."""
        return (self.false_positive + self.review) / (self.false_positive + self.false_negative)


class BudgetThreshold(FrozenModel):
    """As many scores over the threshold as the budget allows, by a fading histogram of recent scores.

    Before ``min_scores`` scores and ``min_days`` of event time nothing is over it. A gap in the stream counts for a day
    at most, and for no longer than the stream has been seen: time without events earns no alerts for later. D days of
    event time, gaps counted so, have about D days' budget of rows over it, and never more than ``burst`` beside that,
    whatever scores, pauses and clocks do: rows beyond are under the line until the time has earned them.
    Rows are counted, not opened alerts: repeats of an open alert use up budget too, so the number of alerts stays at or
    below it.
    """

    kind: Literal["budget"] = "budget"
    alerts_per_day: float = Field(gt=0.0, allow_inf_nan=False)
    half_life_days: float = Field(default=7.0, gt=0.0, allow_inf_nan=False)
    min_scores: int = Field(default=1000, ge=1)
    min_days: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    bins: int = Field(default=2048, ge=16, le=65536)

    @property
    def burst(self) -> float:
        """How many rows may be over the threshold at once: what four days earn, and ten."""
        return 4.0 * self.alerts_per_day + 10.0


class PrecisionThreshold(FrozenModel):
    """The lowest threshold at which labelled scores, fading with event time, reach a precision.

    Considered are thresholds with at least ``min_labels`` labels (by faded count) over them. While there is none, the
    ``fallback`` decides; without one, nothing is over the threshold.
    """

    kind: Literal["precision"] = "precision"
    precision: float = Field(gt=0.0, lt=1.0)
    half_life_days: float = Field(default=30.0, gt=0.0, allow_inf_nan=False)
    min_labels: int = Field(default=30, ge=1)
    fallback: BudgetThreshold | None = None
    bins: int = Field(default=2048, ge=16, le=65536)


ThresholdPolicy = Annotated[
    FixedThreshold | CostThreshold | BudgetThreshold | PrecisionThreshold, Field(discriminator="kind")
]
"""What a task file may say under ``[decision.threshold]``, told apart by ``kind``."""


_NUMBERS = (
    "_threshold", "_watermark", "_refreshed_at", "_rows", "_seen", "_started_at", "_exposure_days",
)  # fmt: skip
# What a snapshot holds of a threshold, in this order: numbers, the pending histogram, the faded ones.
_COUNTS = ("_scores", "_positives", "_negatives", "_labels")
_OLD = len(_NUMBERS) + 1 + len(_COUNTS)
# What was added later, and what it is in older ones.
_ADDED: dict[str, float] = {"_by_budget": True, "_lived_s": 0.0, "_paid_s": 0.0}


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
        self._threshold = policy.value if isinstance(policy, FixedThreshold | CostThreshold) else NEVER
        bins = getattr(policy, "bins", 16)
        self._edges = bin_edges(bins)
        self._watermark = -math.inf
        self._refreshed_at = 0.0
        self._rows = 0  # since the last boundary
        self._seen = 0
        self._started_at = 0.0
        self._exposure_days = 0.0
        self._by_budget = self._budget is not None
        self._lived_s = self._paid_s = 0.0
        """Event time, a day of each gap at most, and up to where the rows over the threshold have used it up."""
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

    def thresholds(self, ts: FloatVector, score: FloatVector) -> FloatVector:
        """Return the threshold in force at each row and take the rows in.

        Parameters
        ----------
        ts : ``(n,) float64`` event time at each row, epoch seconds; the largest so far counts. Minus infinity while it
            is not known: such rows are counted, and nothing is over the threshold by them.
        score : ``(n,) float64`` probabilities; NaN counts as 0.
        """
        out = np.full(len(ts), self._threshold)
        if not self._adaptive or len(ts) == 0:
            return out
        times = np.maximum.accumulate(np.concatenate(([self._watermark], ts)))
        marks = times[1:]
        if self._watermark == -math.inf < marks[-1]:
            self._refreshed_at = self._started_at = float(marks[marks > -math.inf][0])
        score = np.where(score == score, score, 0.0)
        index, lived = bin_of(score, self._edges), self._lived_until(times)
        start, n = 0, len(ts)
        while start < n:
            if self._due(float(marks[start])):
                self._fade_in(float(marks[start]))
            by_time = int(np.searchsorted(marks, self._refreshed_at + self.every_s))
            by_rows = start + self.every_rows - self._rows
            end = min(n, max(min(by_rows, by_time), start + 1))
            out[start:end] = self._threshold
            if self._by_budget:
                self._hold_back(lived[start:end], score[start:end], out[start:end])
            self._pending += np.bincount(index[start:end], minlength=len(self._pending))
            self._rows += end - start
            self._seen += end - start
            start = end
        self._watermark = float(marks[-1])
        return out

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

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        counts = [array.tobytes() for array in (self._pending, *(getattr(self, name) for name in _COUNTS))]
        numbers, added = ([getattr(self, name) for name in names] for names in (_NUMBERS, _ADDED))
        return msgspec.msgpack.encode([self.policy.kind, len(self._pending), *numbers, *counts, *added])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``StateError`` when it is of another policy."""
        try:
            kind, bins, *held = msgspec.msgpack.decode(state, type=list[Any])
            numbers = msgspec.convert(held[: len(_NUMBERS)], list[int | float])
            pending, *counts = msgspec.convert(held[len(_NUMBERS) : _OLD], list[bytes])
            added = _ADDED | dict(zip(_ADDED, msgspec.convert(held[_OLD:], list[bool | int | float]), strict=False))
        except (*UNREADABLE, ValueError) as error:
            raise StateError(f"not a snapshot of a threshold: {error}") from error
        if (kind, bins) != (self.policy.kind, len(self._pending)):
            raise StateError(
                f"the snapshot is of kind {kind!r} with {bins} bins, this threshold of {self.policy.kind!r} "
                f"with {len(self._pending)}; start it anew"
            )
        fixed = {} if self._adaptive else {"_threshold": self._threshold}
        self.__dict__.update(dict(zip(_NUMBERS, numbers, strict=True)) | added | fixed)
        self._by_budget = bool(self._by_budget) and self._budget is not None
        self._pending = np.frombuffer(pending, dtype=np.int64).copy()
        self.__dict__.update(zip(_COUNTS, (np.frombuffer(each).copy() for each in counts), strict=True))

    def _lived_until(self, times: FloatVector) -> FloatVector:
        """Seconds lived at each of ``times`` but the first, a day of each gap at most; cuts change no bit of it."""
        if times[0] > -math.inf:
            gaps = np.minimum(np.diff(times), DAY_S)
        else:
            with np.errstate(invalid="ignore"):  # before the time is known it is infinitely early
                gaps = np.nan_to_num(np.minimum(np.diff(times), DAY_S), nan=0.0)
        lived = np.cumsum(np.concatenate(([self._lived_s], gaps)))[1:]
        self._lived_s = float(lived[-1])
        return lived

    def _hold_back(self, lived: FloatVector, score: FloatVector, out: FloatVector) -> None:
        """In place: nothing reaches the threshold where the rows over it are a whole burst ahead of the time."""
        assert self._budget is not None
        a_row, burst = DAY_S / self._budget.alerts_per_day, self._budget.burst
        for i in np.flatnonzero(score >= out).tolist():
            if self._paid_s - lived[i] > (burst - 1.0) * a_row:
                out[i] = NEVER
            else:
                self._paid_s = max(self._paid_s, float(lived[i])) + a_row

    def _due(self, mark: float) -> bool:
        full = self._rows >= self.every_rows
        return mark > -math.inf and (full or mark >= self._refreshed_at + self.every_s)

    def _fade_in(self, mark: float) -> None:
        """Close the rows since the last boundary at time ``mark`` and compute the threshold anew."""
        days = self._lived(mark - self._refreshed_at) / DAY_S
        if self._budget is not None:
            fade = 0.5 ** (days / self._budget.half_life_days)
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
        mass = np.cumsum(self._scores[::-1])  # of the most certain bin, of the two most certain, ...
        within = int(np.searchsorted(mass, policy.alerts_per_day * self._exposure_days, side="right"))
        if not within:
            return 1.0  # more certain scores than the budget: only scores of exactly 1 are over
        return float(self._edges[len(mass) - within])

    def _of_precision(self, policy: PrecisionThreshold) -> float | None:
        positives = tail(np.maximum(self._positives, 0.0))
        negatives = tail(np.maximum(self._negatives, 0.0))
        enough = tail(self._labels) >= policy.min_labels
        met = enough & (positives >= policy.precision * (positives + negatives)) & (positives > 0.0)
        return float(self._edges[int(np.argmax(met))]) if met.any() else None
