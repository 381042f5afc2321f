"""Settings of links that work, and hand a password or the data to whoever listens. It looks at settings only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from weir.streams.checks.findings import Check
from weir.streams.config.serve_settings import is_loopback
from weir.streams.config.settings import KafkaSettings, RedisSettings, Settings

log = logging.getLogger(__name__)

_OFF = ("none", "optional", "false", "0", "no", "off")


def link_warnings(settings: Settings) -> list[Check]:
    """One finding for each setting that leaves a link open; none where all is well.

    >>> link_warnings(Settings())
    []
    """
    return [*kafka_warnings(settings.kafka), *redis_warnings(settings.redis)]


def warn_of_links(settings: Settings) -> None:
    """Write the warnings to the log, each once."""
    for found in link_warnings(settings):
        log.warning("%s: %s. %s", found.name, found.found, found.fix)


def kafka_warnings(kafka: KafkaSettings) -> list[Check]:
    """Those of the link to the brokers."""
    if kafka.security_protocol != "SASL_PLAINTEXT" or _here(_hosts(kafka.bootstrap)):
        return []
    sent = "the password" if kafka.sasl_mechanism == "PLAIN" else "every record"
    found = f"SASL_PLAINTEXT with {kafka.sasl_mechanism} sends {sent} in clear"
    return [Check("Kafka link", "WARN", found, "Set [kafka] security_protocol = SASL_SSL and ca_file.")]


def redis_warnings(redis: RedisSettings) -> list[Check]:
    """Those of the link to Redis."""
    url = urlsplit(redis.url.get_secret_value())
    query = {name: values[0].lower() for name, values in parse_qs(url.query).items()}
    secret = url.password or redis.password or "password" in query or redis.sentinel_password
    out: list[Check] = []
    # With sentinels the host of the url, which may be left at localhost, is never asked.
    hosts = _hosts(redis.sentinels) or [url.hostname or ""]
    if secret and url.scheme == "redis" and not _here(hosts):
        found = f"redis:// sends the password in clear to {', '.join(hosts)}"
        found += f" or the primary of {redis.service}" if redis.sentinels else ""
        out.append(Check("Redis link", "WARN", found, "Let the server speak TLS and write rediss:// in [redis] url."))
    for name in ("ssl_cert_reqs", "ssl_check_hostname"):
        if url.scheme == "rediss" and query.get(name) in _OFF:
            found = f"{name}={query[name]} takes any server for Redis"
            out.append(Check("Redis link", "WARN", found, f"Remove {name} from [redis] url and set ca_file."))
    return out


def _hosts(addresses: Sequence[str]) -> list[str]:
    return [address.rpartition(":")[0] for address in addresses]


def _here(hosts: Sequence[str]) -> bool:
    return all(is_loopback(host.strip("[]")) for host in hosts)
