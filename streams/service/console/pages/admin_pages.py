"""The audit, and keys of programs."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request, Response

from weir.streams.service.access.admin_routes import KeyOrder
from weir.streams.service.access.audit.audit_chain import AuditFilter
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.roles import ROLES
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages, done, said, told

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_LOOKED_THROUGH: Final = 10_000
"""Newest records of the audit among which a page looks; ``weir audit`` looks through all."""
_SHOWN: Final = 200
_DAY_S: Final = 86_400.0


class AdminPages:
    """Pages of administrators.

    Parameters
    ----------
    service, pages : what is shown, and how.
    """

    def __init__(self, service: Service, pages: Pages) -> None:
        self._admin, self._pages = service.admin, pages
        self.router = APIRouter()
        audit, keys = [needs("audit:read")], [needs("keys:write")]
        self.router.get("/audit", dependencies=audit)(self.audit)
        self.router.get("/audit/verify", dependencies=audit)(self.verify)
        self.router.get("/keys", dependencies=keys)(self.keys)
        self.router.get("/keys/new", dependencies=keys)(self.new)
        self.router.post("/keys")(self.create)
        self.router.get("/keys/{key_id}/revoke", dependencies=keys)(self.ask_revoke)
        self.router.post("/keys/{key_id}/revoke", dependencies=keys)(self.revoke)

    async def audit(
        self,
        request: Request,
        who: str | None = None,
        action: str | None = None,
        entity: str | None = None,
        until: float | None = None,
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

    async def verify(self, request: Request) -> Response:
        """Whether somebody changed the audit."""
        return self._pages.render(request, "_audit_chains.html", found=await self._admin.verify())

    async def keys(self, request: Request) -> Response:
        """Every key there is and was."""
        keys = (await self._admin.keys())["keys"]
        keys.sort(key=lambda key: (key["state"] != "active", -key["created_at"]))
        return self._pages.render(request, "keys.html", keys=keys)

    async def new(self, request: Request) -> Response:
        """Asks what a key is to allow."""
        now = time.time()
        ends = [(f"{days} days", round(now + days * _DAY_S)) for days in (7, 30, 90, 365)]
        return self._pages.render(request, "_ask_key.html", roles=list(ROLES), ends=ends)

    async def create(self, request: Request, caller: Caller = needs("keys:write")) -> Response:
        """Make a key; this answer holds it, and no other will."""
        made = await self._admin.create(request, await said(request, KeyOrder), caller)
        return self._pages.render(request, "_key_made.html", told(f"Key {made['name']} is made."), made=made)

    async def ask_revoke(self, request: Request, key_id: str) -> Response:
        """What ends with a key."""
        found = next((key for key in (await self._admin.keys())["keys"] if key["id"] == key_id), None)
        return self._pages.render(request, "_ask_revoke.html", key_id=key_id, key=found)

    async def revoke(self, key_id: str) -> Response:
        """End a key for good."""
        key = await self._admin.revoke(key_id)
        return done(f"Key {key['name']} is revoked; within 5 seconds nobody takes it any more.")
