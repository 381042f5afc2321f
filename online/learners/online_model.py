"""A learner with its place in the examples log: what is served, snapshotted and replayed (design decision 7).

The version is the number of examples learned, which is the offset of the next one in the task's one-partition log; the
log itself, files and topics are not known here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from weir.online.batch import ExampleBatch, FloatMatrix, FloatVector, IntVector
from weir.online.learners.base import Learner
from weir.online.learners.column import ColumnPrefix
from weir.online.learners.guard import GuardedLearner
from weir.online.learners.interleaved import score_between


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model as it was after ``version`` examples."""

    version: int
    digest: str
    """SHA-256 of ``state``, hexadecimal."""
    state: bytes


class OnlineModel:
    """Fold of a ``Learner`` over the examples log.

    Every example is learned, corrections too: a correction is a later row with the other value, and it moves the model
    as any row does.

    Examples
    --------
    >>> import numpy as np
    >>> from weir.online.learners.logistic import ScaledLogistic
    >>> model = OnlineModel(ScaledLogistic(("a",)))
    >>> scores, version = model.score(np.zeros((2, 1)))
    >>> scores.tolist(), version
    ([0.5, 0.5], 0)
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self._version = 0

    @property
    def version(self) -> int:
        """How many examples were learned; the log offset of the next one."""
        return self._version

    @property
    def refused(self) -> int:
        """How many of them the learner was not shown (``weir.online.learners.guard``)."""
        inner = self.learner.learner if isinstance(self.learner, ColumnPrefix) else self.learner
        return inner.refused if isinstance(inner, GuardedLearner) else 0

    def score(self, x: FloatMatrix) -> tuple[FloatVector, int]:
        """Probabilities ``(n,)`` of ``x (n, F)`` and the version they come from."""
        return self.learner.predict_many(x), self._version

    def learn(self, examples: ExampleBatch) -> None:
        """Learn every example in order; ``ValueError`` when ``x`` has another width than the learner."""
        # A batch without examples has no width to be checked.
        if not len(examples):
            return
        if examples.x.shape != (len(examples), len(self.learner.features)):
            want = (len(examples), len(self.learner.features))
            raise ValueError(f"examples have x of shape {examples.x.shape}, this model wants {want}")
        self.learner.learn_many(examples.x, examples.y, examples.weight)
        self._version += len(examples)

    def score_between(
        self, x: FloatMatrix, learned: IntVector, examples: ExampleBatch
    ) -> tuple[FloatVector, IntVector]:
        """Learn examples in order, and score row i of ``x (n, F)`` after the first ``learned[i]`` of them.

        ``learned (n,)`` ascends. Probabilities ``(n,)``, as `score` gives them then, and the version of each.
        """
        e, versions = examples, self._version + learned
        scores = score_between(self.learner, x, learned, e.x, e.y, e.weight)
        self._version += len(e)
        return scores, versions

    def snapshot(self) -> ModelSnapshot:
        """The state now, with its version and digest."""
        state = self.learner.snapshot()
        return ModelSnapshot(self._version, hashlib.sha256(state).hexdigest(), state)

    def restore(self, snapshot: ModelSnapshot) -> None:
        """Continue from ``snapshot``; ``ValueError`` when the bytes do not match the digest or the learner."""
        found = hashlib.sha256(snapshot.state).hexdigest()
        if found != snapshot.digest:
            raise ValueError(f"snapshot at version {snapshot.version}: digest {found}, want {snapshot.digest}")
        self.learner.restore(snapshot.state)
        self._version = snapshot.version
