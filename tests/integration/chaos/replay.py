"""The truth: what one undisturbed pass over the input topics, in log order, makes of them with the embedded stages.

Knows stages and records, not workers. The rows of primary entities, which events are scored, which records are refused
and what events feed to other lanes follow from the event topic alone; side rows from the order of ``entity-updates``;
examples and alerts from the first predictions and the labels of a partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from tests.integration.chaos.deployment import StoredRecord
from weir.online.batch import ExampleBatch, FloatVector, ScoredBatch
from weir.online.codec.decision_blocks import Decision, decisions_on
from weir.online.codec.decode import decode_labels, decode_user_events
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.row_updates import decode_updates
from weir.online.decisions.alert_state import AlertState
from weir.online.intake_policy import IntakePolicy
from weir.online.learners.online_model import OnlineModel
from weir.online.stages.admission import Admission
from weir.online.stages.dedupe import Deduper, bytes_for
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.task.column_plan import union
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import model_of, shape_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

CHUNK = 777  # no batch size of a worker's: results must not depend on cuts


def _chunks(records: Sequence[StoredRecord]) -> Iterator[Sequence[StoredRecord]]:
    for start in range(0, len(records), CHUNK):
        yield records[start : start + CHUNK]


@dataclass
class EventTruth:
    """What one partition of events makes."""

    scored: dict[str, dict[str, tuple[str, dict[str, float]]]] = field(default_factory=dict)
    """By task and event id: entity, and the features that do not depend on other lanes."""
    refused: dict[int, str] = field(default_factory=dict)
    """Reason by offset."""
    duplicates: int = 0
    updates: dict[tuple[str, str], dict[str, tuple[str, tuple[float, ...]]]] = field(default_factory=dict)
    """By task and table, by update id: entity and values."""
    labels: dict[str, set[tuple[str, bool]]] = field(default_factory=dict)
    """By task: event id and value of labels that timers make."""
    rows: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By table and entity."""


def replay_events(tasks: Mapping[str, TaskSpec], records: Sequence[StoredRecord]) -> EventTruth:
    """Fold one partition of ``user-events``."""
    store, truth, intake = MemoryFeatureStore(), EventTruth(), Admission(IntakePolicy())
    stages = [ScoringStage(task, store, side=True) for task in tasks.values()]
    columns = union([stage.columns for stage in stages])
    for chunk in _chunks(records):
        decoded = decode_user_events([r.record.value for r in chunk], columns)
        arrived = np.array([r.record.ts for r in chunk])[decoded.index]
        admitted = intake.admit(decoded.batch, arrived)
        truth.refused |= {chunk[r.index].offset: r.reason for r in decoded.rejects}
        truth.refused |= {chunk[int(decoded.index[r.row])].offset: r.reason for r in admitted.refused}
        truth.duplicates += admitted.duplicates
        for stage in stages:
            _note(truth, stage, stage.events(admitted.batch))
    side = {f"{s.task.name}.{table}" for s in stages for table in side_widths(s)}
    truth.rows = {table: rows for table, rows in rows_of(store).items() if table not in side}
    return truth


def _note(truth: EventTruth, stage: ScoringStage, out: Any) -> None:
    task = stage.task.name
    if out.scored is not None:
        p, own = out.scored.predictions, own_features(stage.task, stage.features)
        known = truth.scored.setdefault(task, {})
        for event_id, entity, x in zip(p.event_id, p.entity_id, p.features.tolist(), strict=True):
            known[event_id] = (entity, {name: x[k] for k, name in own})
    if out.timer_labels is not None:
        about = zip(out.timer_labels.event_id, out.timer_labels.value.tolist(), strict=True)
        truth.labels.setdefault(task, set()).update((str(event_id), value) for event_id, value in about)
    for table, batch in out.updates.items():
        fed = truth.updates.setdefault((task, table), {})
        for update_id, entity, values in zip(batch.update_id, batch.entity_id, batch.values.tolist(), strict=True):
            fed[update_id] = (entity, tuple(values))


def side_widths(stage: ScoringStage) -> dict[str, int]:
    """How many values an update has, by layout that another lane owns."""
    names = [t.name.removeprefix(f"{stage.task.name}.") for t in stage.engine.tables if t.side]
    return {name: stage.engine.width(name) for name in names}


def own_features(task: TaskSpec, features: Sequence[str]) -> list[tuple[int, str]]:
    """Features that follow from the events of a partition alone: nothing of other entities, nothing of labels."""
    labelled = tuple(f"{e.name}.{a.name}_" for e in task.entities for a in e.labels)
    others = tuple(f"{e.name}." for e in task.entities if e.name != task.entity)
    return [(k, name) for k, name in enumerate(features) if not name.startswith((*labelled, *others))]


def rows_of(store: MemoryFeatureStore) -> dict[str, dict[str, bytes]]:
    """Packed rows by table and entity."""
    found: dict[str, dict[str, bytes]] = {}
    for table, (_, _, _, keys, *_) in msgspec.msgpack.decode(store.snapshot()).items():
        found[table] = {key: row[0] for key in keys if (row := store.row(table, key)) is not None}
    return found


def replay_updates(
    tasks: Mapping[str, TaskSpec], records: Sequence[StoredRecord]
) -> tuple[dict[str, dict[str, bytes]], dict[tuple[str, str], dict[str, tuple[str, tuple[float, ...]]]]]:
    """Fold one partition of ``entity-updates``: the rows, and the first update of each id by task and table."""
    store, ids = MemoryFeatureStore(), Deduper(np.inf, most_bytes=bytes_for(4_000_000))
    stages = {name: ScoringStage(task, store, side=True) for name, task in tasks.items()}
    widths = {(name, table): width for name, s in stages.items() for table, width in side_widths(s).items()}
    firsts: dict[tuple[str, str], dict[str, tuple[str, tuple[float, ...]]]] = {}
    for chunk in _chunks(records):
        decoded = decode_updates([r.record.value for r in chunk], widths)
        assert not decoded.rejects, f"entity-updates holds what is no update: {decoded.rejects[0]}"
        for t in decoded.tables:
            keep = ids.keep([f"{t.task}/{t.table}/{i}" for i in t.batch.update_id], t.batch.ts)
            batch = t.batch.take(np.flatnonzero(keep))
            stages[t.task].engine.apply(t.table, batch)
            values = zip(batch.update_id, batch.entity_id, batch.values.tolist(), strict=True)
            first = firsts.setdefault((t.task, t.table), {})
            first.update({update_id: (entity, tuple(row)) for update_id, entity, row in values})
    side = {f"{task}.{table}" for task, table in widths}
    return {table: rows for table, rows in rows_of(store).items() if table in side}, firsts


def scored_of(tasks: Mapping[str, TaskSpec], records: Sequence[StoredRecord]) -> dict[str, ScoredBatch]:
    """Every prediction of a partition by task, repeats included, in log order."""
    shapes = {}
    for name, task in tasks.items():
        shape = shape_of(task)
        shapes[name] = ScoredShape(shape.features, shape.masks, len(shape.watched), shape.secondary)
    decoded = decode_scored([r.record.value for r in records], shapes)
    assert not decoded.rejects, f"predictions holds what is no prediction: {decoded.rejects[0]}"
    assert not decoded.unknown, f"predictions of unknown tasks: {decoded.unknown}"
    return {name: found.scored for name, found in decoded.tasks.items()}


def firsts_of(scored: ScoredBatch) -> ScoredBatch:
    """The first prediction of each event."""
    seen: dict[str, int] = {}
    for row, event_id in enumerate(scored.predictions.event_id):
        seen.setdefault(event_id, row)
    return scored.take(np.fromiter(seen.values(), np.int64, len(seen)))


@dataclass
class LabelTruth:
    """What one partition of predictions and labels makes of a task."""

    examples: dict[tuple[str, int], tuple[bytes, float, bool, float, bool]] = field(default_factory=dict)
    """By event id and number: features, score, value, weight, correction."""
    alerts: list[AlertState] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    updates: dict[str, set[str]] = field(default_factory=dict)
    """Update ids by table."""


def replay_labels(
    task: TaskSpec, firsts: ScoredBatch, labels: Sequence[StoredRecord], lanes: int, lane: int
) -> LabelTruth:
    """Fold the first predictions and then the labels of one partition of one task."""
    shape, truth = shape_of(task), LabelTruth()
    stage = LabellingStage(
        task,
        shape.features,
        shape.masks,
        shape.secondary,
        lambda x, _: np.zeros_like(x),
        share=1 / lanes,
        lane=str(lane),
    )
    outputs = [
        stage.scored(firsts.take(np.arange(start, min(start + CHUNK, len(firsts)))))
        for start in range(0, len(firsts), CHUNK)
    ]
    decoded = decode_labels([r.record.value for r in labels])
    if (mine := decoded.by_task().get(task.name)) is not None:
        outputs.append(stage.labels(mine))
    for out in outputs:
        truth.alerts += out.alerts
        if out.scored is not None and out.thresholds is not None:
            made = decisions_on(out.scored.predictions, out.thresholds, out.decided, shape.features)
            truth.decisions += made.rows()
        for batch in out.examples:
            truth.examples |= example_values(batch)
        for table, updates in out.updates.items():
            truth.updates.setdefault(table, set()).update(updates.update_id)
    return truth


def example_values(e: ExampleBatch) -> dict[tuple[str, int], tuple[bytes, float, bool, float, bool]]:
    """What identifies each example, and what it says."""
    columns = zip(e.score.tolist(), e.y.tolist(), e.weight.tolist(), e.correction.tolist(), strict=True)
    keys = zip(e.event_id, e.n.tolist(), strict=True)
    return {key: (row.tobytes(), *rest) for key, row, rest in zip(keys, e.x, columns, strict=True)}


class ModelWalk:
    """A model that learns the log as a replica does, one version at a time, skipping repeats."""

    def __init__(self, task: TaskSpec, examples: ExampleBatch) -> None:
        shape = shape_of(task)
        self.model: OnlineModel = model_of(task, shape.features)
        seen: dict[tuple[str, int], int] = {}
        for row, key in enumerate(zip(examples.event_id, examples.n.tolist(), strict=True)):
            seen.setdefault(key, row)
        self._log = examples.take(np.fromiter(seen.values(), np.int64, len(seen)))

    def __len__(self) -> int:
        return len(self._log)

    def to(self, version: int) -> None:
        """Learn on to ``version``."""
        assert self.model.version <= version <= len(self._log), (
            f"version {version} was used, the log makes versions up to {len(self._log)}"
        )
        self.model.learn(self._log.slice(self.model.version, version))

    def scores(self, scored: ScoredBatch) -> FloatVector:
        """What the model of each row's version gives, ``(n,)``."""
        p, out = scored.predictions, np.empty(len(scored))
        order = np.argsort(p.model_version, kind="stable")
        cuts = np.flatnonzero(np.diff(p.model_version[order])) + 1
        for rows in np.split(order, cuts):
            if len(rows):
                self.to(int(p.model_version[rows[0]]))
                out[rows] = self.model.score(p.features[rows])[0]
        return out
