"""The labelling stage of a task: from scores and labels to alerts, examples, metrics and requests.

The path of one score: is it new -> logged for its label -> threshold -> alert with reasons -> drift. The path of one
label: join with the logged features -> metrics -> example, and updates of label-fed features. It knows no model but
its contributions, no rows of features, no topic, clock or codec; the same calls in the same order give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from weir.online.batch import (
    ExampleBatch,
    FloatMatrix,
    FloatVector,
    IntVector,
    LabelBatch,
    PredictionBatch,
    ScoredBatch,
    UpdateBatch,
    missing_of,
    side_by_side,
)
from weir.online.decisions.alert_state import AlertState, Reason
from weir.online.decisions.alerts import AlertBook
from weir.online.decisions.reasons import ReasonWriter
from weir.online.decisions.segments import SegmentedThreshold
from weir.online.decisions.threshold_policy import PrecisionThreshold
from weir.online.decisions.typical import TypicalValues
from weir.online.drift.detection import Detection
from weir.online.drift.monitor import DriftMonitor
from weir.online.errors import TaskError
from weir.online.event_time import EventTime
from weir.online.features.plan import label_feeds
from weir.online.intake_policy import MAX_STEP
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinResult
from weir.online.labels.logged_predictions import RowsToRead
from weir.online.labels.row_log import RowLog
from weir.online.labels.sampling import NegativeSampler
from weir.online.mistakes import did_you_mean
from weir.online.stages.evaluation import Evaluation
from weir.online.stages.label_updates import updates_of
from weir.online.stages.lane_threshold import threshold_of
from weir.online.stages.reasons_full import FullReasons
from weir.online.stages.retrain_policy import RetrainAsked, RetrainTrigger
from weir.online.stages.seen import SeenPredictions
from weir.online.stages.stateful import Anew, Counts, Stateful, capture_parts, restore_fitting, snapshot_parts
from weir.online.task.column_plan import columns_of
from weir.online.task.reason_subjects import subjects_of
from weir.online.task.spec import TaskSpec

PREDICTION = "prediction"
"""Name of the score among the streams that are watched for drift."""

Contributions = Callable[[FloatMatrix, IntVector], FloatMatrix]
"""What each feature of ``(k, F)`` added to the log-odds, ``(k, F)``, by the model of each row's version ``(k,)``."""

Learn = Callable[[FloatMatrix, IntVector, ExampleBatch], tuple[FloatVector, IntVector]]
"""Scores of rows ``(n, F)``, each after the first ``(n,)`` of the examples, and the version of each ``(n,)``."""


@dataclass(slots=True)
class LabelOutput:
    """What one call made; every list is in the order in which things happened."""

    scored: ScoredBatch | None = None
    """The scores that counted: repeats are left out."""
    thresholds: FloatVector | None = None
    """``(n,)`` in force at each of them; infinite while nothing was to alert."""
    alerts: list[AlertState] = field(default_factory=list)
    decided: dict[int, AlertState] = field(default_factory=dict)
    """By row of ``scored`` that was over its threshold: its alert as it was then; see `BookDecision.of_rows`."""
    refused: int = 0
    """Rows that would have opened an alert, but the budget had none left."""
    told: JoinResult | None = None
    """The labels that became known of scores, before maturity and sampling."""
    examples: list[ExampleBatch] = field(default_factory=list)
    """What models are to learn, in this order: the records of the ``examples`` topic."""
    updates: dict[str, UpdateBatch] = field(default_factory=dict)
    """By label layout: what the labels feed to its rows."""
    detections: list[Detection] = field(default_factory=list)
    requests: list[RetrainAsked] = field(default_factory=list)


class LabellingStage:
    """Decides on the scores of one task and joins them with their labels; each lane has one of its own.

    Parameters
    ----------
    task : what to do.
    features, masks, secondary : as in ``weir.online.task.task_shape.TaskShape``.
    contributions : explains rows that alert.
    share : of the task's alerts a day that this lane may use.
    dedupe : whether predictions may come again; a repeat (the same event, perhaps by a newer model) then counts
        nowhere. Where they never do, this saves the memory of their ids.
    lane : told in the ids of retrain requests, where there are several lanes.
    max_step : how far one score moves the time, in seconds, as in ``IntakePolicy``.
    """

    def __init__(
        self, task: TaskSpec, features: tuple[str, ...], masks: int, secondary: tuple[str, ...],
        contributions: Contributions, *, share: float = 1.0, dedupe: bool = True, lane: str = "",
        max_step: float = MAX_STEP,
    ) -> None:  # fmt: skip
        self.task, self._contributions, self._key = task, contributions, task.key
        self.time = EventTime(max_step)
        # The threshold in force is the one thing noted with a score that its record does not carry.
        self._matures = task.labels.matures
        joiner = LabelJoiner(task.labels.join, len(features), 1 + masks, secondary, unlogged=1, matures=self._matures)
        self.log = RowLog(joiner)
        self._feeds = label_feeds(task.entities)
        self._sampler = NegativeSampler(task.labels.negative_rate, task.name)
        self.seen = SeenPredictions() if dedupe else None
        """What came before."""
        self._amount = features.index("amount") if "amount" in features else None
        _check_amount(task, self._amount)
        self.threshold = threshold_of(task, features, share, int(lane or 0))
        self.book = AlertBook(task.alerts, task.name, self._amount, self.threshold.admit)
        self._writer = ReasonWriter(features, task.reasons, task.wording, task.entity, subjects_of(task))
        self._full = FullReasons(task.full, features)
        self.typical, self._features = TypicalValues(features), features
        maturity = task.labels.matures_after
        if isinstance(maturity, str) and maturity not in {"none", *features}:
            hint = did_you_mean(maturity, ["none", "horizon", *features])
            raise TaskError(f"task {task.name}: labels.maturity = {maturity!r} is no duration and no input; {hint}")
        self.evaluation = Evaluation(task.metrics)
        self.drift: DriftMonitor | None = None
        self.rate_drift: DriftMonitor | None = None
        if task.drift is not None:
            watched = task.watch or columns_of(task).numbers
            self.drift = DriftMonitor({**dict.fromkeys(watched, "feature"), PREDICTION: "score"}, task.drift)
            self.rate_drift = DriftMonitor({"label_rate": "rate"}, task.drift)
        self._trigger = RetrainTrigger(task.name, task.retrain, lane)
        self.counts = Counts()

    def scored(self, scored: ScoredBatch, *, between: bool = False) -> LabelOutput:
        """Take in scores in the order of their log: decide on them, and join labels that came before them.

        ``between`` says that labels which became known between them are told next, by ``labels``.
        """
        out = LabelOutput()
        scored = self._new(scored)
        if len(scored) == 0:
            return out
        p = scored.predictions
        marks = self.time.advance(p.ts, self._senders(p))
        # Before typical values take the rows in: those as of a row count the rows up to it by themselves.
        out.scored, out.thresholds = scored, self._decide(scored, marks, out)
        self.typical.update(p.features)
        joined = self.log.log(scored, out.thresholds, marks, self._ripens_s(p), between=between)
        self.counts.scored += len(scored)
        if self.drift is not None:
            out.detections += self.drift.update(marks, side_by_side(scored.watched, p.score))
        self._learn(joined, out)
        return out

    @property
    def joiner(self) -> LabelJoiner:
        """Where scores meet their labels."""
        return self.log.joiner

    @property
    def learns_between(self) -> bool:
        """Whether labels may come between the rows of one call, by `interleave`.

        Not where a label changes what is decided on the rows after it, or is learned at some other time.
        """
        task, join = self.task, self.joiner.policy
        by_event = join.match == "event" and join.negative_after_s is None and join.max_rows is None
        undecided = not task.alerting and not isinstance(self.threshold.policy, PrecisionThreshold)
        fed = self._feeds or self.joiner.matures or self.joiner.waiting or task.retrain.after_labels is not None
        return by_event and undecided and not fed

    def interleave(
        self, scored: ScoredBatch, labels: LabelBatch, known_at: FloatVector | None, before: IntVector, learn: Learn
    ) -> LabelOutput:
        """Take in rows whose scores are not known yet, and the labels that become known before one of them.

        It gives what `scored` and `labels` give row by row, and has let the model learn the examples. ``before (m,)``
        ascends; each label speaks of an earlier row. ``learn`` gives scores and versions.
        """
        out, p = LabelOutput(scored=scored), scored.predictions
        marks = self.time.advance(p.ts, self._senders(p))
        # The first column is filled in by ``score``: a threshold follows from scores that are not there yet.
        noted, rows = side_by_side(np.empty(len(p)), scored.masks), list[IntVector]()
        reached = np.maximum.accumulate(np.concatenate([[self.joiner.watermark], marks]))[1:]

        def score(known: ExampleBatch, row: IntVector) -> None:
            rows.append(row)
            kept = self._sampler.kept(known)
            learned = np.searchsorted(row[kept], np.arange(len(p)), side="right")
            # In place: the joiner, and the batch that the caller holds, have these very arrays.
            p.score[:], p.model_version[:] = learn(p.features, learned, self._sampler.sample(known))
            out.thresholds = noted[:, 0] = self._decide(scored, marks, out)

        joined, at = self.joiner.interleave(
            p, noted, scored.entities, marks, self._keyed(labels), known_at, before, score
        )
        self.typical.update(p.features)
        self.counts.scored += len(p)
        self._learn(joined, out, at)
        self._watch(side_by_side(scored.watched, p.score), marks, reached, joined, at, rows[0], out)
        return out

    def _watch(
        self, watched: FloatMatrix, marks: FloatVector, reached: FloatVector, joined: JoinResult, at: FloatVector,
        before: IntVector, out: LabelOutput,
    ) -> None:  # fmt: skip
        """Look for drift in rows and in the labels before each, in the order in which calls of a row each would.

        ``marks``, ``reached (n,)`` are of the rows, ``at``, ``before (k,)`` of the labels. Only where a block of either
        is full can drift be found; in between the order is of no consequence.
        """
        row = label = asked = 0
        known, y = joined.label_ts_known, joined.examples.y.astype(np.float64)[:, None]
        while self.drift is not None and self.rate_drift is not None:
            full, full_label = row + self.drift.room, label + self.rate_drift.room - 1
            # A label comes before its row: a block of labels that is full by then is looked at before that of rows.
            if full_label < len(before) and before[full_label] < full:
                stop = int(np.searchsorted(before, before[full_label], side="right"))
                found = self.rate_drift.update(known[label:stop], y[label:stop])
                first = int(np.searchsorted(before, before[full_label]))
                now, label = max(float(at[full_label]), float(known[first:stop].max())), stop
            elif full <= len(marks):
                found = self.drift.update(marks[row:full], watched[row:full])
                now, row = float(reached[full - 1]), full
            else:
                self.drift.update(marks[row:], watched[row:])
                self.rate_drift.update(known[label:], y[label:])
                break
            if found:
                out.detections += found
                out.requests += self._trigger.update(now, label - asked, found)
                asked = label
        # Counted alone: nothing was found, and no task that comes here asks by labels.
        self._trigger.update(-np.inf, len(before) - asked, ())

    def _decide(self, scored: ScoredBatch, marks: FloatVector, out: LabelOutput) -> FloatVector:
        """Open, repeat and end alerts; the thresholds that rows met, ``(n,)``."""
        p, refused = scored.predictions, self.book.stats.refused
        amount = None if self._amount is None else p.features[:, self._amount]
        lines = partial(self.threshold.thresholds, marks, p.score, amount=amount)
        if isinstance(self.threshold, SegmentedThreshold):
            lines = partial(lines, segment=self.threshold.segments(p.features))
        if not self.task.alerting:
            return lines()
        met: list[FloatVector] = []
        made = self.book.decide_by(p, lambda take: met.append(lines(take)), lambda at: self.explain(scored, at), marks)
        out.alerts, out.decided, out.refused = made.alerts, made.of_rows, self.book.stats.refused - refused
        return met[0]

    def labels(self, labels: LabelBatch, known_at: FloatVector | None = None, *, between: bool = False) -> LabelOutput:
        """Take in labels in the order in which they became known; at ``known_at (n,)``, now when not given.

        ``between`` says that they did so between the scores of the last call.
        """
        out, labels = LabelOutput(), self._keyed(labels)
        self._learn(self.joiner.label(labels, known_at, between=between), out)
        out.alerts += self.book.resolve_labels(labels)
        return out

    def met(self, labels: LabelBatch, known_at: FloatVector | None = None) -> JoinResult:
        """The scores that labels are of, at the end of a run: nothing is learned from them, and no alert ends."""
        return self.joiner.label(self._keyed(labels), known_at)

    def advance(self, now: float) -> LabelOutput:
        """Let event time move to ``now`` without a score: quiet alerts resolve."""
        return LabelOutput(alerts=self.book.advance(now))

    def wanted(self, of: ScoredBatch | LabelBatch) -> RowsToRead:
        """Which rows ``scored`` or ``labels`` will need that have to be read back; it changes nothing."""
        if isinstance(of, LabelBatch):
            return self.joiner.wanted(self._keyed(of))
        if self.joiner.policy.negative_after_s is None and not self.joiner.matures:
            # Nothing falls due by time alone.
            return self.joiner.wanted_due(np.empty(0))
        p, time = of.predictions, EventTime(self.time.max_step)
        if self.seen is not None:
            p = p.where(self.seen.absent(p, of.offsets))
        # A copy of the clock: this only looks ahead.
        time.restore(self.time.snapshot())
        return self.joiner.wanted_due(time.advance(p.ts, self._senders(p)))

    def _keyed(self, labels: LabelBatch) -> LabelBatch:
        """Labels with the entity of their predictions: where all events are of one entity, labels may name any."""
        return replace(labels, entity_id=["*"] * len(labels)) if self._key == "*" else labels

    def _senders(self, p: PredictionBatch) -> Sequence[str]:
        """Who says what time it is."""
        return p.event_id if self._key == "*" else p.entity_id

    def lend(self, rows: IntVector, logged: ScoredBatch) -> None:
        """Bring such rows, ascending, for the next call; what is missing of them is lost, and counted."""
        self.joiner.lend(rows, logged.predictions, logged.masks, logged.entities)

    def _ripens_s(self, p: PredictionBatch) -> FloatVector | None:
        """After what event time each is learned at the earliest."""
        labels = self.task.labels
        if not self._matures:
            return None
        if isinstance(labels.matures_after, str):
            told = p.features[:, self._features.index(labels.matures_after)]
            self.joiner.stats.no_maturity += int(np.count_nonzero(missing_of(told)))
        return labels.ripens_s(self._features, p.features)

    def _new(self, scored: ScoredBatch) -> ScoredBatch:
        """What did not come before."""
        if self.seen is None:
            return scored
        new = self.seen.keep(scored.predictions, scored.offsets)
        self.counts.repeats += int(np.count_nonzero(~new))
        return scored.where(new)

    def explain(self, scored: ScoredBatch, at: IntVector) -> list[list[Reason]]:
        """Reasons of rows, such as those that alert: what each feature added to the log-odds, in words."""
        x, versions = scored.predictions.features[at], scored.predictions.model_version[at]
        added = self._full.handed_on(x, self._contributions(x, versions))
        return self._writer.write(x, added, *self.typical.as_of(scored.predictions.features, at))

    def _learn(self, joined: JoinResult, out: LabelOutput, marks: FloatVector | None = None) -> None:
        """Feed what became known: metrics first (with the score given then), features, thresholds, then examples.

        Features see each label when it becomes known; all else sees events that are mature. ``marks (n,)`` are the
        watermarks by then, where it is not that of now; `_watch` then looks for drift.
        """
        if not len(joined) and not out.detections:
            return
        out.told = told = joined.where(joined.new)
        joined = joined.where(joined.ripe)
        e, known = joined.examples, joined.label_ts_known
        out.updates = updates_of(told, self._feeds, self._key)
        n = len(e)
        if n:
            self.counts.labelled += n
            self.evaluation.update(e, joined.extra[:, 0], self.joiner.watermark if marks is None else marks)
            self.threshold.update_labels(e.score, e.y, e.weight, e.correction)
            if self.rate_drift is not None and marks is None:
                out.detections += self.rate_drift.update(known, e.y.astype(np.float64)[:, None])
            # Sampled last: metrics, drift and windows are of all labels, whatever a model is shown.
            learned = self._sampler.sample(e)
            out.examples += [learned] if len(learned) else []
        if marks is None and (n or out.detections):
            now = max(self.joiner.watermark, max(known.tolist(), default=-np.inf))
            out.requests += self._trigger.update(now, n, out.detections)

    def snapshot(self) -> bytes:
        """Everything it remembers but what can be read back, as MessagePack."""
        return snapshot_parts(self.parts())

    def capture(self) -> Callable[[], bytes]:
        """Copy what it remembers; the call of what it returns makes a ``snapshot`` of that, in any thread."""
        return capture_parts(self.parts())

    def restore(self, state: bytes) -> list[Anew]:
        """Replace the state by a ``snapshot`` of the task, perhaps as it was before it was tuned.

        What does not fit any more begins anew, and is told. Raises ``StateError`` for what is no snapshot.
        """
        return restore_fitting(self.task.name, self.parts(), state, self.upgrade)

    def upgrade(self, held: dict[str, bytes]) -> None:
        """Make of the parts of a snapshot of before ADR 21 those of today: examples were counted apart then."""
        if "joiner" in held and (numbers := held.pop("numbers", None)) is not None:
            held["joiner"] = self.joiner.upgraded(held["joiner"], numbers)

    def parts(self) -> dict[str, Stateful]:
        """What it remembers, by name."""
        parts: dict[str, Stateful | None] = {
            "time": self.time,
            "joiner": self.joiner,
            "seen": self.seen,
            "threshold": self.threshold,
            "book": self.book,
            "typical": self.typical,
            "evaluation": self.evaluation,
            "drift": self.drift,
            "rate_drift": self.rate_drift,
            "trigger": self._trigger,
            "counts": self.counts,
        }
        return {name: part for name, part in parts.items() if part is not None}


def _check_amount(task: TaskSpec, amount: int | None) -> None:
    """Raise ``TaskError`` where alerts are weighed by an amount that no score is logged with."""
    by_amount = task.alerts.severity_by == "expected_loss" or getattr(task.threshold, "value", None) == "amount"
    if by_amount and amount is None:
        raise TaskError(
            f'task {task.name}: [threshold] value = "amount" or [alerts] severity_by = "expected_loss" needs the '
            'number "amount" among the inputs of the model; add it to `numbers` and `inputs`'
        )
