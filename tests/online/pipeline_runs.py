"""Runs of a pipeline, and what they made as values that compare."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import msgspec

from tests.online.task_streams import FRAUD, Call
from weir.online.batch import EventBatch, ExampleBatch, LabelBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore


def pipeline_of(toml: str = FRAUD, **changes: Any) -> TaskPipeline:
    task = TaskSpec.from_toml(toml)
    return TaskPipeline(task.model_copy(update=changes), MemoryFeatureStore())


def call(pipeline: TaskPipeline, step: Call) -> StepOutput:
    kind, given_ = step
    if isinstance(given_, EventBatch):
        return pipeline.events(given_)
    if isinstance(given_, LabelBatch):
        return pipeline.labels(given_)
    assert kind == "advance"
    return pipeline.advance(given_)


def run(pipeline: TaskPipeline, calls: list[Call]) -> list[StepOutput]:
    return [call(pipeline, step) for step in calls]


def scores(out: StepOutput) -> dict[str, tuple[float, list[float]]]:
    p = out.predictions
    if p is None:
        return {}
    return {e: (s, x) for e, s, x in zip(p.event_id, p.score.tolist(), p.features.tolist(), strict=True)}


def all_scores(outs: list[StepOutput]) -> dict[str, tuple[float, list[float]]]:
    return {event: made for out in outs for event, made in scores(out).items()}


def features(pipeline: TaskPipeline, batch: EventBatch) -> dict[str, float]:
    out = pipeline.events(batch)
    assert out.predictions is not None
    return dict(zip(pipeline.features, out.predictions.features[0].tolist(), strict=True))


def plain_examples(batches: list[ExampleBatch]) -> list[Any]:
    rows: list[Any] = []
    for e in batches:
        columns = (e.ts, e.x, e.score, e.y, e.weight, e.correction)
        rows += zip(e.event_id, *(column.tolist() for column in columns), strict=True)
    return rows


def plain(out: StepOutput, reasons: bool = True) -> list[Any]:
    """An output as Python values that compare by value."""
    p = out.predictions
    made = [] if p is None else [p.event_id, p.entity_id, *(a.tolist() for a in (p.ts, p.score, p.model_version))]
    thresholds = [] if out.thresholds is None else out.thresholds.tolist()
    alerts = out.alerts if reasons else [msgspec.structs.replace(a, reasons=()) for a in out.alerts]
    features = [] if p is None else p.features.tolist()
    kept = [astuple(d) for d in out.detections], [astuple(r) for r in out.requests]
    return [made, features, thresholds, alerts, plain_examples(out.examples), *kept]


def state(pipeline: TaskPipeline) -> tuple[bytes, bytes]:
    store = pipeline.engine.store
    assert isinstance(store, MemoryFeatureStore)
    return pipeline.snapshot(), store.snapshot()


def resumed(pipeline: TaskPipeline, toml: str = FRAUD) -> TaskPipeline:
    made = pipeline_of(toml)
    store = made.engine.store
    assert isinstance(store, MemoryFeatureStore)
    held = state(pipeline)
    store.restore(held[1])
    made.restore(held[0])
    return made
