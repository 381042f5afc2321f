"""What the screen shows of tasks and alerts, read from a host. It changes nothing."""

from __future__ import annotations

import math

from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.stages.pipeline import TaskPipeline
from weir.streams.demo.demo_journal import MAIN_METRICS, MetricHistories
from weir.streams.demo.screen.snapshot import TaskRow
from weir.streams.embedded.embedded_host import EmbeddedHost

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
