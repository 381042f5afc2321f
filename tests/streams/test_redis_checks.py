"""A Redis that would lose or evict features is found, with what mends it and without its password."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streams.ops.redis_checks import check_redis, findings
from streams.settings import RedisSettings, SecretUrl

GOOD = {"redis_version": "7.2.4", "aof_enabled": 1, "aof_last_write_status": "ok", "maxmemory": 0}


@pytest.mark.parametrize(
    ("change", "name", "status", "words"),
    [
        ({}, "", "OK", ""),
        ({"aof_enabled": 0}, "Redis persistence", "WARN", "appendonly yes"),
        ({"aof_last_write_status": "err"}, "Redis persistence", "FAIL", "disk full"),
        ({"loading": 1}, "Redis persistence", "WARN", "still loading"),
        ({"redis_version": "6.2.1"}, "Redis", "WARN", "upgrade"),
        ({"maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "Redis memory", "FAIL", "noeviction"),
        ({"maxmemory": 100, "used_memory": 95, "maxmemory_policy": "noeviction"}, "Redis memory", "WARN", "maxmemory"),
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
