"""Whatever passes the judge goes through every shipped task: finite features and scores, records that can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest

import weir.streams.demo
from tests.streams.host_runs import PARTITIONS, inputs, process_all, tasks
from weir.online.codec.wire import Alert, Example, Prediction, RetrainRequest, WireModel
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record
from weir.streams.reject_limit import RejectPolicy
from weir.streams.task_files import load_task

SHIPPED = [load_task(path) for path in sorted((Path(weir.streams.demo.__file__).parent / "tasks").glob("*.toml"))]
READINGS = (1e15, -1e15, 1e15, 0.0, 5e-324, -5e-324, 1e8, 2.2250738585072014e-308)
AMOUNTS = (1e12, 0.0, 5e-324, 1e-300, 1e12, 999_999_999_999.99)
MODELS: dict[str, type[WireModel]] = {
    topics.PREDICTIONS: Prediction,
    topics.ALERTS: Alert,
    topics.EXAMPLES: Example,
    topics.RETRAIN_REQUESTS: RetrainRequest,
}


Call = tuple[str, tuple[Record, ...]]


def hostile(share: float, seed: int, readings: Sequence[float] = READINGS) -> Iterator[Call]:
    """A simulated stream in which a share of the records holds the extremes of what is allowed."""
    rng = np.random.default_rng(seed)
    for topic, records in inputs():
        yield topic, tuple(_spoilt(r, topic, rng, readings) if rng.random() < share else r for r in records)


def _spoilt(record: Record, topic: str, rng: np.random.Generator, readings: Sequence[float]) -> Record:
    try:
        said = orjson.loads(record.value)
    except orjson.JSONDecodeError:  # the simulator brings some of those itself
        return record
    if not isinstance(said, dict):
        return record
    if topic == topics.LABELS:
        said["weight"] = float(rng.choice([1e3, 5e-324, 1.0]))
    elif topic == topics.USER_EVENTS:
        said["amount"] = float(rng.choice(AMOUNTS))
        said["properties"] = {"score": float(rng.choice(readings))}
    elif isinstance(said.get("metrics"), dict):
        said["metrics"] = {name: float(rng.choice(readings)) for name in said["metrics"]}
    return Record(record.key, orjson.dumps(said), record.ts)


@pytest.mark.parametrize(("which", "share", "seed"), [("shipped", 0.6, 1), ("shipped", 0.02, 2), ("small", 0.6, 3)])
def test_extremes_go_through_every_task(which: str, share: float, seed: int) -> None:
    log = EmbeddedLog(PARTITIONS)
    host = EmbeddedHost(SHIPPED if which == "shipped" else tasks(), log)
    for topic, records in hostile(share, seed):
        log.append(topic, records)
        process_all(host)
    stats = host.stats
    assert min(stats.predictions, stats.alerts, stats.examples) > 0
    for topic, model in MODELS.items():
        for batch in log.read([topic], 0):
            for record in batch.records:
                model.model_validate_json(record.value)
    snapshots = [pipeline.snapshot() for pipeline in host.pipelines.values()]
    assert all(snapshots)


def test_readings_beyond_the_limit_are_dead_letters_and_alerts_go_on() -> None:
    log = EmbeddedLog(PARTITIONS)
    host = EmbeddedHost(SHIPPED, log, rejects=RejectPolicy(share=1.0))
    for topic, records in hostile(0.6, 4, readings=(1.7e18, -1.7e18)):
        if topic != topics.USER_EVENTS:
            log.append(topic, records)
            process_all(host)
    reasons = [orjson.loads(r.value)["reason"] for batch in log.read([topics.DEAD_LETTERS], 0) for r in batch.records]
    refused = [reason for reason in reasons if reason.startswith("out of range: metrics.")]
    assert len(refused) > 0.5 * host.stats.events
    assert host.stats.predictions > 0
