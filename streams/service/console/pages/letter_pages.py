"""Dead letters: records that were refused, by reason; replayed, or let go."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import APIRouter, Request, Response

from weir.streams.service.access.scopes import needs
from weir.streams.service.console.rendering import Pages, done, said
from weir.streams.service.views.dead_letter_routes import LetterChoice

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_DUMPED: Final = 4_096
"""Bytes of a record that are shown in hexadecimal."""


class LetterPages:
    """Dead letters, their records, and what is done with them.

    Parameters
    ----------
    service, pages : what is shown, and how.
    """

    def __init__(self, service: Service, pages: Pages) -> None:
        self._letters, self._pages = service.letters, pages
        self.router = APIRouter()
        read, write = [needs("deadletters:read")], [needs("deadletters:write")]
        self.router.get("/dead-letters", dependencies=read)(self.groups)
        self.router.get("/dead-letters/ask", dependencies=write)(self.ask)
        self.router.get("/dead-letters/{letter_id}", dependencies=read)(self.letter)
        self.router.post("/dead-letters/replay", dependencies=write)(self.replay)
        self.router.post("/dead-letters/drop", dependencies=write)(self.drop)

    async def groups(
        self,
        request: Request,
        topic: str | None = None,
        reason: str | None = None,
        kind: str | None = None,
        done: bool = False,
    ) -> Response:
        """The letters by reason, and the newest of them."""
        asked: dict[str, Any] = {"topic": topic or None, "reason": reason or None, "kind": kind or None}
        found = await self._letters.list_letters(**asked, done=done, limit=100)
        return self._pages.render(request, "dead_letters.html", found=found, asked=asked, done=done)

    async def letter(self, request: Request, letter_id: str) -> Response:
        """One letter with the bytes of its record."""
        letter = await self._letters.show(letter_id)
        raw = base64.b64decode(letter["raw"])
        text = raw.decode("utf-8", "replace")
        # Bytes that are no text have to be seen as they are: a replaced character tells nothing of the one it was.
        dump = [] if "\ufffd" not in text and "\0" not in text else dumped(raw[:_DUMPED])
        return self._pages.render(request, "dead_letter.html", letter=letter, text=text, dump=dump, size=len(raw))

    async def ask(
        self,
        request: Request,
        action: Literal["replay", "drop"],
        ids: str | None = None,
        topic: str | None = None,
        reason: str | None = None,
        kind: str | None = None,
    ) -> Response:
        """What would be done, and with how many, before it is."""
        asked: dict[str, Any] = {"topic": topic or None, "reason": reason or None, "kind": kind or None}
        count = 1 if ids else (await self._letters.list_letters(**asked, limit=1))["total"]
        asked = {"ids": ids or None, **asked}
        return self._pages.render(request, "_ask_letters.html", action=action, asked=asked, count=count)

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


def dumped(raw: bytes) -> list[tuple[str, str, str]]:
    r"""Bytes as lines of sixteen: where, in hexadecimal, and what of it can be read.

    >>> dumped(b"\x00ab")
    [('0000', '00 61 62', '.ab')]
    """
    lines = [(at, raw[at : at + 16]) for at in range(0, len(raw), 16)]
    return [
        (f"{at:04x}", line.hex(" "), "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line))
        for at, line in lines
    ]
