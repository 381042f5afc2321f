"""Decides what is to be told, and sends it: one process of several, the one that writes the tables of alerts."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.durations import format_duration
from weir.streams.config import topics
from weir.streams.config.notify_settings import NotifyTarget
from weir.streams.errors import WeirError
from weir.streams.ops.repeated_trouble import RepeatedTrouble
from weir.streams.service.notify import outbox
from weir.streams.service.notify.delivery import STANDS_S, Answer, check_target, deliver
from weir.streams.service.notify.messages import Delivery, Message, decide
from weir.streams.service.notify.notify_routes import NotifyRoutes, rules_of
from weir.streams.service.notify.outbox import Entry, Place
from weir.streams.service.parts import Part, ended, set_within

if TYPE_CHECKING:
    from weir.streams.service.service import Service

log = logging.getLogger(__name__)
_PAUSE_S: Final = 1.0
_AT_ONCE: Final = 100
"""Records that are decided together, and messages of a target that are looked at together."""
_OF_A_RECORD: Final = 200
"""Messages, of at most some 4 kB each; brokers take a MiB."""
_UNTOLD: Final = 1_000
"""After so many records that nobody is told of, their place is written down too."""
_LONGEST_S: Final = 120.0
"""Between two attempts."""
_ALONE_S: Final = 3_600.0
"""A target is left alone for so long at most, whatever it asks for."""
_EXPECTED: Final = (SQLAlchemyError, WeirError)


@dataclass
class _Link:
    """How it goes with one target."""

    trouble: RepeatedTrouble
    """Of sending to it, however many messages wait."""
    sending: asyncio.Task[None] | None = None
    later: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Deliveries that failed: how often, and when they are tried again. No more than are looked at together."""
    noted: set[tuple[str, float]] = field(default_factory=set)
    """Deliveries whose end is in the log and perhaps not in the tables yet, and since when they could go out."""
    renewed_at: float = 0.0
    alone_until: float = 0.0
    """Until then it asks to be left alone, with whatever message."""


class Notifier(Part):
    """See the module."""

    def __init__(self, service: Service) -> None:
        self._service, self._settings = service, service.settings.serve.notify
        for target in self._settings.targets:
            check_target(target)
        self._links: dict[str, _Link] = {}
        self._trouble = RepeatedTrouble(log, "nobody is told of alerts", _EXPECTED)
        self._unwritten = RepeatedTrouble(log, "what was told is not written down", _EXPECTED)
        self._seen: dict[Place, int] = {}
        """Of partitions, up to where nothing is to be told, though that is not written down."""
        budgets = ((task.name, task.threshold) for task in service.tasks)
        self._budgets = {task: of.most_a_day for task, of in budgets if isinstance(of, BudgetThreshold)}
        # Threads of their own: a receiver that hangs must not take those that read the database.
        self._threads = ThreadPoolExecutor(len(self._settings.targets) or 1, "weir-notify")
        self._running: asyncio.Task[None] | None = None
        self.routes = NotifyRoutes(service)

    async def follow(self) -> None:
        """Tell of what comes from now on, or what came since the process before: the log is open now."""
        if self._settings.targets:
            if (await self._service.log.spans(topics.NOTIFICATIONS))[0].end == 0:
                await self._begin()
            self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Leave what waits to the next start."""
        await ended(self._running)
        self._let_go()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        store = self._service.store
        while True:
            wrote = store.projector.wrote
            try:
                if not store.projector.leads:
                    self._let_go()
                elif await self._up_to_date():
                    await self._decide()
                    await self._send_what_is_due()
                    self._trouble.over()
            except Exception as exc:  # noqa: BLE001 - the rest of the service does not end for it
                self._trouble.failed(exc)
            await set_within(wrote, _PAUSE_S)

    def _let_go(self) -> None:
        """Another process tells of alerts now, or none."""
        for link in self._links.values():
            if link.sending is not None:
                # The next process sends what is on its way once more, under the same id.
                link.sending.cancel()
        self._links.clear()
        self._seen.clear()

    async def _up_to_date(self) -> bool:
        """Whether all that was decided is in the tables: what is decided next depends on it."""
        end = (await self._service.log.spans(topics.NOTIFICATIONS))[0].end
        return bool(await self._ask(outbox.written) >= end)

    async def _ask(self, what: Any, *given: Any) -> Any:
        return await self._service.store.cases.ask(what, *given)

    async def _note(self, entry: Entry) -> None:
        """Write an entry; its caller does nothing else while that fails, so that nothing is sent twice."""
        while True:
            try:
                await self._service.log.append(topics.NOTIFICATIONS, [entry.record()])
                self._unwritten.over()
                return
            except WeirError as exc:
                self._unwritten.failed(exc)
                await asyncio.sleep(_PAUSE_S)

    # -- deciding ----------------------------------------------------------------------------------------------------

    async def _decide(self) -> None:
        """Decide what is new, some of one partition: what follows from it has to be in the tables before the next.

        Alerts come before what people did with them, as who was not told of an alert is not told how it ended.
        """
        ends, decided = await self._ask(outbox.places)
        if not decided:  # the log is another one than the process before had
            await self._begin()
            return
        for place, end in ends.items():
            start = decided.get(place, 0)
            at = max(start, self._seen.get(place, 0))
            while at < end:
                messages, upto = await self._ask(self._follows, place, at, end)
                if messages or upto - start >= _UNTOLD:
                    self._seen.pop(place, None)
                    while len(messages) > _OF_A_RECORD:  # the place moves with the last of them
                        await self._note(self._entry(place, start, start, messages[:_OF_A_RECORD]))
                        del messages[:_OF_A_RECORD]
                    await self._note(self._entry(place, start, upto, messages))
                    return
                self._seen[place] = at = upto

    async def _begin(self) -> None:
        """Write down where the log ends: alerts of before are no news."""
        for topic in outbox.SOURCES:
            for partition, span in (await self._service.log.spans(topic)).items():
                await self._note(self._entry((topic, partition), span.end, span.end))

    def _follows(self, c: Connection, place: Place, at: int, end: int) -> tuple[list[Message], int]:
        """The messages that follow from some records, and where the next begin."""
        now, rules = time.time(), [rule for rule, _ in rules_of(c, self._settings)]
        happenings, told, upto = outbox.happened(c, place, at, end, _AT_ONCE, self._budgets, now)
        # The place moves on past the others as well: they are decided, and nobody is told.
        news = [each for each in happenings if now - each.at <= self._settings.give_up]
        return [message for each in news for message in decide(each, rules, told, now)], upto

    def _entry(self, place: Place, start: int, end: int, messages: Sequence[Message] = ()) -> Entry:
        return Entry(
            kind="decided", at=time.time(), epoch=self._service.log.epoch, topic=place[0], partition=place[1],
            start=start, end=end, messages=tuple(messages),
        )  # fmt: skip

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _send_what_is_due(self) -> None:
        """Have each target that is not busy take what is due; none waits for another."""
        now, waiting = time.time(), await self._ask(outbox.waiting)
        for target in self._settings.targets:
            count, due_at = waiting.get(target.name, (0, now + 1.0))
            self._service.metrics.set("weir_notifications_waiting", count, target=target.name)
            link = self._links.setdefault(target.name, _Link(self._trouble_of(target)))
            # Three times in what Alertmanager believes: one or two that fail end no alert there.
            renews = target.kind == "alertmanager" and now - link.renewed_at >= STANDS_S / 3
            free = now >= link.alone_until and (link.sending is None or link.sending.done())
            if (due_at <= now or renews) and free:
                link.sending = asyncio.create_task(self._send(target, link, renews))

    def _trouble_of(self, target: NotifyTarget) -> RepeatedTrouble:
        give_up = format_duration(self._settings.give_up)
        what = f"target {target.name} takes no messages (each is tried for {give_up} at most: [serve.notify] give_up)"
        return RepeatedTrouble(log, what, _EXPECTED)

    async def _send(self, target: NotifyTarget, link: _Link, renews: bool) -> None:
        """Send what is due, until there is no more or one fails: so one that is down is tried once a second."""
        try:
            if renews:
                await self._renew(target, link)
            while time.time() >= link.alone_until and (deliveries := await self._open(target, link)):
                for delivery in deliveries:
                    if not await self._tell(target, link, delivery):
                        return
        except Exception as exc:  # noqa: BLE001 - as above
            link.trouble.failed(exc)

    async def _open(self, target: NotifyTarget, link: _Link) -> list[Delivery]:
        """What may go out now; nothing of an alert goes out before the message that tells of it first."""
        now = time.time()
        found: list[Delivery] = await self._ask(outbox.due_deliveries, target.name, now, _AT_ONCE)
        link.noted &= {(delivery.id, delivery.since) for delivery in found}
        held = {i for i, (_, at) in link.later.items() if at > now}
        return [d for d in found if (d.id, d.since) not in link.noted and not held & {d.id, d.messages[0].thread}]

    async def _tell(self, target: NotifyTarget, link: _Link, delivery: Delivery) -> bool:
        """Send one delivery, and note how it ended; whether the target took it."""
        answer = await self._deliver(target, link, delivery)
        now, (tries, _) = time.time(), link.later.pop(delivery.id, (0, 0.0))
        ids = tuple(message.id for message in delivery.messages)
        if not answer.ok and now - delivery.since <= self._settings.give_up:
            link.later[delivery.id] = (tries + 1, max(now + _backoff(tries), link.alone_until))
            link.trouble.failed(answer.words)
            await self._ask(outbox.write_attempt, target.name, ids, now, answer.words, tries + 1)
            return False
        if answer.ok:
            link.trouble.over()
        # Sent and only then written down: a crash in between sends it twice, under one id; the other way round, never.
        kind: Literal["sent", "failed"] = "sent" if answer.ok else "failed"
        link.noted.add((delivery.id, delivery.since))
        await self._note(Entry(kind=kind, at=now, ids=ids, answer=answer.words))
        if answer.ok:
            self._service.metrics.inc("weir_notifications_sent_total", len(ids), target=target.name)
        else:
            self._service.metrics.inc("weir_notifications_failed_total", len(ids), target=target.name)
        return answer.ok

    async def _renew(self, target: NotifyTarget, link: _Link) -> None:
        """Tell Alertmanager again what is open: it forgets what nobody repeats."""
        link.renewed_at = time.time()
        standing = await self._ask(outbox.standing, target.name)
        for start in range(0, len(standing), _AT_ONCE):
            answer = await self._deliver(target, link, Delivery(tuple(standing[start : start + _AT_ONCE])))
            if not answer.ok:
                log.warning("target %s: %s; open alerts were not told again", target.name, answer.words)
                return

    async def _deliver(self, target: NotifyTarget, link: _Link, delivery: Delivery) -> Answer:
        base = self._service.settings.serve.public_url
        sending = asyncio.get_running_loop().run_in_executor(self._threads, deliver, target, delivery, base)
        answer = await sending
        if not answer.ok:
            link.alone_until = time.time() + min(answer.wait_s, _ALONE_S)
        return answer


def _backoff(tries: int) -> float:
    """Seconds until the next attempt; by chance more or less, so that not all come at once."""
    # The power is bounded, too: after a thousand attempts it would be no float.
    return min(2.0 ** min(tries, 30), _LONGEST_S) * random.uniform(0.5, 1.0)
