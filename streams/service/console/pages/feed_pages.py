"""The live feed as a page; js/page-feed.js follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages
from weir.streams.service.feed.feed_item import KINDS, Kind

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class FeedPages:
    """What happens, as it happens.

    Parameters
    ----------
    service, pages : what is shown, and how.
    """

    def __init__(self, service: Service, pages: Pages) -> None:
        del service  # the browser asks /v1/feed itself
        self._pages = pages
        self.router = APIRouter()
        self.router.get("/feed", dependencies=[needs("feed:read")])(self.feed)

    async def feed(
        self,
        request: Request,
        type: Annotated[tuple[Kind, ...], Query()] = (),  # noqa: A002 - the name of the feed's own parameter
        task: str = "",
        entity: str = "",
        min_score: Annotated[float | Literal[""], Query()] = "",
        severity: Severity | Literal[""] = "",
        since: str = "15m",
    ) -> Response:
        """The frame of the feed, and its filters."""
        asked = {"task": task, "entity": entity, "min_score": min_score, "severity": severity, "since": since}
        return self._pages.render(request, "feed.html", asked=asked, kinds=KINDS, severities=SEVERITIES, chosen=type)
