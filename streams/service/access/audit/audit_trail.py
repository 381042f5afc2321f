"""Writes the audit: who changed what, and who looked at whom, into a topic that is only ever added to."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from weir.streams.config import topics
from weir.streams.errors import WeirError, in_words
from weir.streams.ops.command_user import caller
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.records import Record
from weir.streams.service.access.audit.audit_chain import AT_ONCE, Link, chained
from weir.streams.service.access.scopes import Caller
from weir.streams.service.parts import set_within
from weir.streams.service.ports import every_record
from weir.streams.service.store.database import in_thread
from weir.streams.service.store.tables import AUDIT_ANCHORS, AUDIT_OUTBOX, execute, fetched

if TYPE_CHECKING:
    from weir.streams.service.service import Service

logger = logging.getLogger(__name__)
_MOST_WAITING: Final = 20_000
_COUNTED_S: Final = 60.0
_RETRY_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""After so many seconds a write that failed is tried again, the last of them on and on."""
_LAST_S: Final = 5.0
_DAY_S: Final = 86_400.0
_BACK: Final = (1_000, 50_000, None)
"""How many of the newest records are looked through for our own last one, if the fewer did not hold it."""


class Audit:
    """One writer of the audit, and its chain.

    Records wait here for their turn and go out many at a time, so that nobody waits for the audit. While they cannot be
    written, changes are refused once ``full``.

    Parameters
    ----------
    service : whose log takes the records.
    engine : of the database, which keeps where the chain has come to.
    taken : records of each caller's id; emptied with each minute.
    """

    def __init__(self, service: Service, engine: Engine, taken: Counter[str]) -> None:
        self._service = service
        self._taken = taken
        self._engine = engine
        self._waiting: deque[dict[str, Any]] = deque()
        self._of_commands: dict[int, int] = {}
        """Of what waits and commands left in the database, by its ``id()``, the row: it stays until that is written."""
        self._counts: dict[tuple[str, str, str], Counter[str]] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._writing: asyncio.Task[None] | None = None
        self._begun = False
        self._last: Link | None = None
        self._anchored_at = 0.0

    @property
    def writer(self) -> str:
        """Whose chain it is: no two processes listen at one address, so no two write one chain."""
        return f"{socket.gethostname()}:{self._service.settings.serve.port or f'pid-{os.getpid()}'}"

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more may be done that has to be written down."""
        return len(self._waiting) >= _MOST_WAITING

    def anchors(self) -> dict[str, Link]:
        """Where each writer's chain has come to, as the database says."""
        return anchors_in(self._engine)

    def note(self, action: str, caller: Caller | None, **facts: Any) -> None:
        """Write down what somebody did; ``facts`` without a value are left out."""
        who = None if caller is None else {"id": caller.id, "name": caller.name, "via": caller.via}
        body = {"at": time.time(), "action": action, "who": who, **facts}
        self._waiting.append({name: value for name, value in body.items() if value not in (None, "")})
        self._wake.set()

    def count(self, caller: Caller, scope: str) -> None:
        """Count a request of those that programs make all the time: a caller's minute is one record."""
        self._counts.setdefault((caller.id, caller.name, caller.via), Counter())[scope] += 1

    async def start(self) -> None:
        """Begin to write."""
        self._writing = asyncio.create_task(self._write_on())

    async def stop(self) -> None:
        """Write what waits; no longer than some seconds."""
        self._stopping = True
        self._wake.set()
        if self._writing is not None:
            done, _ = await asyncio.wait([self._writing], timeout=_LAST_S)
            if not done:
                self._writing.cancel()
                logger.error("%d records of the audit were not written", len(self._waiting))

    async def _write_on(self) -> None:
        counted_at = time.monotonic()
        await self._note_left()
        self._wake.set()
        last = False  # whoever is to stop before the first round, or within one, writes what waits all the same
        while not last:
            if not self._stopping:
                await set_within(self._wake, _COUNTED_S)
            self._wake.clear()
            last = self._stopping
            if last or time.monotonic() - counted_at >= _COUNTED_S:
                self._note_counts()
                await self._note_left()
                counted_at = time.monotonic()
            await self._write_waiting()

    def _note_counts(self) -> None:
        counts, self._counts = self._counts, {}
        for (id_, name, via), requests in counts.items():
            who = {"id": id_, "name": name, "via": via}
            body = {"at": time.time(), "action": "sent", "who": who, "requests": requests}
            self._waiting.append({**body, "records": self._taken.pop(id_, 0)})

    async def _note_left(self) -> None:
        """What commands did to the database meanwhile."""
        held = set(self._of_commands.values())
        try:
            for row, body in await in_thread(_left_in, self._engine):
                if row not in held:
                    self._waiting.append(body)
                    self._of_commands[id(body)] = row
        except SQLAlchemyError as exc:
            logger.warning("what commands did is not in the audit yet: %s", type(exc).__name__)

    async def _write_waiting(self) -> None:
        """Everything that waits now; tried again until it is written."""
        failures, trouble = 0, RepeatedTrouble(logger, "the audit is not written", (WeirError, SQLAlchemyError))
        while self._waiting:
            try:
                if not self._begun:
                    self._last = await self._end()
                    # Before all that came since: in the chain a process begins with the word that it did.
                    self._waiting.appendleft({"at": time.time(), "action": "audit.started"})
                    self._begun = True
                await self._write([self._waiting[i] for i in range(min(AT_ONCE, len(self._waiting)))])
                trouble.over()
            # Any other error would end this task: nothing would be written from then on, and nobody would know why.
            except (WeirError, SQLAlchemyError) as exc:
                trouble.failed(f"{in_words(exc).splitlines()[0]}; {len(self._waiting)} records wait")
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1

    async def _write(self, bodies: Sequence[dict[str, Any]]) -> None:
        last, records = self._last, []
        for body in bodies:
            value, last = chained(body, self.writer, last)
            records.append(Record(self.writer.encode(), value, time.time()))
        await self._service.log.append(topics.AUDIT, records)
        # Only now: what is tried again has the same place in the chain, and is a repeat if the log had taken it after
        # all.
        self._last = last
        # They waited in the queue until now, so that ``full`` counts them, and a stop says how many are lost.
        written = [self._of_commands.pop(id(self._waiting.popleft()), None) for _ in bodies]
        if last is not None:
            await self._anchor(last)
        await self._forget([row for row in written if row is not None])

    async def _forget(self, rows: Sequence[int]) -> None:
        """Let what commands did go from the database: only now is it in the log, and a crash before tells it again."""
        try:
            if rows:
                await in_thread(execute, self._engine, delete(AUDIT_OUTBOX).where(AUDIT_OUTBOX.c.id.in_(rows)))
        except SQLAlchemyError as exc:
            logger.warning("what commands did will be in the audit twice: %s", type(exc).__name__)

    async def _anchor(self, last: Link) -> None:
        """Keep where the chain has come to outside of it: an end that is cut off leaves no other trace."""
        row = {"writer": self.writer, "seq": last.seq, "hash": last.hash, "at": time.time()}
        try:
            await in_thread(_keep, self._engine, row)
        except SQLAlchemyError as exc:
            logger.warning("the audit's anchor is not kept (%s): record %s", type(exc).__name__, last)
        if time.monotonic() - self._anchored_at >= _DAY_S or not self._anchored_at:
            self._anchored_at = time.monotonic()
            logger.info("audit of %s: record %d is %s", self.writer, last.seq, last.hash)

    async def _end(self) -> Link | None:
        """Where our chain has come to; ``None`` where it has not begun."""
        for newest in _BACK:
            found = None
            async for placed in every_record(self._service.log, topics.AUDIT, newest=newest):
                if placed.record.key == self.writer.encode():
                    document = msgspec.json.decode(placed.record.value, type=dict[str, Any])
                    found = Link(document["seq"], document["hash"])
            if found is not None:
                return found
        # Retention removed it from the log, and it goes on.
        return (await in_thread(anchors_in, self._engine)).get(self.writer)


def _keep(engine: Engine, row: dict[str, Any]) -> None:
    before = delete(AUDIT_ANCHORS).where(AUDIT_ANCHORS.c.writer == row["writer"])
    execute(engine, before, insert(AUDIT_ANCHORS).values(row))


def leave(engine: Engine, action: str, subject: str) -> None:
    """Have the service write down what a command did; it takes it within a minute, or when it starts."""
    who = {"id": f"user:{caller()}", "name": caller(), "via": "command"}
    body = {"at": time.time(), "action": action, "who": who, "subject": subject}
    execute(engine, insert(AUDIT_OUTBOX).values(body=body))


def _left_in(engine: Engine) -> list[tuple[int, dict[str, Any]]]:
    """What commands left, in their order, with the rows that hold it."""
    # Nobody takes it for itself alone: of two replicas both may write it, and twice in the audit is better than never.
    found = fetched(engine, select(AUDIT_OUTBOX.c.id, AUDIT_OUTBOX.c.body).order_by(AUDIT_OUTBOX.c.id))
    return [(row.id, row.body) for row in found]


def anchors_in(engine: Engine) -> dict[str, Link]:
    """Where each writer's chain has come to, as the database says."""
    rows = fetched(engine, select(AUDIT_ANCHORS.c.writer, AUDIT_ANCHORS.c.seq, AUDIT_ANCHORS.c.hash))
    return {writer: Link(seq, own) for writer, seq, own in rows}
