"""The queue of alerts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from weir.streams.service.access.caller import Caller
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages
from weir.streams.service.store.alert_queries import AlertFilter, Sort, list_alerts

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class AlertsPages:
    """Lists of alerts.

    Parameters
    ----------
    service, pages : what is shown, and how.
    """

    def __init__(self, service: Service, pages: Pages) -> None:
        self._service, self._pages = service, pages
        self.router = APIRouter()
        self.router.get("/alerts")(self.queue)

    async def queue(
        self,
        request: Request,
        task: str | None = None,
        q: str | None = None,
        sort: Sort = "expected_loss",
        cursor: str | None = None,
        caller: Caller = needs("alerts:read"),
    ) -> Response:
        """The alerts that wait for somebody."""
        of = AlertFilter(tasks=caller.tasks, task=task or None, q=(q and q.strip()) or None)
        page = await self._service.store.cases.ask(list_alerts, of, sort, cursor, 50, time.time())
        return self._pages.render(request, "alerts.html", page=page, sort=sort, q=q or "", task=task or "")
