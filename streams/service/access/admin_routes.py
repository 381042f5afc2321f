"""Routes of administrators: API keys, and the audit."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from fastapi import Query, Request
from pydantic import BaseModel, Field

from weir.streams.config import topics
from weir.streams.service.access.api_keys import limits_of
from weir.streams.service.access.audit.audit_chain import ChainCheck
from weir.streams.service.access.scopes import Caller, needs, tell_audit
from weir.streams.service.parts import Problem, View
from weir.streams.service.ports import every_record
from weir.streams.service.store.database import in_thread

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_AT_ONCE: Final = 200
"""Records of the audit that are checked without a pause for others of the event loop."""
_Maker = Annotated[Caller, needs("keys:write")]


class KeyOrder(BaseModel):
    """Asks for a key: with a role, or with scopes."""

    name: str = Field(min_length=1, max_length=64, examples=["shop"])
    role: str | None = Field(default=None, max_length=20, examples=["operator"])
    scopes: list[str] = Field(default=[], max_length=50)
    tasks: list[str] | None = Field(default=None, max_length=1_000)
    """Only these; all where it is absent."""
    expires_at: float | None = Field(default=None, gt=0, le=4_102_444_800)
    """Epoch seconds; never where it is absent."""


class AdminRoutes(View):
    """Keys and the audit."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "access")
        self.router.get("/keys", dependencies=[needs("keys:write")])(self.keys)
        self.router.post("/keys", status_code=201)(self.create)
        self.router.delete("/keys/{key_id}", dependencies=[needs("keys:write")])(self.revoke)
        self.router.get("/audit", dependencies=[needs("audit:read")])(self.audit)
        self.router.get("/audit/verify", dependencies=[needs("audit:read")])(self.verify)

    async def keys(self) -> dict[str, Any]:
        """Every key there is and was, without its secret."""
        now = time.time()
        return {"keys": [key.shown(now) for key in await in_thread(self._service.access.keys.all)]}

    async def create(self, request: Request, order: KeyOrder, caller: _Maker) -> dict[str, Any]:
        """Make a key; the answer holds it, this once. Nobody gives what they may not do themselves."""
        if more := limits_of(order.role, order.scopes, order.tasks)[0] - caller.scopes:
            raise Problem(
                403, "Not allowed", f"{caller.name} may not give {', '.join(sorted(more))}", value=sorted(more)
            )
        now, make = time.time(), self._service.access.keys.create
        key, text = await in_thread(lambda: make(**order.model_dump(), by=caller.name, now=now))
        tell_audit(request, subject=f"key:{key.id}")
        return {**key.shown(now), "key": text}

    async def revoke(self, key_id: str) -> dict[str, Any]:
        """End a key for good; every process refuses it within 5 seconds."""
        now = time.time()
        return (await in_thread(self._service.access.keys.revoke, key_id, now)).shown(now)

    async def audit(self, limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000) -> dict[str, Any]:
        """The newest records of who did what, oldest first; ``weir audit`` has them all, and verifies them."""
        newest = every_record(self._service.log, topics.AUDIT, newest=limit)
        return {"records": [msgspec.json.decode(placed.record.value) async for placed in newest]}

    async def verify(self) -> dict[str, Any]:
        """Check the chains of the audit: that no record was changed, added or removed since it was written."""
        # The anchors first: what is written meanwhile is after them, and no chain ends too early for it.
        check = ChainCheck(await in_thread(self._service.access.audit.anchors))
        async for partition, offset, record in every_record(self._service.log, topics.AUDIT):
            check.add(f"{topics.AUDIT}-{partition} at {offset}", record.value)
            if offset % _AT_ONCE == 0:
                await asyncio.sleep(0)
        reports = [
            {"writer": r.writer, "records": r.records, "first": r.first and r.first.seq, "last": r.last and r.last.seq,
             "hash": r.last and r.last.hash, "fault": r.fault}
            for r in check.reports()
        ]  # fmt: skip
        return {"whole": not any(report["fault"] for report in reports), "chains": reports}
