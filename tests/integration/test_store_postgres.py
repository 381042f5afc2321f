"""The database of alerts on a real PostgreSQL: the same tables, the same rows and the same answers as on SQLite."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from tests.integration.kafka_node import eventually
from tests.integration.postgres_server import postgres_server
from tests.service.memory_log import MemoryServiceLog
from tests.service.notify import test_outbox
from tests.service.running import TASKS
from tests.service.store_records import NOW, contents, project, some
from tests.service.test_store_database import UPGRADED, upgraded
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.access.api_keys import KeyStore, digest
from weir.streams.service.access.audit.audit_chain import Link
from weir.streams.service.access.audit.audit_trail import _keep, _left_in, anchors_in, leave
from weir.streams.service.access.login.sessions import Session, SessionStore
from weir.streams.service.access.scopes import Caller
from weir.streams.service.console.alert_lists import mark_of, new_since, shown_alerts
from weir.streams.service.notify import notifier, outbox
from weir.streams.service.notify.outbox import Entry
from weir.streams.service.store import owed_labels
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import (
    Sort,
    budget_left,
    facets_of,
    happenings_of,
    history_of,
    list_alerts,
    outcomes_of,
    shown,
    standing_values,
)
from weir.streams.service.store.aside_routes import ViewSaid, be_present, delete_view, save_view, snoozes_of, views_of
from weir.streams.service.store.database import access_database, open_database
from weir.streams.service.store.learned import RecentExamples
from weir.streams.service.store.projection import OtherLogError, Piece, Projection
from weir.streams.service.store.tables import metadata
from weir.streams.service.views.sampling import add_samples, alerts_by_day, series_since
from weir.streams.task_files import load_task

pytestmark = pytest.mark.integration
ALERTS = 400


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server of its own."""
    with postgres_server() as url:
        yield url


def opened(directory: Path, url: str | None) -> Engine:
    return open_database(ServeSettings.model_validate({"directory": directory, "database": url}))


@pytest.fixture
def postgres(server: str, tmp_path: Path) -> Iterator[Engine]:
    """An empty database on it."""
    engine = opened(tmp_path, server)
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


def queries() -> Iterator[tuple[AlertFilter, Sort, int]]:
    filters = [
        {}, {"state": "open"}, {"state": "resolved", "task": "fraud"}, {"severity": "high"}, {"entity": "u7"},
        {"assignee": "ben"}, {"assignee": ""}, {"verdict": "none"}, {"verdict": "confirmed", "min_score": 0.5},
        {"since": NOW + 100, "until": NOW + 300}, {"q": "u9"}, {"q": "e17"}, {"q": "7 eur"}, {"q": "100% über_"},
        {"q": "100% Über_"}, {"q": "\\"}, {"tasks": frozenset({"churn"})}, {"tasks": frozenset()},
        {"waits_for": "ana", "held": "exclude", "snoozed": "exclude"}, {"waits_for": "Zoë", "task": "fraud"},
        {"held": "only"}, {"snoozed": "only"}, {"snoozed": "exclude", "severity": "medium"},
    ]  # fmt: skip
    sorts: tuple[Sort, ...] = ("newest", "score", "severity", "expected_loss")
    for at, (of, sort) in enumerate(itertools.product(filters, sorts)):
        yield AlertFilter(**of), sort, (7, 50, 500)[at % 3]  # type: ignore[arg-type]


def answers(engine: Engine) -> list[bytes]:
    """Every page of each query; of each alert its history; all as the API sends them."""
    found: list[Any] = []
    with engine.connect() as c:
        for of, sort, limit in queries():
            cursor, now = None, NOW + 1300
            while True:
                page = list_alerts(c, of, sort, cursor, limit, now)
                found += [] if cursor else [facets_of(c, of, now)]
                found.append(([shown(row, now) for row in page.rows], page.next, page.total))
                if (cursor := page.next) is None:
                    break
        for n in range(0, ALERTS, 5):
            alert_id = f"fraud:u{n % 100}:e{n}"
            found.append(history_of(c, alert_id))
        found.append(sorted(standing_values(c, [f"fraud:u{n % 100}:e{n}" for n in range(ALERTS)]).items()))
        found.append(sorted(outcomes_of(c, [f"c{n}" for n in range(2 * ALERTS)]).items()))
        found.append(happenings_of(c, frozenset({"fraud"}), None, 100))
        found += [snoozes_of(c, tasks, NOW + 1300) for tasks in (None, frozenset({"churn"}))]
        found += [budget_left(c, [load_task(TASKS / "fraud.toml")], NOW + day) for day in (1300, 90_000)]
    return [msgspec.json.encode(each, order="sorted") for each in found]


def test_both_databases_hold_the_same_rows_and_give_the_same_answers(postgres: Engine, tmp_path: Path) -> None:
    sqlite, records = opened(tmp_path, None), some(1, ALERTS)
    for engine in (sqlite, postgres):
        project(engine, records)
    assert contents(postgres) == contents(sqlite)
    assert len(list(queries())) >= 50
    here, there = answers(sqlite), answers(postgres)
    assert len(here) > 200
    assert here == there
    sqlite.dispose()


def test_views_and_presence_are_the_same_on_it(postgres: Engine, tmp_path: Path) -> None:
    one, two = (Caller(f"person:{n}", "ana", "session", frozenset()) for n in (1, 2))
    for engine in (opened(tmp_path, None), postgres):
        with engine.begin() as c:
            for query, shared in (("q=1", False), ("q=2", True)):
                save_view(c, ViewSaid(name="Ä%", query=query, shared=shared), "person:1", "ana")
            assert [view["query"] for view in views_of(c, two)] == ["q=2"]
            delete_view(c, "person:1", "Ä%")
            assert views_of(c, one) == []
            assert [be_present(c, "a", who, NOW) for who in ("ana", "ben", "ana")] == [[], ["ana"], ["ben"]]


def test_the_pages_of_alerts_are_the_same_on_it(postgres: Engine, tmp_path: Path) -> None:
    def told(engine: Engine) -> list[Any]:
        with engine.connect() as c:
            page, whole = list_alerts(c, AlertFilter(), "score", None, 50, NOW), mark_of(c)
            marks = ("", "0.0", "0.20", "0.5-1.7", whole)
            came = [new_since(c, of, mark, NOW) for of in (AlertFilter(), AlertFilter(task="fraud")) for mark in marks]
            return [whole, came, [alert.key for alert in shown_alerts(c, page.rows, "ana", NOW)]]

    lite = opened(tmp_path, None)
    for engine in (lite, postgres):
        project(engine, some(11, 60))
    assert told(postgres) == told(lite)
    assert told(lite)[1][4] == (0, False)
    assert told(lite)[1][0][0] > told(lite)[1][2][0] > 0
    lite.dispose()


def test_figures_over_time_are_the_same_on_it(postgres: Engine, tmp_path: Path) -> None:
    found = []
    for engine in (opened(tmp_path, None), postgres):
        project(engine, some(1, ALERTS))
        with engine.begin() as c:
            for at in range(int(NOW), int(NOW) + 7_300, 10):
                add_samples(c, at, {("", "a"): float(at % 70), ("Ä", "b"): 0.5}, 400 * 86_400.0)
            steps = [series_since(c, int(NOW), seconds) for seconds in (10, 90, 3_600)]
            # They add up in another order.
            means = [(k, at, round(v, 9)) for step in steps for k, held in step.items() for at, v in held.items()]
            found.append((sorted(means), alerts_by_day(c, ["churn", "fraud", "none"], 14)))
    assert found[0] == found[1]
    assert len(found[0][0]) > 700


def test_migrations_make_the_tables_of_the_code(postgres: Engine) -> None:
    with postgres.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_alerts_of_before_get_what_a_rebuild_would_give_them(postgres: Engine) -> None:
    with postgres.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    assert upgraded(postgres) == UPGRADED


def test_replicas_that_start_together_make_the_tables_once(postgres: Engine, server: str, tmp_path: Path) -> None:
    with postgres.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(lambda _: opened(tmp_path, server), range(4)):
            engine.dispose()


def test_two_writers_count_each_record_once(postgres: Engine) -> None:
    records = some(2, 200)
    found = list(enumerate(records[topics.ALERTS]))
    Projection(postgres).begin("log")

    def write(_: int) -> int:
        projection, at, done = Projection(postgres), 0, 0
        while at < len(found):
            piece = Piece(topics.ALERTS, 0, at, min(at + 20, len(found)), found[at : at + 20])
            done += projection.write(piece, RecentExamples()) is not None
            at = projection.position(topics.ALERTS, 0)
        return done

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(write, range(3))) == -(-len(found) // 20)
    written = contents(postgres)
    Projection(postgres).begin("log", rebuild=True)
    project(postgres, {topics.ALERTS: records[topics.ALERTS]})
    assert contents(postgres) == written


def test_one_replica_has_the_lease_until_it_ends_or_is_given_back(postgres: Engine) -> None:
    at, began = 0.0, time.time()
    one, two = (Projection(postgres, lambda _: began + at) for _ in range(2))
    one.begin("log")
    two.begin("log")
    assert one.lease("one", 10.0)
    at = 9.0
    assert not two.lease("two", 10.0)
    assert one.lease("one", 10.0), "renewed"
    at = 15.0
    assert not two.lease("two", 10.0)
    at = 20.0
    assert two.lease("two", 10.0)
    at = 21.0
    assert not one.lease("one", 10.0)
    two.release("two")
    assert one.lease("one", 10.0)
    with pytest.raises(OtherLogError, match="a service of that one writes them"):
        two.begin("another")


@pytest.mark.parametrize("wrong_s", [-7_200.0, 7_200.0])
def test_a_replica_whose_clock_is_wrong_holds_the_lease_as_long_as_any(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    one, two = Projection(postgres), Projection(postgres)
    one.begin("log")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda now=time.time: now() + wrong_s)
        assert one.lease("one", 2.0)
    assert not two.lease("two", 10.0)
    eventually(lambda: two.lease("two", 10.0), 10, "the lease ends")


def test_keys_sessions_and_anchors_are_the_same_on_it(tmp_path: Path, server: str) -> None:
    engine = access_database(ServeSettings.model_validate({"directory": tmp_path, "database": server}))
    keys, sessions = KeyStore(engine), SessionStore(engine)
    made, key = keys.create("shop", role="viewer", tasks=["fraud"], expires_at=NOW + 9.0, by="test", now=NOW)
    assert keys.find(made.id) == made
    assert keys.revoke(made.id, NOW + 1.0).state(NOW + 2.0) == "revoked"
    assert [found.id for found in keys.all()] == [made.id]
    old = sessions.begin("person:7", "ana", "oidc", ["desk"], NOW, NOW + 9.0, None)
    new = sessions.begin("person:7", "ana", "oidc", ["desk"], NOW, NOW + 9.0, old)
    assert sessions.find(digest(old)) is None
    assert sessions.find(digest(new)) == Session("person:7", "ana", "oidc", ("desk",), NOW + 9.0)
    leave(engine, "weir keys create", f"key:{made.id}")
    leave(engine, "weir keys revoke", f"key:{made.id}")
    assert [body["action"] for _, body in _left_in(engine)] == ["weir keys create", "weir keys revoke"]
    for seq in (1, 2):
        _keep(engine, {"writer": "a:80", "seq": seq, "hash": "0" * 64, "at": NOW})
    assert anchors_in(engine) == {"a:80": Link(2, "0" * 64)}
    assert key.split("_", 2)[2] not in repr(keys.all())
    engine.dispose()


def test_labels_that_are_owed_are_the_same_on_it(
    postgres: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOW
    monkeypatch.setattr(owed_labels, "database_time", lambda _: now)
    label = Record("ü".encode(), '{"entity_id":"ü"}'.encode(), NOW)
    for engine in (opened(tmp_path, None), postgres):
        project(engine, some(1, ALERTS))
        with engine.begin() as c:
            (counts, refused), alert_id = ("c0", "unknown"), "fraud:u0:e0"
            now = NOW
            owed_labels.note(c, {counts: (alert_id, [label]), refused: (alert_id, [label])})
            assert owed_labels.owed_of(c, [alert_id]) == ([label], [counts])
            assert owed_labels.left_behind(c) == ([], [])
            now = NOW + 1e6
            assert owed_labels.owed_of(c, [alert_id]).settled == [counts], "it may not be in the tables yet"
            assert owed_labels.left_behind(c).settled == [counts, refused], "it never got into the log"
            owed_labels.forget(c, [counts, refused])
            assert owed_labels.owed_of(c, [alert_id]) == ([], [])


@pytest.mark.parametrize("wrong_s", [-7_200.0, 7_200.0])
def test_labels_of_a_replica_whose_clock_is_wrong_are_neither_given_up_nor_left(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    """Its verdict is in the log, and not in the tables yet; it dies then."""
    label = Record(b"u0", b'{"entity_id":"u0"}', NOW)
    with postgres.begin() as c:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=time.time: now() + wrong_s)
            owed_labels.note(c, {"c0": ("fraud:u0:e0", [label])})
        assert owed_labels.left_behind(c) == ([], []), "who gave the verdict may send them yet"
        monkeypatch.setattr(owed_labels, "WAIT_S", -1.0)
        assert owed_labels.left_behind(c).settled == []
        project(postgres, some(1, ALERTS))
        assert [sent.value for sent in owed_labels.left_behind(c).labels] == [label.value]


def test_messages_are_decided_and_found_alike(
    postgres: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "time", SimpleNamespace(time=lambda: NOW + 80_000))
    things = [("alert", n % 6, n % 4) for n in range(12)] + [("confirmed", 1, 1), ("undo", 1, 1), ("escalate", 2, 1)]
    found = []
    for engine in (postgres, opened(tmp_path, None)):
        log = MemoryServiceLog()
        ids = asyncio.run(test_outbox.told(log, engine, [(things, "write")]))
        assert ids
        sent = Entry(kind="sent", at=NOW, ids=tuple(ids[::2]), answer="HTTP 200").record()
        failed = Entry(kind="failed", at=NOW, ids=tuple(ids[1::4])).record()
        with engine.begin() as c:
            outbox.write_notifications(c, [(10_000, sent), (10_001, failed)])
            found.append([
                ids, outbox.waiting(c), outbox.due_deliveries(c, "b", NOW + 1e6, 50), outbox.written(c),
                sorted(m.id for m in outbox.standing(c, "a")), outbox.newest(c, frozenset({"fraud"}), "failed", 50),
            ])  # fmt: skip
    assert found[0] == found[1]
