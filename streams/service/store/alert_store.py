"""Alerts over HTTP: lists, one with its history, and what people do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from weir.online.codec.wire import ID_CHARS, PRINTABLE, WORD_CHARS, Id, MadeId, Note
from weir.online.decisions.alert_state import Severity
from weir.online.durations import Seconds
from weir.streams.errors import in_words
from weir.streams.service.access.access_guard import tell_audit
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
Asks = Annotated[str | None, Query(max_length=256, pattern=PRINTABLE)]
Version = Annotated[str | None, Header(alias="If-Match", pattern=r'^"?\d+"?$')]
"""The ``ETag`` of the alert that the caller looked at: where somebody has changed it since, the answer is 409."""


class Said(BaseModel):
    """What a person sends."""

    model_config = ConfigDict(extra="forbid")


class VerdictSaid(Said):
    """A verdict on an alert."""

    verdict: Verdict = Field(examples=["confirmed"])
    reason: str = Field("", max_length=WORD_CHARS, pattern=PRINTABLE, examples=["stolen card"])
    note: Note = Field("", examples=["called the customer"])


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


async def _sees(request: Request) -> frozenset[str] | None:
    caller: Caller = request.scope["weir"].caller
    return caller.tasks


async def _name(request: Request) -> str:
    """Who asks, as an id of a record."""
    caller: Caller = request.scope["weir"].caller
    return "".join(filter(str.isprintable, caller.name))[:ID_CHARS] or "unknown"


async def _alert(alert_id: str, request: Request) -> AlertRow:
    """The alert of a path, which the audit then tells; a problem (404) where there is none that the caller may see."""
    cases: Cases = request.app.state.service.store.cases
    row = await cases.row(alert_id, await _sees(request))
    tell_audit(request, task=row.task, subject=row.entity_id)
    return row


By: Any = Depends(_name)
Sees: Any = Depends(_sees)
Asked: Any = Depends(_alert)


class Store:
    """Alerts as data: the tables, what keeps them up with the log, and their routes.

    Parameters
    ----------
    service : whose log it is.
    """

    def __init__(self, service: Service) -> None:
        self._service, serve = service, service.settings.serve
        self.engine = open_database(serve)
        self.projector = Projector(service.log, self.engine, serve.alerts_kept, serve.rebuild)
        self.cases = Cases(service.log, self.engine, self.projector, service.tasks)
        self._running: asyncio.Task[None] | None = None
        self.router = APIRouter(tags=["alerts"])
        read, judge, work = ([needs(scope)] for scope in ("alerts:read", "alerts:write", "cases:write"))
        self.router.get("/alerts", dependencies=read)(self.find)
        self.router.get("/happenings", dependencies=read)(self.happenings)
        self.router.post("/alerts/verdicts", dependencies=judge)(self.verdicts)
        # An alert's id holds the ids of others, and those may hold anything: a path of slashes too.
        self.router.get("/alerts/{alert_id:path}", dependencies=read)(self.show)
        self.router.post("/alerts/{alert_id:path}/verdict", dependencies=judge)(self.verdict)
        self.router.post("/alerts/{alert_id:path}/undo", dependencies=judge)(self.undo)
        self.router.post("/alerts/{alert_id:path}/assign", dependencies=work)(self.assign)
        self.router.post("/alerts/{alert_id:path}/notes", dependencies=work)(self.notes)
        self.router.post("/alerts/{alert_id:path}/snooze", dependencies=work)(self.snooze)

    async def start(self) -> None:
        """Nothing passes by from now on."""
        self.projector.listen()

    def follow(self) -> None:
        """Write what is in the log, which is open now."""
        self._running = asyncio.create_task(self.projector.run())
        self._running.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What the projector cannot deal with ends the process: alerts would be missing, and nobody would know it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._service.fail(f"alerts are not written any more: {in_words(error)}")

    async def stop(self) -> None:
        """Close the database; what is not written yet is in the log."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        await self.projector.stop()
        self.engine.dispose()

    async def find(
        self,
        task: Asks = None,
        state: State | None = None,
        severity: Annotated[Severity | None, Query(description="At least.")] = None,
        entity: Asks = None,
        assignee: Annotated[Asks, Query(description="Empty for alerts that nobody has claimed.")] = None,
        since: Annotated[float | None, Query(description="Opened then or later, epoch seconds.")] = None,
        until: Annotated[float | None, Query(description="Opened before.")] = None,
        min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
        verdict: Verdict | Literal["none"] | None = None,
        q: Annotated[Asks, Query(description="A whole id, or a part of a reason.")] = None,
        sort: Sort = "newest",
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        sees: frozenset[str] | None = Sees,
    ) -> Response:
        """Alerts, the newest or the largest first; ``next`` is the cursor of the next page.

        ``trouble`` says why the list is not up to date, where it is not.
        """
        of = AlertFilter(
            sees, task, state, severity, entity, assignee, since, until, min_score, verdict, q and q.strip()
        )
        now = time.time()
        page = await self.cases.ask(list_alerts, of, sort, cursor, limit, now)
        rows, trouble = [shown(row, now) for row in page.rows], self.projector.trouble
        return _json({"alerts": rows, "next": page.next, "total": page.total, "trouble": trouble})

    async def show(self, row: AlertRow = Asked) -> Response:
        """One alert with its history; of each verdict, when the online model learned it and which version that made."""
        return await self._answer(row.alert_id)

    async def happenings(
        self, task: Asks = None, limit: Annotated[int, Query(ge=1, le=500)] = 50, sees: frozenset[str] | None = Sees
    ) -> Response:
        """Model updates and retrain requests, the newest first: what alerts before and after differ by."""
        return _json({"happenings": await self.cases.ask(happenings_of, sees, task, limit)})

    async def verdict(
        self, said: VerdictSaid, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Say what an alert was: it resolves, and the label goes to the model (none where you are unsure)."""
        done = await self.cases.judge([row], by, said.verdict, said.reason, said.note, _number(version))
        return await self._done(row, done)

    async def verdicts(self, said: VerdictsSaid, by: str = By, sees: frozenset[str] | None = Sees) -> Response:
        """Say the same of up to 500 alerts; ``results`` tells of each whether it counted, or does not know it yet."""
        ids = list(dict.fromkeys(said.alert_ids))
        rows = await self.cases.rows(ids, sees)
        done = await self.cases.judge(list(rows.values()), by, said.verdict, said.reason, said.note)
        found: dict[str, dict[str, Any]] = {i: {"status": "done" if i in done else "pending"} for i in rows}
        found |= {i: {"status": "refused", "reason": why} for i, why in done.items() if why}
        unknown = {"status": "unknown", "reason": "no such alert"}
        return _json({"results": [{"alert_id": i, **found.get(i, unknown)} for i in ids]})

    async def undo(self, version: Version = None, row: AlertRow = Asked, by: str = By) -> Response:
        """Take the newest verdict back: the alert is as before it, and another label corrects the model."""
        return await self._done(row, await self.cases.undo(row, by, _number(version)))

    async def assign(self, said: AssignSaid, version: Version = None, row: AlertRow = Asked, by: str = By) -> Response:
        """Claim an alert for a while, hand it over, or release it; 409 where somebody else has claimed it."""
        whose = {"assignee": said.assignee or by, "until": time.time() + said.for_s}
        action, whose = ("release", {}) if said.release else ("assign", whose)
        return await self._done(row, await self.cases.act(row, action, by, _number(version), **whose))

    async def notes(self, said: NoteSaid, version: Version = None, row: AlertRow = Asked, by: str = By) -> Response:
        """Write a note into the history of an alert."""
        return await self._done(row, await self.cases.act(row, "note", by, _number(version), note=said.note))

    async def snooze(self, said: SnoozeSaid, version: Version = None, row: AlertRow = Asked, by: str = By) -> Response:
        """Put an alert aside for a while."""
        until = time.time() + said.for_s
        return await self._done(row, await self.cases.act(row, "snooze", by, _number(version), until=until))

    async def _done(self, row: AlertRow, done: Mapping[str, str | None]) -> Response:
        """The alert after a change; 409 where that did not count, 202 where its effect is not to be seen yet."""
        if refused := done.get(row.alert_id):
            row = await self.cases.row(row.alert_id, None)
            raise Problem(
                409, "Conflict", f"alert {row.alert_id}: {refused}; look at it again",
                changed_by=row.changed_by, changed_at=row.changed_at, version=row.version,
            )  # fmt: skip
        return await self._answer(row.alert_id, 200 if row.alert_id in done else 202)

    async def _answer(self, alert_id: str, status: int = 200) -> Response:
        # The history first: what it tells, such as that a label was learned, the row then holds as well.
        history = await self.cases.ask(history_of, alert_id)
        row = await self.cases.row(alert_id, None)
        return _json(shown(row, time.time()) | history, status, {"ETag": f'"{row.version}"'})


def _number(version: str | None) -> int | None:
    return None if version is None else int(version.strip('"'))


def _json(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, "application/json")
