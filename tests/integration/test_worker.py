"""What ``weir worker`` does on real Kafka and Redis: the same as the embedded stages, also after stops and losses.

Most tests look at one run of one worker (`run`), whose deployment holds the three tasks of the demo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from online.batch import PredictionBatch
from online.columnplan import union
from online.decode import decode_device_events, decode_labels, decode_user_events
from online.intake import Admitted, Intake, IntakePolicy
from online.logged import decode_example_log
from online.pipeline import TaskPipeline
from online.scoring import ScoringStage
from online.task import TaskSpec
from streams import topics
from streams.following.fold import ExampleFold
from streams.simulate import SimulationConfig, simulate
from streams.stores import MemoryFeatureStore
from tests.integration.chaos.deployment import Deployment, Stored
from tests.integration.chaos.replay import scored_of
from tests.integration.kafka_broker import REPOSITORY, Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.worker_process import Watcher, Worker, run_weir

pytestmark = pytest.mark.integration

DEMO = REPOSITORY / "streams" / "demo" / "tasks"
DECODERS = {topics.USER_EVENTS: decode_user_events, topics.DEVICE_EVENTS: decode_device_events}
PARTITIONS = 3
KeyValue = tuple[bytes, bytes]


def simulated(config: SimulationConfig) -> dict[str, list[KeyValue]]:
    """The records of a simulated stream by topic, in the order in which they become available."""
    found: dict[str, list[KeyValue]] = {}
    for block in simulate(config):
        for topic, records in block.topics.items():
            found.setdefault(topic, []).extend((key, value) for key, value, _ in records)
    return found


def unique(name: str) -> str:
    """A prefix that no other test uses."""
    return f"{name}-{os.getpid()}-{os.urandom(3).hex()}"


# -- the embedded stages over the same logs ----------------------------------------------------------------------------


@dataclass
class Embedded:
    """What the stages make of one partition of events in one process, in batches that no worker would cut."""

    admitted: int = 0
    duplicates: int = 0
    refused: int = 0
    made: dict[str, list[PredictionBatch]] = field(default_factory=dict)
    """By task."""

    @classmethod
    def fold(cls, stream: str, tasks: Sequence[TaskSpec], records: Sequence[Stored]) -> Embedded:
        """Fold a partition."""
        store, intake, found = MemoryFeatureStore(), Intake(IntakePolicy()), cls()
        stages = [ScoringStage(task, store) for task in tasks if task.stream == stream]
        columns = union([stage.columns for stage in stages])
        for start in range(0, len(records), 311):
            part = records[start : start + 311]
            decoded = DECODERS[stream]([r.record.value for r in part], columns)
            admitted = intake.admit(decoded.batch, np.array([r.record.ts for r in part])[decoded.index])
            found.count(len(decoded.rejects), admitted)
            for stage in stages:
                out = stage.events(admitted.batch)
                if out.scored is not None:
                    found.made.setdefault(stage.task.name, []).append(out.scored.predictions)
        return found

    def count(self, rejects: int, admitted: Admitted) -> None:
        self.admitted += len(admitted.batch)
        self.duplicates += admitted.duplicates
        self.refused += rejects + len(admitted.refused)

    def rows(self, task: str) -> list[tuple[str, str, bytes]]:
        """Event, entity and the features' bits of each prediction, in order."""
        return [row for p in self.made.get(task, []) for row in rows_of(p)]


def rows_of(p: PredictionBatch) -> list[tuple[str, str, bytes]]:
    return list(zip(p.event_id, p.entity_id, [x.tobytes() for x in p.features], strict=True))


# -- one run of one worker ---------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A worker that has processed a stream and goes on running."""

    deployment: Deployment
    watcher: Watcher
    worker: Worker
    first_ready: tuple[int, Any]
    """Status and document of its first answer to ``/ready``."""
    health: tuple[int, Any]
    one_by_one: list[KeyValue]
    """The user events that were sent first, each when nothing was left to do of those before; or a label."""
    sent: dict[str, int] = field(default_factory=dict)

    @cached_property
    def logs(self) -> dict[str, dict[int, list[Stored]]]:
        """Everything in the topics after the stream, by topic and partition; tests that send more come later."""
        names = (*DECODERS, topics.PREDICTIONS, topics.EXAMPLES)
        return {name: self.deployment.read(name) for name in names}

    @cached_property
    def predictions(self) -> dict[int, dict[str, PredictionBatch]]:
        """By partition and task, in log order."""
        return {
            p: {name: scored.predictions for name, scored in scored_of(self.deployment.tasks, records).items()}
            for p, records in self.logs[topics.PREDICTIONS].items()
        }

    @cached_property
    def embedded(self) -> dict[tuple[str, int], Embedded]:
        """By stream and partition."""
        tasks = list(self.deployment.tasks.values())
        return {
            (stream, p): Embedded.fold(stream, tasks, records)
            for stream in DECODERS
            for p, records in self.logs[stream].items()
        }


STREAM = SimulationConfig(
    seed=5, events=5_000, days=20, users=60, merchants=8, devices=6, fraud_share=0.05, review_share=0.1,
    malformed_share=0.004, duplicate_share=0.01, late_share=0.01,
)  # fmt: skip
FIRST = 45


@pytest.fixture(scope="module")
def run(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """The demo's tasks on one worker of role ``all``: 45 records one by one, then the rest in four parts."""
    folder = tmp_path_factory.mktemp("worker")
    deployment = Deployment.create(
        folder, kafka, redis_server.url, prefix=unique("run"), partitions=PARTITIONS,
        tasks=tuple(sorted(DEMO.glob("*.toml"))), worker={"web_port": "auto"},
    )  # fmt: skip
    with Watcher(deployment) as watcher, Worker(deployment, folder / "worker.log") as worker:
        health, ready = worker.get("/health"), worker.get("/ready")
        worker.until(worker.ready, "it is ready")
        records = simulated(STREAM)
        events = records[topics.USER_EVENTS]
        first = mixed_with_labels(events[:FIRST])
        for record in first:
            watcher.send(topics.LABELS if b'"label_id"' in record[1] else topics.USER_EVENTS, [record])
            watcher.settle(worker)
        records[topics.USER_EVENTS] = events[FIRST:]
        for part in range(4):
            for topic, found in records.items():
                cuts = [len(found) * k // 4 for k in range(5)]
                watcher.send(topic, found[cuts[part] : cuts[part + 1]])
            watcher.settle(worker)
        yield Run(
            deployment, watcher, worker, (ready[0], orjson.loads(ready[1])), (health[0], orjson.loads(health[1])), first
        )


def mixed_with_labels(events: Sequence[KeyValue]) -> list[KeyValue]:
    """Events, and behind every third purchase a label of an earlier one: most say fraud."""
    made: list[KeyValue] = []
    purchases: list[tuple[bytes, dict[str, Any]]] = []
    for key, value in events:
        made.append((key, value))
        if b'"type":"purchase"' not in value:
            continue
        purchases.append((key, orjson.loads(value)))
        if len(purchases) % 3 == 0:
            user, event = purchases[len(purchases) // 2]
            label = {
                "v": 1, "label_id": f"hand-{len(purchases)}", "task": "fraud", "entity_id": event["user_id"],
                "event_id": event["event_id"], "ts": event["ts"], "value": int(len(purchases) % 4 != 0),
            }  # fmt: skip
            made.append((user, orjson.dumps(label)))
    return made


@pytest.mark.parametrize("task", ["churn", "device_failure"])
def test_a_task_without_side_rows_scores_the_features_of_the_embedded_stages(run: Run, task: str) -> None:
    stream = run.deployment.tasks[task].stream
    total = 0
    for partition in range(PARTITIONS):
        found = rows_of(run.predictions[partition][task])
        wanted = run.embedded[stream, partition].rows(task)
        assert [row[:2] for row in found] == [row[:2] for row in wanted]
        assert found == wanted
        total += len(found)
    assert total > 60


def test_a_task_with_side_rows_does_so_once_their_updates_are_applied(run: Run) -> None:
    task = run.deployment.tasks["fraud"]
    pipeline, intake = TaskPipeline(task, MemoryFeatureStore()), Intake(IntakePolicy())
    wanted: dict[str, bytes] = {}
    for _, value in run.one_by_one:
        if b'"label_id"' in value:
            pipeline.labels(decode_labels([value]).by_task()["fraud"])
            continue
        batch = decode_user_events([value], pipeline.columns).batch
        made = pipeline.events(intake.admit(batch, batch.ts).batch).predictions
        if made is not None:
            wanted |= features_of(made)
    found = {k: x for by_task in run.predictions.values() for k, x in features_of(by_task["fraud"]).items()}
    assert {event_id: found[event_id] for event_id in wanted} == wanted
    assert len(wanted) > 12
    features = np.array([np.frombuffer(row) for row in wanted.values()])
    for name in ("merchant.tx_count_1d", "merchant.fraud_share_14d", "user.fraud_positives_7d"):
        assert len(np.unique(features[:, pipeline.features.index(name)])) > 1, f"{name} never moved: nothing was tested"


def features_of(p: PredictionBatch) -> dict[str, bytes]:
    """The features' bits by event."""
    return {event_id: x.tobytes() for event_id, x in zip(p.event_id, p.features, strict=True)}


def test_every_event_of_a_task_with_side_rows_has_one_prediction_in_the_order_of_its_partition(run: Run) -> None:
    for partition in range(PARTITIONS):
        wanted = run.embedded[topics.USER_EVENTS, partition].rows("fraud")
        assert [row[:2] for row in rows_of(run.predictions[partition]["fraud"])] == [row[:2] for row in wanted]


@pytest.mark.parametrize("task", ["churn", "device_failure", "fraud"])
def test_every_score_is_that_of_the_recorded_version_of_the_model(run: Run, task: str) -> None:
    fold = ExampleFold.of(run.deployment.tasks[task])
    log = run.logs[topics.EXAMPLES][0]
    found = decode_example_log([stored.record.value for stored in log], {task: fold.features}).tasks[task]
    offsets = np.array([stored.offset for stored in log], np.int64)[found.index]
    rows = [p[task] for p in run.predictions.values()]
    versions = np.concatenate([p.model_version for p in rows])
    score, x = np.concatenate([p.score for p in rows]), np.concatenate([p.features for p in rows])
    for version in np.unique(versions).tolist():
        fold.take(found.batch, offsets, until=version)
        assert fold.model.version == version, "a version was used that the log does not make"
        mine = versions == version
        assert fold.model.score(x[mine])[0].tolist() == score[mine].tolist()
    assert fold.repeats == 0
    assert len(np.unique(versions)) > 2
