"""The transport through listeners that want a login and TLS, and what it says when they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from tests.integration.copying import Worker, check_nothing_lost, copiers, make_topics, produce, some, wait_copied
from tests.integration.kafka_broker import Broker
from tests.integration.kafka_secrets import Secrets

pytestmark = pytest.mark.integration
Secured = tuple[Broker, Secrets]


def allow(broker: Broker, user: str, group: str, *topics: str) -> None:
    """Let a user read and write topics and be in a group."""
    names = [(ResourceType.GROUP, group), *((ResourceType.TOPIC, topic) for topic in topics)]
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.create_acls([
        ACL(f"User:{user}", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for kind, name in names
    ])  # fmt: skip
    admin.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    with copiers(tmp_path) as start:
        yield start


def weir_toml(directory: Path, secured: Secured, **changes: str) -> str:
    """A settings file for user ``weir``; its path."""
    broker, secrets = secured
    kafka = {
        "bootstrap": broker.address,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "username": "weir",
        "password": secrets.users["weir"],
        "ca_file": str(secrets.ca_file),
    }
    path = directory / "weir.toml"
    lines = [f"{key} = {json.dumps(text)}\n" for key, text in (kafka | changes).items() if text]
    path.write_text("[kafka]\n" + "".join(lines))
    return str(path)


def test_records_pass_over_tls_and_every_kind_of_sasl(
    secure_kafka: Secured, tmp_path: Path, start_worker: Callable[..., Worker]
) -> None:
    broker, secrets = secure_kafka
    direct = Broker(broker.direct, "its own door")  # where tests need no password
    workers: dict[str, Worker] = {}
    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        source, target = f"source-{mechanism}", f"target-{mechanism}"
        make_topics(direct, source, target)
        allow(direct, "weir", f"g-{source}", source, target)
        produce(direct, source, some(500))
        (folder := tmp_path / mechanism).mkdir()
        config = weir_toml(folder, secure_kafka, sasl_mechanism=mechanism)
        workers[mechanism] = start_worker(direct, source, target, "--config", config)
    for mechanism, worker in workers.items():
        wait_copied(direct, f"source-{mechanism}", f"target-{mechanism}", worker)
        assert check_nothing_lost(direct, f"source-{mechanism}", f"target-{mechanism}") == 0
        assert worker.end() == 0
        assert secrets.users["weir"] not in worker.log


REFUSED = {
    "wrong password": (
        {"password": "hush-hush"}, "The broker refused user 'weir': check username, password and sasl_mechanism"
    ),
    "wrong password, plain": (
        {"sasl_mechanism": "PLAIN", "password": "hush-hush"}, "The broker refused user 'weir'"
    ),
    "untrusted authority": (
        {"ca_file": "other-ca.pem"}, "Set ca_file to the authority that signed the broker's certificate"
    ),
    "no TLS": (
        {"security_protocol": "SASL_PLAINTEXT", "ca_file": ""}, "it may want TLS or SASL"
    ),
}  # fmt: skip
"""Settings that no broker lets in, and what a worker says to them."""


@pytest.fixture(scope="module")
def refused(secure_kafka: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """Workers that are not let in, all started at once; they end by themselves."""
    broker, secrets = secure_kafka
    with copiers(tmp_path_factory.mktemp("refused")) as start:
        found: dict[str, Worker] = {}
        for name, (changes, _) in REFUSED.items():
            if changes.get("ca_file"):
                changes = {"ca_file": str(secrets.directory / changes["ca_file"])}
            config = weir_toml(tmp_path_factory.mktemp("refused"), secure_kafka, **changes)
            found[name] = start(broker, "any", "other", "--config", config)
        yield found


@pytest.mark.parametrize("name", REFUSED)
def test_a_link_that_is_refused_ends_the_worker_with_a_reason(
    secure_kafka: Secured, refused: dict[str, Worker], name: str
) -> None:
    worker, (broker, secrets) = refused[name], secure_kafka
    assert worker.process.wait(40) != 0
    assert f"no broker at {broker.address} takes us" in worker.log
    assert REFUSED[name][1] in worker.log
    assert "hush" not in worker.log
    assert secrets.users["weir"] not in worker.log


def test_a_user_without_rights_ends_the_worker_naming_what_is_missing(
    secure_kafka: Secured, tmp_path: Path, start_worker: Callable[..., Worker]
) -> None:
    broker, secrets = secure_kafka
    direct = Broker(broker.direct, "its own door")
    make_topics(direct, "theirs", "ours")
    config = weir_toml(tmp_path, secure_kafka, username="reader", password=secrets.users["reader"])
    worker = start_worker(broker, "theirs", "ours", "--config", config)
    assert worker.process.wait(40) != 0
    assert "let User:reader write the topics of Weir" in worker.log
    allow(direct, "reader", "another-group", "ours")
    worker = start_worker(broker, "theirs", "ours", "--config", config)
    assert worker.process.wait(40) != 0
    assert "topic 'theirs' is not ours to read; let User:reader read it" in worker.log
    allow(direct, "reader", "another-group", "theirs")
    worker = start_worker(broker, "theirs", "ours", "--config", config)
    assert worker.process.wait(40) != 0
    assert "let User:reader read group g-theirs" in worker.log
