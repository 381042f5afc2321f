"""The database of alerts: how fast records get into it, and how long lists and one alert take with a million in it.

    python -m benchmarks.bench_alert_store --alerts 1000000
    python -m benchmarks.bench_alert_store --alerts 200000 --database postgresql+psycopg://weir@127.0.0.1/weir

Most alerts are resolved, as they are after a year; half a percent is open. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text

from weir.online.codec.encode import encode_model
from weir.online.codec.wire import Alert, CaseEvent, Reason
from weir.streams.config import topics
from weir.streams.config.serve_settings import ServeSettings
from weir.streams.records import Record
from weir.streams.service.store.alert_filter import AlertFilter
from weir.streams.service.store.alert_queries import Sort, facets_of, find_rows, history_of, list_alerts
from weir.streams.service.store.database import open_database
from weir.streams.service.store.learned import RecentExamples
from weir.streams.service.store.projection import Piece, Projection
from weir.streams.service.store.projector import PIECE

START = 1_700_000_000.0
SEVERITIES = ("low", "low", "medium", "medium", "high", "critical")


QUEUE = AlertFilter(waits_for="analyst-3", held="exclude", snoozed="exclude")


def alert(n: int, status: str, rng: random.Random) -> Record:
    """One record, of the size that the fraud task writes."""
    entity = f"user-{n % 100_000}"
    reasons = tuple(
        Reason(
            feature=f, value=round(rng.random() * 500, 2), contribution=1.5, text=f"{f}: {rng.random():.2f}x the usual"
        )
        for f in ("amount", "user.spend_count_1h", "merchant.risk_ewmean")
    )
    about = {"alert_id": f"fraud:{entity}:pay-{n}", "task": "fraud" if n % 10 else "devices", "entity_id": entity}
    level = {"severity": rng.choice(SEVERITIES), "score": rng.random(), "threshold": 0.5, "reasons": reasons}
    opened = START + 30.0 * n
    times = {"opened_at": opened, "updated_at": opened + 900.0, "event_ids": (f"pay-{n}",)}
    made = Alert.model_validate(about | level | times | {"status": status})
    return Record(entity.encode(), encode_model(made), made.updated_at)


def verdict(n: int, number: int) -> Record:
    """A verdict on an alert."""
    entity = f"user-{n % 100_000}"
    said = {"action": "verdict", "verdict": "confirmed" if n % 3 else "false_alarm", "state": "open"}
    about = {"alert_id": f"fraud:{entity}:pay-{n}", "task": "fraud", "entity_id": entity, "examples_before": 0}
    made = CaseEvent.model_validate(
        said | about | {"case_event_id": f"c{number}", "by": f"analyst-{n % 7}", "at": START}
    )
    return Record(made.alert_id.encode(), encode_model(made), START)


def fill(projection: Projection, topic: str, count: int, make: Callable[[int], Record]) -> list[int]:
    """Write as the projector does; records a second, and a second of this process's processor, without making them."""
    spent, worked, recent = 0.0, 0.0, RecentExamples()
    for at in range(0, count, PIECE):
        end = min(at + PIECE, count)
        piece = Piece(topic, 0, at, end, [(offset, make(offset)) for offset in range(at, end)])
        began, busy = time.perf_counter(), time.process_time()
        assert projection.write(piece, recent) is not None
        spent, worked = spent + time.perf_counter() - began, worked + time.process_time() - busy
    return [round(count / spent), round(count / worked)]


def lists(n: int) -> dict[str, tuple[AlertFilter, Sort]]:
    """What a console asks for."""
    late = START + 30.0 * n
    return {
        "newest": (AlertFilter(), "newest"),
        "highest score": (AlertFilter(), "score"),
        "worst": (AlertFilter(), "severity"),
        "largest loss": (AlertFilter(), "expected_loss"),
        "open, newest": (AlertFilter(state="open"), "newest"),
        "open, largest loss": (AlertFilter(state="open"), "expected_loss"),
        "open of a task, worst": (AlertFilter(state="open", task="devices"), "severity"),
        "high or worse, newest": (AlertFilter(severity="high"), "newest"),
        "of an entity": (AlertFilter(entity="user-77"), "newest"),
        "of an analyst": (AlertFilter(assignee="analyst-3"), "newest"),
        "false alarms": (AlertFilter(verdict="false_alarm"), "newest"),
        "a day, highest score": (AlertFilter(since=late - 86_400.0, until=late), "score"),
        "score from .999": (AlertFilter(min_score=0.999), "newest"),
        "of a task, highest score": (AlertFilter(task="devices"), "score"),
        "open, judged confirmed": (AlertFilter(state="open", verdict="confirmed"), "score"),
        "search: an id": (AlertFilter(q="pay-4711"), "newest"),
        "search: a reason": (AlertFilter(q="spend_count"), "newest"),
        "search: nothing": (AlertFilter(q="no such words"), "newest"),
        "search: open": (AlertFilter(q="0.77x", state="open"), "newest"),
        "the queue": (QUEUE, "expected_loss"),
        "the queue, newest": (QUEUE, "newest"),
        "the queue of a task": (replace(QUEUE, task="devices"), "expected_loss"),
    }


def timed(connection: Connection, ask: Callable[[Connection], Any], times: int = 9) -> tuple[float, float]:
    """Median time of an answer and of the processor in this thread, ms: the latter counts where the machine is busy."""
    waited, worked = list[float](), list[float]()
    for _ in range(times):
        began, busy = time.perf_counter(), time.thread_time()
        ask(connection)
        waited.append((time.perf_counter() - began) * 1000.0)
        worked.append((time.thread_time() - busy) * 1000.0)
    return statistics.median(waited), statistics.median(worked)


def pages(connection: Connection, of: AlertFilter, sort: Sort) -> None:
    """The first page, and the one after it."""
    page = list_alerts(connection, of, sort, None, 50, START)
    if page.next is not None:
        list_alerts(connection, of, sort, page.next, 50, START)


def measure(engine: Engine, alerts: int, open_share: float) -> dict[str, Any]:
    """Fill the tables, then ask."""
    rng, projection = random.Random(1), Projection(engine)
    projection.begin("bench")
    result: dict[str, Any] = {"database": engine.dialect.name, "alerts": alerts}
    made = lambda n: alert(n, "open" if rng.random() < open_share else "resolved", rng)  # noqa: E731
    result["alert_records_per_s"] = fill(projection, topics.ALERTS, alerts, made)
    judged = alerts // 20
    result["verdicts_per_s"] = fill(projection, topics.CASE_EVENTS, judged, lambda n: verdict(n * 11 + 1, n))
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    print(f"{engine.dialect.name}, {alerts:,} alerts; records/s, and a second of the processor:")
    print(f"  alerts {result['alert_records_per_s']}, verdicts {result['verdicts_per_s']}")
    with engine.connect() as connection:
        times = {}
        for name, (of, sort) in lists(alerts).items():
            times[name] = timed(connection, lambda c, of=of, sort=sort: pages(c, of, sort))  # type: ignore[misc]
        times["one, with its history"] = timed(
            connection, lambda c: [find_rows(c, ["fraud:user-12:pay-12"], None), history_of(c, "fraud:user-12:pay-12")]
        )
        for name, of in {
            "facets of all": AlertFilter(), "facets of the queue": QUEUE, "facets of a day": AlertFilter(since=START),
        }.items():  # fmt: skip
            times[name] = timed(connection, lambda c, of=of: facets_of(c, of, START))  # type: ignore[misc]
    print("  two pages of 50                 ms   processor ms")
    for name, (waited, worked) in times.items():
        print(f"  {name:26s} {waited:8.2f}       {worked:8.2f}")
    result["ms"] = {name: [round(waited, 2), round(worked, 2)] for name, (waited, worked) in times.items()}
    return result


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--open", type=float, default=0.005, help="share of alerts that are open")
    parser.add_argument("--database", help="a URL; SQLite in a temporary directory without")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        settings = ServeSettings.model_validate({"directory": Path(directory), "database": given.database})
        engine = open_database(settings)
        result = measure(engine, given.alerts, given.open)
        engine.dispose()
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
