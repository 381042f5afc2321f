"""One entity over HTTP: its features as the store has them, and its newest scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from fastapi import Query

from weir.streams.checks.entity_rows import TableRow
from weir.streams.config import topics
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.parts import Problem, View
from weir.streams.service.ports import ServiceLog, every_record

if TYPE_CHECKING:
    from weir.streams.service.service import Service

LOOKED_AT: Final = 20_000
"""Newest predictions of each partition in which an entity's scores are looked for."""


class ScoredEvent(msgspec.Struct):
    """A prediction, as far as people look at it."""

    task: str
    entity_id: str
    event_id: str
    ts: float
    score: float
    model_version: int | str
    features: dict[str, float | None]
    degraded: bool = False


class Entities(View):
    """Routes of entities."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "entities")
        self.router.get("/entities/{entity}")(self.entity)
        # An entity may have a slash in its name. A second route, as metrics and the audit know the first by its text.
        self.router.get("/entities/{entity:path}", include_in_schema=False)(self.entity)

    async def entity(
        self,
        entity: str,
        task: str | None = None,
        scores: Annotated[int, Query(ge=0, le=500)] = 50,
        caller: Caller = needs("entities:read"),
    ) -> dict[str, Any]:
        """Features of an entity in every table of the tasks, and its newest scores with the features of then.

        Values are as of the row's last change. Scores are looked for among the newest 20,000 predictions of each
        partition. Its alerts are at ``/v1/alerts?entity=``.
        """
        names = {t.name for t in self._service.seen_by(caller)}
        wanted = {task} & names if task is not None else names
        rows = [row for name in sorted(wanted) for row in await self._service.serving.rows(name, entity)]
        found = [score for score in await scores_of(self._service.log, entity) if score.task in wanted]
        if not rows and not found:
            raise Problem(404, "Not found", f"no task knows {entity!r}", value=entity)
        newest = sorted(found, key=lambda score: -score.ts)[:scores]
        return {"entity": entity, "tables": [_table(row) for row in rows], "scores": msgspec.to_builtins(newest)}


async def records_of(log: ServiceLog, topic: str, entity: str) -> list[bytes]:
    """Values of a topic's newest records of an entity, in the order of each partition."""
    key = entity.encode()
    return [p.record.value async for p in every_record(log, topic, newest=LOOKED_AT) if p.record.key == key]


async def scores_of(log: ServiceLog, entity: str) -> list[ScoredEvent]:
    """The newest predictions of an entity."""
    return [msgspec.json.decode(v, type=ScoredEvent) for v in await records_of(log, topics.PREDICTIONS, entity)]


def _table(row: TableRow) -> Mapping[str, Any]:
    # A missing value is NaN in a row, which JSON does not have.
    values = {name: None if math.isnan(value) else value for name, value in row.values.items()}
    return {"table": row.table, "key": row.key, "updated_at": row.row.updated_at, "fits": row.fits, "features": values}
