"""Three tasks on the embedded host over a dirty simulated stream, and all that a run made as values that compare."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import orjson

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import READ, EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate

PARTITIONS = {topics.USER_EVENTS: 3, topics.DEVICE_EVENTS: 2}

FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "ewmean"], windows = ["1d"] }]
[[entities]]
name = "merchant"
key = "merchant_id"
labels = [{ name = "fraud", ops = ["positives", "since_positive"], windows = ["7d"], where = "ratio < 4" }]
[model]
kind = "logistic"
params = { lr = 0.1 }
[labels]
negative_rate = 0.5
maturity = "none"
[labels.join]
negative_after_s = "1d"
[threshold]
kind = "budget"
alerts_per_day = 30
min_scores = 100
min_days = 0.1
[drift]
reference_days = 0
block_events = 16
reference_blocks = 8
sample_every = 1
[retrain]
after_labels = 100
cooldown = "6h"
"""
FAILURE = """
name = "device_failure"
stream = "device-events"
entity = "device"
[[entities]]
name = "device"
key = "device_id"
aggregates = [{ name = "heat", value = "temperature", ops = ["mean", "max"], windows = ["1h"] }]
anomalies = [{ name = "shake", value = "vibration" }]
[model]
kind = "logistic"
[labels.join]
match = "entity_range"
range_s = "6h"
[threshold]
kind = "fixed"
value = 0.6
"""
CHURN = """
name = "churn"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "seen", ops = ["count", "since_last"], windows = ["1d", "7d"] }]
[model]
kind = "logistic"
[labels.silence]
observe_s = "12h"
horizon_s = "2d"
[threshold]
kind = "fixed"
value = 0.9
"""

Call = tuple[str, tuple[Record, ...]]


def tasks(*which: str) -> list[TaskSpec]:
    return [TaskSpec.from_toml(t) for t in which or (FRAUD, FAILURE, CHURN)]


@functools.cache
def inputs(events: int = 2500) -> tuple[Call, ...]:
    """A dirty simulated stream, one call a topic and block, in the order in which records become available."""
    config = SimulationConfig(
        seed=5, events=events, days=5, users=60, merchants=12, devices=4, malformed_share=0.01, duplicate_share=0.02,
        late_share=0.03, fraud_share=0.05, label_delay_days=0.5, review_share=0.1, block_s=6 * 3600.0,
    )  # fmt: skip
    calls: list[Call] = []
    for block in simulate(config):
        calls += [(topic, tuple(Record(*r) for r in records)) for topic, records in block.topics.items() if records]
    return tuple(calls)


def host_on(log: EmbeddedLog, *which: str, **options: Any) -> EmbeddedHost:
    return EmbeddedHost(tasks(*which), log, **options)


def outputs(log: EmbeddedLog) -> dict[str, list[tuple[bytes, bytes, float]]]:
    """Every record of every output topic, in order."""
    made: dict[str, list[tuple[bytes, bytes, float]]] = {}
    for topic in topics.OUTPUTS:
        made[topic] = [(r.key, r.value, r.ts) for batch in log.read([topic], 0) for r in batch.records]
    return made


def process_all(host: EmbeddedHost) -> int:
    """Have every batch that was appended processed, one after the other as users of a host do; how many records."""
    done = 0
    for batch in host.log.read(READ, host.seq):
        host.process(batch)
        done += len(batch.records)
    return done


def run(log: EmbeddedLog, host: EmbeddedHost, calls: tuple[Call, ...]) -> None:
    for topic, records in calls:
        log.append(topic, records)
        process_all(host)


class Straight:
    """One uninterrupted run, shared by the tests that compare with it."""

    def __init__(self) -> None:
        self.log = EmbeddedLog(PARTITIONS)
        self.host = host_on(self.log)
        run(self.log, self.host, inputs())
        self.outputs = outputs(self.log)


@functools.cache
def straight_run() -> Straight:
    return Straight()


def values(records: list[tuple[bytes, bytes, float]]) -> list[Any]:
    return [orjson.loads(value) for _, value, _ in records]


def digest(run: Straight) -> str:
    """Of all outputs and the state of every part."""
    parts = [repr(sorted(run.outputs.items())).encode(), run.host.store.snapshot()]
    parts += [pipeline.snapshot() for _, pipeline in sorted(run.host.pipelines.items())]
    parts += [intake.snapshot() for _, intake in sorted(run.host.intake.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()
