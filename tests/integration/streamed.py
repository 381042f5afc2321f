"""What the tests of ``weir worker`` share: simulated streams to send, and what became of them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import orjson

from tests.integration.chaos.deployment import Deployment
from weir.online.codec.example_log import decode_example_log
from weir.streams.config import topics
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.redis.stored_rows import decode_row
from weir.streams.simulate import SimulationConfig, simulate

PARTITIONS = 3
KeyValue = tuple[bytes, bytes]
DAY = SimulationConfig(
    seed=6, events=3_000, days=1, users=80, merchants=10, devices=0, fraud_share=0.2, label_delay_days=0.1,
    review_share=0.3, malformed_share=0.0, duplicate_share=0.0, late_share=0.0,
)  # fmt: skip
"""Within one day nothing is late, so what is sent again is known as a repeat."""


def simulated(config: SimulationConfig) -> dict[str, list[KeyValue]]:
    """The records of a simulated stream by topic, in the order in which they become available."""
    found: dict[str, list[KeyValue]] = {}
    for block in simulate(config):
        for topic, records in block.topics.items():
            found.setdefault(topic, []).extend((key, value) for key, value, _ in records)
    return found


def unique(name: str) -> str:
    """A prefix that no other test uses."""
    return f"{name}-{os.getpid()}-{os.urandom(3).hex()}"


def examples_of(deployment: Deployment) -> list[tuple[str, int, bool]]:
    """Event, number and value of every example of the fraud task, sorted."""
    features = {"fraud": ExampleFold.of(deployment.tasks["fraud"]).features}
    log = [stored.record.value for stored in deployment.read(topics.EXAMPLES)[0]]
    found = decode_example_log(log, features).tasks["fraud"].batch
    return sorted(zip(found.event_id, found.n.tolist(), found.y.tolist(), strict=True))


def alerts_of(deployment: Deployment) -> set[tuple[str, str]]:
    """Task and id of every alert."""
    records = [stored.record.value for log in deployment.read(topics.ALERTS).values() for stored in log]
    return {(alert["task"], alert["alert_id"]) for alert in map(orjson.loads, records)}


def content(rows: Mapping[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """What rows say, without the offset and time of the batch that changed them last: batches are cut as they come."""
    decoded = {key: decode_row(("", 0), value) for key, value in rows.items()}
    return {key: (row.schema, row.row) for key, row in decoded.items()}
