"""Runs every compiled kernel once before the worker joins its group: compiling takes seconds, and work would wait.

Compiled code is kept on disk, so only the first start on a machine compiles.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from weir.online.batch import EventBatch, LabelBatch, PredictionBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import decode_user_events
from weir.online.codec.encode import encode_scored
from weir.online.codec.limits import InputLimits
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.row_updates import decode_updates, encode_updates
from weir.online.drift.drift_policy import DriftPolicy
from weir.online.drift.monitor import DriftMonitor
from weir.online.features.lives import LivingRows
from weir.online.intake_policy import IntakePolicy
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy
from weir.online.learners.factory import hasty
from weir.online.learners.online_model import OnlineModel
from weir.online.stages.admission import Admission
from weir.online.stages.dedupe import Deduper, OldIds
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import model_of
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.kafka.consume.fetched import FetchedRecords, Unpacking
from weir.streams.kafka.partitioners import partitions_of, partitions_of_text
from weir.streams.kafka.produce.record_batches import Columns, encoded_batches
from weir.streams.records import Record
from weir.streams.redis.stored_rows import HEADER, encode_row, framed_values, unpack_rows

_START = 1.7e9
_EVENT = b'{"v":1,"event_id":"e1","type":"view","user_id":"u1","ts":1.7e9}'
_LATER_S = (0.0, 3600.0, 366 * 86_400.0)
"""When batches begin: then windows move, then whoever was seen has long been silent."""
_ROWS, _ENTITIES = 64, 24
"""Of a batch; each entity is enough for one example of a task that silence labels."""


def warm_up_structs() -> None:
    """Let msgspec look at every struct there is; call it before any thread decodes one.

    It does so else when it first decodes one, and a second thread that comes to that meanwhile ends the process
    (segmentation fault; msgspec 0.22). Lanes restore their state in threads, several at a time.
    """
    left, seen = [msgspec.Struct], set[type]()
    while left:
        for struct in left.pop().__subclasses__():
            if struct not in seen:
                seen.add(struct)
                left.append(struct)
                msgspec.msgpack.Decoder(struct)


def warm_up_records() -> None:
    """Take a record in, remember its id, and join labels."""
    Admission(IntakePolicy()).admit_decoded(decode_user_events([_EVENT], ColumnRequest()), _START)
    _dedupe()
    _join()


def warm_up_links() -> None:
    """Find the partition of a record that goes out, encode it and unpack that; and a row, as Redis has it."""
    record = Record(b"key", _EVENT, _START)
    partitions_of([record.key], 4)
    partitions_of_text(["u1"], 4, "crc32")
    for batch in encoded_batches(Columns.of([record]), np.arange(1), 1 << 20):
        FetchedRecords(Unpacking(InputLimits()), None, bytes(batch._build()), 0).take(1, 1)
    row = np.zeros((1, 8), np.uint8)
    framed_values(np.zeros(1, HEADER), row)
    unpack_rows("", 0, 8, [encode_row(0, 0, 0.0, row.tobytes())])


def warm_up_states() -> None:
    """Find the state that an entity still has, as it is done for a full model."""
    store, ts = MemoryFeatureStore(), np.full(1, _START)
    store.create("warm", 8, 0, 1.0)
    LivingRows(store, "warm", ["u1"], np.zeros(1, np.int64), ts, 1.0).save()


def warm_up(task: TaskSpec, *, side: bool = True) -> None:
    """Take made-up events of a task through everything that a lane does with real ones, and its model does later.

    ``side`` as of ``ScoringStage``: whether there are several lanes.
    """
    # A learner that waits for many examples would compile nothing of what it does then.
    task = task.model_copy(update={"model": hasty(task.model)})
    _drift()
    stage = ScoringStage(task, MemoryFeatureStore(), side=side)
    scored = None
    for later in _LATER_S:
        out = stage.events(_events(stage, _START + later))
        scored = out.scored or scored
        # Through the bytes and back, as they go over `entity-updates`.
        for layout, updates in out.updates.items():
            widths = {(task.name, layout): stage.engine.width(layout)}
            decode_updates(encode_updates(updates, task.name, layout), widths)
            stage.engine.apply(layout, updates)
    if scored is None:  # a task that scores nothing of what was made up
        return
    shape, model = stage.shape, model_of(task, stage.features)
    encoded = encode_scored(scored, stage.features, task.name, _START)
    decode_scored(encoded, {task.name: ScoredShape(shape.features, shape.masks, len(shape.watched), shape.secondary)})
    label = LabellingStage(
        task, shape.features, shape.masks, shape.secondary, lambda x, _: model.learner.contributions(x)
    )
    label.scored(scored)
    _learn(label, model, stage, scored.predictions)


def _dedupe() -> None:
    """A memory that grows, is rebuilt, and knows ids of the version before."""
    ids, ts = [f"{i}" for i in range(128)], np.full(128, _START)
    dedupe = Deduper(journal=True)
    dedupe.keep(ids, ts, ids)
    dedupe.rebuild([dedupe.take_journal()], [OldIds(ids, ts)])
    dedupe.keep(ids, ts, ids)


def _drift() -> None:
    """By default some 8,000 rows are a reference before any is judged; here it is 64."""
    values = np.arange(128.0)
    policy = DriftPolicy(block_events=8, sample_every=1, reference_blocks=8, reference_days=0)
    DriftMonitor({"warm": "feature"}, policy).update(values, values[:, None] % 7.0)


def _join() -> None:
    """Labels before their predictions and after them, by event and by range."""
    joiner = LabelJoiner(JoinPolicy(match="entity_range", range_s=10.0), 1)
    one, ids = np.ones(2), ["warm-1", "warm-2"]
    predictions = PredictionBatch(ids, ids, one, 0.5 * one, np.zeros(2, np.int64), one[:, None])
    labels = LabelBatch(["l1", "l2"], ids, ["warm-1", None], one, one > 0, one)
    joiner.label(labels)
    joiner.log(predictions)
    joiner.label(replace(labels, label_id=["l3", "l4"]))
    joiner.restore(joiner.snapshot())


def _learn(label: LabellingStage, model: OnlineModel, stage: ScoringStage, p: PredictionBatch) -> None:
    value = np.arange(len(p)) % 2 == 0
    labels = LabelBatch([f"{i}-l" for i in p.event_id], p.entity_id, list(p.event_id), p.ts, value, np.ones(len(p)))
    made = label.labels(labels)
    for layout, updates in made.updates.items():
        stage.engine.apply(layout, updates)
    for examples in made.examples:
        model.learn(examples)
        model.score(examples.x)
        model.learner.contributions(examples.x)
    label.evaluation.get()  # it counts when somebody looks


def _events(stage: ScoringStage, start: float) -> EventBatch:
    c, rows = stage.columns, range(_ROWS)
    return EventBatch(
        event_id=[f"warm-{start:.0f}-{i}" for i in rows],
        ts=start + np.arange(_ROWS, dtype=np.float64),
        type=[(stage.task.types or ("warm",))[0]] * _ROWS,
        entities={name: [f"{i % _ENTITIES}" for i in rows] for name in c.entities},
        numbers={name: np.arange(_ROWS, dtype=np.float64) for name in c.numbers},
        texts={name: ["a"] * _ROWS for name in c.texts},
    )
