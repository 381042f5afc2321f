"""Links that work and are open: each is said once, when something starts and by doctor and --check."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from weir.streams.checks.link_checks import link_warnings, warn_of_links
from weir.streams.checks.redis_checks import check_redis
from weir.streams.cli.operate.doctor import check_store
from weir.streams.config.settings import KafkaSettings, RedisSettings, SecretUrl, Settings

LOGIN: dict[str, Any] = {"username": "weir", "password": "hush"}


def settings(kafka: dict[str, Any] | None = None, url: str | None = None, **redis: Any) -> Settings:
    where: dict[str, Any] = {"url": SecretUrl(url)} if url is not None else {}
    return Settings(kafka=KafkaSettings(**(kafka or {})), redis=RedisSettings(**where, **redis))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (settings({"bootstrap": "k:9092", "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **LOGIN}),
         "SASL_PLAINTEXT with PLAIN sends the password in clear"),
        (settings({"bootstrap": "k:9092", "security_protocol": "SASL_PLAINTEXT", **LOGIN}), "sends every record"),
        (settings(url="redis://weir:hush@cache:6379/0"), "in clear to cache"),
        (settings(url="redis://cache:6379/0", **LOGIN), "in clear to cache"),
        (settings(url="redis://cache:6379/0?password=hush"), "in clear to cache"),
        (settings(sentinels=("s1:26379", "s2:26379"), **LOGIN), "in clear to s1, s2 or the primary of mymaster"),
        (settings(sentinels=("s1:26379",), sentinel_password="hush"), "in clear to s1"),
        (settings(url="rediss://cache:6379/0?ssl_cert_reqs=none", **LOGIN), "ssl_cert_reqs=none takes any server"),
        (settings(url="rediss://cache:6379/0?ssl_check_hostname=False", **LOGIN), "ssl_check_hostname=false takes any"),
        (settings(url="rediss://s:1/0?ssl_cert_reqs=none&ssl_cert_reqs=required", **LOGIN), "ssl_cert_reqs=none takes"),
    ],
)  # fmt: skip
def test_an_open_link_is_said_once_without_its_password(
    found: Settings, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_links(found)
    assert len(caplog.records) == 1
    assert words in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    "found",
    [
        settings(),
        settings({"bootstrap": "k:9092", "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", **LOGIN}),
        settings({"security_protocol": "SASL_PLAINTEXT", **LOGIN}),
        settings(url="redis://weir:hush@127.0.0.1:6379/0"),
        settings(url="redis://cache:6379/0"),
        settings(url="rediss://weir:hush@cache:6379/0?ssl_cert_reqs=required"),
        settings(url="unix:///run/redis.sock", **LOGIN),
        settings(url="redis://cache:6379/0", sentinels=("localhost:26379", "[::1]:26379"), **LOGIN),
        settings(url="rediss://cache:6379/0", sentinels=("s1:26379",), sentinel_password="hush", **LOGIN),
    ],
)
def test_a_closed_link_or_one_of_this_machine_is_not(found: Settings) -> None:
    assert link_warnings(found) == []


def test_doctor_and_check_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_KAFKA__BOOTSTRAP", "k:9092")
    monkeypatch.setenv("WEIR_KAFKA__SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("WEIR_KAFKA__USERNAME", "weir")
    monkeypatch.setenv("WEIR_KAFKA__PASSWORD", "hush")
    assert [c.name for c in check_store(None) if c.status == "WARN" and c.name.endswith("link")] == ["Kafka link"]
    away = settings(url="rediss://127.0.0.1:1/0?ssl_cert_reqs=none").redis
    assert [c.name for c in check_redis(away, timeout_s=1)] == ["Redis", "Redis link"]
