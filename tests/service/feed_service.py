"""A service whose log is in memory, to follow its feed; nothing runs by itself: a test flushes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI, Request

from tests.service.feed_reader import FeedReader, turns
from tests.service.memory_log import MemoryServiceLog
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.ops.metric_registry import Registry
from weir.streams.records import Record
from weir.streams.service.access.scopes import administrator
from weir.streams.service.app import create_app
from weir.streams.service.feed.feed_routes import Feed
from weir.streams.service.service import Service

_TASK = """
name = "{}"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count"]
windows = ["1d"]
[model]
kind = "logistic"
{}
"""


def plain_task(name: str, more: str = "") -> TaskSpec:
    """A task with little in it; ``more`` are further tables of its file."""
    return TaskSpec.from_toml(_TASK.format(name, more))


TASKS = [plain_task(name) for name in ("fraud", "churn")]


class Everyone:
    """Lets everyone do everything, unless a test says who asks."""

    caller: Any = administrator("open")

    async def check(self, request: Request, scope: str) -> Any:
        assert scope == "feed:read"
        return self.caller

    async def identify(self, request: Request) -> Any:
        return self.caller

    def visited(self, *_: object) -> None:
        pass


class FeedService:
    """The feed of a log in memory, and an application that has nothing else."""

    def __init__(self, log: MemoryServiceLog, **feed: Any) -> None:
        self.log, self.access = log, Everyone()
        self.metrics, self.faults = Registry(), list[str]()
        parts = SimpleNamespace(
            settings=Settings.model_validate({"serve": {"feed": feed}}),
            tasks=TASKS,
            log=log,
            access=self.access,
            metrics=self.metrics,
            fail=self.faults.append,
            often=[],
            console=None,
        )
        self.service = cast(Service, parts)
        self.feed = Feed(self.service)
        self.service.routers = [self.feed.router]
        self.app: FastAPI = create_app(self.service)

    @property
    def fan_out(self) -> Any:
        return self.feed.fan_out

    async def connect(self, query: str = "", last_event_id: str | None = None, path: str = "/v1/feed") -> FeedReader:
        reader = FeedReader(self.app, path + query, last_event_id)
        await turns(lambda: bool(reader.last_id) or reader.task.done())
        return reader

    async def flush(self) -> None:
        for client in self.fan_out.flush():
            client.news.set()
        await turns()


@asynccontextmanager
async def feed_service(log: MemoryServiceLog | None = None, **feed: Any) -> AsyncIterator[FeedService]:
    made = FeedService(log or MemoryServiceLog(), **feed)
    await made.feed.start()
    try:
        yield made
    finally:
        await made.feed.stop()


def alert(
    n: int, task: str = "fraud", score: float = 0.9, severity: str = "high", ts: float = 1.7e9, filler: int = 0
) -> Record:
    """An alert as its topic has it, as far as the feed looks at it."""
    known = {
        "v": 1,
        "alert_id": f"{task}:user-{n}:e{n}",
        "task": task,
        "entity_id": f"user-{n}",
        "filler": "." * filler,
    }
    return Record(b"k", json.dumps({**known, "score": score, "severity": severity}).encode(), ts + n)


def ids(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whose alerts these are."""
    return [record["record"]["entity_id"] for record in records]
