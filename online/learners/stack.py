"""An online stack: members weighed by their recent prequential loss, corrected by a logistic combiner.

Every row is scored by every member before that member learns it; those scores move the members' exponentially weighted
log losses and the combiner. The stack's log-odds are ``sum_m (share_m + beta_m) * logit_m + bias`` where ``share`` is a
softmax of minus loss / temperature (exponentially weighted average forecaster with forgetting, after Cesa-Bianchi &
Lugosi, "Prediction, Learning, and Games", 2006, ch. 2) and ``beta``, ``bias`` start at 0 and follow SGD (stacking after
Wolpert, Neural Networks 5, 1992). ``combiner_lr = 0`` leaves the shares alone. Members are independent folds, so each
learns a whole block before the next does; results do not depend on cuts. Memory: the members' plus 3 M + 2 numbers.
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
from weir.online.learners.logistic import dot, log_gradient, logit_of, sigmoid_many
from weir.online.learners.state import copy_into, seal_with, unseal_with


@njit(cache=True)
def _shares(loss: FloatVector, temperature: float) -> FloatVector:
    out = np.empty(loss.size)
    best = loss.min()
    total = 0.0
    for m in range(loss.size):
        out[m] = math.exp((best - loss[m]) / temperature)
        total += out[m]
    for m in range(loss.size):
        out[m] /= total
    return out


@njit(cache=True)
def _combine(logits: FloatMatrix, slope: FloatVector, bias: float) -> FloatVector:
    out = np.empty(logits.shape[0])
    for i in range(logits.shape[0]):
        out[i] = dot(0.0, slope, logits[i]) + bias
    return out


@njit(cache=True)
def _fold(
    rows: FloatMatrix,
    learned: IntVector,
    logits: FloatMatrix,
    y: BoolVector,
    weight: FloatVector,
    loss: FloatVector,
    beta: FloatVector,
    head: FloatVector,
    params: FloatVector,
    before: FloatVector,
    scores: FloatVector,
) -> None:
    """Move the state by ``logits (m, M)``, row by row, and combine row i of ``rows`` after the first ``learned[i]``.

    ``loss`` and ``beta`` ``(M,)`` are the members', ``head`` = (bias, rows), ``params`` = (decay, temperature, lr, l2).
    """
    at = 0
    for i in range(logits.shape[0] + 1):
        # By what was lost before row i: a member is not weighed by the row that it is judged on.
        share = _shares(loss, params[1])
        while at < learned.size and learned[at] <= i:
            scores[at] = dot(0.0, share + beta, rows[at]) + head[0]
            at += 1
        if i == logits.shape[0]:
            break
        z = head[0]
        for m in range(beta.size):
            z += (share[m] + beta[m]) * logits[i, m]
        before[i] = z
        sign = 1.0 if y[i] else -1.0
        # A weight w counts as w rows: the old average fades by decay^w.
        keep = params[0] ** weight[i]
        for m in range(beta.size):
            margin = sign * logits[i, m]
            row_loss = math.log1p(math.exp(-margin)) if margin > 0.0 else math.log1p(math.exp(margin)) - margin
            loss[m] = keep * loss[m] + (1.0 - keep) * row_loss
        # One heavy row must not throw the correction of all.
        step = params[2] * min(max(log_gradient(sign, z) * weight[i], -10.0), 10.0)
        for m in range(beta.size):
            beta[m] -= step * logits[i, m] + params[2] * params[3] * beta[m]
        head[0] -= step
        head[1] += 1.0


@dataclass(eq=False, repr=False)
class Stack:
    """A weighted sum of members' log-odds.

    Parameters
    ----------
    features : names of the F columns, the same for every member.
    members : learners built over ``features``; the stack owns them.
    half_life : rows after which a past log loss counts half.
    temperature : log-loss difference that changes a member's share by a factor e; small = trust the best member.
    combiner_lr : SGD step of the logistic correction; 0 turns it off.
    combiner_l2 : pull of the correction towards 0, that is, towards the shares alone.
    logit_bound : members' log-odds are clipped to +- this.
    seed : accepted for uniformity; members carry their own.

    Examples
    --------
    >>> from weir.online.learners.bayesian import BayesianLogistic
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> names = ("a",)
    >>> model = Stack(names, members=(ScaledLogistic(names, lr=0.5), BayesianLogistic(names)))
    >>> x = np.array([[0.0], [1.0]] * 100)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(200))
    >>> [bool(p > 0.5) for p in model.predict_many(x[:2])]
    [False, True]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    members: Sequence[Learner]
    half_life: float = 500.0
    temperature: float = 0.02
    combiner_lr: float = 0.0
    combiner_l2: float = 0.0
    logit_bound: float = 8.0
    seed: int = 0
    kind: ClassVar[str] = "stack"

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("a stack of 0 members: name at least one learner in members")
        for m, member in enumerate(self.members):
            if member.features != self.features:
                raise ValueError(f"member {m} has {len(member.features)} features, the stack {len(self.features)}")
        if self.half_life <= 0 or self.temperature <= 0:
            raise ValueError(f"half_life {self.half_life} and temperature {self.temperature} must be > 0")
        self.logit_bound = float(self.logit_bound)  # compiled code would be made anew for a whole number
        decay = 0.5 ** (1.0 / self.half_life)
        self._params = np.array([decay, self.temperature, self.combiner_lr, self.combiner_l2])
        count = len(self.members)
        self._state: dict[str, NDArray[Any]] = {
            "loss": np.full(count, math.log(2.0)),
            "beta": np.zeros(count),
            "head": np.zeros(2),
        }

    @property
    def shares(self) -> FloatVector:
        """What part of the answer each member's recent loss gives it, ``(M,)``, sums to 1."""
        return np.asarray(_shares(self._state["loss"], self.temperature))

    @property
    def slopes(self) -> FloatVector:
        """Factor on each member's log-odds, ``(M,)``: its share plus the combiner's correction."""
        return np.asarray(self.shares + self._state["beta"])

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        logits = np.empty((x.shape[0], len(self.members)))
        for m, member in enumerate(self.members):
            logits[:, m] = logit_of(member.predict_many(x), self.logit_bound)
        return np.asarray(sigmoid_many(_combine(logits, self.slopes, self._state["head"][0])))

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self.score_and_judge(x[:0], NO_ROWS, x, y, weight)

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        rows, learned, x, y, weight = contiguous(rows, learned, x, y, weight)
        count = len(self.members)
        said, judged = np.empty((len(rows), count)), np.empty((len(x), count))
        for m, member in enumerate(self.members):
            one, other = score_and_judge(member, rows, learned, x, y, weight)
            judged[:, m] = logit_of(other, self.logit_bound)
            if len(rows):
                said[:, m] = logit_of(one, self.logit_bound)
        s, scores, before = self._state, np.empty(len(rows)), np.empty(len(x))
        state = s["loss"], s["beta"], s["head"]
        _fold(said, learned, judged, y, weight, *state, self._params, before, scores)
        return np.asarray(sigmoid_many(scores)), np.asarray(sigmoid_many(before))

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """The members' contributions, each times its slope, ``(n, F)``."""
        out = np.zeros(x.shape)
        for slope, member in zip(self.slopes, self.members, strict=True):
            out += slope * member.contributions(x)
        return out

    def snapshot(self) -> bytes:
        """Learned state of the stack and of every member."""
        members = [member.snapshot() for member in self.members]
        return seal_with(members, self.kind, self.features, self._state)

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, features or other members."""
        arrays, members = unseal_with(len(self.members), state, self.kind, self.features)
        copy_into(self._state, arrays)
        for member, member_state in zip(self.members, members, strict=True):
            member.restore(member_state)
