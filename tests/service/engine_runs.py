"""An embedded service's log as tests use it: opened in a directory, fed with a simulated stream, looked at whole."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.streams.host_runs import CHURN, FRAUD, Call, inputs, tasks
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.records import Record
from weir.streams.service.embedded.embedded_service import embedded_service
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.service import Service

Rows = list[tuple[int, Record]]


def service_in(directory: Path, which: Sequence[TaskSpec] | None = None, **serve: object) -> Service:
    settings = Settings.model_validate({"serve": {"directory": str(directory), **serve}})
    return embedded_service(settings, which or tasks(FRAUD, CHURN))


def log_in(directory: Path, which: Sequence[TaskSpec] | None = None, **serve: object) -> EmbeddedServiceLog:
    log = service_in(directory, which, **serve).log
    assert isinstance(log, EmbeddedServiceLog)
    log.engine._clock = lambda: 0.0  # records of a test say when they came: by this machine's clock all would be idle
    return log


@asynccontextmanager
async def opened(directory: Path, **serve: object) -> AsyncIterator[EmbeddedServiceLog]:
    log = log_in(directory, None, **serve)
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


def calls(events: int = 600) -> tuple[Call, ...]:
    """Valid and dirty events and labels of users, in blocks."""
    return tuple(call for call in inputs(events) if call[0] != topics.DEVICE_EVENTS)


def event(n: int, ts: float = 1.7e9, user: str = "u1") -> Record:
    value = f'{{"v":1,"event_id":"e{n}","type":"purchase","user_id":"{user}","ts":{ts},"amount":9.5,"merchant_id":"m"}}'
    return Record(user.encode(), value.encode(), ts)


async def rows(log: EmbeddedServiceLog, topic: str) -> Rows:
    found: Rows = []
    for partition, span in (await log.spans(topic)).items():
        at = span.first
        while at < span.end:
            for batch in await log.read(topic, partition, at):
                found += [(batch.offset_of(i), record) for i, record in enumerate(batch.records)]
                at = batch.next_offset
    return found


async def all_rows(log: EmbeddedServiceLog) -> dict[str, Rows]:
    return {topic: await rows(log, topic) for topic in (topics.USER_EVENTS, topics.LABELS, *topics.OUTPUTS)}


async def killed(log: EmbeddedServiceLog, to: Path) -> Path:
    """A copy of what a kill of the process would leave in the log's directory now."""
    directory = log.engine.directory.path
    # A checkpoint that is being written comes and goes beside that; a start passes what is left of it over.
    ignored = shutil.ignore_patterns("lock", "left*", "*.part*", "*.tmp")
    # Between two steps, as files that change while they are copied are nothing that a kill could leave.
    return Path(await log.call(lambda: shutil.copytree(directory, to, ignore=ignored)))
