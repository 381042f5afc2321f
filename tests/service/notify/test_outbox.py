"""The outbox in the log: whatever happens between two processes and their crashes, each message is decided once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from tests.service.memory_log import MemoryServiceLog
from tests.service.store_records import NOW, alert, case_event, snooze
from tests.service.test_store_projection import FOREVER_S, THINGS, History, database
from weir.streams.config import topics
from weir.streams.config.notify_settings import NotifySettings
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.notify import notifier as notifiers
from weir.streams.service.notify import outbox
from weir.streams.service.notify.messages import Message
from weir.streams.service.notify.notifier import Notifier
from weir.streams.service.notify.outbox import Entry
from weir.streams.service.store.database import SQLITE_FILE, open_database
from weir.streams.service.store.projection import Projection
from weir.streams.service.store.projector import Projector
from weir.streams.service.store.tables import notifications

RULES = NotifySettings.model_validate({
    "targets": [{"name": name, "kind": "alertmanager", "url": "https://weir.example"} for name in ("a", "b")],
    "rules": [
        {"name": "all", "targets": ["a", "b"], "states": ["opened", "escalated", "resolved", "verdict"]},
        {"name": "some", "targets": ["b"], "min_score": 0.5},
    ],
})  # fmt: skip
PLACES = ((topics.ALERTS, 0), (topics.ALERTS, 1), (topics.CASE_EVENTS, 0))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, as migrations take longer than a test."""
    folder = tmp_path_factory.mktemp("template")
    open_database(ServeSettings(directory=folder)).dispose()
    return folder / SQLITE_FILE


def process(log: MemoryServiceLog, engine: Engine) -> Notifier:
    """One that only decides."""

    async def ask(what: Callable[..., Any], *given: Any) -> Any:
        with engine.connect() as connection:
            return what(connection, *given)

    serve = SimpleNamespace(serve=SimpleNamespace(notify=RULES))
    made: Any = SimpleNamespace(
        settings=serve, tasks=(), log=log, store=SimpleNamespace(cases=SimpleNamespace(ask=ask), engine=engine)
    )
    return Notifier(made)


async def begun(log: MemoryServiceLog, engine: Engine) -> tuple[Notifier, Projector]:
    """A process and what writes the tables; all is told from the beginning."""
    first, projector = process(log, engine), Projector(log, engine, FOREVER_S)
    projector._projection.begin("memory")
    for place in PLACES:
        await first._note(first._entry(place, 0, 0))
    await projector.catch_up()
    return first, projector


async def told(log: MemoryServiceLog, engine: Engine, steps: Any) -> list[str]:
    """Ids of all messages after these steps, and when nothing is left to decide."""
    history = History(log)
    first, projector = await begun(log, engine)
    processes = [first, process(log, engine)]
    for things, does in steps:
        for thing in things:
            history.happen(*thing)
        if does == "write":
            await projector.catch_up()
        elif does == "die":
            processes[0] = process(log, engine)
        else:  # the second one has lost its lease and does not know it; neither looks whether the tables are up to date
            await processes[does]._decide()
    while True:
        await projector.catch_up()
        before = log.end(topics.NOTIFICATIONS, 0)
        await processes[0]._decide()
        if log.end(topics.NOTIFICATIONS, 0) == before:
            break
    with engine.connect() as c:
        return sorted(c.execute(select(notifications.c.id)).scalars())


def copied(log: MemoryServiceLog) -> MemoryServiceLog:
    """The same records without what was decided."""
    other = MemoryServiceLog()
    other.batches = {place: list(held) for place, held in log.batches.items() if place[0] != topics.NOTIFICATIONS}
    return other


STEPS = st.lists(
    st.tuples(st.lists(THINGS, max_size=6), st.sampled_from(["write", "write", "die", 0, 0, 1])), min_size=1, max_size=8
)


@given(STEPS)
@settings(max_examples=8)
def test_two_processes_and_their_crashes_decide_every_message_once(template: Path, steps: Any) -> None:
    log = MemoryServiceLog()
    with database(template) as grown, database(template) as anew, pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "time", SimpleNamespace(time=lambda: NOW + 80_000))
        patch.setattr(notifiers, "_AT_ONCE", 2)
        patch.setattr(notifiers, "_UNTOLD", 3)
        patch.setattr(notifiers, "_OF_A_RECORD", 1)
        found = asyncio.run(told(log, grown, steps))
        assert found == asyncio.run(told(copied(log), anew, []))


def test_only_what_goes_on_where_the_log_is_counts(template: Path) -> None:
    """A late ``decided`` of a process that was overtaken, one of another log, and outcomes in any order."""
    log = MemoryServiceLog()

    def entry(start: int, end: int, name: str, epoch: str = "memory") -> Record:
        message = Message(name, "all", "a", "opened", "x", "fraud", "u", "low", 0.5, 0.5, 0, NOW, NOW, NOW, name)
        return Entry(
            kind="decided", at=NOW, epoch=epoch, topic=topics.ALERTS, start=start, end=end, messages=(message,)
        ).record()

    def outcome(kind: Any, at: float) -> Record:
        return Entry(kind=kind, at=at, ids=("first",), answer=kind).record()

    async def follow(engine: Engine, records: list[Record]) -> dict[str, tuple[str, float]]:
        log.add(topics.NOTIFICATIONS, records)
        _, projector = await begun(log, engine)
        await projector.catch_up()
        with engine.connect() as c:
            n = notifications.c
            return {row.id: (row.status, row.changed_at) for row in c.execute(select(n.id, n.status, n.changed_at))}

    with database(template) as engine:
        decided = [
            entry(5, 7, "first"),
            entry(5, 8, "late"),
            entry(7, 8, "another", "another log"),
            entry(7, 9, "next"),
        ]
        outcomes = [outcome("failed", 1.0), outcome("retry", 2.0), outcome("sent", 3.0), outcome("failed", 4.0)]
        rows = asyncio.run(follow(engine, [*decided, Record(b"", b"{", 0.0), *outcomes, outcome("retry", 5.0)]))
    assert rows == {"first": ("sent", 3.0), "next": ("waiting", NOW)}


def test_the_day_s_budget_counts_alerts_that_opened_before(template: Path) -> None:
    log = MemoryServiceLog()
    log.add(topics.ALERTS, [alert(n) for n in (1, 2, 4, 5)])  # of fraud, one after the other
    with database(template) as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifiers, "time", SimpleNamespace(time=lambda: NOW + 60))

        async def over() -> list[bool]:
            first, projector = await begun(log, engine)
            first._budgets = {"fraud": 2.0}
            with engine.connect() as c:
                await projector.catch_up()
                place = (topics.ALERTS, 0)
                happenings, _, _ = outbox.happened(c, place, 0, 4, 10, first._budgets, NOW)
                return [happening.over for happening in happenings]

        assert asyncio.run(over()) == [False, False, True, True]


def test_what_somebody_has_snoozed_or_holds_is_hidden(template: Path) -> None:
    log = MemoryServiceLog()
    log.add(topics.ALERTS, [alert(n) for n in (1, 2, 7, 8, 5)])
    log.add(topics.CASE_EVENTS, [snooze(2, True, True), case_event(8, 1, "hold", until=NOW + 9_000)])  # u2 of fraud

    async def hidden(engine: Engine, now: float) -> dict[str, bool]:
        await begun(log, engine)
        with engine.connect() as c:
            happenings, _, _ = outbox.happened(c, (topics.ALERTS, 0), 0, 5, 10, {}, now)
        return {happening.alert.entity_id: happening.hidden for happening in happenings}

    with database(template) as engine:
        assert asyncio.run(hidden(engine, NOW + 1_210)) == {
            "u1": False, "u2": True, "u7": False, "u8": True, "u5": False
        }  # fmt: skip
        assert not asyncio.run(hidden(engine, NOW + 1_400))["u2"], "it has ended"


def test_a_digest_is_cut_at_the_same_places_whatever_waits_before_it(template: Path) -> None:
    """Else what was sent, and is not known to be, would be sent again under another id."""
    at_once = [made(n, 10.0, gathered=False) for n in range(60)]
    digest = [made(n, 20.0, gathered=True) for n in range(60, 310)]
    entry = Entry(kind="decided", at=1.0, epoch="log", topic=topics.ALERTS, end=1, messages=(*at_once, *digest))
    with database(template) as engine:
        Projection(engine).begin("log")
        with engine.begin() as c:
            outbox.write_notifications(c, [(0, entry.record())])
            sizes, first = [], None
            for n in range(0, 60, 20):
                found = outbox.due_deliveries(c, "a", 30.0, 100)
                assert [each.messages for each in found[:-1]] == [(message,) for message in at_once[n:]]
                first = first or found[-1].id
                assert found[-1].id == first
                outbox.write_notifications(c, [(1, sent(at_once[n : n + 20]))])
            while found := outbox.due_deliveries(c, "a", 30.0, 100):
                sizes.append(len(found[0].messages))
                outbox.write_notifications(c, [(2, sent(found[0].messages))])
    assert sizes == [100, 100, 50]


def made(n: int, due: float, gathered: bool) -> Message:
    about = ("fraud", f"u{n}", "high", 0.9, 0.5, 1.0, 1.0, 1.0)
    return Message(f"m{n}", "desk", "a", "opened", f"alert-{n}", *about, due, f"m{n}", gathered=gathered)


def sent(messages: Sequence[Message]) -> Record:
    return Entry(kind="sent", at=2.0, ids=tuple(message.id for message in messages)).record()
