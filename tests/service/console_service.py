"""A service whose log is in memory and whose tasks do not run: as many alerts as a test of the console wants."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from httpx import ASGITransport, AsyncClient

from tests.service.feed_service import plain_task
from tests.service.memory_log import MemoryServiceLog
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import Alert, Reason
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import Record
from weir.streams.service.app import create_app
from weir.streams.service.ports import Serving
from weir.streams.service.service import Service

_BUDGET = """
[threshold]
kind = "budget"
alerts_per_day = {}
[alerts]
verdict_reasons = ["stolen card", "account takeover"]
"""
_FIXED = """
[threshold]
kind = "fixed"
value = 0.5
"""
ALERTS_A_DAY = 5
TASKS = (plain_task("fraud", _BUDGET.format(ALERTS_A_DAY)), plain_task("churn", _FIXED))


class Standing:
    """Tasks that are there and do nothing."""

    def ready(self) -> list[str]:
        return []

    def describe(self) -> dict[str, object]:
        return {}

    async def metrics(self, task: str) -> dict[str, dict[str, float]]:
        return {"cumulative": {}, "rolling": {}, "fading": {}}


def alert(n: int, task: str = "fraud", amount: float | None = None, at: float | None = None, **more: Any) -> Record:
    """A record of alert ``n``; the amount is what is at stake."""
    at = time.time() - 3600.0 + n if at is None else at
    amount = float(n) if amount is None else amount
    reasons = (
        Reason(feature="amount", value=amount, contribution=1.2, text=f"{amount:.0f} EUR, 4.1 times the usual"),
        Reason(feature="user.tx_count_1h", value=7.0, contribution=0.6, text="7 purchases of this user in 1 h"),
    )
    entity = f"user-{n}"
    facts = {
        "alert_id": f"{task}:{entity}:e{n}", "task": task, "entity_id": entity, "status": "open", "severity": "high",
        "score": 0.9, "threshold": 0.5, "reasons": reasons, "opened_at": at, "updated_at": at, "event_ids": (f"e{n}",),
    }  # fmt: skip
    return Record(entity.encode(), encode_model(Alert.model_validate(facts | more)), at)


class Desk:
    """The service, what a test does with it beside requests, and a client of it."""

    def __init__(self, service: Service, log: MemoryServiceLog, client: AsyncClient) -> None:
        self.service, self.log, self.client = service, log, client

    async def arrive(self, records: Sequence[Record]) -> None:
        """Alerts come, and are in the database."""
        self.log.add(topics.ALERTS, records)
        await self.written()

    async def written(self) -> None:
        """Wait until what is in the log is in the database."""
        projector, ends = self.service.store.projector, await self.log.spans(topics.ALERTS)
        while any(projector._projection.position(topics.ALERTS, p) < span.end for p, span in ends.items()):
            await projector.wrote.wait()

    def person(self, name: str, role: str = "analyst") -> dict[str, str]:
        """Headers of somebody."""
        key = self.service.access.keys.create(name, role=role, by="test", now=time.time())[1]
        return {"authorization": f"Bearer {key}"}


def make_desk_service(
    directory: Path, log: MemoryServiceLog, tasks: Sequence[TaskSpec] = TASKS, **serve: Any
) -> Service:
    """The service; it is not started."""
    settings = Settings.model_validate({"serve": {"directory": str(directory), **serve}})
    return Service(settings, tasks, log, cast(Serving, Standing()))


@asynccontextmanager
async def desk(directory: Path, alerts: int = 0) -> AsyncIterator[Desk]:
    """A service with alerts of the task ``fraud``."""
    log = MemoryServiceLog()
    service = make_desk_service(directory, log)
    transport = ASGITransport(create_app(service), client=("127.0.0.1", 5))
    async with service, AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        made = Desk(service, log, client)
        if alerts:
            await made.arrive([alert(n) for n in range(alerts)])
        yield made
