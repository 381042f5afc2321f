"""Makes a score again from the features that were logged with it, and says what each of them added.

It knows a model at the version that made the score, or a pipeline that scores now; not how a score was found in a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from weir.online.batch import FloatMatrix, ScoredBatch
from weir.online.learners.online_model import OnlineModel
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.online.stages.pipeline import TaskPipeline


def row_of(logged: Mapping[str, float], features: Sequence[str], task: str) -> FloatMatrix:
    """The logged features in the order of the model's, ``(1, F)``.

    Raises ``UsageError`` where the task file has other features than the score was made from.
    """
    missing, extra = sorted({*features} - {*logged}), sorted({*logged} - {*features})
    if missing or extra:
        raise UsageError(
            f"task {task}: the task file has other features than the score was made from: it lacks "
            f"{', '.join(extra[:3]) or 'none'} and adds {', '.join(missing[:3]) or 'none'}; give the task file of then"
        )
    return np.array([[logged[name] for name in features]])


@dataclass(frozen=True, slots=True)
class Contribution:
    """One feature's part in the score."""

    feature: str
    value: float
    contribution: float
    """What it added to the log-odds, against the model's reference point."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score beside the same score made again, and what it was made from."""

    event_id: str
    entity_id: str
    ts: float
    score: float
    """As it was logged."""
    version: int
    """How many examples the model had learned."""
    digest: str
    """Of that model."""
    again: float
    """The score as the model makes it from the logged features alone."""
    contributions: tuple[Contribution, ...]
    """The largest first."""
    reasons: tuple[str, ...] = ()
    """As an alert would say it, where that is known."""

    @property
    def equal(self) -> bool:
        """Whether the two scores have the same bits."""
        return np.float64(self.score).tobytes() == np.float64(self.again).tobytes()


def explain(
    model: OnlineModel,
    features: Sequence[str],
    x: FloatMatrix,
    *,
    event_id: str,
    entity_id: str,
    ts: float,
    score: float,
    version: int,
    reasons: Sequence[str] = (),
) -> Explanation:
    """Score ``x (1, F)``, whose columns are ``features``, again with ``model``, which is at ``version``."""
    again, _ = model.score(x)
    added = model.learner.contributions(x)[0].tolist()
    parts = [Contribution(*each) for each in zip(features, x[0].tolist(), added, strict=True)]
    parts.sort(key=lambda part: (-abs(part.contribution), part.feature))
    digest = model.snapshot().digest
    return Explanation(event_id, entity_id, ts, score, version, digest, float(again[0]), (*parts,), (*reasons,))


class ScoreExplainer:
    """Explains ``event_id`` while a pipeline scores it: the model is then the one that made the score.

    An id that several entities have is explained for each.
    """

    def __init__(self, pipeline: TaskPipeline, event_id: str) -> None:
        self._pipeline, self.event_id = pipeline, event_id
        self.found: list[Explanation] = []
        pipeline.on_scored = self.look

    def look(self, scored: ScoredBatch) -> None:
        """Explain rows of the event, if any is among these."""
        ids = scored.predictions.event_id
        if self.event_id in ids:
            self.found += [self._explained(scored, row) for row, event in enumerate(ids) if event == self.event_id]

    def _explained(self, scored: ScoredBatch, row: int) -> Explanation:
        p, model = scored.predictions, self._pipeline.model
        reasons = self._pipeline.labelling.explain(scored, np.array([row]))[0]
        made = explain(
            model, self._pipeline.features, p.features[row : row + 1], event_id=self.event_id,
            entity_id=p.entity_id[row], ts=float(p.ts[row]), score=float(p.score[row]),
            version=int(p.model_version[row]), reasons=[reason.text for reason in reasons],
        )  # fmt: skip
        silence = self._pipeline.task.labels.silence
        # Before anything is learned a task of silence says its prior, which the learner does not know.
        prior = None if silence is None or model.version else silence.prior
        return made if prior is None else replace(made, again=prior)
