"""Writes what a run leaves for people: JSON lines out of the log, and a summary. It changes no state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson

from weir.streams.config import topics
from weir.streams.demo.demo_journal import MAIN_METRICS, Journal
from weir.streams.demo.scenario import Scenario
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog

FILES = ("alerts.jsonl", "predictions-sample.jsonl", "drift.jsonl", "dead-letters.jsonl", "summary.json")
_SAMPLE = 300


def export(
    directory: Path, scenario: Scenario, host: EmbeddedHost, journal: Journal, last: DemoSnapshot, state: dict[str, Any]
) -> list[tuple[str, str]]:
    """Write all files; (what, path) of each, for the summary."""
    alerts = _newest_alerts(host.log)
    _lines(directory / FILES[0], alerts)
    _lines(directory / FILES[1], _sample(host.log))
    _lines(directory / FILES[2], ({"time": _time(f.ts), **msgspec.structs.asdict(f)} for f in journal.findings))
    _lines(directory / FILES[3], (orjson.loads(r) for r in _values(host.log, topics.DEAD_LETTERS)))
    summary = _summary(scenario, host, journal, last, state)
    (directory / FILES[4]).write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")
    what = (f"alerts ({len(alerts):,})", "some predictions", "drifts, requests", "dead letters", "summary")
    return [(name, str(directory / file)) for name, file in zip(what, FILES, strict=True)]


def _values(log: EmbeddedLog, topic: str) -> Iterable[bytes]:
    return (record.value for batch in log.read([topic], 0) for record in batch.records)


def _newest_alerts(log: EmbeddedLog) -> list[dict[str, Any]]:
    """The last state of every alert, in the order in which they opened, with its times readable."""
    newest: dict[str, dict[str, Any]] = {}
    for value in _values(log, topics.ALERTS):
        alert = orjson.loads(value)
        # The log holds a record for each change of an alert; a key keeps the place that it got first.
        newest[alert["alert_id"]] = alert
    for alert in newest.values():
        alert["reasons"] = [reason["text"] for reason in alert["reasons"]]
        alert["opened_at"], alert["updated_at"] = _time(alert["opened_at"]), _time(alert["updated_at"])
    return list(newest.values())


def _sample(log: EmbeddedLog) -> Iterable[dict[str, Any]]:
    """One prediction out of every few batches, over the whole run."""
    batches = list(log.read([topics.PREDICTIONS], 0))
    step = max(len(batches) // _SAMPLE, 1)
    for number, batch in enumerate(batches[::step]):
        yield orjson.loads(batch.records[number % len(batch.records)].value)


def _summary(
    scenario: Scenario, host: EmbeddedHost, journal: Journal, last: DemoSnapshot, state: dict[str, Any]
) -> dict[str, Any]:
    return {
        **state,
        "scenario": scenario.model_dump(),
        "event_time": _time(last.event_ts),
        "drift_planned_at": _time(scenario.simulation().drift_ts),
        "seconds": round(last.elapsed_s, 2),
        "events_this_run": last.events,
        "events_per_s": round(last.events_per_s),
        "latency_ms": {"p50": last.latency_p50_ms, "p95": last.latency_p95_ms, "p99": last.latency_p99_ms},
        "totals": asdict(host.stats),
        "duplicates": last.duplicates,
        "late": last.late,
        "blocks": journal.blocks,
        "drifts": sum(f.kind == "drift" for f in journal.findings),
        "tasks": {name: _task(name, host) for name in host.pipelines},
    }


def _task(name: str, host: EmbeddedHost) -> dict[str, Any]:
    pipeline, main = host.pipelines[name], MAIN_METRICS[name]
    points = pipeline.evaluation.points()
    return {
        "scored": pipeline.scored,
        "labelled": pipeline.labelled,
        "model_version": pipeline.model.version,
        "alerts_open": len(pipeline.book),
        "alerts": asdict(pipeline.book.stats),
        "metrics": pipeline.evaluation.get(),
        "main_metric": main,
        "history": [[_time(p["ts"]), round(p["metrics"][main], 4)] for p in points if main in p["metrics"]],
    }


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row) + b"\n")


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
