"""``auto``: members of several kinds, mixed so that the answer is about as good as the best of them, and calibrated.

Three steps, each a fold over the rows in the order in which they are learned:

1. Every member scores a row before it learns it. Two more opinions come from these: their mean log-odds, and a
   Bayesian logistic regression on them (stacking after Wolpert, Neural Networks 5, 1992) that starts at the mean.
2. The opinions' shares follow their log loss by the fixed-share forecaster (Herbster & Warmuth, "Tracking the best
   expert", Machine Learning 32, 1998): of a stream whose best opinion changes k times the loss is near that of the best
   sequence. A share below a thousandth counts for nothing until it grows again.
3. A regression on the mixed log-odds, bent above 0 and below -4, and on the probability that they stand for, that
   starts as the identity and forgets: the calibrator. Mixed log-odds are too cautious in the middle and too sure at the
   ends, which bends alone do not mend.

Where labels are late, a member that has just learned a row's near-copies says more of it than it could when the row was
scored. So loss is that of *stand-ins*: members as they were at the last of every ``lag`` rows. It knows matrices, not
time. Memory: that of the members, of the stand-ins (of boosted trees without their buffer), and M^2 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, FloatMatrix, FloatVector, IntVector
from weir.online.jit import njit
from weir.online.learners.base import Learner
from weir.online.learners.bayesian import BayesianLogistic
from weir.online.learners.boosted import BoostedTrees
from weir.online.learners.interleaved import NO_ROWS, contiguous, pieces, score_and_judge, score_between
from weir.online.learners.logistic import logit_of
from weir.online.learners.state import copy_into, seal_with, unseal_with

_BOUND = 10.0
"""Log-odds of an opinion are clipped to +- this."""
_LEAST_SHARE = 1e-3
_BENT = ("all", "above 0", "below -4", "probability")


@njit(cache=True)
def _heard(share: FloatVector) -> FloatVector:
    """Shares without those that are too small to be heard; they sum to 1."""
    out: FloatVector = np.where(share < _LEAST_SHARE, 0.0, share)
    out /= out.sum()
    return out


@njit(cache=True)
def _to_logits(p: FloatMatrix) -> None:
    """Make log-odds of members' probabilities ``(n, M)``, in place."""
    for m in range(p.shape[1]):
        p[:, m] = logit_of(p[:, m], _BOUND)


@njit(cache=True)
def _opinions(logits: FloatMatrix, stacked: FloatVector, out: FloatMatrix) -> None:
    """Members' log-odds, their mean, and the log-odds of ``stacked``: ``(n, M)`` and ``(n,)`` to ``(n, M + 2)``."""
    n, count = logits.shape
    out[:, count + 1] = logit_of(stacked, _BOUND)
    for i in range(n):
        total = logits[i, 0]
        for m in range(count):
            out[i, m] = logits[i, m]
            total += logits[i, m] if m else 0.0
        out[i, count] = total / count


@njit(cache=True)
def _mix(logits: FloatMatrix, stacked: FloatVector, share: FloatVector, out: FloatMatrix) -> None:
    """What the opinions say together, bent for the calibrator: ``out (n, 4)``."""
    heard, mixed = _heard(share), np.zeros(logits.shape[0])
    opinions = np.empty((logits.shape[0], share.size))
    _opinions(logits, stacked, opinions)
    for i in range(mixed.size):
        for k in range(heard.size):
            mixed[i] += heard[k] * opinions[i, k]
    _bend(mixed, out)


@njit(cache=True)
def _bend(z: FloatVector, out: FloatMatrix) -> None:
    for i in range(z.size):
        out[i, 0], out[i, 1], out[i, 2] = z[i], max(z[i], 0.0), min(z[i] + 4.0, 0.0)
        out[i, 3] = 2.0 * math.tanh(z[i] / 2.0)  # of p, 4 p - 2: as steep as the log-odds at one half


@njit(cache=True)
def _fold(
    said: FloatMatrix,
    stacked: FloatVector,
    learned: IntVector,
    judged: FloatMatrix,
    stack_judged: FloatVector,
    y: BoolVector,
    weight: FloatVector,
    share: FloatVector,
    rate: float,
    switch: float,
    before: FloatMatrix,
    scores: FloatMatrix,
) -> None:
    """Mix the opinions on each example, and move ``share (K,)`` by what each opinion lost; and mix rows between them.

    ``said (n, M)`` and ``stacked (n,)`` are of the rows, of which row i is mixed by the shares after the first
    ``learned[i]`` examples; ``judged (m, M)`` and ``stack_judged (m,)`` are of the examples. What they say together is
    bent for the calibrator: ``scores (n, 4)`` and ``before (m, 4)``.
    """
    rows, opinions = np.empty((learned.size, share.size)), np.empty((y.size, share.size))
    _opinions(said, stacked, rows)
    _opinions(judged, stack_judged, opinions)
    loss, at, mixed, own = np.empty(share.size), 0, np.empty(learned.size), np.empty(y.size)
    for i in range(y.size + 1):
        heard = _heard(share)
        while at < learned.size and learned[at] <= i:
            mixed[at] = 0.0
            for k in range(heard.size):
                mixed[at] += heard[k] * rows[at, k]
            at += 1
        if i == y.size:
            break
        own[i] = 0.0
        for k in range(share.size):
            own[i] += heard[k] * opinions[i, k]
            margin = opinions[i, k] if y[i] else -opinions[i, k]
            # The log loss without an exponential that overflows, on either side.
            one = math.log1p(math.exp(-margin)) if margin > 0.0 else math.log1p(math.exp(margin)) - margin
            loss[k] = rate * weight[i] * one
        # Against the least loss: of heavy rows every factor would else be rounded to 0.
        least = loss.min()
        total = 0.0
        for k in range(share.size):
            share[k] *= math.exp(least - loss[k])
            total += share[k]
        for k in range(share.size):
            share[k] = (1.0 - switch) * share[k] / total + switch / share.size
    _bend(mixed, scores)
    _bend(own, before)


@dataclass(eq=False, repr=False)
class Auto:
    """A calibrated mixture of members.

    Parameters
    ----------
    features : names of the F columns, the same for every member.
    members : learners built over ``features``, at least one; it owns them.
    lag : rows between two looks of the stand-ins at their members, and at most a quarter of the rows so far. 0 is for
        labels that are known before the next row: each row is then judged by what the member said just before.
    rate : of the shares, per unit of log loss. At 1 they are a Bayesian's, who is soon sure of one opinion; far below
        they stay equal.
    half_life : rows after which a share that nothing speaks for has lost half of its lead to the others' restarts, and
        after which the stacking regression's evidence counts half; the calibrator's does after a fifth of it.
    seed : accepted for uniformity; members carry their own.

    Examples
    --------
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = Auto(("a",), members=(ScaledLogistic(("a",), lr=0.5), BayesianLogistic(("a",))))
    >>> x = np.array([[0.0], [1.0]] * 100)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(200))
    >>> model.predict_many(x[:2]).round(1).tolist(), round(float(model.shares.sum()), 6)
    ([0.0, 1.0], 1.0)
    """

    features: tuple[str, ...]
    _: KW_ONLY
    members: Sequence[Learner]
    lag: int = 16_000
    half_life: float = 100_000.0
    rate: float = 0.1
    seed: int = 0
    kind: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        if not self.members or self.half_life <= 0.0 or self.rate <= 0.0:
            told = f"{len(self.members)} members, rate = {self.rate} and half_life = {self.half_life}"
            raise ValueError(f"auto: {told}; give at least one member (or leave members out), the others above 0")
        names = tuple(f"member {m}" for m in range(len(self.members)))
        prior = dict.fromkeys(names, 1.0 / len(names))
        half_life = float(self.half_life)
        self._stack = BayesianLogistic(names, prior_std=0.3, half_life=half_life, prior=prior)
        # A looser one follows the first few hundred labels so far that scores of different days no longer compare.
        self._calibrator = self._new_calibrator(_BENT)
        self._switch = 1.0 - 0.5 ** (1.0 / half_life)
        count = len(names) + 2
        self._state: dict[str, NDArray[Any]] = {"share": np.full(count, 1.0 / count), "rows": np.array([0, 1])}
        self._look()

    def _new_calibrator(self, bent: tuple[str, ...]) -> BayesianLogistic:
        """One that is the identity."""
        return BayesianLogistic(bent, prior_std=0.1, half_life=self.half_life / 5, prior={bent[0]: 1.0})

    def _look(self) -> None:
        """Let the stand-ins be the members as they are now."""
        self._stand_ins = [_stand_in(each) for each in (*self.members, self._stack)] if self.lag else []

    @property
    def shares(self) -> FloatVector:
        """What part of the answer is each member's, then their mean's, then the stacking regression's; sums to 1."""
        return np.asarray(_heard(self._state["share"]))

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        logits, mixed = np.empty((len(x), len(self.members))), np.empty((len(x), len(_BENT)))
        for m, member in enumerate(self.members):
            logits[:, m] = member.predict_many(x)
        _to_logits(logits)
        _mix(logits, self._stack.predict_many(logits), self._state["share"], mixed)
        return self._calibrator.predict_many(mixed)

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        self.score_and_judge(x[:0], NO_ROWS, x, y, weight)

    def _looks(self, n: int) -> list[int]:
        """Where ``n`` coming rows are cut, as the stand-ins look at their members there."""
        (rows, due), ends = self._state["rows"].tolist(), list[int]()
        while self.lag and due - rows < n:
            n -= due - rows
            ends.append((ends[-1] if ends else 0) + due - rows)
            rows, due = due, due + min(max(due // 4, 1), self.lag)
        return [*ends, (ends[-1] if ends else 0) + n] if n else ends

    def _count(self, learned: int) -> None:
        """Count rows that were learned, up to the next look at most."""
        rows, due = self._state["rows"].tolist()
        rows += learned
        if self.lag and rows == due:
            self._look()
            due += min(max(rows // 4, 1), self.lag)
        self._state["rows"][:] = rows, due

    def score_and_judge(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores of rows between those that it learns, and of these from before each; see `JudgesBetween`."""
        rows, learned, x, y, weight = contiguous(rows, learned, x, y, weight)
        scores, before = np.empty(len(rows)), np.empty(len(x))
        for piece, among in pieces(learned, self._looks(len(x))):
            after = learned[among] - piece.start
            scores[among], before[piece] = self._between(rows[among], after, x[piece], y[piece], weight[piece])
            if piece.start < piece.stop:
                self._count(piece.stop - piece.start)
        return scores, before

    def _between(
        self, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector, weight: FloatVector
    ) -> tuple[FloatVector, FloatVector]:
        """Scores between examples that end at the next look at the latest, and of these from before each."""
        count, n, m = len(self.members), len(rows), len(x)
        said, judged = np.empty((n, count)), np.empty((m, count))
        for k, member in enumerate(self.members):
            said[:, k], judged[:, k] = self._judged_between(member, k, rows, learned, x, y, weight)
        _to_logits(judged)
        if n:
            _to_logits(said)
        stacked, other = self._judged_between(self._stack, count, said, learned, judged, y, weight)
        mixed, before, share = np.empty((n, len(_BENT))), np.empty((m, len(_BENT))), self._state["share"]
        _fold(
            said, stacked, learned, judged, other, y, weight, share, float(self.rate), self._switch, before, mixed
        )  # fmt: skip
        return self._calibrator.score_and_judge(mixed, learned, before, y, weight)

    def _judged_between(
        self, of: Learner, k: int, rows: FloatMatrix, learned: IntVector, x: FloatMatrix, y: BoolVector,
        weight: FloatVector,
    ) -> tuple[FloatVector, FloatVector]:  # fmt: skip
        """Let one learn ``x``: its scores of ``rows`` between them; its stand-in's of ``x``, or its own just before."""
        if not self.lag:
            return score_and_judge(of, rows, learned, x, y, weight)
        return score_between(of, rows, learned, x, y, weight), self._stand_ins[k].predict_many(x)

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """The members' contributions, each times the slope of the mixed log-odds by its own, ``(n, F)``."""
        count, shares = len(self.members), self.shares
        at = np.zeros((1, count))
        # The regression standardises its inputs: its slope by a member is what one unit more of that adds.
        by_stack = self._stack.contributions(at + 1.0) - self._stack.contributions(at)
        out = np.zeros(x.shape)
        for m, member in enumerate(self.members):
            slope = shares[m] + shares[count] / count + shares[count + 1] * by_stack[0, m]
            if slope:
                out += slope * member.contributions(x)
        return out

    def snapshot(self) -> bytes:
        """The shares, both regressions, every member and its stand-in."""
        parts = [part.snapshot() for part in self._parts()]
        return seal_with(parts, self.kind, self.features, self._state)

    def restore(self, state: bytes) -> None:
        """Replace the learned state; ``ValueError`` when of another kind, features or other members."""
        arrays, parts = unseal_with(len(self._parts()), state, self.kind, self.features)
        copy_into(self._state, arrays)
        try:
            self._calibrator.restore(parts[1])
        except ValueError:
            # Of before it saw the probability: it is the identity again, and the rest goes on.
            self._new_calibrator(_BENT[:3]).restore(parts[1])
            parts[1] = self._new_calibrator(_BENT).snapshot()
        for part, learned in zip(self._parts(), parts, strict=True):
            part.restore(learned)

    def _parts(self) -> list[Learner]:
        return [self._stack, self._calibrator, *self.members, *self._stand_ins]


def _stand_in(member: Learner) -> Learner:
    """A copy that scores and does not learn."""
    # Boosted trees have a buffer of megabytes, which scoring does not need.
    return member.for_scoring() if isinstance(member, BoostedTrees) else deepcopy(member)
