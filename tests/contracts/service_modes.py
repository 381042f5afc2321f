"""The service in each of its modes behind a real socket, for contracts that both keep."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from tests.integration.chaos.deployment import Deployment
from tests.integration.kafka_node import eventually
from tests.integration.worker_process import Worker
from tests.service.running import listening
from weir.client import Client, FeedEvent
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.config.settings import Settings
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.kafka.kafka_service_log import KafkaServiceLog
from weir.streams.service.kafka.kafka_serving import kafka_service
from weir.streams.service.service import Service
from weir.streams.task_files import load_task

TASK = Path(__file__).parent / "tasks" / "card.toml"
TOKEN = "the-token-of-the-administrator-of-tests"
PATIENCE_S = 60.0
_T = TypeVar("_T")


@dataclass
class Served:
    """A service that runs, and what is needed to talk to it. Tests share it, each with users of its own."""

    service: Service
    url: str
    embedded: bool
    names: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.client = Client(self.url, TOKEN)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE_S)

    def close(self) -> None:
        """Let go of its connections."""
        self.client.close()
        self.http.close()

    def user(self) -> str:
        """A user that no other test has."""
        return f"u{next(self.names)}"

    def now(self) -> str:
        """The place at the end of the feed."""
        last = self.http.get("/v1/feed.ndjson?once=1").text.splitlines()[-1]
        return str(msgspec.json.decode(last)["next"])

    def feed(self, n: int, last_id: str, **filters: Any) -> list[FeedEvent]:
        """The next ``n`` events after a place."""
        return list(itertools.islice(self.client.feed(last_id=last_id, **filters), n))

    def soon(self, ask: Callable[[], _T], holds: Callable[[_T], object]) -> _T:
        """What ``ask`` gives once it is so: outputs follow inputs, at once or after a while."""
        found = ask()

        def done() -> bool:
            nonlocal found
            found = ask()
            return bool(holds(found))

        eventually(done, PATIENCE_S, "it is so")
        return found


def purchase(user: str, n: int, **more: Any) -> dict[str, Any]:
    """An event; a user's have ids and times of their own."""
    return {
        "v": 1, "event_id": f"{user}-{n}", "type": "purchase", "user_id": user, "ts": time.time(), "amount": 10.0 + n,
        "merchant_id": "m", **more,
    }  # fmt: skip


def label(user: str, n: int, **more: Any) -> dict[str, Any]:
    """What an event turned out to be."""
    return {
        "v": 1, "task": "card", "entity_id": user, "event_id": f"{user}-{n}", "ts": time.time(), "value": 1, **more,
    }  # fmt: skip


def _settings(base: Settings, folder: Path) -> Settings:
    serve = ServeSettings.model_validate({"directory": str(folder / "serve"), "access": {"token": TOKEN}})
    serve = serve.model_copy(update={"notify": base.serve.notify})
    return base.model_copy(update={"serve": serve})


@contextmanager
def running(service: Service) -> Iterator[Served]:
    """A service that listens, in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(listening(service)) as port:
        made = Served(service, f"http://127.0.0.1:{port}", not isinstance(service.log, KafkaServiceLog))
        try:
            yield made
        finally:
            made.close()


@contextmanager
def embedded(folder: Path) -> Iterator[Served]:
    """Tasks, log and service in one process."""
    with running(embedded_service(_settings(Settings(), folder), [load_task(TASK)])) as made:
        yield made


def deployed(request: pytest.FixtureRequest, folder: Path) -> Deployment:
    """Topics and settings of a fleet."""
    redis = request.getfixturevalue("redis_server").settings().url.get_secret_value()
    prefix = f"http-{os.urandom(3).hex()}"
    return Deployment.create(folder, request.getfixturevalue("kafka"), redis, prefix=prefix, tasks=(TASK,))


@contextmanager
def fleet(deployment: Deployment, folder: Path, replicas: int = 1) -> Iterator[list[Served]]:
    """One worker, and replicas of the service beside it."""
    with ExitStack() as stack:
        worker = stack.enter_context(Worker(deployment, folder / "worker.log"))
        made = []
        for n in range(replicas):
            settings = _settings(deployment.settings, folder / str(n))
            service = kafka_service(settings, list(deployment.tasks.values()))
            made.append(stack.enter_context(running(service)))
        worker.until(lambda: "partitions assigned" in worker.log, "it has partitions")
        yield made
