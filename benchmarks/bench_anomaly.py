"""Values per second of the per-series anomaly detector, whole and by part, beside two plain Python baselines.

Prints a table and then one JSON line. Knows no data: series are drawn from a seed. Run on one core:

    NUMBA_NUM_THREADS=1 python benchmarks/bench_anomaly.py
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.anomaly import HalfSpaceTrees

from weir.online.anomaly.detector import AnomalyParams, SeriesAnomalyDetector
from weir.online.anomaly.layout import COMPONENTS

Floats = NDArray[np.float64]


def draw(n: int, seed: int) -> Floats:
    """A daily wave with noise and rare spikes, 288 values a day, shape ``(n,)``."""
    rng = np.random.default_rng(seed)
    wave = 20.0 + 5.0 * np.sin(2 * np.pi * np.arange(n) / 288)
    return wave + rng.normal(size=n) + 30.0 * (rng.random(n) < 0.001)


def rate(work: Callable[[], object], n: int, repeats: int) -> float:
    """Values per second, the best of ``repeats`` after one warm-up."""
    work()
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return n / best


def detector_work(params: AnomalyParams, values: Floats, series: int) -> Callable[[], None]:
    """One pass of the detector with ``values`` dealt to ``series`` rows in turn."""
    detector = SeriesAnomalyDetector(params)
    slots = np.arange(len(values), dtype=np.int64) % series
    ts = np.floor(np.arange(float(len(values))) / series) * 300.0

    def work() -> None:
        detector.run_many(np.zeros((series, detector.state_width)), slots, ts, values)

    return work


def windowed_gaussian(values: Floats, window: int = 500) -> list[float]:
    """NAB's plain baseline as a Python loop: two-sided Gaussian tail of each value under the last ``window``."""
    recent: deque[float] = deque(maxlen=window)
    total = square = 0.0
    scores = []
    for x in values.tolist():
        score = 0.0
        if len(recent) > 1:
            mean = total / len(recent)
            deviation = math.sqrt(max(square / len(recent) - mean * mean, 1e-12))
            score = math.erf(abs(x - mean) / deviation / math.sqrt(2.0))
        if len(recent) == window:
            total -= recent[0]
            square -= recent[0] ** 2
        recent.append(x)
        total += x
        square += x * x
        scores.append(score)
    return scores


def river(values: Floats) -> None:
    """River's half-space trees on three features of the series, score then learn."""
    model: Any = HalfSpaceTrees(n_trees=6, height=5, window_size=250, seed=1)
    previous, mean = float(values[0]), float(values[0])
    for x in values.tolist():
        mean += 0.1 * (x - mean)
        row = {name: 1.0 / (1.0 + math.exp(-z)) for name, z in (("x", x - 20), ("d", x - previous), ("m", mean - 20))}
        model.score_one(row)
        model.learn_one(row)
        previous = x


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    values, base = draw(args.values, seed=1), AnomalyParams()
    rows = {
        "whole, 1 series": rate(detector_work(base, values, 1), len(values), args.repeats),
        "whole, 1000 series": rate(detector_work(base, values, 1000), len(values), args.repeats),
    }
    for name in COMPONENTS:
        only = AnomalyParams(**{f"{other}_weight": float(other == name) for other in COMPONENTS})
        rows[f"{name} alone"] = rate(detector_work(only, values, 1), len(values), args.repeats)
    few = values[: min(3_000, len(values))]
    rows["River HalfSpaceTrees, Python"] = rate(lambda: river(few), len(few), 1)
    some = values[: min(50_000, len(values))]
    rows["windowed Gaussian, Python"] = rate(lambda: windowed_gaussian(some), len(some), 1)
    print(f"{'part':<32}{'values/s':>14}{'us/value':>10}")
    for name, speed in rows.items():
        print(f"{name:<32}{speed:>14,.0f}{1e6 / speed:>10.2f}")
    state_bytes = SeriesAnomalyDetector.state_width * 8
    print(f"state: {state_bytes} bytes per series")
    speeds = {name: round(speed) for name, speed in rows.items()}
    print(json.dumps({"benchmark": "anomaly", "state_bytes": state_bytes, "values_per_s": speeds}))


if __name__ == "__main__":
    main()
