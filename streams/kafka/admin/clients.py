"""Opens clients of kafka-python and says in one sentence why one cannot be opened, or what a broker refused.

kafka-python keeps trying until its time is up and reports only that it is; why is in its log, so that is read here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from weir.streams.errors import BrokerError, UsageError

if TYPE_CHECKING:
    from weir.streams.config.settings import KafkaSettings

MAX_RECORD_BYTES: Final = 2 * 1_048_576
_WHY = re.compile(r"(?:Bootstrap connection to \S+ failed|Connection lost|Connection failed): (?:\w+Error: )?(.*)")
_WHEN = re.compile(r" \(backoff [\d.]+ secs\)$")
_GREETED = "Broker version identified"


def kafka_module(name: str = "kafka") -> Any:
    """A module of kafka-python; raises ``UsageError`` where the package is not installed."""
    try:
        return import_module(name)
    except ImportError as exc:
        raise UsageError(
            "this command needs kafka-python, which is not installed; run: pip install 'weir[kafka]'"
        ) from exc


@contextmanager
def admin_client(settings: KafkaSettings) -> Iterator[Any]:
    """A ``KafkaAdminClient``, closed at the end; Kafka's errors inside become ``BrokerError``."""
    with _client("KafkaAdminClient", settings, "admin", request_timeout_ms=_ms(settings)) as client:
        yield client


@contextmanager
def consumer(settings: KafkaSettings, role: str) -> Iterator[Any]:
    """A ``KafkaConsumer`` without a group: partitions are assigned by hand and nothing is ever committed."""
    with _client("KafkaConsumer", settings, role, group_id=None, enable_auto_commit=False) as client:
        # It brings compiled code, half of the time of a start: not before it is known that there is something to read.
        from weir.streams.kafka.admin.unpacking import unpack_within

        unpack_within(client)
        yield client


@contextmanager
def producer(settings: KafkaSettings, role: str) -> Iterator[Any]:
    """A ``KafkaProducer`` that waits for all in-sync replicas and keeps the order of a partition over retries."""
    options = {
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 20,
        "batch_size": 131_072,
        "max_request_size": MAX_RECORD_BYTES,
        "max_block_ms": _ms(settings),
        # kafka-python refuses less than `linger_ms` and one whole request together, which is 30 s by default.
        "delivery_timeout_ms": max(_ms(settings), 30_000) + 20,
    }
    with _client("KafkaProducer", settings, role, **options) as client:
        yield client


@contextmanager
def _client(kind: str, settings: KafkaSettings, role: str, **options: Any) -> Iterator[Any]:
    kafka, errors = kafka_module(), kafka_module("kafka.errors")
    networks: list[Any] = []
    options |= settings.client_options(role) | {"bootstrap_timeout_ms": _ms(settings), "kafka_client": _keep(networks)}
    with _kafka_log() as seen:
        try:
            client = getattr(kafka, kind)(**options)
        except errors.KafkaError as exc:
            for network in networks:  # a constructor that fails leaves its sockets and thread behind
                network.close()
            raise BrokerError(unreachable(settings, seen)) from exc
    try:
        yield client
    except errors.KafkaError as exc:
        raise BrokerError(refused(settings, exc)) from exc
    finally:
        client.close()


def _keep(networks: list[Any]) -> Callable[..., Any]:
    """Makes kafka-python's network client as it would itself, and remembers it."""

    def make(**options: Any) -> Any:
        networks.append(kafka_module("kafka.net.compat").KafkaNetClient(**options))
        return networks[-1]

    return make


def unreachable(settings: KafkaSettings, seen: Sequence[str]) -> str:
    """Why no broker answered, from what kafka-python logged meanwhile, and what to check.

    >>> from weir.streams.config.settings import KafkaSettings
    >>> print(unreachable(KafkaSettings(timeout_s=3), ["Connection failed: KafkaConnectionError: 111 ECONNREFUSED"]))
    no broker reachable at localhost:9092 within 3 s: 111 ECONNREFUSED. Nothing listens there: start the broker, or...
    """
    whys = [_WHEN.sub("", m[1]) for m in map(_WHY.search, seen) if m]
    telling = [why for why in whys if "timed out" not in why]  # a refused port may be slow to say so on a busy machine
    why = [*whys, *telling][-1] if whys else "no answer"
    greeted = any(_GREETED in line for line in seen)
    where = ", ".join(settings.bootstrap)
    return f"no broker reachable at {where} within {settings.timeout_s:g} s: {why}. {_hint(settings, why, greeted)}"


def _hint(settings: KafkaSettings, why: str, greeted: bool) -> str:
    protocol = settings.security_protocol
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return "Set ca_file in [kafka] to the authority that signed the broker's certificate, and use its host name"
    if "Handshake failed" in why:
        return f"The listener does not speak TLS: check the port, or security_protocol = {protocol}"
    if "uthentication" in why or (settings.sasl and greeted):
        return (
            f"The broker refused user {settings.username!r}: check username, password and "
            f"sasl_mechanism = {settings.sasl_mechanism} in [kafka]"
        )
    if "disconnected" in why or "Invalid frame length" in why:  # the start of a TLS alert, read as a length
        return f"The listener hangs up on security_protocol = {protocol}: it may want TLS or SASL; see [kafka]"
    if "DNS" in why:
        return "The host name is not known here: check bootstrap in [kafka] (or --bootstrap)"
    if "REFUSED" in why:
        return "Nothing listens there: start the broker, or correct bootstrap in [kafka] (or --bootstrap)"
    return "Check bootstrap in [kafka] (or --bootstrap), the broker's advertised.listeners and firewalls"


def refused(settings: KafkaSettings, exc: Exception) -> str:
    """What a broker refused, and what to check."""
    name = type(exc).__name__
    where = ", ".join(settings.bootstrap)
    if "Authorization" in name:
        user = f"User:{settings.username}" if settings.sasl else "User:ANONYMOUS"
        return f"{where}: {user} may not do this ({exc}); grant it with kafka-acls --add --allow-principal {user} ..."
    if "Timeout" in name or "Connection" in name:
        return f"{where}: no answer within {settings.timeout_s:g} s ({exc}); see whether the brokers are up"
    return f"{where}: {exc}"


@contextmanager
def _kafka_log() -> Iterator[list[str]]:
    """What kafka-python logs meanwhile, instead of anywhere else."""
    seen: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    logger, handler = logging.getLogger("kafka"), Keep()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # What is told of it is one sentence, in the error.
    logger.propagate = False
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _ms(settings: KafkaSettings) -> int:
    return round(settings.timeout_s * 1000)
