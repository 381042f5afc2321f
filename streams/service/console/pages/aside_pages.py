"""What people put aside: lists that they have named, and snoozes with what these hide."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl

from fastapi import Request, Response
from pydantic import Field

from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.alert_lists import ListSaid
from weir.streams.service.console.rendering import PageGroup, said, valid
from weir.streams.service.store.alert_requests import By
from weir.streams.service.store.saved_views import ViewSaid, delete_view, save_view, views_of
from weir.streams.service.store.snooze_routes import SnoozeSaid, snoozes_of


class NamedList(ViewSaid):
    """A list and its name; a form leaves out what is empty, as the query of the usual list."""

    query: str = Field("", max_length=2_000)


class AsidePages(PageGroup):
    """Saved views and snoozes."""

    def _routes(self) -> None:
        self._store = self._service.store
        self.router.get("/snoozes")(self.snoozes)
        self.router.post("/snoozes/end")(self.end)
        self.router.post("/views")(self.save)
        self.router.post("/views/delete")(self.delete)

    async def snoozes(self, request: Request, caller: Caller = needs("alerts:read")) -> Response:
        """What is snoozed, until when, by whom, and what it hides."""
        found = await self._store.cases.ask(snoozes_of, caller.tasks, time.time())
        return self._pages.render(request, "snoozes.html", snoozes=found)

    async def end(self, request: Request, caller: Caller = needs("cases:write"), by: str = By) -> Response:
        """End a snooze before its time."""
        wanted = await said(request, SnoozeSaid)
        found = await self._store.snoozes.snooze(wanted, request, caller, by)
        return self._pages.render(request, "_snoozes.html", **found)

    async def save(self, request: Request, caller: Caller = needs("cases:write")) -> Response:
        """Name the list that is open."""
        wanted = await said(request, NamedList)
        # Only what a list knows is kept, as a shared view is a link on the pages of others.
        asked = valid(ListSaid, dict(parse_qsl(wanted.query)))
        kept = wanted.model_copy(update={"query": asked.query})
        await self._store.cases.ask(save_view, kept, caller.id, caller.name)
        return await self._views(request, caller, asked)

    async def delete(self, request: Request, caller: Caller = needs("cases:write")) -> Response:
        """Delete a view of one's own."""
        wanted = await said(request, NamedList)
        await self._store.cases.ask(delete_view, caller.id, wanted.name)
        return await self._views(request, caller, valid(ListSaid, dict(parse_qsl(wanted.query))))

    async def _views(self, request: Request, caller: Caller, asked: ListSaid) -> Response:
        views = await self._store.cases.ask(views_of, caller)
        return self._pages.render(request, "_alert_views.html", views=views, asked=asked)
