"""Dead letters over HTTP: listed, shown, replayed, dropped; the same letters as ``weir dlq``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import Query
from pydantic import BaseModel, Field

from weir.online.errors import UNREADABLE
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.dead_letters import Done, Letter, Place, Selection, grouped, letter_of, refuse_replay
from weir.streams.records import Record
from weir.streams.service.access.scopes import needs
from weir.streams.service.parts import Problem, View
from weir.streams.service.ports import every_record, within

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_MOST: Final = 500


class LetterChoice(BaseModel):
    """Which letters: ids, or what a filter finds; one of them has to be given."""

    ids: list[str] = Field(default_factory=list, max_length=_MOST, examples=[["0-17"]])
    """``PARTITION-OFFSET`` of letters, or ``TOPIC-PARTITION-OFFSET`` of refused records."""
    topic: str | None = Field(default=None, examples=["user-events"])
    reason: str | None = Field(default=None, min_length=1, examples=["unknown field"])
    """Part of the reason."""
    kind: str | None = Field(default=None, min_length=1, examples=["amount: got ...; give a number without quotes"])
    """The reason of a group of ``GET /v1/dead-letters``."""

    def selection(self) -> Selection:
        """The same for the letters; raises ``UsageError`` for an id that is none, or where nothing is given."""
        if not (self.ids or self.topic or self.reason or self.kind):
            raise UsageError("say which letters: give ids, topic, reason or kind")
        return Selection(frozenset(map(Place.parse, self.ids)), self.topic, self.reason, kind=self.kind)


class _Marker(msgspec.Struct):
    action: str = ""
    at: float = 0.0


class DeadLetters(View):
    """Routes of the dead letters."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "dead letters")
        read, write = [needs("deadletters:read")], [needs("deadletters:write")]
        self.router.get("/dead-letters", dependencies=read)(self.list_letters)
        self.router.get("/dead-letters/{letter_id}", dependencies=read)(self.show)
        self.router.post("/dead-letters/replay", dependencies=write)(self.replay)
        self.router.post("/dead-letters/drop", dependencies=write)(self.drop)

    async def list_letters(
        self,
        topic: str | None = None,
        reason: str | None = None,
        kind: str | None = None,
        done: bool = False,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
    ) -> dict[str, Any]:
        """Open dead letters by kind of reason, and the newest of them; with ``done`` also those that are dealt with."""
        letters = await self._find(Selection(topic=topic or None, reason=reason or None, done=done, kind=kind or None))
        groups = [
            {"topic": g.topic, "reason": g.kind, "count": g.count, "newest": g.newest and _brief(g.newest)}
            for g in grouped(letters)
        ]
        newest = sorted(letters, key=lambda letter: -letter.content.failed_at)[:limit]
        return {"total": len(letters), "groups": groups, "letters": [_brief(letter) for letter in newest]}

    async def show(self, letter_id: str) -> dict[str, Any]:
        """One dead letter: where its record was, why it was refused, and the record's bytes in base64."""
        found = await self._find(Selection(places=frozenset({Place.parse(letter_id)}), done=True))
        if not found:
            raise Problem(
                404, "Not found", f"no dead letter {letter_id}; GET /v1/dead-letters lists them", value=letter_id
            )
        letter = found[-1]
        content = letter.content.model_dump(mode="json", exclude_none=True)
        text = letter.content.raw.decode("utf-8", "backslashreplace")
        return {
            **_brief(letter),
            **content,
            "text": text,
            "done": letter.done and {"action": letter.done.action, "at": letter.done.at},
        }

    async def replay(self, choice: LetterChoice) -> dict[str, Any]:
        """Send refused records to their topics again, the same bytes under the same key; that ends their letters."""
        letters = await self._open(choice)
        names = self._service.settings.topics
        for letter in letters:
            # All of them before the first is sent: one that can not be refuses the request while nothing is done.
            refuse_replay(letter, [*topics.INPUTS, *map(names.name, topics.INPUTS)])
        for letter in letters:
            own, held = self._own(letter.content.topic), letter.content
            raw = held.raw if held.raw_bytes is None else await self._whole(letter)
            await self._service.log.append(own, [Record(held.key or b"", raw, time.time())])
            # After each, so that a crash in between repeats one record at most, which is known by its id.
            await self._mark([letter], "replayed")
        return {"replayed": len(letters)}

    async def drop(self, choice: LetterChoice) -> dict[str, Any]:
        """Mark dead letters as done without sending anything."""
        letters = await self._open(choice)
        await self._mark(letters, "dropped")
        return {"dropped": len(letters)}

    def _own(self, topic: str) -> str:
        return self._service.settings.topics.own(topic) or topic

    async def _find(self, selection: Selection) -> list[Letter]:
        log = self._service.log
        done: dict[Place, Done] = {}
        # Before the letters: one that is dealt with meanwhile is at worst shown as open.
        async for _, _, marker in every_record(log, topics.DEAD_LETTERS_DONE):
            try:
                said = msgspec.json.decode(marker.value, type=_Marker)
                done[Place.parse(marker.key.decode())] = Done(said.action, said.at)
            except (*UNREADABLE, UsageError):  # somebody else writes to the topic: no letter is done by it
                continue
        found = []
        async for partition, offset, record in every_record(log, topics.DEAD_LETTERS):
            place = Place(topics.DEAD_LETTERS, partition, offset)
            letter = Letter(place, letter_of(record.value, place, record.ts), done.get(place))
            if selection.accepts(letter):
                found.append(letter)
        return found

    async def _open(self, choice: LetterChoice) -> list[Letter]:
        """The open letters that are meant; a problem (404) names an id that is no open letter's."""
        selection = choice.selection()
        letters = (await self._find(selection))[:_MOST]
        met = {place for letter in letters for place in (letter.place, letter.origin)}
        if absent := sorted(map(str, selection.places - met)):
            raise Problem(404, "Not found", f"no open dead letter {', '.join(absent)}", value=absent)
        return letters

    async def _whole(self, letter: Letter) -> bytes:
        """All of a record of which the letter holds only the first bytes; read where it was refused."""
        held = letter.content
        batches = await self._service.log.read(self._own(held.topic), held.partition, held.offset)
        if found := within(batches, held.offset, held.offset + 1):
            return found[0][1].value
        raise Problem(410, "No longer kept", f"{letter.origin} holds the record no longer; send it again at its source")

    async def _mark(self, letters: Sequence[Letter], action: Literal["replayed", "dropped"]) -> None:
        now, records = time.time(), []
        for letter in letters:
            marker = {"v": 1, "action": action, "at": now, "origin": str(letter.origin)}
            key = f"{letter.place.partition}-{letter.place.offset}".encode()
            records.append(Record(key, msgspec.json.encode(marker), now))
        await self._service.log.append(topics.DEAD_LETTERS_DONE, records)


def _brief(letter: Letter) -> dict[str, Any]:
    held, place = letter.content, letter.place
    return {
        "id": f"{place.partition}-{place.offset}", "origin": str(letter.origin), "reason": held.reason,
        "failed_at": held.failed_at, "bytes": held.raw_bytes or len(held.raw),
    }  # fmt: skip
