"""The console: its pages and assets, under ``/console``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request, Response

from weir.streams.service.console.pages.admin_pages import AdminPages, NotifyPages
from weir.streams.service.console.pages.alert_pages import AlertPages
from weir.streams.service.console.pages.alerts_pages import AlertsPages, AsidePages
from weir.streams.service.console.pages.entity_pages import EntityPages
from weir.streams.service.console.pages.model_pages import ModelPages
from weir.streams.service.console.pages.overview_pages import OverviewPages
from weir.streams.service.console.rendering import Pages, shipped_assets
from weir.streams.service.parts import Problem
from weir.streams.service.views.typical_values import TypicalValues

if TYPE_CHECKING:
    from weir.streams.service.service import Service

# The page of an alert takes every address below /alerts/, so that the group of the list stands before it.
_GROUPS: Final = (
    OverviewPages, AlertsPages, AsidePages, ModelPages, NotifyPages, AdminPages, AlertPages, EntityPages
)  # fmt: skip


class Console:
    """Pages for people."""

    def __init__(self, service: Service) -> None:
        self.assets = shipped_assets()
        self.pages = Pages(service, self.assets)
        self.router = APIRouter(prefix="/console", include_in_schema=False)
        self.router.get("/assets/{version}/{name:path}")(self.asset)
        typical = TypicalValues(service.log)
        for group in _GROUPS:
            self.router.include_router(group(service, self.pages, typical).router)

    async def asset(self, request: Request, version: str, name: str) -> Response:
        """A file that pages need; it says nothing of anybody, so everyone may have it."""
        return self.assets.answer(request, version, name)

    def answers(self, request: Request) -> bool:
        """Whether a problem of this request is shown as a page: a browser asked for one."""
        asked = request.headers
        wants_page = "text/html" in asked.get("accept", "") and "hx-request" not in asked
        return request.url.path.startswith("/console") and wants_page

    def problem(self, request: Request, problem: Problem) -> Response:
        """What is wrong, as a page; where nobody is known, how to sign on."""
        answer = self.pages.render(request, "problem.html", problem=problem)
        answer.status_code = problem.status
        answer.headers.update(problem.headers)
        return answer
