"""The commands that talk to Kafka, over SASL and TLS, without rights, with nobody there: they work, or say why not."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kafka_broker import Broker, free_ports
from tests.integration.kafka_commands import Weir, event, lines_of
from tests.integration.kafka_secrets import Secrets
from weir.streams.config.settings import KafkaSettings

pytestmark = pytest.mark.integration
Secured = tuple[Broker, Secrets]


def config_of(path: Path, broker: Broker, secrets: Secrets, user: str, **changes: str) -> str:
    kafka = {
        "bootstrap": broker.address, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512",
        "username": user, "password": secrets.users[user], "ca_file": str(secrets.ca_file),
        "timeout_s": "15",
    } | changes  # fmt: skip
    path.write_text("[kafka]\n" + "".join(f'{key} = "{value}"\n' for key, value in kafka.items() if value))
    return str(path)


@pytest.fixture
def failing_links() -> Iterator[None]:
    """Lets go of the sockets that kafka-python forgets when a connection is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_everything_works_over_sasl_and_tls(secure_kafka: Secured, tmp_path: Path, mechanism: str) -> None:
    broker, secrets = secure_kafka
    weir = Weir(KafkaSettings(), {})
    config = ("--config", config_of(tmp_path / "weir.toml", broker, secrets, "admin", sasl_mechanism=mechanism))
    assert weir("topics", "create", *config).status == 0
    assert weir("topics", "check", *config).status == 0
    path = lines_of(tmp_path / "user-events.jsonl", [event(i, user=mechanism) for i in range(10)])
    assert weir("replay", path, *config).status == 0
    tailed = weir(
        "tail", "user-events", "--from", "earliest", "--no-follow", "--json", "--filter", f"key={mechanism}", *config
    )
    assert sorted(r["value"]["event_id"] for r in tailed.lines) == [f"e{i}" for i in range(10)]
    assert weir("dlq", "list", *config).status == 0


@pytest.mark.usefixtures("failing_links")
def test_links_that_fail_say_why_and_show_no_password(secure_kafka: Secured, tmp_path: Path) -> None:
    broker, secrets = secure_kafka
    weir, path = Weir(KafkaSettings(), {}), tmp_path / "weir.toml"
    wrong: list[tuple[dict[str, str], str]] = [
        ({"password": "hush-hush"}, "The broker refused user 'admin': check username, password"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, "sasl_mechanism = SCRAM-SHA-256"),
        ({"ca_file": ""}, "Set ca_file in [kafka]"),
        ({"security_protocol": "PLAINTEXT", "username": "", "password": "", "ca_file": ""}, "it may want TLS or SASL"),
    ]
    for changes, words in wrong:
        found = weir(
            "topics", "check", "--config", config_of(path, broker, secrets, "admin", timeout_s="1.5", **changes)
        )
        assert found.status == 2
        assert f"no broker reachable at {broker.address} within 1.5 s" in found.err
        assert words in found.err
        assert "hush" not in found.err


def test_a_user_without_rights_is_told_which_principal_needs_them(secure_kafka: Secured, tmp_path: Path) -> None:
    broker, secrets = secure_kafka
    weir = Weir(KafkaSettings(), {})
    config = config_of(tmp_path / "weir.toml", broker, secrets, "reader")
    created = weir("topics", "create", "--config", config)
    assert (created.status, "User:reader" in created.err) == (2, True), created.err
    hidden = weir("tail", "user-events", "--config", config, "--no-follow")
    assert (hidden.status, "no topic user-events that you may read" in hidden.err) == (2, True)


@pytest.mark.usefixtures("failing_links")
def test_a_broker_that_is_not_there_is_named_with_what_to_check(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    weir = Weir(KafkaSettings(), {"WEIR_KAFKA__BOOTSTRAP": address, "WEIR_KAFKA__TIMEOUT_S": "1.5"})
    for command in (
        ("topics", "check"),
        ("tail", "alerts"),
        ("dlq", "list"),
        ("replay", lines_of(tmp_path / "x", [b"1"])),
    ):
        found = weir(*command)
        assert found.status == 2
        assert f"no broker reachable at {address} within 1.5 s" in found.err
        assert "Nothing listens there" in found.err
