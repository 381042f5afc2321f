"""Progress as one plain line, for logs and pipes."""

from __future__ import annotations

import math

from weir.streams.demo.screen.number_words import event_time, minutes
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.text import printable


def plain_line(snapshot: DemoSnapshot) -> str:
    """The snapshot as one line of ASCII.

    Examples
    --------
    >>> plain_line(DemoSnapshot(10.0, 60.0, 800_000, 80_000.0, 1_770_905_100.0, 2.0, 4.0, 9.0))
    '00:10/01:00 events=800000 rate=80000/s event_time=2026-02-12T14:05Z p99=9.0ms alerts=0 drifts=0 dead=0'
    """
    open_alerts = sum(task.alerts_open for task in snapshot.tasks)
    words = [
        f"{minutes(snapshot.elapsed_s)}/{minutes(snapshot.duration_s)}",
        f"events={snapshot.events}",
        f"rate={snapshot.events_per_s:.0f}/s",
        f"event_time={event_time(snapshot.event_ts, '%Y-%m-%dT%H:%MZ')}",
        f"p99={snapshot.latency_p99_ms:.1f}ms",
    ]
    for task in snapshot.tasks:
        value = task.metrics.get(task.main_metric, math.nan)
        if math.isfinite(value):
            words.append(printable(f"{task.name}.{task.main_metric}={value:.3f}"))
    words += [printable(f"{row.task}.full=v{row.serving}") for row in snapshot.full]
    words += [f"alerts={open_alerts}", f"drifts={snapshot.drifts_found}", f"dead={snapshot.dead_letters}"]
    return " ".join(words).encode("ascii", "replace").decode()
