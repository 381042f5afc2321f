"""What metrics and drift detection cost per row, beside River's own objects fed one value at a time.

    .venv/bin/python benchmarks/bench_metrics.py

Prints a table and then one JSON line. CPU time of one thread, the best of three runs, in batches of 4,096 rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from river import drift as river_drift
from river import metrics as river_metrics

from weir.online.drift.drift_policy import StreamKind
from weir.online.drift.monitor import DriftMonitor
from weir.online.metrics.binned_metrics import CumulativeMetrics, FadingMetrics
from weir.online.metrics.metric import Metrics, ScoredRows
from weir.online.metrics.rolling import RollingMetrics

ROWS = 200_000
RIVER_ROWS = 5_000
KSWIN_VALUES = 300  # River's KSWIN takes a quarter of a millisecond a value
BATCH = 4_096
STREAMS = 15
RIVER: tuple[Any, Any] = (river_metrics, river_drift)  # their classes are not annotated


def best_us(rows: int, make: Callable[[], Callable[[], object]], runs: int = 3) -> float:
    """Microseconds a row; ``make`` prepares a run and returns it."""
    times = []
    for _ in range(runs):
        run = make()
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times) / rows * 1e6


def scored_rows(n: int) -> ScoredRows:
    """Labelled scores, one positive in twenty."""
    rng, names = np.random.default_rng(1), [f"event-{i}" for i in range(n)]
    score, y, one = rng.random(n), rng.random(n) < 0.05, np.ones(n)
    return ScoredRows(names, np.arange(n, dtype=np.float64), score, y, one, 0.5 * one, np.zeros(n, np.bool_))


def bench_metrics(make: Callable[[], Metrics]) -> float:
    """Microseconds a labelled row for ``add``."""
    rows = scored_rows(ROWS)

    def prepare() -> Callable[[], object]:
        metrics = make()
        return lambda: [metrics.add(rows.slice(i, i + BATCH)) for i in range(0, ROWS, BATCH)]

    return best_us(ROWS, prepare)


def bench_get(make: Callable[[], Metrics]) -> float:
    """Microseconds for one ``get``."""
    metrics = make()
    metrics.add(scored_rows(20_000))
    return best_us(20, lambda: lambda: [metrics.get() for _ in range(20)])


def bench_river_metrics() -> float:
    """River's accuracy, precision, recall, F1, kappa, log loss and binned ROC AUC, one row at a time."""
    rng = np.random.default_rng(1)
    rows = list(zip(rng.random(RIVER_ROWS).tolist(), (rng.random(RIVER_ROWS) < 0.05).tolist(), strict=True))

    def prepare() -> Callable[[], object]:
        m = RIVER[0]
        labels = [m.Accuracy(), m.Precision(), m.Recall(), m.F1(), m.CohenKappa()]
        scores = [m.LogLoss(), m.ROCAUC(n_thresholds=50)]

        def run() -> None:
            for score, y in rows:
                for metric in labels:
                    metric.update(y, score >= 0.5)
                for metric in scores:
                    metric.update(y, score)

        return run

    return best_us(RIVER_ROWS, prepare)


def bench_drift() -> float:
    """Microseconds an event for ADWIN, Page-Hinkley, KSWIN and PSI over 15 streams."""
    rng = np.random.default_rng(1)
    kinds: dict[str, StreamKind] = {f"f{i}": "feature" for i in range(STREAMS - 2)}
    kinds |= {"score": "score", "rate": "rate"}
    columns, ts = rng.normal(size=(ROWS, STREAMS)), np.arange(ROWS) + 0.0
    columns[:, -1] = rng.random(ROWS) < 0.02

    def prepare() -> Callable[[], object]:
        monitor = DriftMonitor(kinds)
        monitor.update(ts[:16_384], columns[:16_384])  # past the reference
        return lambda: [monitor.update(ts[i : i + BATCH], columns[i : i + BATCH]) for i in range(0, ROWS, BATCH)]

    return best_us(ROWS, prepare)


def bench_river_drift(make: Callable[[], Any], values: int) -> float:
    """Microseconds an event for one River detector on each of 15 streams."""
    x = np.random.default_rng(1).normal(size=values).tolist()

    def prepare() -> Callable[[], object]:
        detector = make()
        return lambda: [detector.update(value) for value in x]

    return best_us(values, prepare) * STREAMS


def main() -> None:
    """Run everything and print it."""
    makers: dict[str, Callable[[], Metrics]] = {
        "cumulative": CumulativeMetrics,
        "fading": FadingMetrics,
        "rolling 10,000": RollingMetrics,
    }
    result: dict[str, float] = {}
    for name, make in makers.items():
        result[f"metrics update, {name} (us/row)"] = bench_metrics(make)
        result[f"metrics get, {name} (us/call)"] = bench_get(make)
    result["River: 7 metrics (us/row)"] = bench_river_metrics()
    result["drift, 15 streams, 4 detectors (us/event)"] = bench_drift()
    result["River: ADWIN x 15 (us/event)"] = bench_river_drift(lambda: RIVER[1].ADWIN(), 50_000)
    result["River: Page-Hinkley x 15 (us/event)"] = bench_river_drift(lambda: RIVER[1].PageHinkley(), 50_000)
    result["River: KSWIN x 15 (us/event)"] = bench_river_drift(lambda: RIVER[1].KSWIN(seed=1), KSWIN_VALUES)
    for name, value in result.items():
        print(f"{name:<55} {value:12.3f}")
    print(json.dumps({"bench": "metrics"} | {name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
