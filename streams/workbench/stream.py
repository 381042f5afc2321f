"""A task event by event, as a service would run it: score, decide with reasons, learn when a label comes.

It is the pipeline of a backtest with a batch of one event, so scores are the same bit for bit. It knows no files.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from weir.online.batch import EventBatch, LabelBatch, PredictionBatch
from weir.online.codec.decode import events_from_rows
from weir.online.codec.wire import DeviceEvent, UserEvent, WireModel
from weir.online.decisions.alert_state import AlertState, Reason
from weir.online.stages.admission import entities_of
from weir.online.stages.dedupe import Deduper
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError


class Answer(NamedTuple):
    """A label that becomes known; ``stream.learn_one(*answer)``."""

    event_id: str
    label: bool
    known_at: float | None = None
    """Event time at which it did, where the data says so."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a task said of one event."""

    event_id: str
    entity_id: str
    ts: float
    score: float
    """Probability of the positive label."""
    threshold: float
    """The line it met; infinite while nothing is to alert."""
    alert: AlertState | None
    """The open alert of its entity, as it was then, where the score was over the line."""
    reasons: tuple[Reason, ...]
    """What raised the score, the most telling first."""
    features: dict[str, float]
    """As the model saw them: a missing value is 0."""
    version: int
    """How many examples the model had learned."""

    def __str__(self) -> str:
        """One line for a person."""
        said = f": {'; '.join(reason.text for reason in self.reasons)}" if self.reasons else ""
        over = f" ALERT ({self.alert.severity})" if self.alert is not None else ""
        return f"{self.event_id} of {self.entity_id} {self.score:.4f}{over}{said}"


class Stream:
    """A task that takes one event after the other; made by ``Task.stream``.

    Events are records of the wire format (docs/WIRE.md) as dicts; ``v`` may be left out, and ``type``. They come in
    the order in which they happen. A full model (``[full]``) is not asked.

    Examples
    --------
    >>> from weir.online.task.spec import TaskSpec
    >>> stream = Stream(TaskSpec.from_toml('''
    ... name = "large"
    ... entity = "user"
    ... entities = [{ name = "user", key = "user_id" }]
    ... inputs = ["amount"]
    ... numbers = ["amount"]
    ... model = { kind = "logistic", params = { lr = 0.5 } }
    ... '''))
    >>> for n in range(40):
    ...     event = {"event_id": f"e{n}", "user_id": "u", "ts": 1.7e9 + n, "amount": 5.0 + 90 * (n % 2)}
    ...     _ = stream.score_one(event)
    ...     stream.learn_one(f"e{n}", n % 2 == 1)
    >>> round(stream.decide_one({"event_id": "new", "user_id": "u", "ts": 1.7e9 + 50, "amount": 95.0}).score, 1)
    0.9
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.pipeline = TaskPipeline(spec, MemoryFeatureStore())
        self._model: type[WireModel] = DeviceEvent if spec.stream == "device-events" else UserEvent
        self._ids = Deduper(math.inf)
        self._waiting: dict[str, tuple[str, float]] = {}
        self._order: deque[tuple[str, float]] = deque()
        self._labels = 0

    def score_one(self, event: Mapping[str, Any]) -> float | None:
        """The score of an event; ``None`` for a repeat, or where the task scores no such event.

        Raises
        ------
        UsageError
            With the reason for which a topic would refuse the event.
        """
        batch = self._batch(event)
        p = None if batch is None else self._note(self.pipeline.events(batch))
        # Timers score before the event does, so its own row is the last one.
        return None if p is None or p.event_id[-1] != event["event_id"] else float(p.score[-1])

    def decide_one(self, event: Mapping[str, Any]) -> Decision | None:
        """As ``score_one``, with the decision and its reasons."""
        return next((d for d in self.decide_all(event) if d.event_id == event["event_id"]), None)

    def decide_all(self, event: Mapping[str, Any]) -> list[Decision]:
        """Every decision that an event brings: those of timers that are due before it, then its own."""
        batch = self._batch(event)
        return [] if batch is None else self._decided(lambda: self.pipeline.events(batch))

    def advance(self, ts: float) -> list[Decision]:
        """Let event time move on without an event: timers score, quiet alerts resolve."""
        return self._decided(lambda: self.pipeline.advance(ts))

    def learn_one(self, event_id: str, label: bool, known_at: float | None = None) -> None:
        """Learn the label of an event that was scored; a second one corrects the first.

        Parameters
        ----------
        known_at : event time at which it became known, epoch seconds; now, the newest event's, where it is not given.

        Raises
        ------
        UsageError
            Where no such event was scored, or so long ago that its features were let go (``[labels.join] keep_s``).
        """
        if event_id not in self._waiting:
            keep = self.spec.labels.join.keep_s / 86_400
            raise UsageError(
                f"no scored event {event_id!r} waits for a label; features are kept for {keep:g} days (keep_s)"
            )
        entity, ts = self._waiting[event_id]
        self._labels += 1
        labels = LabelBatch(
            [f"label-{self._labels}"], [entity], [event_id], np.array([ts]), np.array([label]), np.ones(1)
        )
        self._note(self.pipeline.labels(labels, None if known_at is None else np.array([known_at])))

    def _batch(self, event: Mapping[str, Any]) -> EventBatch | None:
        """The event as columns; ``None`` for one that came before."""
        row = {"type": "event", **event} if self._model is UserEvent else dict(event)
        decoded = events_from_rows([row], self.pipeline.columns, model=self._model)
        if decoded.rejects:
            raise UsageError(f"event {event.get('event_id')!r}: {decoded.rejects[0].reason}")
        batch = decoded.batch
        return batch if self._ids.keep(batch.event_id, batch.ts, entities_of(batch)).all() else None

    def _note(self, out: StepOutput) -> PredictionBatch | None:
        """Remember whose scores wait for labels, and forget those whose features were let go."""
        p = out.predictions
        for event_id, entity_id, ts in (
            zip(p.event_id, p.entity_id, p.ts.tolist(), strict=True) if p is not None else ()
        ):
            self._waiting[event_id] = entity_id, ts
            self._order.append((event_id, ts))
        # The join's own time: it is what has let the features go.
        kept_from = self.pipeline.joiner.watermark - self.spec.labels.join.keep_s
        while self._order and self._order[0][1] < kept_from:
            event_id, ts = self._order.popleft()
            if self._waiting.get(event_id, ("", math.inf))[1] <= ts:  # else it came again since
                del self._waiting[event_id]
        return p

    def _decided(self, step: Callable[[], StepOutput]) -> list[Decision]:
        """The decisions of a step, each with reasons by the model that made its score."""
        reasons: list[list[Reason]] = []
        explain = self.pipeline.labelling.explain
        # Within the step: labels of silence may teach the model before it returns, and reasons would be another
        # model's.
        self.pipeline.on_scored = lambda scored: reasons.extend(explain(scored, np.arange(len(scored))))
        try:
            out = step()
        finally:
            self.pipeline.on_scored = None
        p, names = self._note(out), self.pipeline.features
        if p is None or out.thresholds is None:
            return []
        columns = zip(p.event_id, p.entity_id, p.ts.tolist(), p.score.tolist(), out.thresholds.tolist(), strict=True)
        alerts = {row: alert for row, alert in out.decided.items() if alert.status != "resolved"}  # else: cooling down
        return [
            Decision(
                *row, alerts.get(i), tuple(reasons[i]),
                dict(zip(names, p.features[i].tolist(), strict=True)), int(p.model_version[i]),
            )
            for i, row in enumerate(columns)
        ]  # fmt: skip

    def __repr__(self) -> str:
        """What it is of, and how far it is."""
        p = self.pipeline
        return f"Stream({self.spec.name!r}: {p.scored:,} scored, {p.labelled:,} labelled, {p.model.version:,} learned)"
