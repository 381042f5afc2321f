"""The queue of alerts: lists, what came since, and what is done with one or many of them; what people put aside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from fastapi import Query, Request, Response
from pydantic import ConfigDict, Field

from weir.online.codec.wire import Id, MadeId, Note
from weir.online.durations import Seconds
from weir.online.task.spec import TaskSpec
from weir.streams.service.access.scopes import Caller, caller_of, needs
from weir.streams.service.console.alert_lists import ListSaid, mark_of, new_since, shown_alerts
from weir.streams.service.console.rendering import PageGroup, path, said, valid
from weir.streams.service.parts import Problem
from weir.streams.service.store import aside_routes as aside
from weir.streams.service.store.alert_queries import facets_of, list_alerts
from weir.streams.service.store.alert_requests import CLAIM_S, By, ManySaid, VerdictsSaid
from weir.streams.service.store.case_rules import AlertRow

PART: Final = 50
"""Rows that come at once."""
_REFRESHED: Final = 500


class JudgedSaid(VerdictsSaid):
    """A verdict on alerts; the form has fields for other work, too."""

    model_config = ConfigDict(extra="ignore")


class UndoneSaid(ManySaid):
    """Verdicts that are taken back; ``own`` where somebody means what they said, which another may have changed."""

    own: bool = False


class WorkSaid(ManySaid):
    """What is done with alerts, other than to judge them."""

    model_config = ConfigDict(extra="ignore")

    action: Literal["claim", "hand_over", "release", "hold", "escalate", "snooze_entity", "snooze_reason"]
    assignee: Id | None = None
    """To whom they are handed over."""
    hold_s: Seconds = Field(4 * 3600.0, ge=0, le=365 * 86_400.0)
    """Of a hold and of a snooze; 0 ends it."""
    note: Note = ""


class AlertsPages(PageGroup):
    """Lists of alerts."""

    def _routes(self) -> None:
        read, judge, work = ([needs(scope)] for scope in ("alerts:read", "alerts:write", "cases:write"))
        self.router.get("/alerts", dependencies=read)(self.queue)
        self.router.get("/alerts/new", dependencies=read)(self.new)
        self.router.get("/alerts/rows", dependencies=read)(self.rows)
        self.router.post("/alerts/verdict", dependencies=judge)(self.verdict)
        self.router.post("/alerts/undo", dependencies=judge)(self.undo)
        self.router.post("/alerts/work", dependencies=work)(self.work)
        self.router.post("/alerts/next", dependencies=work)(self.next)

    async def queue(self, request: Request, asked: Annotated[ListSaid, Query()], by: str = By) -> Response:
        """The alerts that wait for somebody; a later part of them where htmx asks with a cursor."""
        store, now, caller = self._service.store, time.time(), caller_of(request)
        of = asked.filter(caller.tasks, by, now)
        # What comes between the two is in the list and counted as new: better than in neither.
        mark = await store.cases.ask(mark_of)
        page = await store.cases.ask(list_alerts, of, asked.sort, asked.cursor, PART, now)
        facts: dict[str, Any] = {
            "asked": asked, "by": by, "mark": mark, "page": page,
            "alerts": await store.cases.ask(shown_alerts, page.rows, by, now),
            "budget": await self._budget(of, now),
        }  # fmt: skip
        # The same address opened by itself is a whole page, so that a later part can be shared as well.
        if asked.cursor is not None and "hx-request" in request.headers:
            return self._pages.render(request, "_alert_more.html", **facts)
        counts = await store.cases.ask(facets_of, of, now)
        seen = self._service.seen_by(caller)
        facts |= {
            "facets": counts,
            "verdict_reasons": _reasons_of(task for task in seen if asked.task in (None, task.name)),
            "views": await store.cases.ask(aside.views_of, caller),
            "trouble": store.projector.trouble,
        }
        return self._pages.render(request, "alerts.html", **facts)

    async def new(self, request: Request, asked: Annotated[ListSaid, Query()], by: str = By) -> Response:
        """How many alerts of a list came since the page was made."""
        now = time.time()
        of = asked.filter(caller_of(request).tasks, by, now)
        count, more = await self._service.store.cases.ask(new_since, of, asked.mark, now)
        return self._pages.render(request, "_alert_new.html", asked=asked, count=count, more=more)

    async def rows(
        self,
        request: Request,
        alert_id: Annotated[list[MadeId], Query(max_length=_REFRESHED)],
        case_event_id: Annotated[list[str], Query(max_length=_REFRESHED)] = [],  # noqa: B006 - FastAPI copies it
        by: str = By,
    ) -> Response:
        """Rows as they are now, after case events that the feed has told: those may still be on their way here."""
        await self._service.store.cases.became(case_event_id)
        return await self._changed(request, alert_id, by)

    async def verdict(self, request: Request, by: str = By) -> Response:
        """Say of alerts what they were."""
        wanted = await said(request, JudgedSaid)
        rows = await self._rows(request, wanted.alert_ids)
        done = await self._service.store.cases.judge(rows, by, wanted.verdict, wanted.reason, wanted.note)
        return await self._changed(request, wanted.alert_ids, by, wanted.verdict, done)

    async def undo(self, request: Request, by: str = By) -> Response:
        """Take the newest verdict of alerts back."""
        wanted = await said(request, UndoneSaid)
        rows = await self._rows(request, wanted.alert_ids)
        of_others = {row.alert_id: row.verdict_by for row in rows if wanted.own and row.verdict_by not in (None, by)}
        refused = {alert_id: f"{who} has judged it since" for alert_id, who in of_others.items()}
        done = await self._service.store.cases.undo([row for row in rows if row.alert_id not in of_others], by)
        return await self._changed(request, wanted.alert_ids, by, "undo", refused | done)

    async def work(self, request: Request, by: str = By) -> Response:
        """Claim alerts, hand them over, release them, put them on hold, or escalate them."""
        wanted, now = await said(request, WorkSaid), time.time()
        if wanted.action == "hand_over" and wanted.assignee is None:
            raise Problem(422, "Not valid", "assignee: nobody is named; say to whom these are handed over")
        whose = {"assignee": wanted.assignee or by, "until": now + CLAIM_S}
        until = {"until": now + wanted.hold_s}
        of: Mapping[str, tuple[str, dict[str, Any]]] = {
            # The form sends its field of whom to hand over to with every button: a claim is for who presses it.
            "claim": ("assign", whose | {"assignee": by}), "hand_over": ("assign", whose), "release": ("release", {}),
            "hold": ("hold", until), "escalate": ("escalate", {"note": wanted.note or None}),
        }  # fmt: skip
        rows = await self._rows(request, wanted.alert_ids)
        if wanted.action in of:
            action, facts = of[wanted.action]
            done = await self._service.store.cases.act(rows, action, by, **facts)
        else:
            done = await self._snooze(rows, wanted, by)
        # The way back of a hold or snooze is one of no time: to take that back as well would be a circle.
        ends = wanted.hold_s == 0.0 and wanted.action not in ("claim", "hand_over", "release", "escalate")
        return await self._changed(request, wanted.alert_ids, by, "undo" if ends else wanted.action, done)

    async def _snooze(self, rows: Sequence[AlertRow], wanted: WorkSaid, by: str) -> dict[str, str | None]:
        """Snooze the entities of alerts, or their strongest reasons; what became of it, by alert."""
        kind: Literal["entity", "reason"] = "entity" if wanted.action == "snooze_entity" else "reason"
        of = {row.alert_id: (row.task, row.entity_id if kind == "entity" else row.reason) for row in rows}
        events = {
            (task, what): aside.snooze_event(
                aside.SnoozeSaid(task=task, kind=kind, of=what, for_s=wanted.hold_s, note=wanted.note), by, time.time()
            )
            for task, what in dict.fromkeys(of.values()) if what
        }  # fmt: skip
        became = await self._service.store.cases.happen(list(events.values()))
        done: dict[str, str | None] = {i: "it has no reason" for i, (_, what) in of.items() if not what}
        known = {i: events[at].alert_id for i, at in of.items() if at in events}
        return done | {i: became[snooze] for i, snooze in known.items() if snooze in became}

    async def next(self, request: Request, asked: Annotated[ListSaid, Query()], by: str = By) -> Response:
        """Claim the next alert of the list that nobody has, and open it."""
        of = ListSaid.filter(asked.model_copy(update={"show": "queue"}), caller_of(request).tasks, by, time.time())
        alert_id = await self._service.store.cases.claim_next(of, by, CLAIM_S)
        if alert_id is None:
            return self._pages.render(request, "_toast.html", text="Nothing waits here that nobody has.")
        return Response(status_code=204, headers={"HX-Redirect": f"/console/alerts/{path(alert_id)}"})

    async def _budget(self, of: Any, now: float) -> dict[str, Any] | None:
        """Of the queue, how many of it can still be looked at today, and of how many a day."""
        if of.waits_for is None:
            return None
        budget = await self._service.store.budget(of, now)
        daily = [getattr(t.threshold, "most_a_day", 0) for t in self._service.tasks if t.name in budget["left"]]
        return None if budget["line"] is None else {"line": budget["line"], "daily": sum(daily)}

    async def _rows(self, request: Request, alert_ids: Sequence[str]) -> list[AlertRow]:
        return list((await self._service.store.cases.rows(alert_ids, caller_of(request).tasks)).values())

    async def _changed(
        self,
        request: Request,
        alert_ids: Sequence[str],
        by: str,
        did: str = "",
        done: Mapping[str, str | None] | None = None,
    ) -> Response:
        """Rows after a change; where something was done, also what became of each kind, and the way back."""
        rows = await self._rows(request, alert_ids)
        alerts = await self._service.store.cases.ask(shown_alerts, rows, by, time.time())
        facts: dict[str, Any] = {"alerts": alerts, "by": by, "did": None}
        if done is not None:
            counted = [alert_id for alert_id, refused in done.items() if refused is None]
            late = len(rows) - len(done)
            facts |= {
                "did": did, "done": counted, "refused": Counter(why for why in done.values() if why),
                "again": [alert.key for alert in alerts if done.get(alert.facts["alert_id"])],
                "late": late, "unknown": len(set(alert_ids)) - len(rows),
            }  # fmt: skip
        return self._pages.render(request, "_alerts_changed.html", **facts)


def _reasons_of(tasks: Iterable[TaskSpec]) -> list[str]:
    """Reasons for verdicts of the tasks in a list, each once."""
    return list(dict.fromkeys(reason for task in tasks for reason in task.alerts.verdict_reasons))


class NamedList(aside.ViewSaid):
    """A list and its name; a form leaves out what is empty, as the query of the usual list."""

    query: str = Field("", max_length=2_000)


class AsidePages(PageGroup):
    """Saved views and snoozes."""

    def _routes(self) -> None:
        self._store = self._service.store
        self.shows("/snoozes", "snoozes.html", "alerts:read", self._store.snoozes.list)
        self.router.post("/snoozes/end")(self.end)
        self.router.post("/views")(self.save)
        self.router.post("/views/delete")(self.delete)

    async def end(self, request: Request, caller: Caller = needs("cases:write"), by: str = By) -> Response:
        """End a snooze before its time."""
        wanted = await said(request, aside.SnoozeSaid)
        found = await self._store.snoozes.snooze(wanted, request, caller, by)
        return self._pages.render(request, "_snoozes.html", **found)

    async def save(self, request: Request, caller: Caller = needs("cases:write")) -> Response:
        """Name the list that is open."""
        wanted = await said(request, NamedList)
        # Only what a list knows is kept, as a shared view is a link on the pages of others.
        asked = valid(ListSaid, dict(parse_qsl(wanted.query)))
        kept = wanted.model_copy(update={"query": asked.query})
        await self._store.cases.ask(aside.save_view, kept, caller.id, caller.name)
        return await self._views(request, caller, asked)

    async def delete(self, request: Request, caller: Caller = needs("cases:write")) -> Response:
        """Delete a view of one's own."""
        wanted = await said(request, NamedList)
        await self._store.cases.ask(aside.delete_view, caller.id, wanted.name)
        return await self._views(request, caller, valid(ListSaid, dict(parse_qsl(wanted.query))))

    async def _views(self, request: Request, caller: Caller, asked: ListSaid) -> Response:
        views = await self._store.cases.ask(aside.views_of, caller)
        return self._pages.render(request, "_alert_views.html", views=views, asked=asked)
