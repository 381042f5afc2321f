"""Real Kafka and Redis for the integration tests; without them they skip, or fail if ``WEIR_REQUIRE_INTEGRATION=1``."""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

with warnings.catch_warnings():
    # kafka-python reads its message schemas in a way that Python 3.11 deprecated, and 3.13 took that back.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.admin import KafkaAdminClient, NewTopic

from tests.integration.kafka_broker import (
    Broker,
    DockerBroker,
    NoKafka,
    eventually,
    find_broker,
    find_jars,
    unavailable,
)
from tests.integration.kafka_commands import Weir
from tests.integration.kafka_node import JavaBroker, JavaCluster
from tests.integration.kafka_secrets import Secrets, make_secrets
from tests.integration.redis_server import NamedRedis, NoRedis, RedisServer, find_redis
from weir.streams.config import topics
from weir.streams.config.settings import KafkaSettings
from weir.streams.kafka.admin.clients import admin_client

LONGEST_FIRST = (
    "test_installed.py",  # it mostly waits for a package index
    "tests/console",  # all of it is one process's
    "test_more_partitions.py",
    "test_more_partitions_timers.py",
    "test_rebuild_refused.py",
    "test_service_http.py",
    "test_transport.py",
    "test_rebalances.py",
    "test_redis_failover.py",
    "test_isolation.py",
    "test_serve_kill.py",
    "test_tuning.py",
    "test_serve_kafka.py",
    "test_trainer.py",
    "test_worker_stops.py",
    "test_links.py",
    "test_secure_links.py",
    "test_worker_store.py",
    "test_worker_links.py",
    "test_inference_remote.py",
    "test_full_worker.py",
    "test_kafka_cli_links.py",
    "test_kafka_cli_letters.py",
    "test_kafka_cli_records.py",
    "test_kafka_cli_topics.py",
    # By themselves, in two processes (.ci/run). The torture begins when they end: it judges what is learned in time.
    "test_workers_redis_and_the_broker_killed_under_load",
    "test_a_broker_that_is_slow_cut_off_and_away",
    "test_a_store_that_is_slow_hung_cut_off_and_away",
    "test_one_broker_of_three_killed_and_revived",
    "test_poison_and_oversized_records",
)
"""Files, folders and tests: so that processes that share them end together. xdist keeps the order with
``--no-loadscope-reorder``."""


LOST_SOCKET = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
"""kafka-python drops the socket of a connection that is being made when its client is closed, as on a slow machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take long before the others; bear with what Kafka's client forgets."""
    for item in items:
        if item.get_closest_marker("integration"):
            item.add_marker(pytest.mark.filterwarnings(LOST_SOCKET))
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    last = len(rank)

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.relative_to(item.config.rootpath).as_posix()
        return min(rank.get(name, last) for name in (folder, item.path.name, item.name))

    items.sort(key=place)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker, on its own directory and port unless the user named one."""
    try:
        broker = find_broker(tmp_path_factory.mktemp("kafka") / "broker", quick=True)
        broker.start()
    except NoKafka as reason:
        unavailable(str(reason))
    try:
        yield broker
    finally:
        broker.stop()
        if isinstance(broker, DockerBroker):
            broker.remove()


@pytest.fixture
def restartable_kafka(kafka: Broker) -> Broker:
    """A broker that the test may stop and start; it runs again when the test ends."""
    if not kafka.can_restart:
        unavailable(f"the broker at {kafka.address} was {kafka.origin}, so it is not ours to stop; unset it")
    return kafka


@pytest.fixture
def new_topic(kafka: Broker) -> Callable[..., str]:
    """Makes topics with names of their own: ``new_topic(partitions, **configs)``."""
    names = itertools.count()

    def make(partitions: int = 1, **configs: str) -> str:
        name = f"t-{os.getpid()}-{os.urandom(4).hex()}-{next(names)}"
        topic = NewTopic(name, partitions, 1, topic_configs={k.replace("_", "."): v for k, v in configs.items()})
        admin = KafkaAdminClient(bootstrap_servers=kafka.address)
        try:
            admin.create_topics([topic], wait_for_metadata=True)
        finally:
            admin.close()
        return name

    return make


@pytest.fixture(scope="session")
def erasable_kafka(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The session's broker, or one of our own where that is the user's, whose topics are not ours to delete."""
    if kafka.can_restart:
        yield kafka
        return
    try:
        broker = JavaBroker(find_jars(), tmp_path_factory.mktemp("erasable-kafka") / "broker", quick=True)
    except NoKafka as reason:
        unavailable(str(reason))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def weir(erasable_kafka: Broker) -> Iterator[Weir]:
    """``weir`` in this process, with Weir's topics made and empty; they are gone before the next module makes them."""
    settings = KafkaSettings(bootstrap=(erasable_kafka.address,))
    found = Weir(settings, {"WEIR_KAFKA__BOOTSTRAP": erasable_kafka.address})
    assert found("topics", "create").status == 0
    yield found
    with admin_client(settings) as admin:
        admin.delete_topics([topic for topic in admin.list_topics() if topic in topics.ALL])
        eventually(lambda: not {*admin.list_topics()} & {*topics.ALL}, 20, "Weir's topics are deleted")


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Secrets]]:
    """A broker whose clients log in (PLAIN, SCRAM) over TLS and may do what ACLs say."""
    directory = tmp_path_factory.mktemp("secure-kafka")
    try:
        libs = find_jars()
    except NoKafka as reason:
        unavailable(str(reason))
    secrets = make_secrets(directory / "secrets")
    broker = JavaBroker(libs, directory / "broker", "256m", secrets=secrets, quick=True)
    broker.start()
    try:
        yield broker, secrets
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def kafka3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaCluster]:
    """Three brokers, three copies of every partition, two of which must be there."""
    try:
        cluster = JavaCluster(find_jars(), tmp_path_factory.mktemp("kafka3"))
    except NoKafka as reason:
        unavailable(str(reason))
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop(signal.SIGKILL)  # their data is gone with them


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | NamedRedis]:
    """A running Redis that tests share: each uses a key prefix or a lane of its own, and leaves it running."""
    try:
        server = find_redis(tmp_path_factory.mktemp("redis"))
    except NoRedis as reason:
        unavailable(str(reason))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def new_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of a test's own, to be killed and configured: ``new_redis(aof=True)``; see `RedisServer`."""
    made: list[RedisServer] = []

    def make(**options: Any) -> RedisServer:
        try:
            made.append(RedisServer(tmp_path_factory.mktemp("redis"), **options))
            made[-1].start()
        except NoRedis as reason:
            unavailable(str(reason))
        return made[-1]

    yield make
    for server in made:
        server.stop()
