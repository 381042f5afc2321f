"""Whether the feature store is there, new enough, and keeps what it is told; asks ``INFO`` only, so any user may."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from streams.errors import UsageError
from streams.ops.checks import Check
from streams.settings import RedisSettings

OLDEST: Final = (7, 0)
_HEADROOM: Final = 0.9


def check_redis(settings: RedisSettings, timeout_s: float | None = None) -> list[Check]:
    """Connect and look; what cannot be looked at is a finding, never an exception.

    ``timeout_s`` replaces that of the settings.
    """
    try:
        import redis
    except ImportError:
        return [Check("Redis", "FAIL", "the redis package is not installed", "pip install 'weir[kafka]'")]
    patience = settings.timeout_s if timeout_s is None else timeout_s
    options: dict[str, Any] = {"socket_timeout": patience, "socket_connect_timeout": patience, "decode_responses": True}
    try:
        with redis.Redis.from_url(**settings.client_options(), **options) as client:
            began = time.perf_counter()
            client.ping()
            took_ms = (time.perf_counter() - began) * 1e3
            return findings(client.info(), f"{settings.url}, ping {took_ms:.1f} ms")
    except (redis.RedisError, OSError, UsageError) as exc:
        return [Check("Redis", "FAIL", f"{settings.url}: {_words(exc)}", _fix(exc))]


def findings(info: Mapping[str, Any], where: str) -> list[Check]:
    """What ``INFO`` says about version, durability and memory.

    >>> facts = {"redis_version": "7.2.4", "aof_enabled": 0, "maxmemory": 0}
    >>> [(c.name, c.status) for c in findings(facts, "redis://h:6379/0")]
    [('Redis', 'OK'), ('Redis persistence', 'WARN'), ('Redis memory', 'OK')]
    """
    return [_version(info, where), _persistence(info), _memory(info)]


def _version(info: Mapping[str, Any], where: str) -> Check:
    found = str(info.get("redis_version", "unknown"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Check("Redis", "WARN", f"{found} at {where}", f"Tested with {oldest} and newer: upgrade the server.")
    return Check("Redis", "OK", f"{found} at {where}")


def _persistence(info: Mapping[str, Any]) -> Check:
    name = "Redis persistence"
    if info.get("loading"):
        return Check(name, "WARN", "the server is still loading its data", "Wait until it has.")
    if not info.get("aof_enabled"):
        fix = "Set 'appendonly yes' (appendfsync everysec), or a restart of Redis loses every feature."
        return Check(name, "WARN", "the append-only file is off", fix)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Check(name, "FAIL", "the append-only file cannot be written", "See Redis' log; is its disk full?")
    return Check(name, "OK", "append-only file")


def _memory(info: Mapping[str, Any]) -> Check:
    name, limit, used = "Redis memory", int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    found = f"{used / 1e6:,.0f} MB used, " + (f"limit {limit / 1e6:,.0f} MB, {policy}" if limit else "no limit")
    if limit and policy not in ("noeviction", "volatile-ttl"):
        return Check(name, "FAIL", found, "Set 'maxmemory-policy noeviction': this one drops features and positions.")
    if limit and used > _HEADROOM * limit:
        return Check(name, "WARN", found, "Raise maxmemory: a full store stops the workers.")
    return Check(name, "OK", found)


def _words(exc: Exception) -> str:
    return str(exc).strip().rstrip(".") or type(exc).__name__


def _fix(exc: Exception) -> str:
    text = f"{type(exc).__name__} {exc}"
    if "NOAUTH" in text or "WRONGPASS" in text or "Authentication" in text:
        return "Check username and password in [redis]."
    if "NOPERM" in text:
        return "Grant the user what deploy/redis-users.acl grants."
    if "certificate" in text.lower() or "SSL" in text:
        return "Check ca_file in [redis], and that the port speaks TLS."
    return "Start Redis, or correct url in [redis]."
