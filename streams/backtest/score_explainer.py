"""Explains the score of one event while a run is at it: the model is then the one that made the score.

It knows a pipeline, not files or tables.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weir.online.batch import ScoredBatch
from weir.online.stages.pipeline import TaskPipeline
from weir.streams.model_replicas.explanation import Explanation, explain


class ScoreExplainer:
    """Watches a pipeline until it scores ``event_id``; an id that several entities have is explained for each."""

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
