"""What a demo notes besides the log: drifts and requests as they are found, and how each task did over event time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.stages.retrain_policy import RetrainAsked
from weir.streams.demo.screen.snapshot import Finding

MAIN_METRICS = {"fraud": "average_precision", "churn": "roc_auc", "device_failure": "average_precision"}
"""The metric of each task that the screen follows."""


class _JournalState(msgspec.Struct):
    """What goes into a checkpoint."""

    blocks: int
    findings: list[Finding]
    retraining: dict[str, bytes] = {}
    """By task."""


@dataclass
class Journal:
    """Observes a host; part of its checkpoints.

    ``blocks`` is how many blocks of the stream are behind the state: the simulator repeats itself exactly, so a
    resumed run skips that many and goes on.
    """

    blocks: int = 0
    findings: list[Finding] = field(default_factory=list)
    retraining: dict[str, bytes] = field(default_factory=dict)
    """Snapshots of the trainers, as of the newest checkpoint."""

    def observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        """Note what one step found."""
        task = pipeline.task.name
        self.findings += [Finding("drift", d.ts, task, d.words, d.detector) for d in out.detections]
        self.findings += [Finding("retrain_request", r.ts, task, _request(r)) for r in out.requests]

    def encode(self) -> bytes:
        """The journal for a checkpoint."""
        return msgspec.msgpack.encode(_JournalState(self.blocks, self.findings, self.retraining))

    def restore(self, data: bytes) -> None:
        """Continue from ``encode``'s bytes."""
        held = msgspec.msgpack.decode(data, type=_JournalState)
        self.blocks, self.findings, self.retraining = held.blocks, held.findings, held.retraining


def _request(asked: RetrainAsked) -> str:
    """A request in few words; the drift behind it has a line of its own."""
    why = f"{asked.detail.split(':')[0]} has drifted" if asked.cause == "drift" else asked.detail
    return f"asks for a new model: {why}"


class MetricHistories:
    """The main metric of each task over event time, read anew only when it may have moved."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._metrics: dict[str, dict[str, float]] = {}
        self._histories: dict[str, tuple[float, ...]] = {}

    def refresh(self, pipelines: Mapping[str, TaskPipeline]) -> None:
        """Read the metrics of tasks that learned since the last call; sorting a window costs milliseconds."""
        for name, pipeline in pipelines.items():
            if self._seen.get(name) == pipeline.labelled:
                continue
            self._seen[name] = pipeline.labelled
            self._metrics[name] = pipeline.evaluation.rolling()
            main = MAIN_METRICS[name]
            points = [point["metrics"].get(main) for point in pipeline.evaluation.points()]
            self._histories[name] = tuple(value for value in points if value is not None)

    def metrics(self, task: str) -> dict[str, float]:
        """The newest rolling metrics."""
        return self._metrics.get(task, {})

    def history(self, task: str) -> tuple[float, ...]:
        """The main metric, oldest first."""
        return self._histories.get(task, ())
