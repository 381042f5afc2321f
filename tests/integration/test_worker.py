"""What ``weir worker`` does on real Kafka and Redis: the same as the embedded stages, also after stops and losses.

Most tests look at one run of one worker (`run`), whose deployment holds the three tasks of the demo.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from online.batch import PredictionBatch
from online.columnplan import union
from online.decode import decode_device_events, decode_labels, decode_user_events
from online.intake import Admitted, Intake, IntakePolicy
from online.logged import decode_example_log
from online.pipeline import TaskPipeline
from online.scoring import ScoringStage
from online.task import TaskSpec
from streams import topics
from streams.admin.clients import admin_client
from streams.following.fold import ExampleFold
from streams.settings import load_settings
from streams.simulate import SimulationConfig, simulate
from streams.stores import MemoryFeatureStore
from streams.stores.link import acl_line
from streams.stores.rows import decode_row
from streams.transport.partition import partitions_of
from tests.integration.chaos.checker import Checker
from tests.integration.chaos.deployment import Deployment, Stored
from tests.integration.chaos.replay import scored_of
from tests.integration.kafka_broker import REPOSITORY, Broker, free_ports
from tests.integration.kafka_secrets import Secrets
from tests.integration.redis_server import Certificates, NamedRedis, RedisServer
from tests.integration.worker_process import Outcome, Watcher, Worker, run_weir

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see conftest
    from kafka import TopicPartition
    from kafka.admin import (
        ACL,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        KafkaAdminClient,
        NewPartitions,
        ResourcePattern,
        ResourceType,
    )

pytestmark = pytest.mark.integration

DEMO = REPOSITORY / "streams" / "demo" / "tasks"
DECODERS = {topics.USER_EVENTS: decode_user_events, topics.DEVICE_EVENTS: decode_device_events}
PURCHASE = b'"type":"purchase"'
PARTITIONS = 3
STOP_S = 10.0
"""What a clean stop may take beyond the drain, on a machine that does other things too."""
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
    """User events and labels that were sent first, purchases and labels each when those before were processed."""
    metrics: dict[str, float]
    """By name and labels, when all was processed."""

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
    with Watcher(deployment) as watcher, Worker(deployment, folder / "worker.log") as worker:
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
    features, intakes = pipelines[0].features, [Intake(IntakePolicy()) for _ in range(PARTITIONS)]
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
    watcher.send(topics.USER_EVENTS, [zoe(3, STREAM.end_ts + 60.0)] * 2, ts=STREAM.end_ts - 7_200.0)
    watcher.settle(worker)
    values, before = counted()
    assert values["user.spent_count_7d"] == 1
    replay()
    values, after = counted()
    assert values["user.spent_count_7d"] == 2
    assert values["user.spent_sum_7d"] == 10.0
    changed = {key.rpartition(":")[2] for key in after if after[key] != before.get(key)}
    assert changed == {"zoe"}, "letters of others, replayed, changed rows"
    replay()
    assert counted() == (values, after)
    found = [
        event_id
        for records in deployment.read(topics.PREDICTIONS).values()
        for event_id in scored_of(deployment.tasks, records)["fraud"].predictions.event_id
        if event_id.startswith("zoe")
    ]
    assert sorted(found) == ["zoe-1", "zoe-3"]


# -- roles -------------------------------------------------------------------------------------------------------------


def test_a_scoring_and_a_labelling_worker_make_what_one_of_role_all_makes(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    one, two = (
        Deployment.create(
            tmp_path, kafka, redis_server.url, prefix=unique(name), partitions=PARTITIONS, tasks=("fraud", "spend")
        )
        for name in ("one", "two")
    )
    records = simulated(DAY)
    with (
        Watcher(one) as of_one,
        Watcher(two) as of_two,
        Worker(one, tmp_path / "all.log") as both,
        Worker(two, tmp_path / "score.log", "--role", "score") as score,
        Worker(two, tmp_path / "label.log", "--role", "label") as label,
    ):
        for topic in (topics.USER_EVENTS, topics.LABELS):  # labels after the scores: how they interleave is chance else
            for watcher, worker in ((of_one, both), (of_two, label)):
                watcher.send(topic, records[topic])
                watcher.settle(worker)
        assert [worker.end() for worker in (both, score, label)] == [0, 0, 0]
    made = [(examples_of(deployment), alerts_of(deployment)) for deployment in (one, two)]
    assert made[0] == made[1]
    examples, alerts = made[0]
    assert len(examples) > 100
    assert len(alerts) > 10


def examples_of(deployment: Deployment) -> list[tuple[str, int, bool]]:
    """Event, number and value of every example of the fraud task, sorted."""
    features = {"fraud": ExampleFold.of(deployment.tasks["fraud"]).features}
    log = [stored.record.value for stored in deployment.read(topics.EXAMPLES)[0]]
    found = decode_example_log(log, features).tasks["fraud"].batch
    return sorted(zip(found.event_id, found.n.tolist(), found.y.tolist(), strict=True))


def alerts_of(deployment: Deployment) -> set[tuple[str, str]]:
    """Task and id of every alert."""
    records = [stored.record.value for log in deployment.read(topics.ALERTS).values() for stored in log]
    return {(alert["task"], alert["alert_id"]) for alert in map(orjson.loads, records)}


# -- stops and starts --------------------------------------------------------------------------------------------------

DAY = SimulationConfig(
    seed=6, events=3_000, days=1, users=80, merchants=10, devices=0, fraud_share=0.2, label_delay_days=0.1,
    review_share=0.3, malformed_share=0.0, duplicate_share=0.0, late_share=0.0,
)  # fmt: skip
"""Within one day nothing is late, so what is sent again is known as a repeat."""


def test_a_clean_stop_in_the_middle_loses_and_repeats_nothing_and_repeats_are_known_after_it(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path: Path
) -> None:
    deployment = Deployment.create(
        tmp_path, kafka, redis_server.url, prefix=unique("stop"), partitions=PARTITIONS, tasks=("fraud", "quiet"),
        worker={"max_batch": 64},
    )  # fmt: skip
    records = simulated(DAY)
    events, labels = records[topics.USER_EVENTS], records[topics.LABELS]
    half, log = len(events) // 2, tmp_path / "worker.log"
    with Watcher(deployment) as watcher:
        with Worker(deployment, log) as first:
            first.until(lambda: "partitions assigned" in first.log, "it has partitions")
            watcher.send(topics.USER_EVENTS, events[:half])
            watcher.send(topics.LABELS, labels[: len(labels) // 2])
            first.until(lambda: sum(deployment.ends(topics.PREDICTIONS).values()), "it scores")
            asked = time.monotonic()
            assert first.end() == 0
            assert time.monotonic() - asked < deployment.settings.worker.drain_s + STOP_S
        with Worker(deployment, log) as second:
            watcher.send(topics.USER_EVENTS, events[half:])
            watcher.send(topics.LABELS, labels[len(labels) // 2 :])
            watcher.settle(second)
            before = watcher.rows()
            watcher.send(topics.USER_EVENTS, events[:half])
            watcher.settle(second)
            assert watcher.rows() == before
            assert second.end() == 0
    store = redis.Redis.from_url(redis_server.url)
    notes = Checker(deployment, store).check()
    assert notes["repeated predictions"] == {"fraud": 0, "quiet": 0}
    assert notes["duplicate events"] == half
    assert notes["examples"]["fraud"][0] > 50
    assert [again for _, again in notes["examples"].values()] == [0, 0]


@pytest.mark.parametrize("said", ["metrics at http", "is away"])
def test_a_stop_while_it_starts_is_a_clean_one(kafka: Broker, tmp_path: Path, said: str) -> None:
    nobody = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    deployment = Deployment.create(
        tmp_path, kafka, nobody, prefix=unique("early"), tasks=("fraud",), worker={"web_port": "auto"}
    )
    with Worker(deployment, tmp_path / "worker.log") as worker:
        worker.until(lambda: said in worker.log, "it starts")
        asked = time.monotonic()
        assert worker.end() == 0, worker.log
        assert time.monotonic() - asked < STOP_S
        assert "Traceback" not in worker.log


# -- the store ---------------------------------------------------------------------------------------------------------


def test_an_emptied_store_is_refused_then_rebuilt_and_the_worker_goes_on(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = new_redis(), tmp_path / "worker.log"
    deployment = Deployment.create(
        tmp_path, kafka, store.url, prefix=unique("lost"), partitions=PARTITIONS, tasks=("fraud", "quiet")
    )
    records = simulated(DAY)
    labels, events = records[topics.LABELS], records[topics.USER_EVENTS]
    early, middle, late = (labels[len(labels) * k // 3 : len(labels) * (k + 1) // 3] for k in range(3))
    with Watcher(deployment) as watcher:
        watcher.send(topics.USER_EVENTS, [events[0], *events, *of_ada()])
        watcher.send(topics.LABELS, early)
        with Worker(deployment, log) as worker:
            watcher.settle(worker)
            assert worker.end() == 0
        at = ["--table", "fraud.user", "--at", str(DAY.end_ts - 2_500.0)]
        check_ada(run_weir(deployment, "features", "get", "ada", *at, "--json"))
        before = content(watcher.rows())
        assert {key.split(":")[2] for key in before} >= {"fraud.user", "fraud.merchant", "fraud.user.labels"}
        store.send("FLUSHALL")
        forget_first(deployment, events[0][0])  # where Kafka still had everything, the worker would take it all again
        with Worker(deployment, log) as refused:
            assert refused.wait() == 2
            assert "weir features rebuild" in refused.log
            assert "Traceback" not in refused.log
        # What was published a moment before the loss is made again; in the second round all is older than that.
        for left_s, more in ((60.0, middle), (0.0, late)):
            monkeypatch.setattr(import_module("streams.worker.rebuild"), "LEFT_S", left_s)
            store.send("FLUSHALL")
            built = run_weir(deployment, "features", "rebuild", "--yes")
            assert built.status == 0, built.err
            assert content(watcher.rows()) == before
            known = {*examples_of(deployment)}
            with Worker(deployment, log) as worker:
                watcher.send(topics.LABELS, more)
                watcher.settle(worker)
                assert worker.end() == 0
            assert len({*examples_of(deployment)} - known) > len(more) // 2
            before = content(watcher.rows())
    Checker(deployment, redis.Redis.from_url(store.url)).check()


def forget_first(deployment: Deployment, key: bytes) -> None:
    """Delete the first record of the partition of a key, as retention does in the end."""
    topic = deployment.settings.topics.name(topics.USER_EVENTS)
    partition = int(partitions_of([key], PARTITIONS)[0])
    with admin_client(deployment.settings.kafka) as admin:
        admin.delete_records({TopicPartition(topic, partition): 1})


def of_ada() -> list[KeyValue]:
    """Three purchases of a user of whom there is nothing else."""
    made = [(0.0, 10.0), (7_200.0, 20.0), (7_500.0, 60.0)]
    return [
        (b"ada", orjson.dumps({
            "v": 1, "event_id": f"ada-{k}", "type": "purchase", "user_id": "ada", "ts": DAY.end_ts - 10_000.0 + after,
            "amount": amount, "merchant_id": "ada's", "device_id": f"phone-{k % 2}",
        }))
        for k, (after, amount) in enumerate(made)
    ]  # fmt: skip


def check_ada(got: Outcome) -> None:
    (row,) = got.document
    values = row["values"]
    assert (got.status, row["table"], row["key"]) == (0, "fraud.user", "user_id")
    expected = {
        "user.spent_count_1h": 2, "user.spent_mean_1h": 40, "user.spent_max_1h": 60,
        "user.spent_count_1d": 3, "user.spent_mean_1d": 30, "user.spent_max_1d": 60,
        "user.spent_since_last": 0, "user.devices_distinct_1d": 2,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=0.05)  # distinct is an estimate


def content(rows: Mapping[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """What rows say, without the offset and time of the batch that changed them last: batches are cut as they come."""
    decoded = {key: decode_row(("", 0), value) for key, value in rows.items()}
    return {key: (row.schema, row.row) for key, row in decoded.items()}


# -- hung --------------------------------------------------------------------------------------------------------------


def test_the_watchdog_ends_a_worker_whose_store_hangs_and_the_next_one_goes_on(
    kafka: Broker, new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    store, log = new_redis(aof=True), tmp_path / "worker.log"
    deployment = Deployment.create(
        tmp_path, kafka, store.url, prefix=unique("hung"), partitions=PARTITIONS, tasks=("fraud",),
        worker={"watchdog_s": 2.5},
    )  # fmt: skip
    records = simulated(DAY)
    events = records[topics.USER_EVENTS]
    with Watcher(deployment) as watcher:
        with Worker(deployment, log) as hung:
            watcher.send(topics.USER_EVENTS, events[:1_000])
            watcher.send(topics.LABELS, records[topics.LABELS])
            watcher.settle(hung)
            store.freeze()
            try:
                watcher.send(topics.USER_EVENTS, events[1_000:])
                assert hung.wait() == 70
            finally:
                store.thaw()
            said = hung.log
            assert "watchdog: no batch was completed for" in said
            assert f"in flight: ['{deployment.settings.topics.name(topics.USER_EVENTS)}-" in said
        with Worker(deployment, log) as next_one:
            watcher.settle(next_one)
            assert next_one.end() == 0
    Checker(deployment, redis.Redis.from_url(store.url)).check()


# -- links -------------------------------------------------------------------------------------------------------------


def test_a_worker_on_brokers_and_a_store_that_want_logins_and_tls(
    secure_kafka: tuple[Broker, Secrets], new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    broker, secrets = secure_kafka
    prefix, word = unique("safe"), os.urandom(8).hex()
    certificates = Certificates(tmp_path / "tls").make()
    store = new_redis(tls=certificates, acl=["user default off", acl_line("w", prefix).replace("<password>", word)])
    allow(broker, "weir", prefix)
    plain = Deployment.create(tmp_path, broker, store.url, prefix=prefix, partitions=PARTITIONS, tasks=("fraud",))
    kafka = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "weir",
        "password": secrets.users["weir"], "ca_file": str(secrets.ca_file),
    }  # fmt: skip
    add_to_table(plain.config, "kafka", kafka)
    add_to_table(plain.config, "redis", {"username": "w", "password": word, "ca_file": str(certificates.ca)})
    told = load_settings(plain.config, {})
    deployment = dataclasses.replace(plain, settings=told.model_copy(update={"kafka": plain.settings.kafka}))
    records = simulated(DAY)
    with Watcher(deployment) as watcher, Worker(deployment, tmp_path / "worker.log") as worker:
        for topic in (topics.USER_EVENTS, topics.LABELS):
            watcher.send(topic, records[topic])
        watcher.settle(worker)
        assert worker.end() == 0
        assert word not in worker.log
        assert secrets.users["weir"] not in worker.log
    assert len(examples_of(deployment)) > 100


def add_to_table(config: Path, table: str, values: Mapping[str, str]) -> None:
    """Add keys to a table of a settings file."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    config.write_text(config.read_text().replace(f"[{table}]\n", f"[{table}]\n{lines}"))


def allow(broker: Broker, user: str, prefix: str) -> None:
    """Let a user do everything with topics and groups whose names begin with ``prefix``."""
    admin = KafkaAdminClient(bootstrap_servers=broker.direct)
    admin.create_acls([
        ACL(f"User:{user}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW,
            ResourcePattern(kind, prefix, ACLResourcePatternType.PREFIXED))
        for kind in (ResourceType.TOPIC, ResourceType.GROUP)
    ])  # fmt: skip
    admin.close()


# -- what cannot work --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusals(
    kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Worker]]:
    """Workers that cannot work, all started at once; they end by themselves."""
    folder = tmp_path_factory.mktemp("refusals")
    made: dict[str, Deployment] = {}
    for name in ("unequal", "absent", "password", "store", "brokers"):
        made[name] = Deployment.create(
            folder, kafka, redis_server.url, prefix=unique(name), partitions=PARTITIONS, tasks=("fraud",),
            worker={"store_patience_s": 2.0},
        )  # fmt: skip
    settings = made["unequal"].settings
    with admin_client(settings.kafka) as admin:
        admin.create_partitions({settings.topics.name(topics.LABELS): NewPartitions(PARTITIONS + 1)})
    nobody = free_ports(1)[0]
    for name, old, new in (
        ("absent", f'prefix = "{made["absent"].settings.topics.prefix}"', 'prefix = "nobody-made-these."'),
        ("password", "[redis]\n", f'[redis]\npassword = "{WRONG}"\n'),
        ("store", redis_server.url, f"redis://127.0.0.1:{nobody}/0"),
        ("brokers", kafka.address, f"127.0.0.1:{nobody}"),
    ):
        text = made[name].config.read_text()
        assert old in text
        made[name].config.write_text(text.replace(old, new))
    with ExitStack() as stack:
        yield {name: stack.enter_context(Worker(d, folder / f"{name}.log")) for name, d in made.items()}


WRONG = "hush-hush-hush"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unequal", ["topics keyed by entity need the same number of partitions", "labels 4", "weir topics check"]),
        ("absent", ["nobody-made-these.", "weir topics create"]),
        ("password", ["did not accept our login", "correct redis.username and redis.password"]),
        ("store", ["Redis at 127.0.0.1:", "Check that it runs and that redis.url is right"]),
        ("brokers", ["no broker at 127.0.0.1:", "Nothing listens there: start the broker"]),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(refusals: dict[str, Worker], name: str, says: list[str]) -> None:
    worker = refusals[name]
    assert worker.wait() == 2, worker.log
    errors = [line for line in worker.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, worker.log
    for part in says:
        assert part in errors[0]
    assert "Traceback" not in worker.log
    assert WRONG not in worker.log
