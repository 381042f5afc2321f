"""How a worker talks to Kafka: timeouts, sizes and bounds, with the values the tests measure; TLS and SASL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from weir.online.codec.limits import InputLimits
from weir.streams.config import topics
from weir.streams.config.settings import KafkaSettings, Settings
from weir.streams.config.worker_settings import LinkSettings


class TransportSettings(LinkSettings):
    """Settings of one worker's link to Kafka: what ``[worker]`` says of it, and what no operator has to.

    A killed worker's partitions stand still for ``session_timeout_s`` and the time of one rebalance; 6 s is the least
    that brokers accept by default (``group.min.session.timeout.ms``). With an ``instance_id`` (static membership) a
    worker that comes back within that time gets its partitions back without a rebalance of the others.
    """

    bootstrap: str = Field("127.0.0.1:9092", min_length=1)
    """host:port, or several with commas."""
    client_id: str = Field("weir", min_length=1)
    """What the brokers' logs and quotas call us, before ``-consumer`` or ``-producer``."""
    group: str = Field(min_length=1)

    # These follow from what an operator sets, so that every value that [worker] takes goes together with them.
    heartbeat_s: float = Field(default_factory=lambda given: given["session_timeout_s"] / 6, gt=0)
    """Several heartbeats may be lost before the session is over."""
    rebalance_timeout_s: float = Field(default_factory=lambda given: max(8.0, 2 * given["drain_s"]), gt=0)
    """A member that drains has to come back before the rebalance ends without it."""
    request_timeout_s: float = Field(
        default_factory=lambda given: max(15.0, 1.5 * given["session_timeout_s"], 1.5 * given["rebalance_timeout_s"]),
        gt=0,
    )
    """Brokers answer to a member that joins only when the others have joined, or are out."""
    # No heartbeats are sent while the app says where its partitions start.
    hook_timeout_s: float = Field(default_factory=lambda given: given["session_timeout_s"] * 2 / 3, gt=0)
    """How long the app may take to say where new partitions start, or to let go of old ones; then the worker ends."""

    max_batch_bytes: int = Field(2 << 20, ge=1024)
    """Bytes of one batch's keys and values at most; one larger record is a batch of its own."""
    limits: InputLimits = InputLimits()
    """What a record and a compressed batch may hold; more is refused as it is fetched."""
    special_limits: dict[str, InputLimits] = Field(default_factory=dict)
    """The same of topics that may hold more, or less."""
    max_partition_fetch_bytes: int = Field(1 << 20, ge=1024)
    fetch_wait_ms: int = Field(50, ge=0)
    """How long the broker may hold an empty fetch. A partition with news waits for the request in flight of the same
    broker, so this bounds the delay that an idle partition causes to a busy one (Faust: 1500)."""

    larger: dict[str, int] = Field(default_factory=dict)
    """Topics that take larger records than that, and how large."""
    produce_batch_bytes: int = Field(default_factory=lambda given: min(1 << 18, given["max_record_bytes"]), ge=1024)
    compression_type: str = Field("none", pattern="^(none|gzip|snappy|lz4|zstd)$")


@dataclass(frozen=True, slots=True)
class LinkSecurity:
    """Arguments of aiokafka's clients for TLS and SASL; they hold the password, so ``repr`` does not show them."""

    protocol: str = "PLAINTEXT"
    username: str | None = None
    options: dict[str, Any] = field(default_factory=lambda: {"security_protocol": "PLAINTEXT"}, repr=False)


def link_security(kafka: KafkaSettings) -> LinkSecurity:
    """Of the ``[kafka]`` settings; raises ``UsageError`` when a certificate cannot be used.

    >>> link_security(KafkaSettings(security_protocol="SASL_PLAINTEXT", username="weir", password="secret"))
    LinkSecurity(protocol='SASL_PLAINTEXT', username='weir')
    """
    options = kafka.client_options("worker")
    del options["bootstrap_servers"], options["client_id"]
    return LinkSecurity(kafka.security_protocol, kafka.username, options)


def transport_settings(
    settings: Settings, group: str, instance_id: str | None = None, **further: Any
) -> TransportSettings:
    """The transport's part of the settings; ``further`` are fields of `TransportSettings`.

    >>> transport_settings(Settings(), "weir-score", max_batch=500).bootstrap
    'localhost:9092'
    """
    kafka = settings.kafka
    # By the names on the brokers, as whoever fetches knows no others.
    special = {settings.topics.name(own): settings.limits_of(own) for own in topics.ALL}
    held: dict[str, Any] = {
        "bootstrap": ",".join(kafka.bootstrap),
        "client_id": kafka.client_id,
        "compression_type": kafka.compression_type,
        "limits": settings.limits,
        "special_limits": special,
    }
    return TransportSettings(group=group, instance_id=instance_id, **held | further)
