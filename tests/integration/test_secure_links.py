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


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_records_pass_over_tls_and_sasl(
    secure_kafka: Secured, tmp_path: Path, mechanism: str, start_worker: Callable[..., Worker]
) -> None:
    broker, secrets = secure_kafka
    direct = Broker(broker.direct, "its own door")  # where tests need no password
    source, target = f"source-{mechanism}", f"target-{mechanism}"
    make_topics(direct, source, target)
    allow(direct, "weir", f"g-{source}", source, target)
    produce(direct, source, some(500))
    worker = start_worker(
        direct, source, target, "--config", weir_toml(tmp_path, secure_kafka, sasl_mechanism=mechanism)
    )
    wait_copied(direct, source, target, worker)
    assert check_nothing_lost(direct, source, target) == 0
    assert worker.end() == 0
    assert secrets.users["weir"] not in worker.log


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"password": "hush-hush"}, "The broker refused user 'weir': check username, password and sasl_mechanism"),
        ({"sasl_mechanism": "PLAIN", "password": "hush-hush"}, "The broker refused user 'weir'"),
        ({"ca_file": "other"}, "Set ca_file to the authority that signed the broker's certificate"),
        ({"security_protocol": "SASL_PLAINTEXT", "ca_file": ""}, "it may want TLS or SASL"),
    ],
    ids=["wrong password", "wrong password, plain", "untrusted authority", "no TLS"],
)
def test_a_link_that_is_refused_ends_the_worker_with_a_reason(
    secure_kafka: Secured, tmp_path: Path, start_worker: Callable[..., Worker], changes: dict[str, str], says: str
) -> None:
    if changes.get("ca_file") == "other":
        changes = {"ca_file": str(secure_kafka[1].directory / "other-ca.pem")}
    worker = start_worker(secure_kafka[0], "any", "other", "--config", weir_toml(tmp_path, secure_kafka, **changes))
    assert worker.process.wait(30) != 0
    assert f"no broker at {secure_kafka[0].address} takes us" in worker.log
    assert says in worker.log
    assert "hush" not in worker.log
    assert secure_kafka[1].users["weir"] not in worker.log


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
