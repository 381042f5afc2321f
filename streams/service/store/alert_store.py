"""Alerts over HTTP: lists, one with its history, and what people do with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response

from weir.online.task.spec import TaskSpec
from weir.streams.errors import in_words
from weir.streams.service.access.scopes import needs
from weir.streams.service.parts import Part, Problem, View, answer, ended
from weir.streams.service.store import alert_queries as queries
from weir.streams.service.store import alert_requests as bodies
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_requests import Asked, Asks, By, Filtered, Sees, Version, alert_of
from weir.streams.service.store.aside_routes import SavedViews, Snoozes, be_present
from weir.streams.service.store.case_rules import AlertRow
from weir.streams.service.store.cases import Cases
from weir.streams.service.store.database import open_database
from weir.streams.service.store.projector import Projector

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class Store(View, Part):
    """Alerts as data: the tables, what keeps them up with the log, and their routes."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "alerts")
        serve = service.settings.serve
        self.engine = open_database(serve)
        self.projector = Projector(service.log, self.engine, serve.alerts_kept, serve.rebuild)
        self.cases = Cases(service.log, self.engine, self.projector, service.tasks)
        self._running: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        read, judge, work = ([needs(scope)] for scope in ("alerts:read", "alerts:write", "cases:write"))
        self.router.get("/alerts", dependencies=read)(self.find)
        self.router.get("/happenings", dependencies=read)(self.happenings)
        self.router.post("/alerts/verdicts", dependencies=judge)(self.verdicts)
        self.router.post("/alerts/undo", dependencies=judge)(self.undo_many)
        self.router.post("/alerts/next", dependencies=work)(self.next)
        # An alert's id holds the ids of others, and those may hold anything: a path of slashes too.
        self.router.get("/alerts/{alert_id:path}", dependencies=read)(self.show)
        self.router.post("/alerts/{alert_id:path}/verdict", dependencies=judge)(self.verdict)
        self.router.post("/alerts/{alert_id:path}/undo", dependencies=judge)(self.undo)
        self.router.post("/alerts/{alert_id:path}/assign", dependencies=work)(self.assign)
        self.router.post("/alerts/{alert_id:path}/notes", dependencies=work)(self.notes)
        self.router.post("/alerts/{alert_id:path}/escalate", dependencies=work)(self.escalate)
        self.router.post("/alerts/{alert_id:path}/presence", dependencies=work)(self.present)
        self.router.post("/alerts/{alert_id:path}/hold", dependencies=work)(self.hold)
        # As it was called before entities and reasons could be snoozed.
        self.router.post("/alerts/{alert_id:path}/snooze", dependencies=work, deprecated=True)(self.hold)
        self.snoozes, self.views = Snoozes(self, self.router), SavedViews(self, self.router)

    async def start(self) -> None:
        """Nothing passes by from now on."""
        self.projector.listen()

    def follow(self) -> None:
        """Write what is in the log, which is open now."""
        self._running = asyncio.create_task(self.projector.run())
        self._running.add_done_callback(self._ended)
        self._sending = asyncio.create_task(self.cases.send_what_is_owed())

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What the projector cannot deal with ends the process: alerts would be missing, and nobody would know it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._service.fail(f"alerts are not written any more: {in_words(error)}")

    async def stop(self) -> None:
        """Close the database; what is not written yet is in the log."""
        await ended(self._sending)
        await ended(self._running)
        await self.projector.stop()
        self.engine.dispose()

    async def find(
        self,
        sort: Annotated[
            queries.Sort | None, Query(description="By default newest; of the queue, expected_loss.")
        ] = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        facets: Annotated[bool, Query(description="Also count by task, state, severity, verdict, assignee.")] = False,
        of: AlertFilter = Filtered,
    ) -> Response:
        """Alerts, the newest or the largest first; ``next`` is the cursor of the next page.

        ``trouble`` says why the list is not up to date, where it is not. ``budget`` comes with the queue: ``left`` is
        how many alerts of each task can still be looked at today, and ``line`` the place in the list where these end.
        """
        now = time.time()
        sort = sort or ("newest" if of.waits_for is None else "expected_loss")
        page = await self.cases.ask(queries.list_alerts, of, sort, cursor, limit, now)
        rows = [queries.shown(row, now) for row in page.rows]
        found: dict[str, Any] = {"alerts": rows, "next": page.next, "total": page.total}
        if facets:
            found["facets"] = await self.cases.ask(queries.facets_of, of, now)
        if of.waits_for is not None:
            found["budget"] = await self.budget(of, now)
        return answer(found | {"trouble": self.projector.trouble})

    async def budget(self, of: AlertFilter, now: float) -> dict[str, Any]:
        """How much of a list can still be looked at today; a ``line`` of ``None`` where no task of it has a budget."""
        left = await self.cases.ask(queries.budget_left, self._tasks_in(of), now)
        return {"left": left, "line": sum(left.values()) if left else None}

    def _tasks_in(self, of: AlertFilter) -> Sequence[TaskSpec]:
        seen = (task for task in self._service.tasks if of.tasks is None or task.name in of.tasks)
        return [task for task in seen if of.task in (None, task.name)]

    async def next(
        self, request: Request, said: bodies.NextSaid | None = None, of: AlertFilter = Filtered, by: str = By
    ) -> Response:
        """Claim the first alert of your queue that nobody has; ``alert`` is null where there is none.

        The filters are those of the list. Two people never get the same alert.
        """
        queue = replace(of, held="exclude", snoozed="exclude") if of.waits_for is None else of
        alert_id = await self.cases.claim_next(queue, by, (said or bodies.NextSaid()).for_s)
        if alert_id is None:
            return answer({"alert": None})
        row = await alert_of(alert_id, request)
        return answer({"alert": queries.shown(row, time.time())})

    async def show(self, row: AlertRow = Asked) -> Response:
        """One alert with its history; of each verdict, when the online model learned it and which version that made."""
        return await self._answer(row.alert_id)

    async def happenings(
        self, task: Asks = None, limit: Annotated[int, Query(ge=1, le=500)] = 50, sees: frozenset[str] | None = Sees
    ) -> Response:
        """Model updates and retrain requests, the newest first: what alerts before and after differ by."""
        return answer({"happenings": await self.cases.ask(queries.happenings_of, sees, task, limit)})

    async def verdict(
        self, said: bodies.VerdictSaid, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Say what an alert was: it resolves, and the label goes to the model (none where you are unsure)."""
        done = await self.cases.judge([row], by, said.verdict, said.reason, said.note, _number(version))
        return await self._done(row, done)

    async def verdicts(self, said: bodies.VerdictsSaid, by: str = By, sees: frozenset[str] | None = Sees) -> Response:
        """Say the same of up to 500 alerts; ``results`` tells of each whether it counted, or does not know it yet."""
        return await self._each(
            said.alert_ids, sees, lambda rows: self.cases.judge(rows, by, said.verdict, said.reason, said.note)
        )

    async def undo_many(self, said: bodies.ManySaid, by: str = By, sees: frozenset[str] | None = Sees) -> Response:
        """Take the newest verdict of each alert back; ``results`` are as of many verdicts."""
        return await self._each(said.alert_ids, sees, lambda rows: self.cases.undo(rows, by))

    async def _each(
        self,
        alert_ids: Sequence[str],
        sees: frozenset[str] | None,
        do: Callable[[list[AlertRow]], Awaitable[Mapping[str, str | None]]],
    ) -> Response:
        """Do something with several alerts, and tell what became of each."""
        ids = list(dict.fromkeys(alert_ids))
        rows = await self.cases.rows(ids, sees)
        done = await do(list(rows.values()))
        found: dict[str, dict[str, Any]] = {i: {"status": "done" if i in done else "pending"} for i in rows}
        found |= {i: {"status": "refused", "reason": why} for i, why in done.items() if why}
        unknown = {"status": "unknown", "reason": "no such alert"}
        return answer({"results": [{"alert_id": i, **found.get(i, unknown)} for i in ids]})

    async def undo(self, version: Version = None, row: AlertRow = Asked, by: str = By) -> Response:
        """Take the newest verdict back: the alert is as before it, and another label corrects the model."""
        return await self._done(row, await self.cases.undo([row], by, _number(version)))

    async def assign(
        self, said: bodies.AssignSaid, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Claim an alert for a while, hand it over, or release it; a claim again renews it.

        409 where somebody else has claimed it.
        """
        whose = {"assignee": said.assignee or by, "until": time.time() + said.for_s}
        action, whose = ("release", {}) if said.release else ("assign", whose)
        return await self._done(row, await self.cases.act([row], action, by, _number(version), **whose))

    async def notes(
        self, said: bodies.NoteSaid, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Write a note into the history of an alert."""
        return await self._done(row, await self.cases.act([row], "note", by, _number(version), note=said.note))

    async def escalate(
        self, said: bodies.EscalateSaid | None = None, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Raise an alert for others to look at: it is escalated, and nobody's until somebody claims it."""
        note = said.note if said and said.note else None
        return await self._done(row, await self.cases.act([row], "escalate", by, _number(version), note=note))

    async def hold(
        self, said: bodies.HoldSaid, version: Version = None, row: AlertRow = Asked, by: str = By
    ) -> Response:
        """Put an alert aside: it leaves the queue until then."""
        until = time.time() + said.for_s
        return await self._done(row, await self.cases.act([row], "hold", by, _number(version), until=until))

    async def present(self, request: Request, row: AlertRow = Asked, by: str = By) -> dict[str, Any]:
        """Say that you have an alert open, every 10 s or so; ``others`` are who else has it open now."""
        request.scope["weir"].told = False  # the look at the alert is in the audit already
        return {"others": await self.cases.ask(be_present, row.alert_id, by, time.time())}

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
        history = await self.cases.ask(queries.history_of, alert_id)
        row = await self.cases.row(alert_id, None)
        return answer(queries.shown(row, time.time()) | history, status, {"ETag": f'"{row.version}"'})


def _number(version: str | None) -> int | None:
    # In quotes as an ETag has it, or without, as a person types it.
    return None if version is None else int(version.strip('"'))
