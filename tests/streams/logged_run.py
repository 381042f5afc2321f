"""A simulated stream through the embedded host, for tests of what is read back from logs and archives."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from tests.streams.host_runs import process_all
from weir.online.batch import ExampleBatch, PredictionBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate
from weir.streams.trainer.history.history_builder import LoggedHistory
from weir.streams.trainer.history.log_sources import EmbeddedSource
from weir.streams.trainer.history.logged_tables import RecordReader
from weir.streams.trainer.history.parquet_archive import Archive, ArchiveCounts
from weir.streams.trainer.history.read_history import read_history

PARTITIONS = {topics.USER_EVENTS: 3, topics.PREDICTIONS: 2}
FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase"]
entities = [
  { name = "user", key = "user_id", aggregates = [
    { name = "spent", value = "amount", ops = ["count", "mean"], windows = ["1d"] },
  ] },
  { name = "merchant", key = "merchant_id", labels = [{ name = "fraud", ops = ["positives"], windows = ["7d"] }] },
]
[model]
kind = "logistic"
[labels]
negative_rate = 0.5
[labels.join]
negative_after_s = "1d"
"""
CHURN = """
name = "churn"
entity = "user"
drift = false
entities = [{ name = "user", key = "user_id", aggregates = [{ name = "seen", ops = ["count"], windows = ["1d"] }] }]
[model]
kind = "logistic"
[labels.silence]
observe_s = "12h"
horizon_s = "1d"
"""
TASK = TaskSpec.from_toml(FRAUD)
ALL = (*topics.INPUTS, *topics.OUTPUTS)


@dataclass
class Run:
    """A simulated stream through the embedded host, and what its pipelines said that they made."""

    log: EmbeddedLog
    predictions: dict[str, list[PredictionBatch]] = field(default_factory=dict)
    examples: dict[str, list[tuple[float, ExampleBatch]]] = field(default_factory=dict)
    """By task, with the latest event time among the predictions before."""

    def observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        made = self.predictions.setdefault(pipeline.task.name, [])
        made += [out.predictions] if out.predictions is not None else []
        mark = max((float(p.ts.max()) for p in made), default=0.0)
        self.examples.setdefault(pipeline.task.name, []).extend((mark, e) for e in out.examples)

    def scored(self, task: str) -> PredictionBatch:
        return PredictionBatch.concat(self.predictions[task])


def simulated(directory: Path | None = None, events: int = 1500) -> Run:
    run = Run(EmbeddedLog(PARTITIONS, directory))
    host = EmbeddedHost([TaskSpec.from_toml(t) for t in (FRAUD, CHURN)], run.log, observe=run.observe)
    config = SimulationConfig(
        seed=5, events=events, days=5, users=40, merchants=12, devices=0, malformed_share=0.01, duplicate_share=0.02,
        late_share=0.03, fraud_share=0.05, label_delay_days=0.5, review_share=0.1, block_s=6 * 3600.0,
    )  # fmt: skip
    for block in simulate(config):
        for topic, records in block.topics.items():
            run.log.append(topic, [Record(*r) for r in records])
            process_all(host)
    run.log.sync()
    return run


@functools.cache
def run() -> Run:
    return simulated()


def source(log: EmbeddedLog) -> EmbeddedSource:
    return EmbeddedSource(log.read(ALL, 0))


async def archived(
    directory: Path, log: EmbeddedLog, since: float | None = None, until: float | None = None
) -> ArchiveCounts:
    return await Archive(directory, RecordReader(TASK)).write(source(log), since, until)


def same(one: LoggedHistory, other: LoggedHistory) -> None:
    for a, b in ((one.history, other.history), (one.labels, other.labels)):
        for f in fields(a):
            np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), f.name)


async def read_embedded(task: TaskSpec, log: EmbeddedLog) -> LoggedHistory:
    """The history of a task, from a log in this process."""
    return await read_history(task, source=source(log))
