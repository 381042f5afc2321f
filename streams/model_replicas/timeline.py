"""A model that can also answer as it was: the live model, and the newest of its past.

A score is explained by the model that made it, which has learned more since. Keeping every version would be dear, so a
``ModelTimeline`` keeps a snapshot every few hundred examples and the examples behind the oldest one: any version since
then is the nearest older snapshot with a few examples learned on top, bit for bit (``Learner`` promises that cuts do
not matter). It knows matrices and versions, not logs, files or time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from weir.online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector
from weir.online.errors import WeirError
from weir.online.learners.base import Learner
from weir.online.learners.online_model import ModelSnapshot, OnlineModel


class VersionNotKept(WeirError, LookupError):  # noqa: N818 - named for what happened, as the tree of errors reads
    """A version that this process cannot give: too old, or not reached yet."""


class _Mark(NamedTuple):
    """The learned state as of a version."""

    version: int
    state: bytes


class _LearnedSpan(NamedTuple):
    """Examples ``version`` to ``version + len(y)``, as they were learned."""

    version: int
    x: FloatMatrix
    y: BoolVector
    weight: FloatVector


class ModelTimeline(OnlineModel):
    """An ``OnlineModel`` that can be asked for any of its recent versions.

    Parameters
    ----------
    task : the task's name, for messages.
    build : makes an empty learner; called once now and once for every version that is rebuilt.
    keep : the least number of past versions that can be given.
    every : examples between two snapshots; at most so many are learned again for one version.
    rebuilt : how many rebuilt learners are kept for the next question about the same versions.
    budget_bytes : what the snapshots may take; where they are large there are fewer, and rebuilding takes longer.

    Examples
    --------
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = ModelTimeline("fraud", lambda: ScaledLogistic(("a",)))
    >>> one = np.ones(1)
    >>> for y in (True, False, True):
    ...     model.learn(ExampleBatch(["e"], one, one[:, None], one, one == y, one, one == 0))
    >>> model.at(0).predict_many(one[:, None]).tolist(), model.version
    ([0.5], 3)
    """

    def __init__(
        self,
        task: str,
        build: Callable[[], Learner],
        *,
        keep: int = 4096,
        every: int = 512,
        rebuilt: int = 4,
        budget_bytes: int = 64 << 20,
    ) -> None:
        for name, value, least in (("keep", keep, 0), ("every", every, 1), ("rebuilt", rebuilt, 1)):
            if value < least:
                raise ValueError(f"task {task}: {name} = {value}; give {least} or more")
        super().__init__(build())
        self.task, self._build = task, build
        self.keep, self._every, self._most_rebuilt, self._budget = keep, every, rebuilt, budget_bytes
        self._marks: deque[_Mark] = deque()
        self._log: deque[_LearnedSpan] = deque()
        self._rebuilt: OrderedDict[int, Learner] = OrderedDict()
        self._begin()

    @property
    def oldest(self) -> int:
        """The oldest version that ``at`` can give."""
        return self._marks[0].version if self._marks else self._version

    def learn(self, examples: ExampleBatch, *, remember: bool = True) -> None:
        """Learn every example in order.

        With ``remember=False`` the past is let go: ``oldest`` becomes the version after the call. That is for reading
        a long log up to its end, where nobody will ask for the versions passed on the way.
        """
        # A replay of millions of examples would take a snapshot every few hundred, which nobody will ask for.
        if not remember:
            super().learn(examples)
            self._forget()
            return
        if not self._marks:
            self._begin()
        at = 0
        while at < len(examples):
            room = self._every - (self._version - self._marks[-1].version)
            piece = examples.slice(at, min(at + room, len(examples)))
            before = self._version
            super().learn(piece)
            # Copies: a slice would keep the whole batch that it is of in memory.
            self._log.append(_LearnedSpan(before, piece.x.copy(), piece.y.copy(), piece.weight.copy()))
            at += len(piece)
            if len(piece) == room:
                self._mark()

    def skip(self, count: int) -> None:
        """Count records that are not learned; older versions cannot be given any more."""
        self._version += count
        self._forget()

    def restore(self, snapshot: ModelSnapshot) -> None:
        """Continue from ``snapshot``; older versions cannot be given any more."""
        super().restore(snapshot)
        self._forget()

    def at(self, version: int) -> Learner:
        """The learner exactly as it was after ``version`` examples; it is not to be changed.

        Raises
        ------
        VersionNotKept
            ``version`` is older than ``oldest``, or was not reached yet.
        """
        self._check(version)
        found = self._rebuilt.get(version)
        if found is None:
            found = self._rebuilt[version] = self._rebuild(version)
        self._rebuilt.move_to_end(version)
        if len(self._rebuilt) > self._most_rebuilt:
            self._rebuilt.popitem(last=False)
        return found

    def contributions(self, x: FloatMatrix, versions: IntVector) -> FloatMatrix:
        """What each feature added to the log-odds of rows ``x (k, F)``, scored by ``versions (k,)``; ``(k, F)``.

        Rows of the present version are asked of the live model, others of the version rebuilt.
        """
        out = np.empty(x.shape)
        for version in np.unique(versions).tolist():
            rows = np.flatnonzero(versions == version)
            learner = self.learner if version == self._version else self.at(version)
            out[rows] = learner.contributions(x[rows])
        return out

    def _check(self, version: int) -> None:
        if self.oldest <= version <= self._version:
            return
        where = f"task {self.task}: version {version}"
        if version > self._version:
            why = f"{where} was not reached yet, this process has learned {self._version} examples; wait for it"
        else:
            why = f"{where} is not kept, the oldest is {self.oldest}; rebuild it from a stored snapshot and the log"
        raise VersionNotKept(why)

    def _rebuild(self, version: int) -> Learner:
        learner = self._build()
        if not self._marks:  # nothing was learned since the past was let go
            # A copy, as the live one goes on learning.
            learner.restore(self.learner.snapshot())
            return learner
        mark = next(m for m in reversed(self._marks) if m.version <= version)
        learner.restore(mark.state)
        for start, x, y, weight in self._log:
            rows = slice(max(mark.version - start, 0), min(version - start, len(y)))
            if rows.start < rows.stop:
                learner.learn_many(x[rows], y[rows], weight[rows])
        return learner

    def _begin(self) -> None:
        """Start a past from here."""
        self._marks.append(_Mark(self._version, self.learner.snapshot()))

    def _mark(self) -> None:
        """Remember the present state, and let go of what is older than promised."""
        self._begin()
        # The second decides: the oldest mark is needed until the next one reaches as far back.
        while len(self._marks) > 1 and self._marks[1].version <= self._version - self.keep:
            self._marks.popleft()
        while self._log and self._log[0].version + len(self._log[0].y) <= self.oldest:
            self._log.popleft()
        while self._every < self.keep and sum(len(m.state) for m in self._marks) > self._budget:
            self._thin()

    def _thin(self) -> None:
        """Every other mark goes, and new ones come half as often; the oldest stays, so nothing is given up."""
        self._every *= 2
        self._marks = deque([m for i, m in enumerate(self._marks) if i % 2 == 0])

    def _forget(self) -> None:
        self._marks.clear()
        self._log.clear()
        self._rebuilt.clear()
