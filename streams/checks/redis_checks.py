"""Whether the feature store is there, new enough, and keeps what it is told; asks ``INFO`` only, so any user may."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from weir.online.durations import format_duration
from weir.streams.checks.findings import Check
from weir.streams.checks.link_checks import redis_warnings
from weir.streams.config.settings import RedisSettings
from weir.streams.errors import UsageError

OLDEST: Final = (7, 0)
CLOCK_S: Final = 60.0
"""What two clocks may be apart, and the answer may be late."""
HEADROOM: Final = 0.8
"""Share of ``maxmemory`` from which on a store counts as nearly full."""


class Hole(NamedTuple):
    """A known hole: what it lets in, and by ``major.minor`` the patch that mends it; elsewhere only newer ones do."""

    cve: str
    what: str
    redis: Mapping[str, int]
    valkey: Mapping[str, int]


HOLES: Final = (
    Hole(
        "CVE-2025-49844", "whoever may run a script runs code in the server",
        {"6.2": 20, "7.2": 11, "7.4": 6, "8.0": 4, "8.2": 2}, {"7.2": 11, "8.0": 6, "8.1": 4},
    ),
    Hole(
        "CVE-2025-21605", "whoever reaches the port fills its memory",
        {"6.2": 18, "7.2": 8, "7.4": 3}, {"7.2": 9, "8.0": 3},
    ),
    Hole(
        "CVE-2024-46981", "whoever may run a script runs code in the server",
        {"6.2": 17, "7.2": 7, "7.4": 2}, {"7.2": 8, "8.0": 2},
    ),
)  # fmt: skip
"""Of their makers' security advisories, the worst first."""


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
        where, reach = str(settings.url), settings.client_options()
        if settings.sentinels:
            sentinel_of: Any = redis.Sentinel  # redis-py gives it no types
            host, port = sentinel_of(**settings.sentinel_options(patience)).discover_master(settings.service)
            where, reach["url"] = f"{host}:{port}, primary of {settings.service}", settings.url_at(host, port)
        with redis.Redis.from_url(**reach, **options) as client:
            began = time.perf_counter()
            client.ping()
            took_ms = (time.perf_counter() - began) * 1e3
            found = findings(client.info(), f"{where}, ping {took_ms:.1f} ms")
    except (redis.RedisError, OSError, UsageError) as exc:
        found = [Check("Redis", "FAIL", f"{settings.url}: {_words(exc)}", _fix(exc))]
    return [*found, *redis_warnings(settings)]


def findings(info: Mapping[str, Any], where: str) -> list[Check]:
    """What ``INFO`` says about version, durability and memory.

    >>> facts = {"redis_version": "7.2.11", "aof_enabled": 0, "maxmemory": 0}
    >>> [(c.name, c.status) for c in findings(facts, "redis://h:6379/0")]
    [('Redis', 'OK'), ('Redis persistence', 'WARN'), ('Redis memory', 'OK')]
    """
    return [
        _version(info, where),
        *known_holes(info),
        _persistence(info),
        memory_of(info),
        *clock_of(info, time.time()),
    ]


def clock_of(info: Mapping[str, Any], now: float) -> list[Check]:
    """A finding where this machine's clock, ``now`` in epoch seconds, is not that of the server; none where it is.

    A worker judges by its clock which events are ahead of their arrival. One that is behind refuses good ones.

    >>> clock_of({"server_time_usec": 1_700_000_000_000_000}, 1_700_000_059.0)
    []
    >>> clock_of({"server_time_usec": 1_700_000_000_000_000}, 1_699_985_600.0)[0].found
    "this machine's clock is 4h behind that of Redis"
    """
    told = info.get("server_time_usec")
    apart = 0.0 if told is None else now - int(told) / 1e6
    if abs(apart) <= CLOCK_S:
        return []
    unit = next(unit for unit in (86_400.0, 3_600.0, 60.0) if abs(apart) >= 2 * unit or unit == CLOCK_S)
    about = format_duration(round(abs(apart) / unit) * unit)
    found = f"this machine's clock is {about} {'ahead of' if apart > 0 else 'behind'} that of Redis"
    fix = "Set the wrong one (NTP): a worker refuses events that are ahead of its clock, and lets time pass by it."
    return [Check("clock", "WARN", found, fix)]


def known_holes(info: Mapping[str, Any]) -> list[Check]:
    """A finding that names the holes of the server's version; none where there is none.

    >>> [c.found for c in known_holes({"redis_version": "8.0.3"})]
    ['8.0.3 has CVE-2025-49844: whoever may run a script runs code in the server']
    """
    # Valkey gives the version of Redis that it is compatible with as `redis_version`, and counts its own patches.
    valkey = "valkey_version" in info
    version = str(info["valkey_version"] if valkey else info.get("redis_version", "0"))
    known = [hole for hole in HOLES if _open(version, hole.valkey if valkey else hole.redis)]
    if not known:
        return []
    found = f"{version} has {', '.join(hole.cve for hole in known)}: {known[0].what}"
    fix = f"Upgrade to {_mended(version, known[0].valkey if valkey else known[0].redis)}, unless your distributor"
    return [Check("Redis holes", "WARN", found, f"{fix} mends this version without a new number, as Debian does.")]


def _open(version: str, mended: Mapping[str, int]) -> bool:
    major, minor, patch = (*(int(part) for part in re.findall(r"\d+", version)[:3]), 0, 0, 0)[:3]
    in_branch = mended.get(f"{major}.{minor}")
    # A branch that is not named is older than all that were mended, and open, or newer than the hole.
    return patch < in_branch if in_branch is not None else (major, minor) < max(map(_numbers, mended))


def _mended(version: str, mended: Mapping[str, int]) -> str:
    """The version that mends it: of the same branch, or the oldest newer one."""
    branch = next(
        (b for b in sorted(mended, key=_numbers) if _numbers(b) >= _numbers(version)), max(mended, key=_numbers)
    )
    return f"{branch}.{mended[branch]}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _version(info: Mapping[str, Any], where: str) -> Check:
    found = str(info.get("redis_version", "unknown"))
    if _numbers(found) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Check("Redis", "WARN", f"{found} at {where}", f"Tested with {oldest} and newer: upgrade the server.")
    return Check("Redis", "OK", f"{found} at {where}")


def _persistence(info: Mapping[str, Any]) -> Check:
    name = "Redis persistence"
    # First: a server that loads refuses nearly all commands, whatever else is right.
    if info.get("loading"):
        return Check(name, "WARN", "the server is still loading its data", "Wait until it has.")
    if not info.get("aof_enabled"):
        fix = "Set 'appendonly yes' (appendfsync everysec), or a restart of Redis loses every feature."
        return Check(name, "WARN", "the append-only file is off", fix)
    if info.get("aof_last_write_status", "ok") != "ok":
        return Check(name, "FAIL", "the append-only file cannot be written", "See Redis' log; is its disk full?")
    return Check(name, "OK", "append-only file")


def memory_of(info: Mapping[str, Any]) -> Check:
    """How full the store is, and whether it drops keys by itself."""
    name, limit, used = "Redis memory", int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    found = f"{used / 1e6:,.0f} MB used, " + (f"limit {limit / 1e6:,.0f} MB, {policy}" if limit else "no limit")
    if limit and policy != "noeviction":  # rows have a time to live, so the volatile ones drop them, too
        return Check(name, "FAIL", found, "Set 'maxmemory-policy noeviction': this one drops features and positions.")
    if limit and used > HEADROOM * limit:
        return Check(
            name,
            "WARN",
            found,
            "Raise maxmemory, or let rows expire sooner (ttl): from 90% on new entities are not kept.",
        )
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
