"""What operators and administrators look after: the feed, dead letters, messages about alerts, keys, the audit."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import Query, Request, Response

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.config.notify_settings import NotifyRule
from weir.streams.service.access.admin_routes import KeyOrder
from weir.streams.service.access.audit.audit_chain import AuditFilter
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.console.rendering import PageGroup, done, said, told
from weir.streams.service.feed.feed_item import KINDS, Kind
from weir.streams.service.notify.notify_routes import Status
from weir.streams.service.views.dead_letter_routes import LetterChoice

_LOOKED_THROUGH: Final = 10_000
"""Newest records of the audit among which a page looks; ``weir audit`` looks through all."""
_SHOWN: Final = 200


class AdminPages(PageGroup):
    """Pages of administrators and operators: keys, the audit, the feed, dead letters and what is done with them."""

    def _routes(self) -> None:
        self._admin, self._letters = admin, letters = self._service.admin, self._service.letters
        router, audit, keys = self.router, "audit:read", "keys:write"
        read, write = "deadletters:read", "deadletters:write"
        router.get("/audit", dependencies=[needs(audit)])(self.audit)
        self.shows("/audit/verify", "_audit_chains.html", audit, admin.verify)
        self.shows("/keys", "keys.html", keys, admin.keys)
        self.shows("/keys/new", "_ask_key.html", keys)
        self.shows("/keys/{key_id}/revoke", "_ask_revoke.html", keys, admin.keys)
        router.post("/keys")(self.create)
        router.post("/keys/{key_id}/revoke", dependencies=[needs(keys)])(self.revoke)
        self.shows("/dead-letters", "dead_letters.html", read, letters.list_letters)
        self.shows("/dead-letters/ask/{action}", "_ask_letters.html", write, letters.list_letters)
        self.shows("/dead-letters/{letter_id}", "dead_letter.html", read, letters.show)
        self.shows("/dead-letters/{letter_id}/ask/{action}", "_ask_letters.html", write, letters.show)
        router.post("/dead-letters/replay", dependencies=[needs(write)])(self.replay)
        router.post("/dead-letters/drop", dependencies=[needs(write)])(self.drop)
        # What happens, as it happens: the browser asks ``/v1/feed`` itself.
        self.shows("/feed", "feed.html", "feed:read", _filters)

    async def audit(
        self,
        request: Request,
        who: str | None = None,
        action: str | None = None,
        entity: str | None = None,
        until: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    ) -> Response:
        """Who did what, the newest first."""
        asked = {"who": who or None, "action": action or None, "entity": entity or None}
        wanted = AuditFilter(who or None, action or None, entity or None, until=math.inf if until is None else until)
        newest = (await self._admin.audit(_LOOKED_THROUGH))["records"]
        found = [record for record in reversed(newest) if wanted.accepts(record)]
        return self._pages.render(
            request, "audit.html", records=found[:_SHOWN], more=len(found) > _SHOWN, asked=asked, until=until,
            whole=len(newest) < _LOOKED_THROUGH,
        )  # fmt: skip

    async def create(self, request: Request, caller: Caller = needs("keys:write")) -> Response:
        """Make a key; this answer holds it, and no other will."""
        made = await self._admin.create(request, await said(request, KeyOrder), caller)
        return self._pages.render(request, "_key_made.html", told(f"Key {made['name']} is made."), made=made)

    async def revoke(self, key_id: str) -> Response:
        """End a key for good."""
        key = await self._admin.revoke(key_id)
        return done(f"Key {key['name']} is revoked; within 5 seconds nobody takes it any more.")

    async def replay(self, request: Request) -> Response:
        """Send records to their topics again."""
        count = (await self._letters.replay(await said(request, LetterChoice)))["replayed"]
        return done(f"{_counted(count)} sent again. What is refused once more comes back as a new dead letter.")

    async def drop(self, request: Request) -> Response:
        """Let records go."""
        count = (await self._letters.drop(await said(request, LetterChoice)))["dropped"]
        return done(f"{_counted(count)} dropped.")


def _counted(count: int) -> str:
    return f"{count:,} record" if count == 1 else f"{count:,} records"


def _filters(
    type: Annotated[tuple[Kind, ...], Query()] = (),  # noqa: A002 - the name of the feed's own parameter
    task: str = "",
    entity: str = "",
    min_score: Annotated[float | Literal[""], Query()] = "",
    severity: Severity | Literal[""] = "",
    since: str = "15m",
) -> dict[str, Any]:
    """The feed's filters as a form has them, where what is empty is not asked for."""
    del task, entity, min_score, severity
    return {"kinds": KINDS, "severities": SEVERITIES, "chosen": type, "since": since}


_LOOKS: dict[str, Status] = {status: status for status in get_args(Status)}


class NotifyPages(PageGroup):
    """Their page, and what people change there."""

    def _routes(self) -> None:
        self._told = self._service.notifier.routes
        self.router.get("/notifications")(self.page)
        self.shows("/notifications/rules/new", "_ask_rule.html", "notify:write", self._told.targets)
        self.router.post("/notifications/rules")(self.make)
        self.router.post("/notifications/rules/{name}/pause")(self.pause)
        self.router.post("/notifications/rules/{name}/remove", dependencies=[needs("notify:write")])(self.remove)
        self.router.post("/notifications/{notification_id}/retry")(self.retry)

    async def page(self, request: Request, status: str = "", caller: Caller = needs("alerts:read")) -> Response:
        """Rules, targets, and the newest messages."""
        found = await self._told.rules(caller) | await self._told.find(_LOOKS.get(status), 200, caller)
        under_way = any(each["status"] == "waiting" and each["due"] <= time.time() for each in found["notifications"])
        return self._pages.render(
            request, "notifications.html", status=status, looks=list(_LOOKS), under_way=under_way, **found
        )

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
        return done("The message is sent again; what comes of it is shown below.")
