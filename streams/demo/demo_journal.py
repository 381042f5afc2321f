"""What a demo notes besides the log: drifts and requests as they are found, how each task did, and how fast it went.

What of that the screen shows, and what a run leaves for people: JSON lines out of the log, and a summary. It reads no
clock and changes no state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.stages.retrain_policy import RetrainAsked
from weir.streams.config import topics
from weir.streams.demo.scenario import Scenario
from weir.streams.demo.screen.snapshot import DemoSnapshot, Finding, TaskRow
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.whole_files import whole, write_whole

MAIN_METRICS = {"fraud": "average_precision", "churn": "roc_auc", "device_failure": "average_precision"}
"""The metric of each task that the screen follows."""


class Journal(msgspec.Struct):
    """Observes a host; part of its checkpoints."""

    blocks: int = 0
    """How many blocks of the stream are behind the state: the simulator repeats itself exactly, so a resumed run skips
    that many and goes on."""
    findings: list[Finding] = []
    retraining: dict[str, bytes] = {}
    """Snapshots of the trainers by task, as of the newest checkpoint."""

    def observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        """Note what one step found."""
        task = pipeline.task.name
        self.findings += [Finding("drift", d.ts, task, d.words, d.detector) for d in out.detections]
        self.findings += [Finding("retrain_request", r.ts, task, _request(r)) for r in out.requests]


def _request(asked: RetrainAsked) -> str:
    """A request in few words; the drift behind it has a line of its own."""
    why = f"{asked.detail.split(':')[0]} has drifted" if asked.cause == "drift" else asked.detail
    return f"asks for a new model: {why}"


class MetricHistories:
    """The metrics of each task over event time, read anew only when they may have moved."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, dict[str, float], tuple[float, ...]]] = {}

    def of(self, pipeline: TaskPipeline) -> tuple[dict[str, float], tuple[float, ...]]:
        """A task's rolling metrics, and its main one, oldest first."""
        name, labelled = pipeline.task.name, pipeline.labelled
        if name not in self._read or self._read[name][0] != labelled:  # to sort a window costs milliseconds
            points = [point["metrics"].get(MAIN_METRICS[name]) for point in pipeline.evaluation.points()]
            history = tuple(value for value in points if value is not None)
            self._read[name] = labelled, pipeline.evaluation.rolling(), history
        return self._read[name][1:]


_WINDOW_S: Final = 3.0


class Measures:
    """Latency percentiles over batches, and the rate of events over the last seconds.

    Examples
    --------
    >>> m = Measures()
    >>> for second in range(10):
    ...     m.batch(0.004)
    ...     m.progress(float(second), 1000 * second)
    >>> m.rate, m.percentiles_ms, round(m.busy_s, 3)
    (1000.0, (4.0, 4.0, 4.0), 0.04)
    """

    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=200_000)
        self._progress: deque[tuple[float, int]] = deque()
        self.busy_s = 0.0
        """Time spent on batches: what is left of a run is waiting, simulating and drawing."""
        self.history: list[float] = []
        """Events per second, one value a second."""

    def batch(self, seconds: float) -> None:
        """One batch took this long from its append until its outputs were published."""
        self._latencies.append(seconds)
        self.busy_s += seconds

    def progress(self, elapsed_s: float, events: int) -> None:
        """``events`` had been processed at ``elapsed_s``, both since the start of the run."""
        self._progress.append((elapsed_s, events))
        # Two at least: on a slow machine a block may take longer than the window.
        while self._progress[0][0] < elapsed_s - _WINDOW_S and len(self._progress) > 2:
            self._progress.popleft()
        if elapsed_s >= len(self.history) + 1:
            self.history.append(self.rate)

    @property
    def rate(self) -> float:
        """Events per second over the window."""
        if len(self._progress) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._progress[0], self._progress[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def percentiles_ms(self) -> tuple[float, float, float]:
        """p50, p95 and p99 of the latency of a batch, milliseconds; NaN before the first."""
        if not self._latencies:
            return (float("nan"),) * 3
        p50, p95, p99 = np.percentile(np.array(self._latencies) * 1e3, [50, 95, 99]).tolist()
        return p50, p95, p99


_SHOWN = ("average_precision", "roc_auc", "precision", "recall", "f1", "log_loss")
_ALERTS = 60


def task_row(pipeline: TaskPipeline, histories: MetricHistories, threshold: float) -> TaskRow:
    """A task's line."""
    name, (metrics, history) = pipeline.task.name, histories.of(pipeline)
    return TaskRow(
        name=name,
        scored=pipeline.scored,
        labels=pipeline.model.version,
        metrics={key: metrics.get(key, math.nan) for key in _SHOWN},
        main_metric=MAIN_METRICS[name],
        history=history,
        threshold=threshold if math.isfinite(threshold) else math.nan,
        alerts_open=len(pipeline.book),
        alerts_opened=pipeline.book.stats.opened,
    )


def pressing(host: EmbeddedHost) -> tuple[AlertState, ...]:
    """The most severe open alerts, the tasks taking turns so that none hides the others."""
    ranked: list[tuple[int, int, AlertState]] = []
    for pipeline in host.pipelines.values():
        alerts = sorted(pipeline.book.open_alerts(), key=_pressure, reverse=True)[:_ALERTS]
        ranked += [(turn, -SEVERITIES.index(a.severity), a) for turn, a in enumerate(alerts)]
    ranked.sort(key=lambda item: item[:2])
    return tuple(alert for _, _, alert in ranked[:_ALERTS])


def _pressure(alert: AlertState) -> tuple[int, float, float]:
    return SEVERITIES.index(alert.severity), alert.score, alert.updated_at


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
    write_whole(directory / FILES[4], orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")
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
    with whole(path) as file:
        for row in rows:
            file.write(orjson.dumps(row) + b"\n")


def _time(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
