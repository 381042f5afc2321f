"""One task from events and labels to scores, alerts, examples and requests, in one process.

It is the two stages a distributed host runs apart, ``weir.online.stages.scoring`` and ``weir.online.stages.labelling``,
joined by function calls: what labelling has to say to models and to rows of features is done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from weir.online.batch import EventBatch, ExampleBatch, FloatVector, IntVector, LabelBatch, PredictionBatch, ScoredBatch
from weir.online.decisions.alert_state import AlertState
from weir.online.drift.detection import Detection
from weir.online.features.store import FeatureStore
from weir.online.intake_policy import MAX_STEP
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinResult
from weir.online.stages.labelling import LabellingStage, LabelOutput
from weir.online.stages.retrain_policy import RetrainAsked
from weir.online.stages.scoring import ScoreOutput, ScoringStage
from weir.online.stages.stateful import Anew, ModelPart, Stateful, restore_fitting, restore_parts, snapshot_parts
from weir.online.task.full_spec import FullScorer
from weir.online.task.spec import TaskSpec


@dataclass(slots=True)
class StepOutput:
    """What one call made; every list is in the order in which things happened."""

    predictions: PredictionBatch | None = None
    thresholds: FloatVector | None = None
    """``(n,)`` in force at each prediction; infinite while nothing was to alert."""
    alerts: list[AlertState] = field(default_factory=list)
    decided: dict[int, AlertState] = field(default_factory=dict)
    """By row of ``predictions`` that was over its threshold: its alert as it was then; see `BookDecision.of_rows`."""
    told: list[JoinResult] = field(default_factory=list)
    """The labels that became known of predictions, before maturity and sampling."""
    examples: list[ExampleBatch] = field(default_factory=list)
    """What the model learned, in its order: the records of the ``examples`` topic."""
    detections: list[Detection] = field(default_factory=list)
    requests: list[RetrainAsked] = field(default_factory=list)


class TaskPipeline:
    """The running form of a ``TaskSpec`` where one process has everything.

    Parameters
    ----------
    task : what to do.
    store : where entity rows live; tables are named ``<task>.<layout>``.
    full : the full model of a task with ``[full]``; its columns are 0 without.
    max_step : how far one event moves the time of labels, alerts and timers, in seconds, as in ``IntakePolicy``.
    """

    def __init__(
        self, task: TaskSpec, store: FeatureStore, full: FullScorer | None = None, *, max_step: float = MAX_STEP
    ) -> None:
        self.task = task
        self.scoring = ScoringStage(task, store, full=full, max_step=max_step)
        self.columns, self.engine, self.features = self.scoring.columns, self.scoring.engine, self.scoring.features
        self.model, self.timers = self.scoring.model, self.scoring.timers
        shape, learner = self.scoring.shape, self.model.learner
        self.labelling = LabellingStage(
            task, shape.features, shape.masks, shape.secondary, lambda x, _: learner.contributions(x), dedupe=False,
            max_step=max_step,
        )  # fmt: skip
        self.threshold, self.book = self.labelling.threshold, self.labelling.book
        self.evaluation = self.labelling.evaluation
        self.on_scored: Callable[[ScoredBatch], object] | None = None
        """Shown scores before anything follows from them: the model, and what is typical, are those of then."""

    @property
    def joiner(self) -> LabelJoiner:
        """Where scores meet their labels."""
        return self.labelling.joiner

    @property
    def scored(self) -> int:
        """Predictions since the start."""
        return self.labelling.counts.scored

    @property
    def labelled(self) -> int:
        """Examples since the start, those not sampled among them."""
        return self.labelling.counts.labelled

    def events(self, batch: EventBatch) -> StepOutput:
        """Score events in arrival order, after whatever timers they make due."""
        return self._label(self.scoring.events(batch))

    def due(self, at: float) -> bool:
        """Whether a timer fires or a quiet alert resolves by event time ``at``, if no event comes."""
        return self.book.due(at) or (self.timers is not None and self.timers.due(at))

    def advance(self, now: float) -> StepOutput:
        """Let event time move to ``now`` without an event: timers fire, quiet alerts resolve."""
        out = self._label(self.scoring.advance(now))
        self._take(self.labelling.advance(now), out)
        return out

    def labels(self, labels: LabelBatch, known_at: FloatVector | None = None) -> StepOutput:
        """Take in labels in the order in which they became known; at ``known_at (n,)``, now when not given."""
        out = StepOutput()
        self._take(self.labelling.labels(labels, known_at), out)
        return out

    @property
    def learns_between(self) -> bool:
        """Whether `interleave` can do this task's batches; else they are cut where a label becomes known."""
        alone = self.timers is None and self.task.full is None and self.on_scored is None
        return alone and self.labelling.learns_between

    def interleave(
        self, batch: EventBatch, labels: LabelBatch, known_at: FloatVector | None, before: IntVector
    ) -> StepOutput:
        """Score events, each after the labels that became known before it, as calls of a row each do.

        ``before (m,)``, ascending, is the row of the batch before which each label is known; each speaks of a row
        before that one.
        """
        scored, rows = self.scoring.unscored(batch)
        out = StepOutput()
        if scored is None:
            self._take(self.labelling.labels(labels, known_at), out)
            return out
        # Labels name rows of the batch, of which the task sees some: from here on by their number among those.
        own = np.searchsorted(rows, before)
        inside = int(np.searchsorted(own, len(rows)))
        known = None if known_at is None else known_at[:inside]
        made = self.labelling.interleave(scored, labels.slice(0, inside), known, own[:inside], self.model.score_between)
        out.predictions, out.thresholds = scored.predictions, made.thresholds
        self._take(made, out, learned=True)
        if inside < len(labels):  # known after the task's last row
            rest = None if known_at is None else known_at[inside:]
            self._take(self.labelling.labels(labels.slice(inside, len(labels)), rest), out)
        return out

    def _label(self, scored: ScoreOutput) -> StepOutput:
        out, told = StepOutput(), scored.timer_labels
        if scored.scored is not None:
            if self.on_scored is not None:
                self.on_scored(scored.scored)
            labelled = self.labelling.scored(scored.scored, between=told is not None)
            out.predictions, out.thresholds = scored.scored.predictions, labelled.thresholds
            out.decided = labelled.decided
            self._take(labelled, out)
        if told is not None:
            self._take(self.labelling.labels(told, scored.known_at, between=True), out)
        return out

    def _take(self, made: LabelOutput, out: StepOutput, *, learned: bool = False) -> None:
        """Do what labelling asks for, and add the rest to the output."""
        for layout, updates in made.updates.items():
            self.engine.apply(layout, updates)
        # `interleave` has let the model learn them between its scores.
        for examples in made.examples if not learned else ():
            self.model.learn(examples)
        out.alerts += made.alerts
        out.told += [made.told] if made.told is not None and len(made.told) else []
        out.examples += made.examples
        out.detections += made.detections
        out.requests += made.requests

    def snapshot(self) -> bytes:
        """Everything but the store's rows, as MessagePack."""
        return snapshot_parts(self._parts())

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot`` of the same task; raises ``StateError`` where it does not fit."""
        restore_parts(self.task.name, self._parts(), state, self.labelling.upgrade)

    def restore_fitting(self, state: bytes) -> list[Anew]:
        """Take of a ``snapshot`` what fits the task as it is now; the parts that begin anew."""
        return restore_fitting(self.task.name, self._parts(), state, self.labelling.upgrade)

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {**self.labelling.parts(), "model": ModelPart(self.model)}
        return parts if self.timers is None else {**parts, "timers": self.timers}
