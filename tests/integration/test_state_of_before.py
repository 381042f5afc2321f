"""Keys and topics that a worker of commit 12015ac left behind: today's worker goes on where it was.

Rows begin anew, which is told; after ``weir features rebuild`` every score is what the version of then made of the same
records. tests/fixtures/old_state.py is what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fixtures.old_state import PARTITIONS, RESENT, TASKS, Logs, old_state
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, unavailable
from tests.integration.redis_server import NoRedis, RedisServer
from tests.integration.streamed import unique
from tests.integration.worker_process import Outcome, Watcher, Worker, run_weir
from tests.streams.test_state_of_before import nearly
from weir.streams.config import topics

pytestmark = pytest.mark.integration
PREFIX = "before"
"""Of the keys: what is stored under some of them names others."""
STATE = old_state().redis_and_kafka
Documents = Mapping[tuple[str, str], dict[str, Any]]
"""By task and event."""


@dataclass
class Resumed:
    """A worker of today on the stored state, which has processed the further records."""

    check: Outcome
    log: str
    logs: Logs
    """What it appended to the topics."""

    def documents(self, topic: str) -> Documents:
        return documents(self.logs, topic)


def documents(logs: Logs, topic: str) -> Documents:
    found = [orjson.loads(value) for records in logs[topic].values() for _, value in records]
    return {(document["task"], document["event_id"]): document for document in found}


def loaded(folder: Path, kafka: Broker, redis: RedisServer) -> Deployment:
    """A deployment with the stored keys and topics. What the group had committed is lost, as it is after a week."""
    deployment = Deployment.create(
        folder,
        kafka,
        redis.url,
        prefix=unique("before"),
        redis_prefix=PREFIX,
        partitions=PARTITIONS,
        tasks=tuple(TASKS),
    )
    with Watcher(deployment) as watcher:

        async def restore() -> None:
            for key, (dumped, left_ms) in STATE.keys.items():
                await watcher.link.execute("RESTORE", PREFIX.encode() + key, left_ms, dumped)

        watcher.run(restore())
        for topic, partitions in STATE.topics.items():
            for partition, records in partitions.items():
                watcher.send_to(topic, partition, records)
    return deployment


def resumed(deployment: Deployment, folder: Path, check: Outcome) -> Resumed:
    with Watcher(deployment) as watcher, Worker(deployment, folder / "worker.log") as worker:
        worker.until(lambda: "partitions assigned" in worker.log, "it has partitions")
        watcher.settle(worker)
        for topic, records in STATE.further.items():
            watcher.send(topic, records)
            watcher.settle(worker)
        assert worker.end() == 0, worker.log
        log = worker.log
    logs = {
        topic: {
            p: [(s.record.key, s.record.value) for s in stored[len(STATE.topics[topic].get(p, [])) :]]
            for p, stored in deployment.read(topic).items()
        }
        for topic in STATE.topics
    }
    return Resumed(check, log, logs)


@pytest.fixture(scope="module")
def as_it_is(kafka: Broker, module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("as-it-is")
    deployment = loaded(folder, kafka, module_redis)
    with Watcher(deployment) as watcher:
        assert watcher.behind() == {}, "it would process again what was processed"
    return resumed(deployment, folder, run_weir(deployment, "worker", "--check"))


@pytest.fixture(scope="module")
def rebuilt(kafka: Broker, module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("rebuilt")
    module_redis.send("FLUSHALL")
    deployment = loaded(folder, kafka, module_redis)
    done = run_weir(deployment, "features", "rebuild", "--yes")
    assert done.status == 0, done.err
    return resumed(deployment, folder, run_weir(deployment, "worker", "--check"))


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    except NoRedis as reason:
        unavailable(str(reason))
    yield server
    server.stop()


OLD = documents(STATE.after, topics.PREDICTIONS)
FEATURES = ("fraud", "spend")
"""Tasks that score each event. Those of ``quiet`` are scored at moments that follow several clocks today."""


def scored(found: Documents, *tasks: str) -> Documents:
    return {at: document for at, document in found.items() if at[0] in tasks}


@pytest.mark.parametrize("of", ["as_it_is", "rebuilt"])
def test_every_further_event_is_scored_once_by_the_model_of_before(of: str, request: pytest.FixtureRequest) -> None:
    run: Resumed = request.getfixturevalue(of)
    found = scored(run.documents(topics.PREDICTIONS), *FEATURES)
    count = sum(len(records) for records in run.logs[topics.PREDICTIONS].values())
    assert count == len(run.documents(topics.PREDICTIONS)), "a repeat was scored"
    assert found.keys() == scored(OLD, *FEATURES).keys()
    assert {at: p["model_version"] for at, p in found.items()} == {at: OLD[at]["model_version"] for at in found}, (
        "the model is what was learned from the same examples"
    )
    again = {orjson.loads(value)["event_id"] for _, value in STATE.further[topics.USER_EVENTS][:RESENT]}
    assert len(again) == RESENT
    assert not again & {event for _, event in found}, "ids of before are remembered"


def test_the_first_start_says_that_rows_begin_anew_and_the_check_says_so_before(as_it_is: Resumed) -> None:
    tables = ("fraud.user", "fraud.user.labels", "fraud.merchant", "fraud.merchant.labels", "quiet.user", "spend.user")
    for table in tables:
        assert f"WARN  rows {table}" in as_it_is.check.out
        assert f"table {table}: the aggregates of its task changed" in as_it_is.log
    assert "or this version of Weir keeps them otherwise, so its rows begin anew beside the others" in as_it_is.log
    assert "'weir features rebuild' fills them from Kafka at once" in as_it_is.log
    assert "task fraud: 1 stored models are of another learner or other features and not used" in as_it_is.log
    assert "task fraud: model at version 52" in as_it_is.log, "they are learned again from the examples"
    features = [as_it_is.documents(topics.PREDICTIONS)[at]["features"] for at in OLD if at[0] == "spend"]
    assert features != [p["features"] for at, p in OLD.items() if at[0] == "spend"]


def test_labels_of_before_and_after_teach_what_they_would_have_taught(as_it_is: Resumed) -> None:
    def taught(found: Documents) -> dict[tuple[str, str], tuple[int, int]]:
        return {at: (e["n"], e["value"]) for at, e in scored(found, "fraud").items()}

    old = documents(STATE.after, topics.EXAMPLES)
    assert taught(as_it_is.documents(topics.EXAMPLES)) == taught(old)
    earlier = documents(STATE.topics, topics.PREDICTIONS)
    joined = [at for at in taught(old) if at in earlier]
    assert len(joined) == 5, "labels that came after the stop, of predictions that were made before"
    for at in joined:
        assert as_it_is.documents(topics.EXAMPLES)[at]["features"] == earlier[at]["features"], "read back as logged"


def test_after_a_rebuild_scores_are_those_of_the_version_of_before(rebuilt: Resumed) -> None:
    assert "begin anew" not in rebuilt.log
    found = rebuilt.documents(topics.PREDICTIONS)
    both = found.keys() & OLD.keys()
    assert min(sum(task == name for task, _ in both) for name in ("fraud", "spend", "quiet")) > 20
    for at in both:
        features, wanted = found[at]["features"], OLD[at]["features"]
        assert own(features) == nearly(own(wanted)), at
        if features == nearly(wanted):
            assert found[at]["score"] == nearly(OLD[at]["score"]), at
    assert all(found[at]["features"] == nearly(OLD[at]["features"]) for at in both if at[0] != "fraud")


def own(features: dict[str, float]) -> dict[str, float]:
    """Those of the event's own entity. What another partition tells of merchants comes when it comes, then as now."""
    return {name: value for name, value in features.items() if not name.startswith("merchant.")}
