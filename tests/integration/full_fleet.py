"""A worker's deployment with a registry of full models, and events whose predictions say which model scored them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_broker import Broker
from tests.integration.worker_process import Watcher, Worker
from tests.streams.full_graphs import LOGIT, TASK, Models
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ModelUpdate
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.offline_models.loading import full_inputs
from weir.streams.task_files import load_task

USERS = 5
Row = dict[str, Any]


class Fleet:
    """A deployment with a registry; events are numbered, and a step is a few of each user.

    Parameters
    ----------
    folder, kafka, redis_url : where it lives.
    task : text of the task file.
    """

    def __init__(self, folder: Path, kafka: Broker, redis_url: str, task: str = TASK) -> None:
        path = folder / "spend.toml"
        path.write_text(task)
        prefix = f"full-{os.getpid()}-{os.urandom(3).hex()}"
        self.deployment = Deployment.create(
            folder, kafka, redis_url, prefix=prefix, partitions=2, tasks=(path,), worker={"web_port": "auto"}
        )
        with self.deployment.config.open("a") as file:
            file.write(f'[models]\nregistry = "{folder}/registry"\n')
        self.task: TaskSpec = load_task(path)
        self.models = Models(folder / "registry", self.task, full_inputs(self.task))
        self.sent = 0

    def tell(self, watcher: Watcher, *updates: ModelUpdate) -> None:
        """Publish updates."""
        watcher.send(topics.MODEL_UPDATES, [(b"spend", encode_model(update)) for update in updates])

    def step(self, watcher: Watcher, worker: Worker, each: int = 3) -> list[Row]:
        """Send a few events of every user, wait, and return their predictions, by event."""
        first = self.sent
        self.sent += USERS * each
        watcher.send(topics.USER_EVENTS, [event(i) for i in range(first, self.sent)])
        watcher.settle(worker)
        return self.predictions(first, self.sent)

    def predictions(self, first: int, stop: int) -> list[Row]:
        """Of these events, each once, in their order."""
        stored = [each for log in self.deployment.read(topics.PREDICTIONS).values() for each in log]
        rows = [orjson.loads(each.record.value) for each in stored]
        wanted = {f"e{i}": i for i in range(first, stop)}
        found = [row for row in rows if row["event_id"] in wanted]
        ids = sorted(row["event_id"] for row in found)
        assert ids == sorted(wanted), f"events {first} to {stop - 1} have predictions {ids}"
        return sorted(found, key=lambda row: wanted[row["event_id"]])


def event(i: int) -> tuple[bytes, bytes]:
    user = f"user-{i % USERS}"
    body = {"v": 1, "event_id": f"e{i}", "type": "purchase", "user_id": user, "ts": 1.7e9 + i, "amount": 5.0 + i % 3}
    return user.encode(), orjson.dumps(body)


def versions(rows: Sequence[Row]) -> set[tuple[int, int]]:
    return {(int(row["features"]["full.version"]), int(row["features"]["full.shadow_version"])) for row in rows}


def counts(rows: Sequence[Row], champion: int) -> list[float]:
    """How many events of its entity the champion believes to have seen, of each row."""
    return [row["features"]["full.logit"] - LOGIT * champion for row in rows]
