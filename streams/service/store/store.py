"""Alerts over HTTP: lists, one with its history, and what people do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from weir.online.codec.wire import Id, MadeId, Note, Word
from weir.online.decisions.alert_state import Severity
from weir.online.durations import Seconds
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.problems import Problem
from weir.streams.service.store.alert_queries import (
    AlertFilter,
    Sort,
    happenings_of,
    history_of,
    list_alerts,
    shown,
)
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.cases import Cases
from weir.streams.service.store.database import open_database
from weir.streams.service.store.projector import Projector

if TYPE_CHECKING:
    from weir.streams.service.service import Service

BULK: Final = 500
State = Literal["open", "escalated", "resolved"]
Verdict = Literal["confirmed", "false_alarm", "unsure"]
Version = Annotated[str | None, Header(alias="If-Match", pattern=r'^"?\d+"?$')]
"""The ``ETag`` of the alert that the caller looked at: where somebody has changed it since, the answer is 409."""


class Said(BaseModel):
    """What a person sends."""

    model_config = ConfigDict(extra="forbid")


class VerdictSaid(Said):
    """A verdict on an alert."""

    verdict: Verdict = Field(examples=["confirmed"])
    reason: Word | None = Field(None, examples=["stolen card"])
    note: Note | None = Field(None, examples=["called the customer"])


class VerdictsSaid(VerdictSaid):
    """The same verdict on several alerts."""

    alert_ids: list[MadeId] = Field(min_length=1, max_length=BULK, examples=[["fraud:user-7:pay-1"]])


class AssignSaid(Said):
    """Whose an alert is."""

    assignee: Id | None = Field(None, examples=["ben"])
    """To whom it is handed over; the caller claims it without."""
    for_s: Seconds = Field(1800.0, gt=0, le=30 * 86_400.0, examples=["30m"])
    """When the claim ends."""
    release: bool = False
    """Nobody's any more."""


class NoteSaid(Said):
    """A note on an alert."""

    note: Note = Field(min_length=1, examples=["waits for the bank"])


class SnoozeSaid(Said):
    """Hides an alert for a while; 0 ends that."""

    for_s: Seconds = Field(ge=0, le=365 * 86_400.0, examples=["4h"])


class Store:
    """Alerts as data: the tables, what keeps them up with the log, and their routes.

    Parameters
    ----------
    service : whose log it is.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        serve = service.settings.serve
        self.engine = open_database(serve)
        self.projector = Projector(service.log, self.engine, serve.alerts_kept, serve.rebuild)
        self._cases = Cases(service.log, self.engine, self.projector, service.tasks)
        self._running: asyncio.Task[None] | None = None
        self.router = APIRouter(tags=["alerts"])
        self.router.get("/alerts")(self.find)
        self.router.get("/happenings")(self.happenings)
        self.router.post("/alerts/verdicts")(self.verdicts)
        # An alert's id holds the ids of others, and those may hold anything: a path of slashes too.
        self.router.get("/alerts/{alert_id:path}")(self.show)
        for action in (self.verdict, self.undo, self.assign, self.notes, self.snooze):
            self.router.post(f"/alerts/{{alert_id:path}}/{action.__name__}")(action)

    async def start(self) -> None:
        """Nothing passes by from now on."""
        self.projector.listen()

    def follow(self) -> None:
        """Write what is in the log, which is open now."""
        self._running = asyncio.create_task(self.projector.run())

    async def stop(self) -> None:
        """Close the database; what is not written yet is in the log."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await self.projector.stop()
        self.engine.dispose()

    async def find(
        self,
        task: str | None = None,
        state: State | None = None,
        severity: Annotated[Severity | None, Query(description="At least.")] = None,
        entity: str | None = None,
        assignee: Annotated[str | None, Query(description="Empty for alerts that nobody has claimed.")] = None,
        since: Annotated[float | None, Query(description="Opened then or later, epoch seconds.")] = None,
        until: Annotated[float | None, Query(description="Opened before.")] = None,
        min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
        verdict: Verdict | Literal["none"] | None = None,
        q: Annotated[str | None, Query(max_length=256, description="A whole id, or a part of a reason.")] = None,
        sort: Sort = "newest",
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        caller: Caller = needs("alerts:read"),
    ) -> Response:
        """Alerts, the newest or the largest first; ``next`` is the cursor of the next page."""
        of = AlertFilter(
            caller.tasks, task, state, severity, entity, assignee, since, until, min_score, verdict, q and clean(q)
        )
        now = time.time()
        page = await self._cases.ask(list_alerts, of, sort, cursor, limit, now)
        return _json({"alerts": [shown(row, now) for row in page.rows], "next": page.next, "total": page.total})

    async def show(self, alert_id: str, caller: Caller = needs("alerts:read")) -> Response:
        """One alert with its history; of each verdict, when the online model learned it and which version that made."""
        return await self._answer(await self._row(alert_id, caller))

    async def happenings(
        self,
        task: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        caller: Caller = needs("alerts:read"),
    ) -> Response:
        """Model updates and retrain requests, the newest first: what alerts before and after differ by."""
        return _json({"happenings": await self._cases.ask(happenings_of, caller.tasks, task, limit)})

    async def verdict(
        self, alert_id: str, said: VerdictSaid, version: Version = None, caller: Caller = needs("alerts:write")
    ) -> Response:
        """Say what an alert was: it resolves, and the label goes to the model (none where you are unsure)."""
        row, told = await self._row(alert_id, caller), said.model_dump(exclude={"verdict"})
        done = await self._cases.judge([row], caller.name, said.verdict, told, _number(version))
        return await self._done(row, caller, done)

    async def verdicts(self, said: VerdictsSaid, caller: Caller = needs("alerts:write")) -> Response:
        """Say the same of up to 500 alerts; ``results`` tells of each whether it counted."""
        ids = list(dict.fromkeys(said.alert_ids))
        rows = await self._cases.rows(ids, caller.tasks)
        told = said.model_dump(include={"reason", "note"})
        done = await self._cases.judge(list(rows.values()), caller.name, said.verdict, told)
        found = {i: {"status": "refused", "reason": done[i]} if done.get(i) else {"status": "done"} for i in rows}
        unknown = {"status": "unknown", "reason": "no such alert"}
        return _json({"results": [{"alert_id": i, **found.get(i, unknown)} for i in ids]})

    async def undo(self, alert_id: str, version: Version = None, caller: Caller = needs("alerts:write")) -> Response:
        """Take the newest verdict back: the alert is as before it, and another label corrects the model."""
        row = await self._row(alert_id, caller)
        if row.verdict is None:
            raise Problem(409, "Conflict", f"alert {alert_id} has no verdict that could be undone", value=alert_id)
        return await self._done(row, caller, await self._cases.undo(row, caller.name, _number(version)))

    async def assign(
        self, alert_id: str, said: AssignSaid, version: Version = None, caller: Caller = needs("cases:write")
    ) -> Response:
        """Claim an alert for a while, hand it over, or release it; 409 where somebody else has claimed it."""
        whose = {"assignee": said.assignee or caller.name, "until": time.time() + said.for_s}
        action = ("release", {}) if said.release else ("assign", whose)
        return await self._act(alert_id, caller, version, *action)

    async def notes(
        self, alert_id: str, said: NoteSaid, version: Version = None, caller: Caller = needs("cases:write")
    ) -> Response:
        """Write a note into the history of an alert."""
        return await self._act(alert_id, caller, version, "note", {"note": said.note})

    async def snooze(
        self, alert_id: str, said: SnoozeSaid, version: Version = None, caller: Caller = needs("cases:write")
    ) -> Response:
        """Put an alert aside for a while."""
        return await self._act(alert_id, caller, version, "snooze", {"until": time.time() + said.for_s})

    async def _act(
        self, alert_id: str, caller: Caller, version: str | None, action: str, said: Mapping[str, Any]
    ) -> Response:
        row = await self._row(alert_id, caller)
        done = await self._cases.act(row, action, caller.name, expects=_number(version), **said)
        return await self._done(row, caller, done)

    async def _row(self, alert_id: str, caller: Caller) -> AlertRow:
        if row := (await self._cases.rows([alert_id], caller.tasks)).get(alert_id):
            return row
        raise Problem(404, "Not found", f"no alert {alert_id}; GET /v1/alerts lists them", value=alert_id)

    async def _done(self, row: AlertRow, caller: Caller, done: Mapping[str, str | None]) -> Response:
        """The alert after a change; 409 where that did not count, 202 where its effect is not to be seen yet."""
        row = await self._row(row.alert_id, caller)
        if refused := done.get(row.alert_id):
            raise Problem(
                409, "Conflict", f"alert {row.alert_id}: {refused}; look at it again",
                changed_by=row.changed_by, changed_at=row.changed_at, version=row.version,
            )  # fmt: skip
        return await self._answer(row, 200 if row.alert_id in done else 202)

    async def _answer(self, row: AlertRow, status: int = 200) -> Response:
        document = shown(row, time.time()) | await self._cases.ask(history_of, row.alert_id)
        return _json(document, status, {"ETag": f'"{row.version}"'})


def clean(q: str) -> str:
    """A text to search for, without what no database holds."""
    return q.replace("\0", "").strip()


def _number(version: str | None) -> int | None:
    return None if version is None else int(version.strip('"'))


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, "application/json")
