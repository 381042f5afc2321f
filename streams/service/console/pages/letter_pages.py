"""Dead letters: records that were refused, by reason; replayed, or let go."""

from __future__ import annotations

from fastapi import Request, Response

from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import PageGroup, done, said
from weir.streams.service.views.dead_letter_routes import LetterChoice


class LetterPages(PageGroup):
    """Dead letters, their records, and what is done with them."""

    def _routes(self) -> None:
        self._letters = letters = self._service.letters
        read, write = "deadletters:read", "deadletters:write"
        self.shows("/dead-letters", "dead_letters.html", read, letters.list_letters)
        self.shows("/dead-letters/ask/{action}", "_ask_letters.html", write, letters.list_letters)
        self.shows("/dead-letters/{letter_id}", "dead_letter.html", read, letters.show)
        self.shows("/dead-letters/{letter_id}/ask/{action}", "_ask_letters.html", write, letters.show)
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
