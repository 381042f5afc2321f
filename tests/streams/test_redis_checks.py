"""A Redis that would lose or evict features is found, with what mends it and without its password."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from weir.streams.checks.redis_checks import check_redis, findings
from weir.streams.config.settings import RedisSettings, SecretUrl

GOOD = {"redis_version": "7.2.11", "aof_enabled": 1, "aof_last_write_status": "ok", "maxmemory": 0}


@pytest.mark.parametrize(
    ("change", "name", "status", "words"),
    [
        ({}, "", "OK", ""),
        ({"aof_enabled": 0}, "Redis persistence", "WARN", "appendonly yes"),
        ({"aof_last_write_status": "err"}, "Redis persistence", "FAIL", "disk full"),
        ({"loading": 1}, "Redis persistence", "WARN", "still loading"),
        ({"redis_version": "6.2.20"}, "Redis", "WARN", "upgrade"),
        ({"redis_version": "7.2.10"}, "Redis holes", "WARN", "CVE-2025-49844"),
        ({"redis_version": "7.0.15"}, "Redis holes", "WARN", "as Debian does"),
        ({"redis_version": "7.0.15"}, "Redis holes", "WARN", "Upgrade to 7.2.11"),
        ({"redis_version": "8.0.3"}, "Redis holes", "WARN", "Upgrade to 8.0.4"),
        ({"redis_version": "8.2.2"}, "", "OK", ""),
        ({"redis_version": "9.0.0"}, "", "OK", ""),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.4"}, "", "OK", ""),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.3"}, "Redis holes", "WARN", "8.1.4"),
        ({"server_time_usec": 1_500_000_000_000_000}, "clock", "WARN", "ahead of that of Redis"),
        ({"server_time_usec": 4_000_000_000_000_000}, "clock", "WARN", "refuses events that are ahead of its clock"),
        ({"maxmemory": 100, "maxmemory_policy": "volatile-ttl"}, "Redis memory", "FAIL", "noeviction"),
        ({"maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "Redis memory", "FAIL", "noeviction"),
        ({"maxmemory": 100, "used_memory": 85, "maxmemory_policy": "noeviction"}, "Redis memory", "WARN", "maxmemory"),
    ],
)
def test_what_endangers_features_in_redis_is_found(change: dict[str, Any], name: str, status: str, words: str) -> None:
    checks = findings(GOOD | change, "here")
    assert {c.name: c.status for c in checks if c.status != "OK"} == ({name: status} if name else {})
    assert any(words in f"{c.found} {c.fix}" for c in checks)


def test_a_redis_that_is_not_there_is_a_finding_without_its_password() -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = SecretUrl(f"redis://weir:hush@127.0.0.1:{taken.getsockname()[1]}/0")
        (found,) = check_redis(RedisSettings(url=url), timeout_s=2)
    assert (found.status, found.fix) == ("FAIL", "Start Redis, or correct url in [redis].")
    assert "hush" not in str(found)
