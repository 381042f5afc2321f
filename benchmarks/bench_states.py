"""How well a detector of states finds what is wrong with a pump, at its default settings, beside plain baselines.

Forty runs of an hour, a row a second, eight sensors that follow load, ambient temperature and a valve, all wandering.
The first 400 rows are the reference; after it four states of 2 to 10 minutes: a sensor that is stuck, drifts or is
noisy, a leak, a valve that closes by a part. Every row from a state's first to its last is to be found; nothing was
tuned on these seeds. Prints a table and then one JSON line.

Run: ``NUMBA_NUM_THREADS=1 python -m benchmarks.bench_states [--runs N] [--seed N]``
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from weir.online.anomaly.detector import SeriesAnomalyDetector
from weir.online.batch import EventBatch
from weir.online.features import kernel
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

Floats = NDArray[np.float64]
SENSORS = ("flow", "pressure", "current", "temperature", "vibration", "level", "voltage", "speed")
STATES = ("stuck", "drift", "leak", "noise", "valve")
ROWS, REFERENCE, FAULTS = 3600, 400, 4
FALSE_ALARMS = 0.15
NOISE = np.array([0.4, 0.08, 0.2, 0.3, 0.1, 0.5, 1.0, 5.0])
WANDER = np.array([3.6, 0.65, 1.55, 1.75, 0.14, 2.05, 1.1, 20.6])
TASK = TaskSpec.from_toml(f"""
name = "pumps"
stream = "device-events"
entity = "pump"
inputs = ["pump.state*"]
[[entities]]
name = "pump"
key = "device_id"
[[entities.anomalies]]
name = "state"
score = "state"
values = {json.dumps(SENSORS)}
[model]
kind = "column"
params = {{ column = "pump.state" }}
""")


def wander(rng: np.random.Generator, span: float) -> Floats:
    """A stationary course with this correlation time, in rows."""
    keep = np.exp(-1.0 / span)
    out, at = np.empty(ROWS), rng.normal()
    for i, step in enumerate(rng.normal(size=ROWS) * np.sqrt(1.0 - keep * keep)):
        at = keep * at + step
        out[i] = at
    return out


def pump(seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Values ``(ROWS, 8)`` of one run, and the state of each row: -1 where it is normal."""
    rng = np.random.default_rng(seed)
    load, ambient, valve = wander(rng, 40.0), wander(rng, 60.0), wander(rng, 50.0)
    x = np.column_stack(
        (30 + 3 * load - 2 * valve, 5 + 0.4 * load + 0.5 * valve, 12 + 1.5 * load + 0.3 * valve,
         60 + 1.5 * ambient + 0.8 * load, 1 + 0.1 * load, 70 + 2 * ambient, 230 - 0.5 * load, 1450 + 20 * load)
    ) + NOISE * rng.normal(size=(ROWS, 8))  # fmt: skip
    states = np.full(ROWS, -1)
    for start in np.linspace(REFERENCE + 60, ROWS - 660, FAULTS).astype(int):
        a = start + int(rng.integers(60))
        spoil(x, a, min(a + int(rng.integers(120, 601)), ROWS), states, rng)
    return x, states


def spoil(x: Floats, a: int, b: int, states: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Put one state of a random kind and strength into the rows from ``a`` to ``b``."""
    n, kind, sensor = b - a, int(rng.integers(len(STATES))), int(rng.integers(8))
    states[a:b] = kind
    match STATES[kind]:
        case "stuck":
            x[a:b, sensor] = x[a, sensor]
        case "drift":
            x[a:b, sensor] += rng.choice([-1, 1]) * rng.uniform(2, 4) * WANDER[sensor] * np.linspace(0, 1, n)
        case "leak":
            strength = np.minimum(np.arange(n) / 30, 1) * rng.uniform(1, 2)
            x[a:b, [0, 1, 5]] -= np.outer(strength, [2.5, 0.4, 1.5])
        case "noise":
            x[a:b, sensor] += rng.normal(size=n) * NOISE[sensor] * rng.uniform(2, 4)
        case _:
            x[a:b, :3] += rng.uniform(1, 2) * np.array([-4.0, 0.6, 0.8])


def weir(values: Floats) -> Floats:
    """The score of a task of default settings, ``(ROWS,)``; 0 in the reference."""
    ids: list[str | None] = ["p"] * ROWS
    numbers = dict(zip(SENSORS, np.ascontiguousarray(values.T), strict=True))
    batch = EventBatch([""] * ROWS, 1.7e9 + np.arange(float(ROWS)), [""] * ROWS, {"device_id": ids}, numbers)
    engine = engine_of(TASK, MemoryFeatureStore())
    x: Floats = engine.process(batch, np.full(ROWS, kernel.EVENT, dtype=np.uint8)).x
    return x[:, 0]  # the score; 0 while the reference runs


def onset(x: Floats) -> Floats:
    """The largest score of an onset detector a sensor."""
    one, ts = SeriesAnomalyDetector(), np.arange(float(ROWS))
    runs = [one.run_many(np.zeros((1, one.state_width)), np.zeros(ROWS, np.int64), ts, column) for column in x.T.copy()]
    return np.asarray(np.max([run.score for run in runs], axis=0), dtype=np.float64)


def largest_z(x: Floats) -> Floats:
    """Largest deviation from the mean of the reference."""
    return np.asarray(np.abs((x - x[:REFERENCE].mean(0)) / x[:REFERENCE].std(0)).max(1))


def mahalanobis(x: Floats) -> Floats:
    """Ledoit and Wolf's covariance of the reference."""
    return np.asarray(LedoitWolf().fit(x[:REFERENCE]).mahalanobis(x))


def t2_and_q(x: Floats) -> Floats:
    """PCA of 90 % of the reference's variance: both statistics over their largest value in it, added."""
    z = (x - x[:REFERENCE].mean(0)) / x[:REFERENCE].std(0)
    pca = PCA(0.9).fit(z[:REFERENCE])
    scores = pca.transform(z)
    t2 = (scores**2 / pca.explained_variance_).sum(1)
    q = ((z - pca.inverse_transform(scores)) ** 2).sum(1)
    return np.asarray(t2 / t2[:REFERENCE].max() + q / q[:REFERENCE].max())


def best(states: NDArray[np.int64], score: Floats, thresholds: Floats) -> tuple[float, float, float]:
    """Threshold, F1 and share of normal rows flagged: the best F1 among those of at most ``FALSE_ALARMS``."""
    found = (0.0, 0.0, 0.0)
    for threshold in thresholds:
        flagged, odd = score >= threshold, states >= 0
        f1 = 2.0 * float((flagged & odd).sum()) / float(flagged.sum() + odd.sum())
        false = float(flagged[~odd].mean())
        if false <= FALSE_ALARMS and f1 > found[1]:
            found = (float(threshold), f1, false)
    return found


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    runs = [pump(args.seed + k) for k in range(args.runs)]
    states = np.concatenate([each[REFERENCE:] for _, each in runs])
    methods: dict[str, Callable[[Floats], Floats]] = {
        "weir, state": weir, "weir, onset": onset, "largest z": largest_z, "Mahalanobis": mahalanobis,
        "PCA, T2 + Q": t2_and_q,
    }  # fmt: skip
    result: dict[str, dict[str, float]] = {}
    print(f"{'':14} {'AUC':>5} {'F1':>5} {'false':>6}  AUC by state: {', '.join(STATES)}")
    for name, method in methods.items():
        start = time.perf_counter()
        score = np.concatenate([method(x)[REFERENCE:] for x, _ in runs])
        took = time.perf_counter() - start
        # Weir's threshold is a rate of false alarms and is fixed; the others' is the best in hindsight.
        fixed = name == "weir, state"
        _, f1, false = best(states, score, np.array([0.99]) if fixed else np.quantile(score, np.linspace(0.5, 1, 200)))
        by_state = [
            float(roc_auc_score(states[(states < 0) | (states == k)] >= 0, score[(states < 0) | (states == k)]))
            for k in range(len(STATES))
        ]
        result[name] = {"auc": float(roc_auc_score(states >= 0, score)), "f1": f1, "false_alarms": false,
                        "rows_per_s": len(runs) * ROWS / took, **dict(zip(STATES, by_state, strict=True))}  # fmt: skip
        told = " ".join(f"{auc:.2f}" for auc in by_state)
        print(f"{name:14} {result[name]['auc']:5.3f} {f1:5.2f} {false:6.2f}  {told}", flush=True)
    print(json.dumps({"benchmark": "states", "runs": args.runs, "seed": args.seed, "result": result}))


if __name__ == "__main__":
    main()
