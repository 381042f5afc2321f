"""Real Kafka for the integration tests; without one they skip, or fail where ``WEIR_REQUIRE_INTEGRATION=1``."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator

import pytest

with warnings.catch_warnings():
    # kafka-python reads its message schemas in a way that Python 3.11 deprecated, and 3.13 took that back.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.admin import KafkaAdminClient, NewTopic

from tests.integration.kafka_broker import Broker, DockerBroker, NoKafka, find_broker, unavailable


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running broker, on its own directory and port unless the user named one."""
    try:
        broker = find_broker(tmp_path_factory.mktemp("kafka") / "broker")
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
            admin.create_topics([topic])
        finally:
            admin.close()
        return name

    return make
