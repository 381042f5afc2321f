"""What a demo notes besides the log: drifts and requests as they are found, and how each task did over event time."""

from __future__ import annotations

import msgspec

from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.stages.retrain_policy import RetrainAsked
from weir.streams.demo.screen.snapshot import Finding

MAIN_METRICS = {"fraud": "average_precision", "churn": "roc_auc", "device_failure": "average_precision"}
"""The metric of each task that the screen follows."""


class Journal(msgspec.Struct):
    """Observes a host; part of its checkpoints."""

    blocks: int = 0
    """How many blocks of the stream are behind the state: the simulator repeats itself exactly, so a resumed run skips
    that many and goes on."""
    findings: list[Finding] = []
    retraining: dict[str, bytes] = {}
    """Snapshots of the trainers by task, as of the newest checkpoint."""

    def observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        """Note what one step found."""
        task = pipeline.task.name
        self.findings += [Finding("drift", d.ts, task, d.words, d.detector) for d in out.detections]
        self.findings += [Finding("retrain_request", r.ts, task, _request(r)) for r in out.requests]


def _request(asked: RetrainAsked) -> str:
    """A request in few words; the drift behind it has a line of its own."""
    why = f"{asked.detail.split(':')[0]} has drifted" if asked.cause == "drift" else asked.detail
    return f"asks for a new model: {why}"


class MetricHistories:
    """The metrics of each task over event time, read anew only when they may have moved."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, dict[str, float], tuple[float, ...]]] = {}

    def of(self, pipeline: TaskPipeline) -> tuple[dict[str, float], tuple[float, ...]]:
        """A task's rolling metrics, and its main one, oldest first."""
        name, labelled = pipeline.task.name, pipeline.labelled
        if name not in self._read or self._read[name][0] != labelled:  # to sort a window costs milliseconds
            points = [point["metrics"].get(MAIN_METRICS[name]) for point in pipeline.evaluation.points()]
            history = tuple(value for value in points if value is not None)
            self._read[name] = labelled, pipeline.evaluation.rolling(), history
        return self._read[name][1:]
