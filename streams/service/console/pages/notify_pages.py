"""Messages about alerts: rules, and what became of what they told."""

from __future__ import annotations

from typing import get_args

from fastapi import Request, Response

from weir.streams.config.notify_settings import NotifyRule
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import PageGroup, done, said
from weir.streams.service.notify.notify_routes import Status

_LOOKS: dict[str, Status] = {status: status for status in get_args(Status)}


class NotifyPages(PageGroup):
    """Their page, and what people change there."""

    def _routes(self) -> None:
        self._told = self._service.notifier.routes
        write = [needs("notify:write")]
        self.router.get("/notifications")(self.page)
        self.router.get("/notifications/rules/new", dependencies=write)(self.new)
        self.router.post("/notifications/rules")(self.make)
        self.router.post("/notifications/rules/{name}/pause")(self.pause)
        self.router.post("/notifications/rules/{name}/remove", dependencies=write)(self.remove)
        self.router.post("/notifications/{notification_id}/retry")(self.retry)

    async def page(self, request: Request, status: str = "", caller: Caller = needs("alerts:read")) -> Response:
        """Rules, targets, and the newest messages."""
        found = await self._told.rules(caller) | await self._told.find(_LOOKS.get(status), 200, caller)
        return self._pages.render(request, "notifications.html", status=status, looks=list(_LOOKS), **found)

    async def new(self, request: Request) -> Response:
        """Asks what a rule is to tell."""
        return self._pages.render(request, "_ask_rule.html", targets=self._told.targets())

    async def make(self, request: Request, caller: Caller = needs("notify:write")) -> Response:
        """Make a rule."""
        made = await self._told.make(await said(request, NotifyRule), request, caller)
        return done(f"Rule {made['name']} is made.")

    async def pause(self, request: Request, name: str, caller: Caller = needs("notify:write")) -> Response:
        """Pause a rule, or have it go on."""
        rule = await self._told.rule(name)
        await self._told.make(rule.model_copy(update={"paused": not rule.paused}), request, caller)
        return done(f"Rule {name} {'goes on' if rule.paused else 'is paused'}.")

    async def remove(self, name: str) -> Response:
        """Remove a rule that somebody made."""
        await self._told.remove(name)
        return done(f"Rule {name} is removed.")

    async def retry(self, notification_id: str, caller: Caller = needs("notify:write")) -> Response:
        """Send a message again."""
        await self._told.retry(notification_id, caller)
        return done("The message is sent again.")
