"""The tables are what the log says, however it was read: in whatever pieces, with crashes, repeats and two writers."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from tests.service.memory_log import MemoryServiceLog
from tests.service.store_records import (
    NOW,
    alert,
    case_event,
    contents,
    example,
    project,
    request,
    snooze,
    some,
    update,
)
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.store import projector as projectors
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import find_rows, history_of, list_alerts
from weir.streams.service.store.database import open_database
from weir.streams.service.store.learned import REMEMBERED, RecentExamples
from weir.streams.service.store.projection import OtherLogError, Piece, Projection
from weir.streams.service.store.projector import CutLogError, OvertakenError, Projector
from weir.streams.service.store.tables import alerts

FOREVER_S = 1e12


class CrashError(Exception):
    """The process dies."""


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A database with its tables, which are dear to make."""
    with tempfile.TemporaryDirectory() as name:
        open_database(ServeSettings(directory=Path(name))).dispose()
        yield Path(name) / "alerts.db"


@contextmanager
def database(template: Path) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(template, Path(name) / "alerts.db")
        engine = open_database(ServeSettings(directory=Path(name)))
        yield engine
        engine.dispose()


@pytest.fixture
def engine(template: Path) -> Iterator[Engine]:
    with database(template) as made:
        yield made


def dying(projector: Projector, writes: int) -> None:
    """Let it die after so many transactions, before or after the last one is committed."""
    real, left = projector._projection.write, [writes]

    def write(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0 and writes % 2:
            raise CrashError
        done = real(*given)
        if left[0] < 0:
            raise CrashError
        return done

    projector._projection.write = write  # type: ignore[method-assign, assignment]


DEEDS = (
    "alert", "confirmed", "false_alarm", "unsure", "undo", "assign", "note", "hold", "escalate", "snooze", "unsnooze",
    "learn", "model", "repeat",
)  # fmt: skip
THINGS = st.tuples(st.sampled_from(DEEDS), st.integers(0, 5), st.integers(0, 3))
STEPS = st.lists(
    st.tuples(st.lists(THINGS, max_size=12), st.sampled_from(["write", "die", "restart", "other"]), st.integers(0, 6)),
    min_size=1,
    max_size=8,
)


class History:
    """Appends what happens, in an order in which it can happen."""

    def __init__(self, log: MemoryServiceLog) -> None:
        self.log, self.number, self.known = log, 0, set[int]()

    def happen(self, what: str, n: int, k: int) -> None:
        self.number += 1
        if what == "alert" or n not in self.known:
            self.known.add(n)
            self._add(topics.ALERTS, alert(n, ("open", "escalated", "resolved")[k % 3], score=k / 4), partition=n % 2)
        elif what == "learn":
            self._add(topics.EXAMPLES, example(n, k % 2, self.number - k % 2))
        elif what == "model":
            self._add(topics.MODEL_UPDATES, update(k)) if n % 2 else self._add(topics.RETRAIN_REQUESTS, request(k))
        elif what in ("snooze", "unsnooze"):
            self._add(topics.CASE_EVENTS, snooze(self.number, what == "snooze", n % 2 == 0, "ana" if k % 2 else "ben"))
        elif what == "repeat":  # a producer or a label lane says again what it said
            for topic in (topics.CASE_EVENTS, topics.EXAMPLES):
                if batches := self.log.batches.get((topic, 0)):
                    self._add(topic, batches[-1 - k % len(batches)].records[0])
        else:
            sayings: dict[str, dict[str, Any]] = {
                "undo": {},
                "assign": {"assignee": "ben", "until": NOW + 1000 + self.number + k},
                "note": {"note": "seen"},
                "hold": {"until": NOW + 1000 + self.number + k},
                "escalate": {},
            }
            judged = {"verdict": what, "state": "open", "examples_before": self.log.end(topics.EXAMPLES, 0)}
            said = sayings.get(what, judged)
            action = what if what in sayings else "verdict"
            expects = {"expects": k} if k > 1 else {}
            self._add(
                topics.CASE_EVENTS, case_event(n, self.number, action, "ana" if k % 2 else "ben", **said, **expects)
            )

    def _add(self, topic: str, record: Record, partition: int = 0) -> None:
        self.log.add(topic, [record], partition, gap=self.number % 3 == 0)


async def follow(log: MemoryServiceLog, engine: Engine, steps: Any) -> None:
    history, projector = History(log), Projector(log, engine, FOREVER_S)
    projector._projection.begin("memory")
    for things, then, k in steps:
        for thing in things:
            history.happen(*thing)
        if then == "die":
            dying(projector, k)
        try:
            await projector.catch_up()
        except (CrashError, OvertakenError):
            projector = Projector(log, engine, FOREVER_S)
        if then == "restart":
            projector = Projector(log, engine, FOREVER_S)
        if then == "other":  # another replica writes for a while; this one finds out
            for thing in things:
                history.happen(*thing)
            await Projector(log, engine, FOREVER_S).catch_up()
    while True:
        try:
            await projector.catch_up()
            return await projector.catch_up()  # the first may have told that a verdict was learned
        except (CrashError, OvertakenError):
            projector = Projector(log, engine, FOREVER_S)


@given(STEPS, st.integers(1, 7))
@settings(max_examples=10)
def test_the_tables_equal_those_made_anew_from_the_log(template: Path, steps: Any, piece: int) -> None:
    log = MemoryServiceLog()
    with database(template) as grown, database(template) as anew, pytest.MonkeyPatch.context() as patch:
        patch.setattr(projectors, "PIECE", piece)
        asyncio.run(follow(log, grown, steps))
        patch.setattr(projectors, "PIECE", 500)
        asyncio.run(follow(log, anew, []))
        assert contents(grown) == contents(anew)


def test_another_log_empties_the_tables_and_the_same_one_does_not(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    project(engine, some(3, 50))
    before = contents(engine)
    Projection(engine).begin("log")
    assert contents(engine) == before
    with caplog.at_level(logging.WARNING):
        Projection(engine).begin("another")
    assert not any(contents(engine).values())
    assert "they are of another log (log, this is another)" in caplog.text


def test_a_service_of_another_log_leaves_the_tables_to_the_one_that_writes_them(engine: Engine) -> None:
    one, two, records = Projection(engine), Projection(engine), list(enumerate(some(6, 20)[topics.ALERTS]))
    piece, recent = Piece(topics.ALERTS, 0, 0, len(records), records), RecentExamples()
    one.begin("log")
    assert one.lease("one", 10.0)
    assert one.write(piece, recent) == []
    written = contents(engine)
    with pytest.raises(OtherLogError, match=r"another log \(log, this is another\).*or --dir\), or stop the other"):
        two.begin("another")
    assert contents(engine) == written
    one.release("one")
    two.begin("another")
    assert one.write(piece, recent) is None, "it stood still, and goes on in tables that are another's by now"
    assert not contents(engine)["alerts"]


def test_what_is_no_record_is_told_and_left_out(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    bad = [Record(b"", value, NOW) for value in (b"", b"{}", b"\xff", b'{"v":1,"task":7}')]
    records = {topic: [*bad, *found] for topic, found in some(4, 20).items()}
    project(engine, records)
    assert "alerts-0, offset 1: left out of the database" in caplog.text
    with engine.connect() as c:
        assert list_alerts(c, AlertFilter(), "newest", None, 500, NOW).total == 20


async def test_records_that_are_gone_are_passed_over_and_versions_are_not_guessed(engine: Engine) -> None:
    log = MemoryServiceLog()
    history = History(log)
    for n in range(4):
        history.happen("alert", n, 0)
        history.happen("learn", n, 0)
    log.forget(topics.EXAMPLES, 0, 3)
    history.happen("confirmed", 1, 0)
    history.happen("learn", 1, 1)
    projector = Projector(log, engine, FOREVER_S)
    projector._projection.begin("memory")
    await projector.catch_up()
    with engine.connect() as c:
        (verdict,) = history_of(c, "fraud:u1:e1")["verdicts"]
    assert verdict["learned_at"] == NOW + 5000
    assert verdict["learned_version"] is None


async def test_an_example_that_is_published_again_is_no_new_version(engine: Engine) -> None:
    log = MemoryServiceLog()
    history = History(log)
    history.happen("alert", 1, 0)
    first = [example(1000 + i * 3 + 1, 0) for i in range(REMEMBERED - 3)]
    log.add(topics.EXAMPLES, first)
    projector = Projector(log, engine, FOREVER_S)
    projector._projection.begin("memory")
    await projector.catch_up()
    history.happen("confirmed", 1, 0)
    log.add(topics.EXAMPLES, [*first[-50:], example(1, 1)])
    await Projector(log, engine, FOREVER_S).catch_up()
    with engine.connect() as c:
        (verdict,) = history_of(c, "fraud:u1:e1")["verdicts"]
    assert verdict["learned_version"] == REMEMBERED - 3 + 1


def test_alerts_that_were_resolved_long_ago_go_with_all_that_is_of_them(engine: Engine) -> None:
    records = some(5, 60)
    project(engine, records)
    projection = Projection(engine)
    with engine.connect() as c:
        ids = [f"fraud:u{n % 100}:e{n}" for n in range(60)]
        rows = find_rows(c, ids, None)
    old = {i for i, row in rows.items() if row.state == "resolved" and (row.changed_at or 0) < NOW + 1060}
    assert projection.forget(NOW + 1060, most=1_000) == len(old) > 0
    with engine.connect() as c:
        assert set(find_rows(c, ids, None)) == set(ids) - old
    left = {row[3] for row in contents(engine)["alert_changes"]} | {row[1] for row in contents(engine)["verdicts"]}
    assert not left & old
    assert projection.forget(NOW + 1060) == 0


def test_pieces_count_once(engine: Engine) -> None:
    projection, records = Projection(engine), list(enumerate(some(6, 20)[topics.ALERTS]))
    projection.begin("log")
    piece = Piece(topics.ALERTS, 0, 0, len(records), records)
    recent = RecentExamples()
    assert [projection.write(piece, recent), projection.write(piece, recent)] == [[], None]


def test_a_case_event_that_is_sent_again_counts_once(engine: Engine) -> None:
    once = case_event(1, 1, "note", note="n")
    project(engine, {topics.ALERTS: [alert(1)], topics.CASE_EVENTS: [once, once]})
    with engine.connect() as c:
        assert find_rows(c, ["fraud:u1:e1"], None)["fraud:u1:e1"].version == 1
        assert [change["kind"] for change in history_of(c, "fraud:u1:e1")["history"]] == ["note", "status"]


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_at_the_moment_of_news_is_a_stop(tmp_path: Path, turns: int) -> None:
    projector = Projector(MemoryServiceLog(), open_database(ServeSettings(directory=tmp_path)), FOREVER_S)
    running = asyncio.create_task(projector.run())
    while not projector._news._waiters:  # it waits for news
        await asyncio.sleep(0.01)
    projector._news.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([running])
    assert running.cancelled()


async def test_a_topic_that_was_made_anew_is_told_and_not_passed_over(engine: Engine) -> None:
    log = MemoryServiceLog()
    log.add(topics.ALERTS, [alert(n) for n in range(5)])
    before = Projector(log, engine, FOREVER_S)
    before._projection.begin("memory")
    await before.catch_up()
    anew = MemoryServiceLog()
    anew.add(topics.ALERTS, [alert(9)])
    projector = Projector(anew, engine, FOREVER_S)
    projector._projection.begin("memory")
    with pytest.raises(CutLogError, match=r"alerts-0 ends at offset 1, and the tables have it up to 5.*--rebuild"):
        await projector.catch_up()
    projector._projection.begin("memory", rebuild=True)
    projector._forget_places()
    await projector.catch_up()
    with engine.connect() as c:
        assert c.execute(select(alerts.c.alert_id)).scalars().all() == ["fraud:u9:e9"]


async def test_a_machine_whose_clock_is_wrong_says_so_once(
    template: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with database(template) as engine:
        projector = Projector(MemoryServiceLog(), engine, FOREVER_S)
        projector._projection.begin("memory")
        for ahead_s in (0.0, 7_200.0, 7_200.0, -7_200.0, 1.0, -7_200.0):
            monkeypatch.setattr(projector._projection, "_clock", lambda _, by=ahead_s: time.time() - by)
            projector._lease_until = 0.0
            assert await projector._leads()
    told = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    assert [words.split(" that of ")[0] for words in told] == [
        "this machine's clock is 2h ahead of",
        "this machine's clock is 2h behind",
    ]
