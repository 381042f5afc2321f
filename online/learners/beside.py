"""An online learner beside the full model: one answer of both, weighed by how well each has done lately.

The learner does not see the full model's logit: trained on it, it would repeat it, and a mean of the two would gain
less (measured on the fraud handbook, docs/LOG.md). Shares are those of ``weir.online.learners.stack``: a softmax of
minus the recent log loss over a temperature, over the rows for which the full model was known. A row for which it was
not is the learner's alone, so that a full model that is late, or not there yet, costs nothing. Nor is one believed that
nothing is known of yet: it begins with an eighth of the answer, and some hundred labels decide on the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.base import Learner
from weir.online.learners.interleaved import NO_ROWS, contiguous, score_and_judge
from weir.online.learners.logistic import logit_of, sigmoid_many
from weir.online.learners.state import copy_into, seal_with, unseal_with

FULL = ("full.logit", "full.known")
"""Columns of the full model that the learner is not shown; an embedding it is."""
DOUBT = 2.0
"""By so many temperatures is a full model taken to lose more than the learner before a row has told. The gate compared
the first one with a constant, and its labels may be months away."""
DOUBT_ROWS = 500.0
"""As many rows does that count. Means over fewer differ by chance by a temperature."""


@njit(cache=True)
def _share(loss: FloatVector, temperature: float) -> float:
    """The full model's part of the answer."""
    gap = min(max((loss[1] - loss[0]) / temperature, -500.0), 500.0)
    return 1.0 / (1.0 + math.exp(gap))


@njit(cache=True)
def _fold(
    learned: IntVector,
    own: FloatVector,
    full: FloatVector,
    known: BoolVector,
    y: BoolVector,
    weight: FloatVector,
    loss: FloatVector,
    held: FloatVector,
    decay: float,
    temperature: float,
    before: FloatVector,
    shares: FloatVector,
) -> None:
    """Move ``loss (2,)``, of the learner and of the full model, by each row, and say its log-odds ``before``.

    ``held (1,)`` are the rows that the losses are means of, as a part of those that would be if there always were some.
    ``shares (n,)`` are the full model's after the first ``learned (n,)`` of the rows.
    """
    at = 0
    for i in range(own.size + 1):
        while at < learned.size and learned[at] <= i:
            shares[at] = _share(loss, temperature)
            at += 1
        if i == own.size:
            break
        before[i] = own[i]
        # A row without the full model says nothing of how good either is where both answer.
        if not known[i]:
            continue
        before[i] += _share(loss, temperature) * (full[i] - own[i])
        sign = 1.0 if y[i] else -1.0
        keep = decay ** weight[i]
        kept = keep * held[0]
        held[0] = kept + 1.0 - keep
        for m in range(2):
            margin = sign * (full[i] if m else own[i])
            one = math.log1p(math.exp(-margin)) if margin > 0.0 else math.log1p(math.exp(margin)) - margin
            loss[m] += (1.0 - keep) / held[0] * (one - loss[m])


@dataclass(eq=False, repr=False)
class HedgedLearner:
    """A weighted mean of the log-odds of one learner and of the full model.

    Parameters
    ----------
    features : names of the F columns; ``full.logit`` and ``full.known`` are among them where the task has ``[full]``.
    members : one learner, over the other columns.
    half_life : rows (a row of weight w counts as w) after which a past log loss counts half.
    temperature : log-loss difference that changes the odds of the shares by a factor e.
    logit_bound : log-odds of either are clipped to +- this.
    seed : accepted for uniformity; the member carries its own.

    Raises
    ------
    ValueError
        Without the full model's columns, with other than one member, or a parameter that is not above 0.

    Examples
    --------
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = HedgedLearner(("a", *FULL), members=(ScaledLogistic(("a",)),))
    >>> x = np.array([[1.0, 3.0, 1.0], [1.0, 3.0, 0.0]])
    >>> model.predict_many(x).round(2).tolist()
    [0.59, 0.5]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    members: Sequence[Learner]
    half_life: float = 50_000.0
    temperature: float = 0.01
    logit_bound: float = 12.0
    seed: int = 0
    kind: ClassVar[str] = "beside_full"

    def __post_init__(self) -> None:
        if missing := [name for name in FULL if name not in self.features]:
            raise ValueError(f"beside_full needs the columns {', '.join(missing)}: give the task a [full] table")
        if len(self.members) != 1:
            raise ValueError(f"beside_full with {len(self.members)} members; give it one, such as boosted")
        if self.members[0].features != self.member_features(self.features):
            raise ValueError("the member of beside_full sees all columns but those of the full model, in their order")
        for name in ("half_life", "temperature", "logit_bound"):
            if getattr(self, name) <= 0:
                raise ValueError(f"beside_full: {name} = {getattr(self, name)} must be > 0")
        self._logit, self._known = (self.features.index(name) for name in FULL)
        self._own = np.array([k for k, name in enumerate(self.features) if name not in FULL], dtype=np.int64)
        self._decay = 0.5 ** (1.0 / self.half_life)
        self._state: dict[str, NDArray[Any]] = {
            "loss": math.log(2.0) + np.array([0.0, DOUBT * self.temperature]),
            "held": np.array([min(DOUBT_ROWS * (1.0 - self._decay), 1.0)]),
        }

    @staticmethod
    def member_features(features: Sequence[str]) -> tuple[str, ...]:
        """The columns that the member is built over."""
        return tuple(name for name in features if name not in FULL)

    @property
    def share(self) -> float:
        """The full model's part of the answer where it is known, 0 to 1."""
        return float(_share(self._state["loss"], self.temperature))

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``."""
        own = logit_of(self.members[0].predict_many(self._seen(x)), self.logit_bound)
        full, known = self._full(x)
        return np.asarray(sigmoid_many(own + np.where(known, self.share, 0.0) * (full - own)))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self.score_and_judge(x[:0], NO_ROWS, x, y, weight)

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        rows, learned, x, y, weight = contiguous(rows, learned, x, y, weight)
        said, judged = score_and_judge(self.members[0], self._seen(rows), learned, self._seen(x), y, weight)
        own, mine = logit_of(judged, self.logit_bound), logit_of(said, self.logit_bound)
        before, shares, state = np.empty(len(x)), np.empty(len(rows)), (self._state["loss"], self._state["held"])
        _fold(learned, own, *self._full(x), y, weight, *state, self._decay, self.temperature, before, shares)
        full, known = self._full(rows)
        scores = sigmoid_many(mine + np.where(known, shares, 0.0) * (full - mine))
        return np.asarray(scores), np.asarray(sigmoid_many(before))

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """The member's times its share, and the full model's log-odds above the member's reference times its own.

        Both start from one reference; the columns ``(n, F)`` add up to the answer's log-odds above it. Against 0 a full
        model would speak against every event that is not more likely than not, of which a rare kind has few.
        """
        seen, (full, known) = self._seen(x), self._full(x)
        share, own = np.where(known, self.share, 0.0), self.members[0].contributions(seen)
        added = np.cumsum(own, axis=1)[:, -1]  # one after the other: the bits do not depend on the other rows
        reference = logit_of(self.members[0].predict_many(seen), self.logit_bound) - added
        out = np.zeros(x.shape)
        out[:, self._own] = own * (1.0 - share)[:, None]
        out[:, self._logit] = share * (full - reference)
        return out

    def snapshot(self) -> bytes:
        """Learned state of the shares and of the member."""
        return seal_with([self.members[0].snapshot()], self.kind, self.features, self._state)

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, features or member."""
        arrays, (member,) = unseal_with(1, state, self.kind, self.features)
        # Of a version before: it began as if it had seen rows for ever, and goes on so.
        copy_into(self._state, {"held": np.ones(1)} | arrays)
        self.members[0].restore(member)

    def _seen(self, x: FloatMatrix) -> FloatMatrix:
        return np.ascontiguousarray(x[:, self._own])

    def _full(self, x: FloatMatrix) -> tuple[FloatVector, BoolVector]:
        """What the full model said, and where it was known."""
        # As tight as the member's: a full model that is sure and wrong must not lose without bounds.
        full = np.clip(x[:, self._logit], -self.logit_bound, self.logit_bound)
        return np.ascontiguousarray(full), np.ascontiguousarray(x[:, self._known] > 0.0)
