"""The service beside a real fleet when things go wrong: brokers that go and come back, topics, logins, two replicas."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from standardwebhooks import Webhook

from tests.contracts.service_modes import Served, deployed, fleet, purchase
from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, eventually, free_ports
from tests.integration.kafka_secrets import Secrets
from tests.integration.worker_process import run_weir
from tests.service.notify.receiver import SECRET, Receiver
from weir.streams.checks.rights import PRINCIPALS, grants
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.config.settings import KafkaSettings, Settings
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.admin.clients import admin_client
from weir.streams.records import Record, RecordBatch
from weir.streams.service.kafka import kafka_service_log
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.integration,
    # kafka-python lets its sockets to brokers that are away go without closing them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PATIENT = 60_000


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is told soon."""
    monkeypatch.setattr(kafka_service_log, "PATIENCE_S", 2.0)


@pytest.mark.usefixtures("patience")
def test_a_broker_that_dies_and_comes_back(
    restartable_kafka: Broker, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with fleet(deployed(request, tmp_path), tmp_path) as (served,), ThreadPoolExecutor() as threads:
        seen = listening_to(served)
        following = threads.submit(served.feed, 41, served.now(), type="prediction")
        before = [purchase(served.user(), n) for n in range(20)]
        served.client.decide(before, PATIENT)
        restartable_kafka.stop(signal.SIGKILL)
        try:
            for method, path in (("POST", "/v1/events"), ("GET", "/v1/dead-letters"), ("GET", "/v1/entities/lost")):
                began = time.monotonic()
                answer = served.http.request(method, path, json=purchase("lost", 1))
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
                assert time.monotonic() - began < 10
            assert served.http.get("/ready").status_code == 503
        finally:
            restartable_kafka.start()
        after = [purchase(served.user(), n) for n in range(20)]
        served.soon(
            lambda: served.http.post(f"/v1/decisions?deadline_ms={PATIENT}", json=after),
            lambda answer: answer.status_code == 200,
        )
        assert served.http.get("/ready").status_code == 200
        found = following.result(60)
        # Brokers take what they were sent, also where its caller was told to send it again.
        sent = ["lost-1", *(event["event_id"] for event in (*before, *after))]
        assert sorted(event.record["event_id"] for event in found) == sorted(sent)
        assert len(seen) == len(set(seen)), "a listener gets a record once"


def listening_to(served: Served) -> list[tuple[int, int]]:
    """Places of predictions that a listener of the service gets from now on."""
    seen: list[tuple[int, int]] = []

    def hear(batch: RecordBatch) -> None:
        seen.extend((batch.partition, batch.offset_of(i)) for i in range(len(batch.records)))

    served.service.log.subscribe([topics.PREDICTIONS], hear)
    return seen


def test_replicas_answer_the_same_and_a_feed_goes_on_at_another(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with fleet(deployed(request, tmp_path), tmp_path, replicas=2) as (one, other):
        now = one.now()
        users = [one.user() for _ in range(6)]
        first = one.client.decide([purchase(user, 0) for user in users], PATIENT)["results"]
        other.client.decide([purchase(user, 1) for user in users], PATIENT)
        filters = {"type": "prediction"}
        begun = one.feed(5, now, **filters)
        rest = other.feed(7, begun[-1].id, **filters)
        scored = [event.record["event_id"] for event in (*begun, *rest)]
        assert sorted(scored) == sorted(f"{user}-{n}" for user in users for n in (0, 1))
        asked = [purchase(user, 0) for user in users]
        again = other.soon(
            lambda: other.client.decide(asked, PATIENT)["results"],
            lambda results: all(one["status"] == "repeat" for one in results),
        )
        assert [r["decisions"][0]["score"] for r in again] == [r["decisions"][0]["score"] for r in first]
        (alert, *_) = other.soon(lambda: list(other.client.alerts(entity=users[0])), lambda found: found)
        assert one.client.alert(alert["alert_id"])["alert_id"] == alert["alert_id"]
        # All of it was decided; workers commit what they took a while after that.
        one.soon(lambda: asyncio.run(one.service.serving.lag()), lambda lag: lag == 0)


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[KafkaServiceLog]:
    log = KafkaServiceLog(settings)
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


@pytest.mark.usefixtures("patience")
async def test_a_broker_that_is_away_at_the_start_is_named() -> None:
    (port,) = free_ports(1)
    nowhere = Settings(kafka=KafkaSettings(bootstrap=(f"127.0.0.1:{port}",), timeout_s=1.0))
    with pytest.raises(BrokerError, match=f"127.0.0.1:{port}"):
        async with started(nowhere):
            raise AssertionError("it started")


async def test_a_stop_does_not_wait_for_brokers(
    restartable_kafka: Broker, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    log = KafkaServiceLog(deployed(request, tmp_path).settings)
    log.subscribe([topics.PREDICTIONS], list[RecordBatch]().append)
    await log.start()
    await log.append(topics.LABELS, [Record(b"u1", b"{}", time.time())])
    restartable_kafka.stop(signal.SIGKILL)
    try:
        sending = asyncio.create_task(log.append(topics.LABELS, [Record(b"u1", b"{}", time.time())]))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await log.stop()
        assert time.monotonic() - began < 10
        with pytest.raises(BrokerError, match="send the records again"):
            await sending
    finally:
        restartable_kafka.start()


async def test_a_topic_that_is_missing_is_named(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    deployment = deployed(request, tmp_path)
    settings = deployment.settings
    gone = settings.topics.name(topics.DECISIONS)
    with admin_client(settings.kafka) as admin:
        admin.delete_topics([gone])
        eventually(lambda: gone not in admin.list_topics(), 20, "it is deleted")
    checked = await asyncio.to_thread(run_weir, deployment, "serve", "--kafka", "--check", "--port", "0")
    assert checked.status == 2
    assert gone in checked.out
    with pytest.raises(UsageError, match=f"no topic {gone} that you may see; run weir topics create"):
        async with started(settings):
            raise AssertionError("it started")


async def test_it_needs_no_more_than_the_rights_of_its_principal(
    secure_kafka: tuple[Broker, Secrets], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    broker, secrets = secure_kafka
    redis = request.getfixturevalue("redis_server").settings().url.get_secret_value()
    direct = Broker(broker.direct, "its own door")
    settings = Deployment.create(tmp_path, direct, redis, prefix="secure-serve").settings
    allow(direct, "weir", settings)
    kafka = {
        "bootstrap": broker.address, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512",
        "username": "weir", "password": secrets.users["weir"], "ca_file": str(secrets.ca_file),
    }  # fmt: skip
    secured = settings.model_copy(update={"kafka": KafkaSettings.model_validate(kafka)})
    seen: list[RecordBatch] = []
    log = KafkaServiceLog(secured)
    log.subscribe([*topics.OUTPUTS, topics.LABELS], seen.append)
    await log.start()
    try:
        for topic in (*topics.INPUTS, topics.CASE_EVENTS, topics.AUDIT, topics.RETRAIN_REQUESTS):
            (told,) = await log.append(topic, [Record(b"u1", b"{}", time.time())])
            assert told.status == "accepted"
            (partition, span), *_ = [(p, s) for p, s in (await log.spans(topic)).items() if s.end]
            assert (await log.read(topic, partition, span.first))[0].records[0].value == b"{}"
        async with asyncio.timeout(30):
            while not {topics.LABELS, topics.RETRAIN_REQUESTS} <= {batch.topic for batch in seen}:
                await asyncio.sleep(0.01)
        with pytest.raises(BrokerError, match="User:weir"):
            await log.append(topics.ALERTS, [Record(b"u1", b"{}", time.time())])
    finally:
        await log.stop()


def allow(broker: Broker, user: str, settings: Settings) -> None:
    """Give a user what ``weir acl kafka`` would."""
    principal = next(p for p in PRINCIPALS if p.name == "serve")
    made = []
    for operations, words in grants(settings, principal):
        for operation, name in itertools.product(operations, words[1::2]):
            kind = ResourcePattern(ResourceType.TOPIC, name)
            made.append(ACL(f"User:{user}", "*", ACLOperation[operation.upper()], ACLPermissionType.ALLOW, kind))
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.create_acls(made)
    admin.close()


def test_two_replicas_decide_each_message_once(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each with a database of its own: both decide, and the log says whose decision counts; both send, under one id."""
    with Receiver() as receiver:
        deployment = deployed(request, tmp_path)
        hook = {"name": "hook", "kind": "webhook", "url": receiver.url, "secrets": [SECRET], "allow_private": True}
        told = ServeSettings.model_validate(
            {"notify": {"targets": [hook], "rules": [{"name": "desk", "targets": ["hook"]}]}}
        )
        settings = deployment.settings.model_copy(update={"serve": told})
        with fleet(replace(deployment, settings=settings), tmp_path, replicas=2) as (one, other):
            one.client.decide([purchase(one.user(), 0) for _ in range(20)], PATIENT)
            for served in (one, other):
                served.soon(
                    lambda: served.http.get("/v1/notifications?status=sent").json()["notifications"],  # noqa: B023
                    lambda found: len(found) == 20,
                )
            alerts = {alert["alert_id"] for alert in other.client.alerts()}
        verified = [Webhook(SECRET).verify(got.body, got.headers)["data"] for got in receiver.got]
        assert {data["alert_id"] for data in verified} == alerts
        assert len({data["id"] for data in verified}) == len(alerts) == 20
