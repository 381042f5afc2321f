"""What became of the traffic: held against one linear pass over the good records alone.

Each good event (and each that came to a wrong partition) must be scored, in its entity's partition, with the features
that follow from the good events of its entity; the model must rank as one that never saw a hostile example; each record
that nobody can use must be a dead letter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from benchmarks.torture.deployment import Deployment
from benchmarks.torture.good import GOOD
from weir.online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector, ScoredBatch
from weir.online.codec.decode import decode_user_events
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.errors import UNREADABLE
from weir.online.intake_policy import IntakePolicy
from weir.online.metrics.ranking import rank_rows
from weir.online.stages.admission import Admission
from weir.online.stages.scoring import ScoringStage
from weir.online.task.column_plan import union
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import TaskShape, model_of, shape_of
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.kafka.partitioners import partitions_of
from weir.streams.records import Record

AUC_MARGIN: Final = 0.02
"""How far the AUC may be below that of a model without the hostile examples."""
KEPT: Final = (GOOD, "moved-")
"""What the ids of entities begin with whose events must all be scored."""


class _Entity(msgspec.Struct):
    user_id: str


class _Letter(msgspec.Struct):
    topic: str
    partition: int
    offset: int
    reason: str
    key: str | None = None


@dataclass
class Verdict:
    """What was found; `failures` is empty when all is as it should be."""

    failures: list[str] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)

    def hold(self, holds: bool, words: str) -> None:
        """Note a failure unless it holds."""
        if not holds:
            self.failures.append(words)


@dataclass
class _Predictions:
    """The first prediction of each kept event."""

    rows: dict[str, int]
    """Row by event id."""
    partitions: IntVector
    scored: ScoredBatch
    repeats: int


async def judge(deployment: Deployment, truth: dict[str, bool], sent: Counter[tuple[str, str]]) -> Verdict:
    """Read everything back and compare.

    Parameters
    ----------
    truth : what the labels of good events say, by event id.
    sent : records by kind and by what has to become of them.
    """
    (task,) = deployment.tasks.values()
    shape, verdict = shape_of(task), Verdict()
    found = await _predictions(deployment, task, shape)
    verdict.numbers["predictions"], verdict.numbers["repeats"] = len(found.rows), found.repeats
    await _same_features(deployment, task, shape, found, verdict)
    await _same_ranking(deployment, task, shape, found, truth, verdict)
    await _letters(deployment, sent, verdict)
    return verdict


def _kept(entity: str) -> bool:
    return entity.startswith(KEPT)


async def _predictions(deployment: Deployment, task: TaskSpec, shape: TaskShape) -> _Predictions:
    shapes = {task.name: ScoredShape(shape.features, shape.masks, len(shape.watched), shape.secondary)}
    rows, parts, at, repeats = dict[str, int](), list[ScoredBatch](), list[int](), 0
    async for partition, piece in deployment.pieces(topics.PREDICTIONS):
        scored = decode_scored([record.value for record in piece.records], shapes).tasks[task.name].scored
        first: list[int] = []
        for k, (event_id, entity) in enumerate(
            zip(scored.predictions.event_id, scored.predictions.entity_id, strict=True)
        ):
            if not _kept(entity):
                continue
            if event_id in rows:
                repeats += 1
                continue
            rows[event_id] = len(rows)
            first.append(k)
        at += [partition] * len(first)
        parts.append(scored.take(np.array(first, np.int64)))
    return _Predictions(rows, np.array(at, np.int64), ScoredBatch.concat(parts), repeats)


async def _same_features(
    deployment: Deployment, task: TaskSpec, shape: TaskShape, found: _Predictions, verdict: Verdict
) -> None:
    """Hold the features of each kept event against a pass over the kept events alone."""
    secondary = tuple(f"{entity.name}." for entity in task.entities if entity.name != task.entity)
    own = np.array([k for k, name in enumerate(shape.features) if not name.startswith(secondary)], np.int64)
    missing, elsewhere, different, events = 0, 0, 0, 0
    for partition, records in (await _kept_events(deployment)).items():
        ids, features = _linear_pass(task, records)
        places = np.array([found.rows.get(event_id, -1) for event_id in ids], np.int64)
        there = places >= 0
        events, missing = events + len(ids), missing + int(np.count_nonzero(~there))
        elsewhere += int(np.count_nonzero(found.partitions[places[there]] != partition))
        same = found.scored.predictions.features[places[there]][:, own] == features[there][:, own]
        different += int(np.count_nonzero(~same.all(axis=1)))
    verdict.numbers["good events"] = events
    verdict.hold(events > 0 and not missing, f"{missing} of {events} good events were never scored")
    verdict.hold(not elsewhere, f"{elsewhere} predictions are not in the partition of their entity")
    verdict.hold(not different, f"{different} of {events} good events have other features than without hostile ones")


async def _kept_events(deployment: Deployment) -> dict[int, list[Record]]:
    """Records of entities that matter, where their entity's partition holds them: a copy is passed on to there."""
    kept: dict[int, list[Record]] = defaultdict(list)
    partitions = deployment.settings.topics.partitions
    decoder = msgspec.json.Decoder(_Entity)
    async for partition, piece in deployment.pieces(topics.USER_EVENTS):
        for record in piece.records:
            if not any(prefix.encode() in record.value for prefix in KEPT):
                continue
            try:
                user = decoder.decode(record.value).user_id
            except UNREADABLE:
                continue
            if _kept(user) and partitions_of([user.encode()], partitions)[0] == partition:
                kept[partition].append(record)
    return kept


def _linear_pass(task: TaskSpec, records: list[Record]) -> tuple[list[str], FloatMatrix]:
    """Events that are scored, and their features, ``(n, F)``."""
    intake, stage = Admission(IntakePolicy()), ScoringStage(task, MemoryFeatureStore(), side=True)
    ids, features = list[str](), [np.empty((0, len(stage.features)))]
    for start in range(0, len(records), 777):  # no batch size of a worker's: results must not depend on cuts
        chunk = records[start : start + 777]
        decoded = decode_user_events([record.value for record in chunk], union([stage.columns]))
        arrived = np.array([record.ts for record in chunk])[decoded.index]
        scored = stage.events(intake.admit(decoded.batch, arrived).batch).scored
        if scored is not None:
            ids += scored.predictions.event_id
            features.append(scored.predictions.features)
    return ids, np.concatenate(features)


async def _same_ranking(
    deployment: Deployment,
    task: TaskSpec,
    shape: TaskShape,
    found: _Predictions,
    truth: dict[str, bool],
    verdict: Verdict,
) -> None:
    """Hold the AUC of the second half of the labelled events against that of a model without hostile examples."""
    examples = await _examples(deployment, task, shape)
    labelled = np.array([found.rows[event_id] for event_id in truth if event_id in found.rows], np.int64)
    labelled = labelled[len(labelled) // 2 :]
    p = found.scored.predictions.take(labelled)
    y = np.array([truth[event_id] for event_id in p.event_id], np.bool_)
    good = np.array([event_id.startswith("g") and _kept(entity or "") for event_id, entity in
                     zip(examples.event_id, examples.entity_id, strict=True)], np.bool_)  # fmt: skip
    versions = np.append(0, np.cumsum(good))[p.model_version]
    clean = _scores(task, shape, examples.take(np.flatnonzero(good)), versions, p.features)
    live, without = _auc(p.score, y), _auc(clean, y)
    verdict.numbers |= {"auc": round(live, 4), "auc without hostile": round(without, 4),
                        "examples": len(examples), "hostile examples": int(np.count_nonzero(~good))}  # fmt: skip
    verdict.hold(live >= without - AUC_MARGIN, f"AUC {live:.4f}, and {without:.4f} without the hostile examples")


async def _examples(deployment: Deployment, task: TaskSpec, shape: TaskShape) -> ExampleBatch:
    """What the model learned, in order: the first example of each identity."""
    records: list[bytes] = []
    async for _, piece in deployment.pieces(topics.EXAMPLES):
        records += [record.value for record in piece.records]
    batch = decode_example_log(records, {task.name: shape.features}).tasks[task.name].batch
    first: dict[tuple[str, int], int] = {}
    for row, key in enumerate(zip(batch.event_id, batch.n.tolist(), strict=True)):
        first.setdefault(key, row)
    return batch.take(np.fromiter(first.values(), np.int64, len(first)))


def _scores(
    task: TaskSpec, shape: TaskShape, examples: ExampleBatch, versions: IntVector, features: FloatMatrix
) -> FloatVector:
    """What a model that learned so many of ``examples`` says of each row, ``(n,)``."""
    model, out = model_of(task, shape.features), np.empty(len(versions))
    order = np.argsort(versions, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(versions[order])) + 1):
        if len(rows):
            model.learn(examples.slice(model.version, int(versions[rows[0]])))
            out[rows] = model.score(features[rows])[0]
    return out


def _auc(score: FloatVector, y: BoolVector) -> float:
    return rank_rows(score, y, np.ones(len(y))).get("roc_auc", 0.0)


async def _letters(deployment: Deployment, sent: Counter[tuple[str, str]], verdict: Verdict) -> None:
    """Count dead letters, and hold them against the records that nobody can use."""
    found: dict[tuple[str, int, int], str] = {}
    async for _, piece in deployment.pieces(topics.DEAD_LETTERS):
        for record in piece.records:
            letter = msgspec.json.decode(record.value, type=_Letter)
            found[letter.topic, letter.partition, letter.offset] = letter.reason.partition(":")[0]
    wanted = sum(count for (_, expect), count in sent.items() if expect == "letter")
    reasons = Counter(found.values())
    verdict.numbers["dead letters"] = len(found)
    verdict.numbers["reasons"] = dict(reasons.most_common(12))
    verdict.hold(len(found) >= wanted, f"of {wanted} records that nobody can use, {len(found)} are dead letters")
