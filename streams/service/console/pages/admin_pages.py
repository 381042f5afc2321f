"""The audit, and keys of programs."""

from __future__ import annotations

import math
from typing import Final

from fastapi import Request, Response

from weir.streams.service.access.admin_routes import KeyOrder
from weir.streams.service.access.audit.audit_chain import AuditFilter
from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import PageGroup, done, said, told

_LOOKED_THROUGH: Final = 10_000
"""Newest records of the audit among which a page looks; ``weir audit`` looks through all."""
_SHOWN: Final = 200


class AdminPages(PageGroup):
    """Pages of administrators."""

    def _routes(self) -> None:
        self._admin = admin = self._service.admin
        router, audit, keys = self.router, "audit:read", "keys:write"
        router.get("/audit", dependencies=[needs(audit)])(self.audit)
        self.shows("/audit/verify", "_audit_chains.html", audit, admin.verify)
        self.shows("/keys", "keys.html", keys, admin.keys)
        self.shows("/keys/new", "_ask_key.html", keys)
        self.shows("/keys/{key_id}/revoke", "_ask_revoke.html", keys, admin.keys)
        router.post("/keys")(self.create)
        router.post("/keys/{key_id}/revoke", dependencies=[needs(keys)])(self.revoke)

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

    async def create(self, request: Request, caller: Caller = needs("keys:write")) -> Response:
        """Make a key; this answer holds it, and no other will."""
        made = await self._admin.create(request, await said(request, KeyOrder), caller)
        return self._pages.render(request, "_key_made.html", told(f"Key {made['name']} is made."), made=made)

    async def revoke(self, key_id: str) -> Response:
        """End a key for good."""
        key = await self._admin.revoke(key_id)
        return done(f"Key {key['name']} is revoked; within 5 seconds nobody takes it any more.")
