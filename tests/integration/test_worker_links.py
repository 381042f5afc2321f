"""A worker whose brokers and store want logins and TLS, and workers that cannot work at all."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker, free_ports
from tests.integration.kafka_secrets import Secrets
from tests.integration.redis_server import Certificates, NamedRedis, RedisServer
from tests.integration.streamed import (
    DAY,
    PARTITIONS,
    examples_of,
    simulated,
    unique,
)
from tests.integration.worker_process import Watcher, Worker
from weir.streams.checks.rights import PRINCIPALS, Principal, grants, redis_user
from weir.streams.config import topics
from weir.streams.config.settings import Settings, load_settings
from weir.streams.kafka.admin.clients import admin_client

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # see conftest
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


def test_a_worker_on_brokers_and_a_store_that_want_logins_and_tls(
    secure_kafka: tuple[Broker, Secrets], new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    broker, secrets = secure_kafka
    prefix, word = unique("safe"), os.urandom(8).hex()
    certificates = Certificates(tmp_path / "tls").make()
    everything = next(p for p in PRINCIPALS if p.name == "all")
    rights = redis_user(everything, "w", prefix, f">{word}")
    store = new_redis(tls=certificates, acl=["user default off", f"user {rights}"])
    plain = Deployment.create(tmp_path, broker, store.url, prefix=prefix, partitions=PARTITIONS, tasks=("fraud",))
    kafka = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "weir",
        "password": secrets.users["weir"], "ca_file": str(secrets.ca_file),
    }  # fmt: skip
    add_to_table(plain.config, "kafka", kafka)
    add_to_table(plain.config, "redis", {"username": "w", "password": word, "ca_file": str(certificates.ca)})
    told = load_settings(plain.config, {})
    allow(broker, "weir", told, everything)
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


def allow(broker: Broker, user: str, settings: Settings, principal: Principal) -> None:
    """Give a user what the table of rights says, and nothing else."""
    admin = KafkaAdminClient(bootstrap_servers=broker.direct)
    made = []
    for operations, words in grants(settings, principal):
        for flag, name in zip(words[::2], words[1::2], strict=True):
            pattern = ResourcePattern(KINDS[flag], name, ACLResourcePatternType.LITERAL)
            made += [
                ACL(f"User:{user}", "*", OPERATIONS[operation], ACLPermissionType.ALLOW, pattern)
                for operation in operations
            ]
    admin.create_acls(made)
    admin.close()


KINDS = {"--topic": ResourceType.TOPIC, "--group": ResourceType.GROUP}
OPERATIONS = {
    "Read": ACLOperation.READ, "Write": ACLOperation.WRITE, "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS,
}  # fmt: skip


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
