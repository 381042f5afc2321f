"""Lists that people have named, and who has which alert open: rows of the database alone, which no record makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import Connection, delete, func, or_, select

from weir.online.codec.wire import PRINTABLE
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.problems import Problem
from weir.streams.service.store.alert_requests import Said
from weir.streams.service.store.database import upsert
from weir.streams.service.store.tables import presence, saved_views

if TYPE_CHECKING:
    from weir.streams.service.store.alert_store import Store

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
    """Routes of views, on the router of the store.

    Parameters
    ----------
    store : has the database.
    router : takes the routes.
    """

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
