"""Runs every compiled kernel once before the worker joins its group: compiling takes seconds, and work would wait.

Compiled code is kept on disk, so only the first start on a machine compiles.
"""

from __future__ import annotations

import numpy as np

from online.batch import EventBatch, LabelBatch
from online.encode import encode_scored
from online.labelling import LabellingStage
from online.learners import OnlineModel
from online.scored import ScoredShape, decode_scored
from online.scoring import ScoringStage
from online.task import TaskSpec
from online.taskshape import model_of
from online.updates import decode_updates, encode_updates
from streams.stores.memory import MemoryFeatureStore
from streams.transport.partition import partitions_of

_START = 1.7e9
_ROWS = 64


def warm_up(task: TaskSpec) -> None:
    """Take made-up events of a task through everything that a lane does with real ones."""
    stage = ScoringStage(task, MemoryFeatureStore(), side=True)
    scored = None
    for batch in range(2):  # the second has windows that move
        out = stage.events(_events(stage, _START + 3600.0 * batch))
        scored = out.scored or scored
        for layout, updates in out.updates.items():
            widths = {(task.name, layout): stage.engine.width(layout)}
            decode_updates(encode_updates(updates, task.name, layout), widths)
            stage.engine.apply(layout, updates)
    partitions_of([b"one", b"two"], 4)
    if scored is None:  # a task that scores on timers
        return
    shape, model = stage.shape, model_of(task, stage.features)
    encoded = encode_scored(scored, stage.features, task.name, _START)
    decode_scored(encoded, {task.name: ScoredShape(shape.features, shape.masks, len(shape.watched), shape.secondary)})
    label = LabellingStage(
        task, shape.features, shape.masks, shape.secondary, lambda x, _: model.learner.contributions(x)
    )
    label.scored(scored)
    _learn(label, model, scored.predictions.event_id, scored.predictions.entity_id, scored.predictions.ts)


def _learn(label: LabellingStage, model: OnlineModel, ids: list[str], entities: list[str], ts: np.ndarray) -> None:
    value = np.arange(len(ids)) % 2 == 0
    made = label.labels(LabelBatch([f"{i}-l" for i in ids], entities, list(ids), ts, value, np.ones(len(ids))))
    for examples in made.examples:
        model.learn(examples)


def _events(stage: ScoringStage, start: float) -> EventBatch:
    c, rows = stage.columns, range(_ROWS)
    return EventBatch(
        event_id=[f"warm-{start:.0f}-{i}" for i in rows],
        ts=start + np.arange(_ROWS, dtype=np.float64),
        type=[(stage.task.types or ("warm",))[0]] * _ROWS,
        entities={name: [f"{i % 3}" for i in rows] for name in c.entities},
        numbers={name: np.arange(_ROWS, dtype=np.float64) for name in c.numbers},
        texts={name: ["a"] * _ROWS for name in c.texts},
    )
