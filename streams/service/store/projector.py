"""Keeps the tables up with the log: reads what is new, and has it written in a thread.

It reads the log from its own place rather than taking what listeners are handed, which only wake it: so a start, a
rebuild and a moment's work are the same thing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from weir.online.codec.encode import encode_model
from weir.online.durations import format_duration
from weir.streams.config import topics
from weir.streams.errors import ShellError, WeirError, in_words
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.records import Record
from weir.streams.service.parts import NoLongerKept, set_within
from weir.streams.service.ports import ServiceLog, Span, within
from weir.streams.service.store.database import in_thread
from weir.streams.service.store.learned import REMEMBERED, RecentExamples
from weir.streams.service.store.projection import ORDER, Piece, Projection

log = logging.getLogger(__name__)
PIECE: Final = 500
"""Records of a transaction."""
_NOT_WRITTEN: Final = "alerts are not written to the database"
_LEASE_S: Final = 10.0
_CLOCKS_S: Final = 30.0
"""So far apart the clocks of this machine and of the database may be."""
_PAUSE_S: Final = 1.0
"""Without news it looks again after so long: for its lease, and for records of before it listened."""
_FORGET_EVERY_S: Final = 600.0


class Projector:
    """See the module.

    Parameters
    ----------
    service_log : what is projected.
    engine : where to.
    keep_s : for how long resolved alerts are kept.
    rebuild : whether the tables are made anew.
    """

    def __init__(self, service_log: ServiceLog, engine: Engine, keep_s: float, rebuild: bool = False) -> None:
        self._log, self._projection = service_log, Projection(engine)
        self._keep_s, self._rebuild = keep_s, rebuild
        self._writer = secrets.token_hex(8)
        self._lease_until = self._forgot_at = 0.0
        self._clock_told = False
        self._whole = False
        """Whether all that was in the log when this process began to write is in the tables."""
        self._at: dict[tuple[str, int], int] = {}
        self._recent: RecentExamples | None = None
        self._news, self.wrote = asyncio.Event(), asyncio.Event()
        """The latter is set, and replaced, when something was written here, or a trouble is over."""
        self.trouble: str | None = "alerts are still being read from the log: the list is not whole yet"
        """Why the tables are not up to date, where they are not: after a start, until all that was there is written."""
        self._failures = RepeatedTrouble(log, _NOT_WRITTEN, (SQLAlchemyError, WeirError))

    def listen(self) -> None:
        """Be woken by new records."""
        self._log.subscribe(ORDER, lambda _: self._news.set())

    async def run(self) -> None:
        """Keep up until cancelled; where log or database do not answer, try again."""
        while True:
            try:
                # While another process writes it is asked again: that one may be of another log by now.
                if not self.leads:
                    await in_thread(self._projection.begin, self._log.epoch, self._rebuild, within_s=None)
                    self._rebuild = False
                if await self._leads():
                    await self.catch_up()
                    self._whole = True
                if self.trouble is not None:
                    self.trouble = None
                    self._wake()
                self._failures.over()
            except (SQLAlchemyError, WeirError) as exc:
                self._forget_places()
                self._lease_until = 0.0
                self.trouble = f"{_NOT_WRITTEN}: {in_words(exc).splitlines()[0]}"
                self._failures.failed(exc)
            await set_within(self._news, _PAUSE_S)
            # Before the next look at the log: what comes during it sets this again, and is not slept over.
            self._news.clear()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes now."""
        return self._lease_until > time.monotonic()

    @property
    def up_to_date(self) -> bool:
        """Whether this process writes the tables, and has written what others left: all but the newest is there."""
        return self.leads and self._whole

    async def stop(self) -> None:
        """Let another process write."""
        with suppress(SQLAlchemyError):
            await in_thread(self._projection.release, self._writer)

    async def catch_up(self) -> None:
        """Write all that is in the log now.

        Ends are looked up in the opposite order of reading: whatever an example answers was in the log before it, so
        it lies before the end that is read to first.
        """
        ends: dict[str, Mapping[int, Span]] = {topic: await self._log.spans(topic) for topic in reversed(ORDER)}
        for topic in ORDER:
            for partition, span in ends[topic].items():
                await self._read(topic, partition, span)
        if time.monotonic() - self._forgot_at > _FORGET_EVERY_S:
            self._forgot_at = time.monotonic()
            while await in_thread(self._projection.forget, time.time() - self._keep_s, within_s=None):
                pass

    async def _leads(self) -> bool:
        """Whether this process is the one that writes; half of the lease before its end it is renewed."""
        now = time.monotonic()  # of before the question: in the database the lease ends no sooner
        if now > self._lease_until - _LEASE_S / 2:
            leads = await in_thread(self._projection.lease, self._writer, _LEASE_S)
            self._compare_clocks(self._projection.ahead_s)
            if not leads or self._lease_until < now:
                self._forget_places()  # another one may have written meanwhile
            self._lease_until = now + _LEASE_S if leads else 0.0
        return self._lease_until > 0.0

    def _compare_clocks(self, ahead_s: float) -> None:
        """Say once that this machine's clock is wrong, by which people's claims would end early or late."""
        wrong = abs(ahead_s) > _CLOCKS_S
        if wrong and not self._clock_told:
            words = (
                "this machine's clock is %s %s that of [serve] database: claims, holds and snoozes made here end too "
                "%s for other replicas, so that two people may get one alert; set it, as NTP does"
            )
            side = ("ahead of", "late") if ahead_s > 0 else ("behind", "early")
            log.warning(words, format_duration(round(abs(ahead_s))), *side)
        self._clock_told = wrong

    def _forget_places(self) -> None:
        self._at.clear()
        self._recent, self._whole = None, False

    async def _read(self, topic: str, partition: int, span: Span) -> None:
        """Write what one partition holds."""
        place = (topic, partition)
        if place not in self._at:
            self._at[place] = await in_thread(self._projection.position, topic, partition)
        # Looked up anew, as another process may have written what came after the ends were looked up.
        if self._at[place] > span.end and self._at[place] > (end := (await self._log.spans(topic))[partition].end):
            raise CutLogError(
                f"{topic}-{partition} ends at offset {end}, and the tables have it up to {self._at[place]}: the topic "
                "was made anew or has lost its end; start once with --rebuild"
            )
        if topic == ORDER[-1] and self._recent is None:
            self._recent = await self._remembered(topic, partition, max(span.first, self._at[place] - REMEMBERED))
        while self._at[place] < span.end:
            start = self._at[place]
            try:
                found = within(await self._log.read(topic, partition, start), start, span.end)
            except NoLongerKept as gone:
                log.warning("%s; alerts are told from there on", gone.detail)
                await self._write(Piece(topic, partition, start, int(gone.facts["limit"]), []))
                continue
            if not found:
                return
            for at in range(0, len(found), PIECE):
                some = found[at : at + PIECE]
                await self._write(Piece(topic, partition, self._at[place], some[-1][0] + 1, some))

    async def _remembered(self, topic: str, partition: int, at: int) -> RecentExamples:
        """What the records before the place hold, from ``at`` on."""
        recent, end = RecentExamples(), self._at[topic, partition]
        while at < end and (found := within(await self._log.read(topic, partition, at), at, end)):
            recent.fresh(found)
            at = found[-1][0] + 1
        return recent

    async def _write(self, piece: Piece) -> None:
        recent = self._recent or RecentExamples()
        told = await in_thread(self._projection.write, piece, recent)
        if told is None:
            raise OvertakenError(f"{piece.topic}-{piece.partition}: another process has written offset {piece.start}")
        self._at[piece.topic, piece.partition] = piece.end
        self._wake()
        if told:
            # A crash before this leaves it untold in the feed; the alert itself tells it.
            records = [Record(event.alert_id.encode(), encode_model(event), time.time()) for event in told]
            await self._log.append(topics.CASE_EVENTS, records)

    def _wake(self) -> None:
        self.wrote.set()
        self.wrote = asyncio.Event()


class CutLogError(ShellError):
    """The log holds less than was written: what comes now would be passed over until it reaches the old end."""


class OvertakenError(ShellError):
    """Another process writes the projection: look up how far it is."""
