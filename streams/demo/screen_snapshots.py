"""Builds what the screen shows from a host and what was noted beside it. It changes nothing."""

from __future__ import annotations

import math

from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.stages.pipeline import TaskPipeline
from weir.streams.demo.demo_journal import MAIN_METRICS, Journal, MetricHistories
from weir.streams.demo.screen.snapshot import DemoSnapshot, FullRow, TaskRow
from weir.streams.demo.throughput import Measures
from weir.streams.embedded.embedded_host import EmbeddedHost

_SHOWN = ("average_precision", "roc_auc", "precision", "recall", "f1", "log_loss")
_ALERTS = 60


def build_snapshot(
    host: EmbeddedHost,
    journal: Journal,
    histories: MetricHistories,
    measures: Measures,
    *,
    events: int,
    elapsed_s: float,
    duration_s: float,
    event_ts: float,
    thresholds: dict[str, float],
    full: tuple[FullRow, ...] = (),
    events_per_s: float | None = None,
    paths: tuple[tuple[str, str], ...] = (),
) -> DemoSnapshot:
    """One moment of a run that has done ``events``; ``events_per_s`` replaces the rate of the last seconds."""
    histories.refresh(host.pipelines)
    p50, p95, p99 = measures.percentiles_ms
    intakes = host.intake.values()
    return DemoSnapshot(
        elapsed_s=elapsed_s,
        duration_s=duration_s,
        events=events,
        events_per_s=measures.rate if events_per_s is None else events_per_s,
        event_ts=event_ts,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        tasks=tuple(
            _task_row(pipeline, histories, thresholds.get(name, math.nan)) for name, pipeline in host.pipelines.items()
        ),
        alerts=_pressing(host),
        drifts=tuple(reversed(journal.findings)),
        dead_letters=host.stats.dead_letters,
        duplicates=sum(intake.duplicates for intake in intakes),
        late=sum(intake.late for intake in intakes),
        rate_history=tuple(measures.history),
        full=full,
        paths=paths,
    )


def _task_row(pipeline: TaskPipeline, histories: MetricHistories, threshold: float) -> TaskRow:
    name = pipeline.task.name
    metrics = histories.metrics(name)
    return TaskRow(
        name=name,
        scored=pipeline.scored,
        labels=pipeline.model.version,
        metrics={key: metrics.get(key, math.nan) for key in _SHOWN},
        main_metric=MAIN_METRICS[name],
        history=histories.history(name),
        model_version=pipeline.model.version,
        threshold=threshold if math.isfinite(threshold) else math.nan,
        alerts_open=len(pipeline.book),
        alerts_opened=pipeline.book.stats.opened,
    )


def _pressing(host: EmbeddedHost) -> tuple[AlertState, ...]:
    """The most severe open alerts, the tasks taking turns so that none hides the others."""
    ranked: list[tuple[int, int, AlertState]] = []
    for pipeline in host.pipelines.values():
        alerts = sorted(pipeline.book.open_alerts(), key=_pressure, reverse=True)[:_ALERTS]
        ranked += [(turn, -SEVERITIES.index(a.severity), a) for turn, a in enumerate(alerts)]
    ranked.sort(key=lambda item: item[:2])
    return tuple(alert for _, _, alert in ranked[:_ALERTS])


def _pressure(alert: AlertState) -> tuple[int, float, float]:
    return SEVERITIES.index(alert.severity), alert.score, alert.updated_at
