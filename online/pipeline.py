"""One task from events and labels to scores, alerts, examples and requests: the stage every host runs.

The path of one event: features (read, then updated) -> score -> logged for its label -> threshold -> alert with
reasons -> drift. The path of one label: join with the logged features -> metrics -> label-fed features -> example ->
the model learns. It knows no topic, store, clock or codec; the same calls in the same order give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from online.batch import EventBatch, ExampleBatch, FloatMatrix, FloatVector, IntVector, LabelBatch, PredictionBatch
from online.columnplan import columns_of
from online.decisions import AlertBook, AlertState, Reason, ReasonWriter, Threshold, TypicalValues
from online.drift import Detection, DriftMonitor
from online.errors import StateError, TaskError
from online.evaluation import Evaluation
from online.features import kernel
from online.features.engine import FeatureEngine, Modes
from online.features.plan import build_plan
from online.features.store import FeatureStore
from online.features.timecolumns import TIME_COLUMNS
from online.labels import Joined, LabelJoiner, NegativeSampler, SilenceTimers, TimerOutput
from online.learners import ModelSnapshot, OnlineModel, build_learner
from online.merge import insert_timers
from online.retrain import RetrainAsked, RetrainTrigger
from online.task import TaskSpec
from online.wire import ID_CHARS

PREDICTION = "prediction"
"""Name of the score among the streams that are watched for drift."""


class _Stateful(Protocol):
    def snapshot(self) -> bytes: ...

    def restore(self, state: bytes) -> None: ...


@dataclass(slots=True)
class StepOutput:
    """What one call made; every list is in the order in which things happened."""

    predictions: PredictionBatch | None = None
    thresholds: FloatVector | None = None
    """``(n,)`` in force at each prediction; infinite while nothing was to alert."""
    alerts: list[AlertState] = field(default_factory=list)
    examples: list[ExampleBatch] = field(default_factory=list)
    """What the model learned, in its order: the records of the ``examples`` topic."""
    detections: list[Detection] = field(default_factory=list)
    requests: list[RetrainAsked] = field(default_factory=list)


class TaskPipeline:
    """The running form of a ``TaskSpec``.

    Parameters
    ----------
    task : what to do.
    store : where entity rows live; tables are named ``<task>.<entity>``.
    """

    def __init__(self, task: TaskSpec, store: FeatureStore) -> None:
        self.task = task
        plan = build_plan(task.entities, task.values)
        self.columns = columns_of(task)
        self.engine = FeatureEngine(
            plan,
            store,
            namespace=task.name,
            inputs=task.inputs,
            raw=self.columns.numbers,
            indicators=task.indicators,
            utc_offset_s=task.utc_offset,
        )
        self.features = self.engine.features
        try:
            self.model = OnlineModel(build_learner(task.model, self.features))
        except (ValueError, TypeError) as exc:
            raise TaskError(f"task {task.name}: [model]: {exc}") from exc
        self._check_names()
        self._secondary = tuple(layout.key for layout in plan.layouts if layout.key != "*")
        self.joiner = LabelJoiner(task.labels.join, len(self.features), 1 + len(plan.label_masks), self._secondary)
        self._sampler = NegativeSampler(task.labels.negative_rate, task.name)
        self.timers = SilenceTimers(task.labels.silence) if task.labels.silence is not None else None
        self.threshold = Threshold(task.threshold)
        self.book = AlertBook(task.alerts, task.name)
        self._writer = ReasonWriter(self.features, task.reasons, task.wording, task.entity)
        self._typical = TypicalValues(self.features)
        self.evaluation = Evaluation(task.metrics)
        self._watch = tuple(task.watch or self.columns.numbers)
        self._check_watch()
        self._drift: DriftMonitor | None = None
        self._rate_drift: DriftMonitor | None = None
        if task.drift is not None:
            self._drift = DriftMonitor({**dict.fromkeys(self._watch, "feature"), PREDICTION: "score"}, task.drift)
            self._rate_drift = DriftMonitor({"label_rate": "rate"}, task.drift)
        self._trigger = RetrainTrigger(task.name, task.retrain)
        self.scored = self.labelled = 0

    def _check_names(self) -> None:
        """A feature's name is a key on the wire; find one that does not fit now, not at the first event."""
        if long := [name for name in self.features if len(name) > ID_CHARS]:
            raise TaskError(
                f"task {self.task.name}: the feature name {long[0]!r} has {len(long[0])} characters, the limit is "
                f"{ID_CHARS}; shorten the names of the entity and its aggregates"
            )

    def _check_watch(self) -> None:
        numbers = {*self.columns.numbers, *self.task.values, *TIME_COLUMNS, *self.engine.made}
        if unknown := [name for name in self._watch if name not in numbers]:
            raise TaskError(
                f"task {self.task.name}: watch: no numeric column {', '.join(map(repr, unknown))}; there are: "
                f"{', '.join(sorted(numbers))}"
            )

    def events(self, batch: EventBatch) -> StepOutput:
        """Score events in arrival order, after whatever timers they make due."""
        batch = self._mine(batch)
        out = StepOutput()
        if len(batch) == 0:
            return out
        if self.timers is None:
            self._score(batch, np.zeros(len(batch), dtype=np.uint8), kernel.EVENT, out)
            return out
        keys = [key or "" for key in self._keys(batch)]
        return self._with_timers(batch, self.timers.advance(keys, batch.ts), out)

    def advance(self, now: float) -> StepOutput:
        """Let event time move to ``now`` without an event: timers fire, quiet alerts resolve."""
        out = StepOutput()
        if self.timers is not None:
            nothing = self._empty()
            self._with_timers(nothing, self.timers.flush(now), out)
        out.alerts += self.book.advance(now)
        return out

    def labels(self, labels: LabelBatch) -> StepOutput:
        """Take in labels in the order in which they became known."""
        out = StepOutput()
        self._learn(self.joiner.label(labels), out)
        out.alerts += self.book.resolve_labels(labels)
        return out

    def resolve(self, alert_id: str, ts: float, verdict: Literal["confirmed", "false_alarm"]) -> StepOutput:
        """A person closes an alert."""
        closed = self.book.resolve(alert_id, ts, verdict)
        return StepOutput(alerts=[closed] if closed is not None else [])

    def _mine(self, batch: EventBatch) -> EventBatch:
        """The events this task is about, of its types and naming its entity, and its own columns of them."""
        batch = self._own_columns(batch)
        keys, types = self._keys(batch), self.task.types
        if not types and None not in keys:
            return batch
        rows = [i for i, key in enumerate(keys) if key is not None and (not types or batch.type[i] in types)]
        return batch if len(rows) == len(batch) else batch.take(np.array(rows, dtype=np.int64))

    def _own_columns(self, batch: EventBatch) -> EventBatch:
        """Leave out what other tasks on the stream asked for: they may read a name as text that is a number here."""
        c = self.columns
        if len(c.numbers) == len(batch.numbers) and len(c.texts) == len(batch.texts):
            return batch
        return EventBatch(
            batch.event_id,
            batch.ts,
            batch.type,
            {name: batch.entities[name] for name in c.entities},
            {name: batch.numbers[name] for name in c.numbers},
            {name: batch.texts[name] for name in c.texts},
        )

    def _keys(self, batch: EventBatch) -> list[str | None]:
        return ["*"] * len(batch) if self.task.key == "*" else batch.entities[self.task.key]

    def _empty(self) -> EventBatch:
        c = self.columns
        return EventBatch(
            [],
            np.empty(0),
            [],
            {k: [] for k in c.entities},
            {k: np.empty(0) for k in c.numbers},
            {k: [] for k in c.texts},
        )

    def _with_timers(self, batch: EventBatch, fired: TimerOutput, out: StepOutput) -> StepOutput:
        merged, modes = insert_timers(
            batch, self.task.key, fired.before_row, fired.entity_id, fired.due_ts, fired.event_id
        )
        self._score(merged, modes, kernel.READ, out)
        self._learn(self.joiner.label(fired.labels, fired.known_at), out)
        out.alerts += self.book.resolve_labels(fired.labels)
        return out

    def _score(self, batch: EventBatch, modes: Modes, mode: int, out: StepOutput) -> None:
        """Features of every row, then score, log and decide on the rows of ``mode``."""
        if len(batch) == 0:
            return
        block = self.engine.process(batch, modes)
        rows = np.flatnonzero(modes == mode)
        if len(rows) == 0:
            return
        if len(rows) < len(batch):
            batch = batch.take(rows)
        x = block.x if len(rows) == len(modes) else block.x[rows]
        score, version = self.model.score(x)
        keys = [key or "" for key in self._keys(batch)]
        versions: IntVector = np.full(len(rows), version, dtype=np.int64)
        predictions = PredictionBatch(batch.event_id, keys, batch.ts, score, versions, x)
        thresholds = self.threshold.thresholds(batch.ts, score)
        extra = np.column_stack([thresholds, block.label_masks[rows]])
        joined = self.joiner.log(predictions, extra, {key: batch.entities[key] for key in self._secondary})
        self._typical.update(x)
        out.predictions, out.thresholds = predictions, thresholds
        if self.task.alerting:
            out.alerts += self.book.decide(predictions, thresholds, lambda at: self._explain(x[at]))
        self.scored += len(rows)
        if self._drift is not None:
            watched = [np.asarray(block.columns[name], dtype=np.float64)[rows] for name in self._watch]
            out.detections += self._drift.update(batch.ts, np.column_stack([*watched, score]))
        self._learn(joined, out)

    def _explain(self, x: FloatMatrix) -> list[list[Reason]]:
        """Reasons of rows that alert: what each feature added to the log-odds, in words."""
        return self._writer.write(x, self.model.learner.contributions(x), self._typical.values())

    def _learn(self, joined: Joined, out: StepOutput) -> None:
        """Feed what became known: metrics first (with the score given then), features, thresholds, then the model."""
        e = joined.examples
        if len(e):
            self.labelled += len(e)
            self.evaluation.update(e, joined.extra[:, 0])
            known = joined.label_ts_known
            self.engine.label(joined.entities, joined.extra[:, 1:], known, e.y, e.correction)
            self.threshold.update_labels(e.score, e.y, e.weight, e.correction)
            if self._rate_drift is not None:
                out.detections += self._rate_drift.update(known, e.y.astype(np.float64)[:, None])
            learned = self._sampler.sample(e)
            if len(learned):
                self.model.learn(learned)
                out.examples.append(learned)
        if len(e) or out.detections:
            now = max(self.joiner.watermark, float(joined.label_ts_known.max()) if len(e) else -np.inf)
            out.requests += self._trigger.update(now, len(e), out.detections)

    def snapshot(self) -> bytes:
        """Everything but the store's rows, as MessagePack."""
        model = self.model.snapshot()
        parts: dict[str, object] = {name: part.snapshot() for name, part in self._parts().items()}
        parts["model"] = [model.version, model.digest, model.state]
        parts["counts"] = [self.scored, self.labelled]
        return msgspec.msgpack.encode(parts)

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot`` of the same task; raises ``StateError`` where it does not fit."""
        try:
            held = msgspec.msgpack.decode(state, type=dict[str, Any])
            parts = self._parts()
            if held.keys() != {*parts, "model", "counts"}:
                raise ValueError(f"it holds {', '.join(sorted(held))}; the task has {', '.join(sorted(parts))}")
            for name, part in parts.items():
                part.restore(held[name])
            self.model.restore(ModelSnapshot(*held["model"]))
            self.scored, self.labelled = held["counts"]
        except (ValueError, msgspec.MsgspecError) as exc:
            raise StateError(
                f"task {self.task.name}: the state does not fit: {exc}; start with a fresh directory, or go back to "
                "the task file that wrote it"
            ) from exc

    def _parts(self) -> dict[str, _Stateful]:
        parts: dict[str, _Stateful | None] = {
            "joiner": self.joiner,
            "timers": self.timers,
            "threshold": self.threshold,
            "book": self.book,
            "typical": self._typical,
            "evaluation": self.evaluation,
            "drift": self._drift,
            "rate_drift": self._rate_drift,
            "trigger": self._trigger,
        }
        return {name: part for name, part in parts.items() if part is not None}
