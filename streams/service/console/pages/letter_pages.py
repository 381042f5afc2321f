"""Dead letters: records that were refused, by reason; replayed, or let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages, done, said
from weir.streams.service.views.dead_letter_routes import LetterChoice

if TYPE_CHECKING:
    from weir.streams.service.service import Service


class LetterPages:
    """Dead letters, their records, and what is done with them.

    Parameters
    ----------
    service, pages : what is shown, and how.
    """

    def __init__(self, service: Service, pages: Pages) -> None:
        self._letters = letters = service.letters
        self.router = APIRouter()
        read, write = "deadletters:read", "deadletters:write"
        pages.shows(self.router, "/dead-letters", "dead_letters.html", read, letters.list_letters)
        pages.shows(self.router, "/dead-letters/ask/{action}", "_ask_letters.html", write, letters.list_letters)
        pages.shows(self.router, "/dead-letters/{letter_id}", "dead_letter.html", read, letters.show)
        pages.shows(self.router, "/dead-letters/{letter_id}/ask/{action}", "_ask_letters.html", write, letters.show)
        self.router.post("/dead-letters/replay", dependencies=[needs(write)])(self.replay)
        self.router.post("/dead-letters/drop", dependencies=[needs(write)])(self.drop)

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
