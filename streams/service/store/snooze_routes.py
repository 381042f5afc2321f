"""Snoozes over HTTP: alerts of an entity, or for a reason, that nobody wants to see for a while."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy import Connection, RowMapping, func, select

from weir.online.codec.wire import CaseEvent, Id, Note
from weir.online.durations import Seconds
from weir.streams.service.access.access_guard import tell_audit
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.problems import Problem
from weir.streams.service.store.alert_requests import By, Said, Sees
from weir.streams.service.store.case_rules import snooze_id
from weir.streams.service.store.tables import alerts, snoozes

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
    """Their routes, on the router of the store.

    Parameters
    ----------
    store : has the cases and the tasks.
    router : takes the routes.
    """

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
