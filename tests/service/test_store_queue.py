"""What stands beside a list: counts that say what another choice would show, and what the day's budget leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.service.running import TASKS
from tests.service.store_records import NOW, alert, case_event, project, some
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import budget_left, facets_of, find_rows, list_alerts
from weir.streams.service.store.database import open_database
from weir.streams.task_files import load_task

THEN = NOW + 1230.0
QUEUE = AlertFilter(waits_for="ana", held="exclude", snoozed="exclude")


@pytest.fixture(scope="module")
def some_alerts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    engine = open_database(ServeSettings(directory=tmp_path_factory.mktemp("queue")))
    project(engine, some(11, 200))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def total(c: Connection, of: AlertFilter) -> int:
    return list_alerts(c, of, "newest", None, 500, THEN).total or 0


@pytest.mark.parametrize(
    "of",
    [
        AlertFilter(), QUEUE, replace(QUEUE, task="fraud"), AlertFilter(state="resolved", severity="medium"),
        AlertFilter(verdict="none", assignee="ben"), AlertFilter(q="u9"), AlertFilter(tasks=frozenset({"churn"})),
        AlertFilter(snoozed="only"), AlertFilter(min_score=0.4, since=NOW + 50),
    ],
)  # fmt: skip
def test_a_facet_counts_what_the_list_would_have_with_another_choice(some_alerts: Connection, of: AlertFilter) -> None:
    facets = facets_of(some_alerts, of, THEN)
    for name in ("task", "state", "verdict", "assignee"):
        for value, count in facets[name].items():
            chosen: dict[str, Any] = {name: value}
            assert total(some_alerts, replace(of, **chosen)) == count, (name, value)
    # A list by severity has that and all above it.
    for severity, above in (("critical", ["critical"]), ("high", ["high", "critical"])):
        count = sum(facets["severity"].get(name, 0) for name in above)
        assert total(some_alerts, replace(of, severity=severity)) == count  # type: ignore[arg-type]
    assert sum(facets["assignee"].values()) == total(some_alerts, replace(of, assignee=None))


def test_a_list_has_what_is_put_aside_only_where_that_is_asked_for(some_alerts: Connection) -> None:
    for name in ("held", "snoozed"):
        counts = {
            aside: total(some_alerts, replace(AlertFilter(), **{name: aside}))  # type: ignore[arg-type]
            for aside in ("include", "only", "exclude")
        }
        assert counts["only"] + counts["exclude"] == counts["include"]
        assert min(counts.values()) > 0, name


def test_the_budget_is_what_a_day_allows_less_what_was_judged_in_it(tmp_path: Path) -> None:
    engine = open_database(ServeSettings(directory=tmp_path))
    judged = [case_event(n, n, "verdict", verdict="unsure", state="open") for n in (1, 2, 4)]
    project(engine, {
        topics.ALERTS: [alert(n) for n in (1, 2, 4, 5)],
        topics.CASE_EVENTS: [*judged, case_event(4, 9, "undo")],
    })  # fmt: skip
    document = load_task(TASKS / "fraud.toml").model_dump() | {"threshold": {"kind": "budget", "alerts_per_day": 2.5}}
    fixed = document | {"name": "fixed", "threshold": {"kind": "fixed", "value": 0.5}}
    tasks = [TaskSpec.model_validate(each) for each in (document, fixed)]
    with engine.connect() as c:
        assert budget_left(c, tasks, NOW + 1010.0) == {"fraud": 1}
        assert budget_left(c, tasks, NOW + 1010.0 + 86_400.0) == {"fraud": 3}
    engine.dispose()


def test_a_snooze_of_an_alert_as_it_was_recorded_before_is_a_hold(tmp_path: Path) -> None:
    engine = open_database(ServeSettings(directory=tmp_path))
    before = [case_event(1, 1, "snooze", until=NOW + 9000.0), case_event(2, 2, "hold", until=NOW + 9000.0)]
    project(engine, {topics.ALERTS: [alert(1), alert(2)], topics.CASE_EVENTS: before})
    with engine.connect() as c:
        rows = find_rows(c, ["fraud:u1:e1", "fraud:u2:e2"], None)
        assert {row.held_until for row in rows.values()} == {NOW + 9000.0}
        assert total(c, QUEUE) == 0
    engine.dispose()


def test_the_loss_of_an_alert_is_in_money_only_where_its_reasons_name_an_amount(tmp_path: Path) -> None:
    engine = open_database(ServeSettings(directory=tmp_path))
    bare = alert(1, severity="high", score=0.5, reasons=())
    project(engine, {topics.ALERTS: [bare, alert(2, severity="high", score=0.5)]})
    with engine.connect() as c:
        rows = find_rows(c, ["fraud:u1:e1", "fraud:u2:e2"], None)
    assert {row.expected_loss for row in rows.values()} == {0.5 * 3, 0.5 * (2 * 7919 % 500)}
    engine.dispose()


def test_a_search_finds_what_a_page_shows_in_any_alphabet(tmp_path: Path) -> None:
    engine = open_database(ServeSettings(directory=tmp_path))
    project(engine, {topics.ALERTS: [alert(1, entity_id="ÉCOLE-7", alert_id="fraud:ÉCOLE-7:e1"), alert(2)]})
    with engine.connect() as c:
        found = {q: total(c, AlertFilter(q=q)) for q in ("ÉCOLE", "Écol", "cole-", "EUR is 100% Über", "u2", "100_")}
    engine.dispose()
    assert found == {"ÉCOLE": 1, "Écol": 1, "cole-": 1, "EUR is 100% Über": 2, "u2": 1, "100_": 0}
