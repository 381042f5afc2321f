"""What one ``weir worker`` makes on real Kafka and Redis: the same as the embedded stages, and commands beside it.

All tests look at one run (`run`), whose deployment holds the three tasks of the demo.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.chaos.deployment import Deployment, StoredRecord
from tests.integration.chaos.replay import scored_of
from tests.integration.kafka_broker import REPOSITORY, Broker
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import (
    PARTITIONS,
    KeyValue,
    simulated,
    unique,
)
from tests.integration.worker_process import TELLS_KERNELS, Watcher, Worker, run_weir
from weir.online.batch import PredictionBatch
from weir.online.codec.decode import decode_device_events, decode_labels, decode_user_events
from weir.online.codec.example_log import decode_example_log
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission, AdmissionResult
from weir.online.stages.pipeline import TaskPipeline
from weir.online.stages.scoring import ScoringStage
from weir.online.task.column_plan import union
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.kafka.partitioners import partitions_of
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.simulate import SimulationConfig

pytestmark = pytest.mark.integration

DEMO = REPOSITORY / "streams" / "demo" / "tasks"
DECODERS = {topics.USER_EVENTS: decode_user_events, topics.DEVICE_EVENTS: decode_device_events}
PURCHASE = b'"type":"purchase"'


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
    def fold(cls, stream: str, tasks: Sequence[TaskSpec], records: Sequence[StoredRecord]) -> Embedded:
        """Fold a partition."""
        store, intake, found = MemoryFeatureStore(), Admission(IntakePolicy()), cls()
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

    def count(self, rejects: int, admitted: AdmissionResult) -> None:
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
    """User events and labels that were sent first, purchases and labels each when those before were processed."""
    metrics: dict[str, float]
    """By name and labels, when all was processed."""

    @cached_property
    def logs(self) -> dict[str, dict[int, list[StoredRecord]]]:
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
FIRST = 85
"""User events that are sent one by one."""


@pytest.fixture(scope="module")
def run(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """The demo's tasks on one worker of role ``all``: some purchases one by one, then the rest in four parts."""
    folder = tmp_path_factory.mktemp("worker")
    deployment = Deployment.create(
        folder, kafka, redis_server.url, prefix=unique("run"), partitions=PARTITIONS,
        tasks=tuple(sorted(DEMO.glob("*.toml"))), worker={"web_port": "auto"},
    )  # fmt: skip
    with Watcher(deployment) as watcher, Worker(deployment, folder / "worker.log", **TELLS_KERNELS) as worker:
        health, ready = worker.get("/health"), worker.get("/ready")
        worker.until(worker.ready, "it is ready")
        records = simulated(STREAM)
        events = records[topics.USER_EVENTS]
        first = mixed_with_labels(events[:FIRST])
        for record in first:
            watcher.send(topics.LABELS if b'"label_id"' in record[1] else topics.USER_EVENTS, [record])
            if PURCHASE in record[1] or b'"label_id"' in record[1]:  # others are not of the task that has side rows
                watcher.settle(worker)
        records[topics.USER_EVENTS] = events[FIRST:]
        for part in range(4):
            for topic, found in records.items():
                cuts = [len(found) * k // 4 for k in range(5)]
                watcher.send(topic, found[cuts[part] : cuts[part + 1]])
            watcher.settle(worker)
        status, metrics = worker.get("/metrics")
        assert status == 200
        yield Run(deployment, watcher, worker, answer(ready), answer(health), first, samples(metrics))


def answer(page: tuple[int, str]) -> tuple[int, Any]:
    return page[0], orjson.loads(page[1])


def samples(page: str) -> dict[str, float]:
    """Every sample, by what a person would ask for: ``name{label=value,...}``."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            told = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{told}}}"] = sample.value
    return found


def mixed_with_labels(events: Sequence[KeyValue]) -> list[KeyValue]:
    """Events, and behind every third purchase a label of an earlier one: most say fraud."""
    made: list[KeyValue] = []
    purchases: list[tuple[bytes, dict[str, Any]]] = []
    for key, value in events:
        made.append((key, value))
        if PURCHASE not in value:
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


def test_no_kernel_is_compiled_once_it_has_partitions(run: Run) -> None:
    """Compiling takes seconds on a new machine, in which nothing is scored."""
    assert run.worker.late_kernels() == []


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
    task, store = run.deployment.tasks["fraud"], MemoryFeatureStore()
    # One store, but each partition tells for itself when a label became known: at its newest event's time.
    pipelines = [TaskPipeline(task, store) for _ in range(PARTITIONS)]
    features, intakes = pipelines[0].features, [Admission(IntakePolicy()) for _ in range(PARTITIONS)]
    wanted: dict[str, dict[str, float]] = {}
    for key, value in run.one_by_one:
        partition = int(partitions_of([key], PARTITIONS)[0])
        pipeline = pipelines[partition]
        if b'"label_id"' in value:
            pipeline.labels(decode_labels([value]).by_task()["fraud"])
            continue
        batch = decode_user_events([value], pipeline.columns).batch
        made = pipeline.events(intakes[partition].admit(batch, batch.ts).batch).predictions
        if made is not None:
            wanted |= features_of(made, features)
    found: dict[str, dict[str, float]] = {}
    for by_task in run.predictions.values():
        found |= features_of(by_task["fraud"], features)
    for event_id, values in wanted.items():
        assert found[event_id] == values, event_id
    assert len(wanted) > 20
    for name in ("merchant.tx_count_1d", "merchant.fraud_share_14d", "user.fraud_positives_7d"):
        assert len({values[name] for values in wanted.values()}) > 1, f"{name} never moved: nothing was tested"


def features_of(p: PredictionBatch, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Features by event and name."""
    return {e: dict(zip(names, x, strict=True)) for e, x in zip(p.event_id, p.features.tolist(), strict=True)}


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


def test_health_readiness_and_metrics_tell_what_is(run: Run) -> None:
    assert run.health[0] == 200
    assert run.health[1]["status"] == "alive"
    assert run.first_ready[0] == 503
    assert run.first_ready[1]["ready"] is False
    assert run.first_ready[1]["reasons"]
    status, now = answer(run.worker.get("/ready"))
    assert (status, now["ready"], now["reasons"]) == (200, True, [])
    assert {"user-events-0", "device-events-1", "entity-updates-2", "label-0"} <= {*now["lanes"]}
    for stream in DECODERS:
        made = [run.embedded[stream, p] for p in range(PARTITIONS)]
        assert run.metrics[f"weir_events_total{{topic={stream}}}"] == sum(e.admitted for e in made)
        assert run.metrics[f"weir_duplicates_total{{topic={stream}}}"] == sum(e.duplicates for e in made)
        assert run.metrics[f"weir_records_total{{topic={stream}}}"] == sum(
            len(records) for records in run.logs[stream].values()
        )
        refused = [v for k, v in run.metrics.items() if k.startswith("weir_dead_letters_total{") and stream in k]
        assert sum(refused) == sum(e.refused for e in made)
    assert sum(e.duplicates for e in run.embedded.values()) > 10
    assert sum(e.refused for e in run.embedded.values()) > 10
    for task in run.deployment.tasks:
        made_by_task = sum(len(by_task[task]) for by_task in run.predictions.values())
        assert run.metrics[f"weir_predictions_total{{task={task}}}"] == made_by_task


# -- commands beside a running worker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["churn", "device_failure", "fraud"])
def test_a_score_is_explained_by_the_model_that_made_it(run: Run, task: str) -> None:
    rows = [p[task] for p in run.predictions.values()]
    p = max(rows, key=lambda p: int(p.model_version.max()))
    row = int(np.argmax(p.model_version))
    command = ["explain-score", p.event_id[row], "--task", str(DEMO / f"{task}.toml"), "--entity", p.entity_id[row]]
    told = run_weir(run.deployment, *command, "--json")
    assert told.status == 0, told.err
    document = told.document
    assert document["equal"] is True
    assert (document["score"], document["logged"]["model_version"]) == (p.score[row], p.model_version[row])
    assert document["model"]["version"] > 0
    shown = run_weir(run.deployment, *command, "--from-start")
    assert shown.status == 0, shown.err
    assert "equal bit for bit" in shown.out


def test_replayed_dead_letters_count_once_whatever_became_of_them_before(run: Run) -> None:
    deployment, watcher, worker = run.deployment, run.watcher, run.worker

    def zoe(number: int, ts: float, **more: object) -> KeyValue:
        event = {"v": 1, "event_id": f"zoe-{number}", "type": "purchase", "user_id": "zoe", "ts": ts, "amount": 5.0}
        return b"zoe", orjson.dumps(event | more)

    def counted() -> tuple[dict[str, float], dict[str, bytes]]:
        values = run_weir(deployment, "features", "get", "zoe", "--table", "fraud.user", "--json").document[0]["values"]
        return values, watcher.rows()

    def replay() -> None:
        done = run_weir(deployment, "dlq", "replay", "--all", "--yes")
        assert done.status == 0, done.err
        watcher.settle(worker)

    # Refused once for its form, then repaired by its producer; refused for its age; refused twice for its clock.
    watcher.send(topics.USER_EVENTS, [zoe(1, STREAM.end_ts, amount="5.0"), zoe(1, STREAM.end_ts)])
    watcher.send(topics.USER_EVENTS, [zoe(2, STREAM.end_ts - 5 * 86_400.0)])
    watcher.send(topics.USER_EVENTS, [zoe(3, time.time() + 30 * 86_400.0)] * 2)
    watcher.send(topics.USER_EVENTS, [zoe(4, STREAM.end_ts + 60.0)])
    watcher.settle(worker)
    values, before = counted()
    assert values["user.spent_count_7d"] == 2
    assert values["user.spent_sum_7d"] == 10.0
    replay()
    assert counted() == (values, before), "letters, replayed, changed rows"
    found = [
        event_id
        for records in deployment.read(topics.PREDICTIONS).values()
        for event_id in scored_of(deployment.tasks, records)["fraud"].predictions.event_id
        if event_id.startswith("zoe")
    ]
    assert sorted(found) == ["zoe-1", "zoe-4"]
