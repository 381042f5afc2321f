"""How a link to Kafka proves who we are and keeps others out: from the settings to what aiokafka takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from weir.streams.config import topics
from weir.streams.config.settings import KafkaSettings, Settings
from weir.streams.kafka.transport_settings import TransportSettings


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
    bootstrap, client_id = ",".join(settings.kafka.bootstrap), settings.kafka.client_id
    special = {settings.topics.name(own): settings.limits_of(own) for own in topics.ALL}
    held = {"bootstrap": bootstrap, "client_id": client_id, "limits": settings.limits, "special_limits": special}
    return TransportSettings(group=group, instance_id=instance_id, **held, **further)
