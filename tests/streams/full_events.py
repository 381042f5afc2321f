"""Events and predictions of the task of full_graphs.py, and its models as a process loads them."""

from __future__ import annotations

import orjson

from tests.streams.full_graphs import Models
from weir.models.serving.session import Provider
from weir.online.codec.wire import Prediction
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.offline_models.loading import full_models
from weir.streams.offline_models.serving import FullModels
from weir.streams.ops.metrics import Metrics
from weir.streams.records import Record

START = 1.7e9


def loaded(task: TaskSpec, own: Models, provider: Provider = "cpu") -> FullModels:
    return full_models([task], ModelSettings(registry=own.registry.url, provider=provider), Metrics())


def serving(full: FullModels) -> tuple[int, int]:
    """Champion and shadow of the one task as they score; 0 for none."""
    (task,) = full.tasks
    return task.runner.slots.pair.versions


def event(i: int, user: int = 0) -> bytes:
    return orjson.dumps({
        "v": 1, "event_id": f"e{i}", "type": "purchase", "user_id": f"u{user}", "ts": START + i, "amount": 10.0 + i % 7
    })  # fmt: skip


def events(first: int, count: int) -> list[Record]:
    return [Record(b"k", event(i, i % 3), START + i) for i in range(first, first + count)]


def predictions(log: EmbeddedLog) -> list[Prediction]:
    return [Prediction.model_validate_json(r.value) for b in log.read([topics.PREDICTIONS], 0) for r in b.records]


def feature(prediction: Prediction, name: str) -> float:
    return float(prediction.features[name])
