"""Figures over time: what is sampled, how it is thinned, and the overview that shows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from tests.service.running import EVENT, running
from tests.service.store_records import NOW, alert, project
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import RetrainRequest
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.console.pages.overview_pages import chart
from weir.streams.service.store.alert_queries import happenings_of
from weir.streams.service.store.database import open_database
from weir.streams.service.store.tables import samples
from weir.streams.service.views.sampling import add_samples, alerts_by_day, series_since

DAY, HOUR = 86_400, 3_600
TODAY = 20_000 * DAY


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = open_database(ServeSettings(directory=tmp_path))
    yield made
    made.dispose()


def counts(engine: Engine) -> dict[int, int]:
    """Samples by their step."""
    with engine.connect() as c:
        return dict(c.execute(select(samples.c.step, func.count()).group_by(samples.c.step)).all())


def test_what_is_old_has_the_means_of_its_minutes_and_then_of_its_hours(engine: Engine) -> None:
    with engine.begin() as c:
        for at in range(TODAY, TODAY + HOUR, 10):
            add_samples(c, at + 3, {("", "a"): float(at - TODAY), ("fraud", "a"): 1.0}, 400 * DAY)
        assert series_since(c, TODAY, 10)["", "a"][TODAY + 60] == 60.0
        assert series_since(c, TODAY, 60)["", "a"][TODAY + 60] == 85.0  # of 60 to 110
        assert series_since(c, TODAY, 120)["", "a"][TODAY] == 55.0
    assert counts(engine) == {10: 720, 60: 118}  # the last minute is not over
    with engine.begin() as c:
        add_samples(c, TODAY + DAY + 2 * HOUR, {("", "a"): 0.0}, 400 * DAY)
        assert series_since(c, TODAY, HOUR) == {("", "a"): {TODAY: 1795.0}, ("fraud", "a"): {TODAY: 1.0}}
    assert counts(engine) == {10: 1, 60: 120, 3600: 2}
    with engine.begin() as c:
        add_samples(c, TODAY + 15 * DAY + 2 * HOUR, {("", "a"): 0.0}, 400 * DAY)
    assert counts(engine) == {10: 1, 60: 1, 3600: 3}  # one that was taken before the service stood still, too
    with engine.begin() as c:
        add_samples(c, TODAY + 500 * DAY, {("", "a"): 0.0}, 400 * DAY)
    assert counts(engine) == {10: 1}


def test_a_moment_that_is_sampled_twice_has_the_later_values(engine: Engine) -> None:
    with engine.begin() as c:
        add_samples(c, TODAY, {("", "a"): 1.0}, DAY)
        add_samples(c, TODAY, {("", "a"): 2.0}, DAY)
        add_samples(c, TODAY + 10, {}, DAY)
        assert series_since(c, TODAY, 10) == {("", "a"): {TODAY: 2.0}}


def test_alerts_are_counted_by_day_with_the_days_that_had_none(engine: Engine) -> None:
    days = {1: 6, 2: 6, 4: 7, 5: 9, 7: 20}
    project(engine, {topics.ALERTS: [alert(n, opened_at=NOW + DAY * day) for n, day in days.items()]})
    with engine.connect() as c:
        found = alerts_by_day(c, ["churn", "fraud", "other"], 14)
    assert list(found) == ["fraud"]
    assert list(found["fraud"].values()) == [1, 0, 1, *[0] * 10, 1]  # from the seventh to the twentieth


def test_a_chart_has_gaps_where_a_figure_was_not_measured() -> None:
    made = chart({("", "a"): {10: 0.123456, 20: 2.0}, ("", "b"): {20: 3.0}}, "", ("a", "b", "c"))
    assert made is not None
    assert [one["values"] for one in made.drawn["series"]] == [[0.1235, 2.0], [None, 3.0]]
    assert made.rows[0][1:] == ["0.123", "\u2013"]
    assert chart({}, "", ("a",)) is None


@pytest.mark.anyio
async def test_the_service_is_sampled_and_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        empty = (await client.get("/console/", headers={"Accept": "text/html"})).text
        assert "Figures over time come within half a minute" in empty
        assert "No metrics yet" in empty
        assert "No alerts yet" in empty
        assert await service.store.projector._leads()
        await service.sampling.take(TODAY)
        await client.post("/v1/decisions", json=EVENT)
        await service.sampling.take(TODAY + 10)
        found = await service.store.cases.ask(series_since, TODAY, 10)
        assert found["", "events/s"] == {TODAY + 10: 0.1}
        assert 0 < found["", "p50 ms"][TODAY + 10] <= found["", "p99 ms"][TODAY + 10]
        shown = (await client.get("/console/?period=90d", headers={"Accept": "text/html"})).text
        assert "ready" in shown
        assert (await client.get("/console/?period=2d", headers={"Accept": "text/html"})).status_code == 422


@pytest.mark.anyio
async def test_the_overview_holds_alerts_against_the_budget_and_marks_drifts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, "fraud", "churn") as (service, client):
        now = int(time.time())
        await service.log.append(topics.ALERTS, [alert(n, task="fraud") for n in range(70)])
        asked = RetrainRequest(request_id="r", task="fraud", cause="drift", requested_at=now, text="amount: moved")
        await service.log.append(topics.RETRAIN_REQUESTS, [Record(b"fraud", encode_model(asked), now)])
        async with asyncio.timeout(30):
            while (wrote := service.store.projector.wrote) and not await service.store.cases.ask(
                happenings_of, None, None, 1
            ):
                await wrote.wait()
        with service.store.engine.begin() as c:
            for at in range(now - 60, now, 10):
                add_samples(c, at, {("fraud", "average_precision"): 0.4, ("fraud", "threshold"): 0.8132}, DAY)
        shown = (await client.get("/console/", headers={"Accept": "text/html"})).text
        assert "budget 60" in shown
        assert '<td class="num">70</td>' in shown
        assert "score 0.8132" in shown
        assert '"label": "drift"' in shown
        assert 'data-chart="metrics-fraud-data"' in shown
        assert 'data-chart="metrics-churn-data"' not in shown
        monkeypatch.setattr(service.serving, "ready", lambda: ["the brokers are <away>"])
        shown = (await client.get("/console/", headers={"Accept": "text/html"})).text
        assert "not ready" in shown
        assert "the brokers are &lt;away&gt;" in shown
