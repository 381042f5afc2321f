"""Whether the brokers are there, and the topics as the workers need them."""

from __future__ import annotations

from streams.admin import cluster
from streams.admin.clients import admin_client
from streams.admin.specs import compare, wanted_topics
from streams.errors import BrokerError, UsageError
from streams.ops.checks import Check
from streams.settings import Settings


def check_kafka(settings: Settings) -> list[Check]:
    """Connect and compare; what cannot be looked at is a finding, never an exception."""
    where = ", ".join(settings.kafka.bootstrap)
    try:
        with admin_client(settings.kafka) as admin:
            brokers = cluster.count_brokers(admin)
            wanted = wanted_topics(settings.topics, brokers, settings.worker.max_record_bytes)
            there = cluster.read_topics(admin, [spec.name for spec in wanted])
    except (BrokerError, UsageError) as exc:
        return [Check("Kafka", "FAIL", str(exc))]
    found = [Check("Kafka", "OK", f"{brokers} {'broker' if brokers == 1 else 'brokers'} at {where}")]
    differing = [
        Check(
            f"topic {d.topic}", "WARN" if d.harmless else "FAIL", f"{d.setting}: {d.actual}, wanted {d.wanted}", d.fix
        )
        for d in compare(wanted, there)
    ]
    return found + (differing or [Check("topics", "OK", f"{len(wanted)} as they should be")])
