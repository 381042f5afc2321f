"""Explains the score of one event while a run is at it: the model is then the one that made the score.

It knows a pipeline, not files or tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weir.online.batch import ScoredBatch
from weir.online.stages.pipeline import TaskPipeline


@dataclass(frozen=True, slots=True)
class ExplainedScore:
    """A score beside the same score made again, and what it was made from."""

    event_id: str
    entity_id: str
    ts: float
    score: float
    version: int
    """How many examples the model had learned."""
    digest: str
    """Of that model."""
    again: float
    """The score as the model makes it from the logged features alone."""
    parts: tuple[tuple[str, float, float], ...]
    """Each feature with its value, and what it added to the log-odds; the largest first."""
    reasons: tuple[str, ...]
    """As an alert would say it."""

    @property
    def equal(self) -> bool:
        """Whether the two scores have the same bits."""
        return np.float64(self.score).tobytes() == np.float64(self.again).tobytes()


class ScoreExplainer:
    """Watches a pipeline until it scores ``event_id``; an id that several entities have is explained for each."""

    def __init__(self, pipeline: TaskPipeline, event_id: str) -> None:
        self._pipeline, self.event_id = pipeline, event_id
        self.found: list[ExplainedScore] = []
        pipeline.on_scored = self.look

    def look(self, scored: ScoredBatch) -> None:
        """Explain rows of the event, if any is among these."""
        ids = scored.predictions.event_id
        if self.event_id in ids:
            self.found += [self._explained(scored, row) for row, event in enumerate(ids) if event == self.event_id]

    def _explained(self, scored: ScoredBatch, row: int) -> ExplainedScore:
        p, model = scored.predictions, self._pipeline.model
        x = p.features[row : row + 1]
        again, version = model.score(x)
        silence = self._pipeline.task.labels.silence
        # Before anything is learned a task of silence says its prior, which the learner does not know.
        prior = None if silence is None or version else silence.prior
        added = model.learner.contributions(x)[0].tolist()
        parts = zip(self._pipeline.features, x[0].tolist(), added, strict=True)
        reasons = self._pipeline.labelling.explain(scored, np.array([row]))[0]
        return ExplainedScore(
            self.event_id, p.entity_id[row], float(p.ts[row]), float(p.score[row]), int(p.model_version[row]),
            model.snapshot().digest, float(again[0]) if prior is None else prior,
            tuple(sorted(parts, key=lambda part: (-abs(part[2]), part[0]))), tuple(r.text for r in reasons),
        )  # fmt: skip
