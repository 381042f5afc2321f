"""What people put aside, over HTTP: snoozes, lists that they have named, and who has which alert open.

Nobody wants to see alerts of an entity, or for a reason, for a while; that is a record. The others are rows of the
database alone, which no record makes.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy import Connection, RowMapping, delete, func, or_, select

from weir.online.codec.wire import PRINTABLE, CaseEvent, Id, Note
from weir.online.durations import Seconds
from weir.streams.service.access.scopes import Caller, needs, tell_audit
from weir.streams.service.parts import Problem
from weir.streams.service.store.alert_requests import By, Said, Sees
from weir.streams.service.store.case_rules import snooze_id
from weir.streams.service.store.tables import alerts, presence, saved_views, snoozes, upsert

if TYPE_CHECKING:
    from weir.streams.service.store.alert_store import Store

_MONTH_S: Final = 30 * 86_400.0
_SHOWN: Final = 200
_A: Final = alerts.c


class SnoozeSaid(Said):
    """Hides alerts from the queue for a while; 0 ends that."""

    task: Id = Field(examples=["fraud"])
    kind: Literal["entity", "reason"]
    of: Id = Field(examples=["user-7"])
    """Whose alerts, or the feature that is their strongest reason."""
    for_s: Seconds = Field(ge=0, le=365 * 86_400.0, examples=["7d"])
    note: Note = Field("", examples=["a test account"])


def snooze_event(said: SnoozeSaid, by: str, now: float) -> CaseEvent:
    """What is recorded of it."""
    kind = {"entity": "entity_id", "reason": "feature"}[said.kind]
    return CaseEvent.model_validate({
        "case_event_id": secrets.token_hex(16), "alert_id": snooze_id(said.task, said.kind, said.of),
        "task": said.task, kind: said.of, "snoozes": said.kind, "action": "snooze" if said.for_s else "unsnooze",
        "by": by, "at": now, "until": now + said.for_s if said.for_s else None, "note": said.note or None,
    })  # fmt: skip


def snoozes_of(c: Connection, tasks: frozenset[str] | None, now: float) -> list[dict[str, Any]]:
    """Snoozes that a caller may see, those that end last first, with what each hides.

    ``hides`` counts alerts that opened while it lasted, ``last_30_days`` those of these days, whether it lasted or not:
    what it would hide, and how many of those were right.
    """
    s = snoozes.c
    seen = select(snoozes).order_by(s.until.desc(), s.snooze_id).limit(_SHOWN)
    rows = c.execute(seen if tasks is None else seen.where(s.task.in_(sorted(tasks)))).mappings().all()
    return [
        {
            **row, "running": row["until"] > now, "hides": _matching(c, row, row["at"], min(row["until"], now)),
            "last_30_days": _matching(c, row, now - _MONTH_S, now),
        }
        for row in rows
    ]  # fmt: skip


def _matching(c: Connection, snooze: RowMapping, since: float, until: float) -> dict[str, int]:
    of = _A.entity_id == snooze["entity_id"] if snooze["feature"] is None else _A.reason == snooze["feature"]
    where = (of, _A.task == snooze["task"], _A.opened_at >= since, _A.opened_at < until)
    counted = c.execute(select(_A.verdict, func.count()).where(*where).group_by(_A.verdict))
    counts: dict[str | None, int] = {row[0]: row[1] for row in counted}
    return {"alerts": sum(counts.values()), **{name: counts.get(name, 0) for name in ("confirmed", "false_alarm")}}


class Snoozes:
    """Their routes, on the router of the store."""

    def __init__(self, store: Store, router: APIRouter) -> None:
        self._store = store
        router.get("/snoozes", dependencies=[needs("alerts:read")])(self.list)
        router.post("/snoozes")(self.snooze)

    async def list(self, sees: frozenset[str] | None = Sees) -> dict[str, Any]:
        """Snoozes that run, then those that have ended; how many alerts each hides, and how many were confirmed."""
        return {"snoozes": await self._store.cases.ask(snoozes_of, sees, time.time())}

    async def snooze(
        self, said: SnoozeSaid, request: Request, caller: Caller = needs("cases:write"), by: str = By
    ) -> dict[str, Any]:
        """Hide alerts of an entity, or with a strongest reason, from the queue; answers as the list does.

        A snooze of the same thing takes the place of the one before. 409 where one is ended that does not run.
        """
        caller.must_see(said.task)
        event = snooze_event(said, by, time.time())
        tell_audit(request, task=said.task, object=event.alert_id, **({"subject": said.of} if event.entity_id else {}))
        if refused := (await self._store.cases.happen([event])).get(event.alert_id):
            raise Problem(409, "Conflict", f"{said.kind} {said.of} of {said.task}: {refused}", value=said.of)
        return await self.list(caller.tasks)


PRESENT_S: Final = 30.0
"""Who has not said for so long that an alert is open has closed it."""
_MOST: Final = 100
_V: Final = saved_views.c


class ViewSaid(Said):
    """A list by its filters."""

    name: str = Field(min_length=1, max_length=64, pattern=PRINTABLE, examples=["large and new"])
    query: str = Field(max_length=2_000, pattern=PRINTABLE, examples=["queue=true&severity=high"])
    shared: bool = False
    """Whether everybody sees it."""


def views_of(c: Connection, caller: Caller) -> list[dict[str, Any]]:
    """The caller's own views, and those that others share; by name.

    Who may see some tasks only gets the shared views that name one of them: the name and the filters of any other may
    tell of what is not theirs.
    """
    owner = caller.id
    seen = select(saved_views).where(or_(_V.owner == owner, _V.shared)).order_by(_V.name, _V.owner)
    rows = [
        row for row in c.execute(seen).mappings()
        if caller.tasks is None or row["owner"] == owner or {*parse_qs(row["query"]).get("task", [""])} <= caller.tasks
    ]  # fmt: skip
    return [{**{name: row[name] for name in ("name", "query", "by", "shared")}, "own": row["owner"] == owner}
            for row in rows]  # fmt: skip


def save_view(c: Connection, said: ViewSaid, owner: str, by: str) -> None:
    """Save one, in place of that of the same name; raises ``Problem`` (409) for more than 100."""
    # The one of this name is replaced, and needs no room.
    others = select(func.count()).where(_V.owner == owner, _V.name != said.name)
    if c.execute(others).scalar_one() >= _MOST:
        raise Problem(409, "Too many", f"you have {_MOST} views; delete one", limit=_MOST)
    upsert(c, saved_views, [{**said.model_dump(), "owner": owner, "by": by}])


def delete_view(c: Connection, owner: str, name: str) -> None:
    """Delete one of the caller's own; raises ``Problem`` (404)."""
    if not c.execute(delete(saved_views).where(_V.owner == owner, _V.name == name)).rowcount:
        raise Problem(404, "Not found", f"you have no view {name!r}; GET /v1/views lists them", value=name)


def be_present(c: Connection, alert_id: str, person: str, now: float) -> list[str]:
    """Say that a person has an alert open; who else has."""
    upsert(c, presence, [{"alert_id": alert_id, "person": person, "until": now + PRESENT_S}])
    p = presence.c
    others = select(p.person).where(p.alert_id == alert_id, p.person != person, p.until > now)
    return list(c.execute(others.order_by(p.person)).scalars())


class SavedViews:
    """Routes of views, on the router of the store."""

    def __init__(self, store: Store, router: APIRouter) -> None:
        self._ask = store.cases.ask
        router.get("/views")(self.list)
        router.post("/views")(self.save)
        router.delete("/views/{name:path}")(self.delete)

    async def list(self, caller: Caller = needs("alerts:read")) -> dict[str, Any]:
        """Your views of alerts, and those that are shared."""
        return {"views": await self._ask(views_of, caller)}

    async def save(self, said: ViewSaid, caller: Caller = needs("cases:write")) -> dict[str, Any]:
        """Name a list of alerts; the one of yours with this name is replaced."""
        await self._ask(save_view, said, caller.id, caller.name)
        return await self.list(caller)

    async def delete(self, name: str, caller: Caller = needs("cases:write")) -> dict[str, Any]:
        """Delete a view of yours."""
        await self._ask(delete_view, caller.id, name.replace("\0", " "))  # databases hold none
        return await self.list(caller)
