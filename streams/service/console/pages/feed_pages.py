"""The live feed as a page; js/page-feed.js follows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.service.console.rendering import PageGroup
from weir.streams.service.feed.feed_item import KINDS, Kind


class FeedPages(PageGroup):
    """What happens, as it happens: the browser asks ``/v1/feed`` itself."""

    def _routes(self) -> None:
        self.shows("/feed", "feed.html", "feed:read", _filters)


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
