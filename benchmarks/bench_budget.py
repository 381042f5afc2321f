"""Whether budgets hold: simulated streams with jumps of the level of scores, pauses, storms, late rows and rhythm.

Run it with ``python -m benchmarks.bench_budget``. For each kind of stream it prints how many had a day or an hour of
event time, wherever it begins, with more alerts than the cap, by the time each alert tells; and how much of the cap
was used at a stable level, from the second week on. It ends with 1 where any was over it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import PredictionBatch
from weir.online.decisions.alert_cap import DAY_S
from weir.online.decisions.alert_policy import AlertPolicy
from weir.online.decisions.alerts import AlertBook
from weir.online.decisions.threshold import Threshold
from weir.online.decisions.threshold_policy import BudgetThreshold

Floats = NDArray[np.float64]
KINDS: Final = ("stable", "rhythm", "episodes", "jump up", "jump down", "pauses", "storms", "late")
BUDGETS: Final = (1.0, 3.0, 10.0, 30.0, 100.0)


def stream(kind: str, days: int, per_day: int, rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Times, scores and entities of one stream."""
    n = days * per_day
    ts = np.sort(rng.uniform(0.0, days * DAY_S, n))
    logit, entity = rng.normal(-4.0, 1.5, n), np.arange(n)
    middle = n // 2
    if kind == "rhythm":
        ts = np.sort((ts // DAY_S + rng.beta(4.0, 4.0, n)) * DAY_S)
    elif kind == "episodes":  # twelve rows an entity and of like scores, minutes apart
        logit = np.repeat(logit[: n // 12 + 1], 12)[:n] + rng.normal(0.0, 0.3, n)
        ts = np.repeat(ts[::12], 12)[:n] + np.arange(n) % 12 * 240.0
        order, entity = np.argsort(ts, kind="stable"), entity // 12
        ts, logit, entity = ts[order], logit[order], entity[order]
    elif kind.startswith("jump"):
        logit[middle:] += 4.0 if kind == "jump up" else -3.0
    elif kind == "pauses":
        ts += np.cumsum(np.where(rng.uniform(size=n) < 6.0 / n, rng.uniform(0.2, 9.0, n) * DAY_S, 0.0))
    elif kind == "storms":
        for at in rng.integers(0, n, 4):
            logit[at : at + per_day // 4] += rng.uniform(3.0, 8.0)
    elif kind == "late":
        ts -= np.where(rng.uniform(size=n) < 0.2, rng.uniform(0.0, DAY_S, n), 0.0)
        logit[middle : middle + per_day] += 3.0
    return ts + 1.7e9, 1.0 / (1.0 + np.exp(-logit)), entity


def opened(policy: BudgetThreshold, ts: Floats, score: Floats, entity: NDArray[np.int64]) -> Floats:
    """When alerts opened, ascending, in batches of all sizes."""
    line = Threshold(policy)
    book = AlertBook(AlertPolicy(), "bench", admit=line.admit)
    marks, found, start = np.maximum.accumulate(ts), set[tuple[str, float]](), 0
    for size in np.resize([997, 64, 1, 4_000], len(ts)).tolist():
        at = slice(start, start + size)
        ids, n = [str(each) for each in entity[at]], len(ts[at])
        names = [str(each) for each in range(start, start + n)]
        rows = PredictionBatch(names, ids, ts[at], score[at], np.zeros(n, np.int64), np.zeros((n, 1)))
        made = book.decide_by(rows, lambda take: line.thresholds(marks[at], score[at], take), None, marks[at])  # noqa: B023
        found |= {(alert.alert_id, alert.opened_at) for alert in made.alerts}
        if (start := start + size) >= len(ts):
            break
    return np.sort(np.array([at for _, at in found]))


def most(times: Floats, span: float) -> int:
    """The most of ``times`` in any half-open ``span``."""
    return int((np.searchsorted(times, times + span) - np.arange(len(times))).max(initial=0))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=28)
    args = parser.parse_args()
    over, used = dict.fromkeys(KINDS, 0), {kind: dict[float, list[float]]() for kind in KINDS}
    counts = dict.fromkeys(KINDS, 0)
    for i in range(args.streams):
        rng, kind = np.random.default_rng(i), KINDS[i % len(KINDS)]
        budget = BUDGETS[i // len(KINDS) % len(BUDGETS)]
        policy = BudgetThreshold(alerts_per_day=budget)
        per_day = int(rng.choice([600, 1_500, 4_000]))
        per_day = 4_000 if kind == "episodes" else per_day  # fewer entities a day than alerts use up no cap
        ts, score, entity = stream(kind, args.days, per_day, rng)
        times = opened(policy, ts, score, entity)
        counts[kind] += 1
        over[kind] += any(most(times, span) > max(int(alerts), 1) for alerts, span in policy.limits)
        late = times[times >= ts[0] + 7 * DAY_S]
        gaps = np.diff(np.maximum.accumulate(ts[ts >= ts[0] + 7 * DAY_S]))
        lived = float(gaps[gaps < 0.15 * DAY_S].sum() if kind == "pauses" else gaps.sum()) / DAY_S
        used[kind].setdefault(budget, []).append(len(late) / budget / lived)
    daily = ", ".join(f"{budget:g}" for budget in BUDGETS)
    print(f"{'kind':10} {'streams':>8} {'over':>5}   part of the cap used with {daily} a day")
    for kind in KINDS:
        means = [float(np.mean(used[kind].get(b, [np.nan]))) for b in BUDGETS]
        print(f"{kind:10} {counts[kind]:8,} {over[kind]:5}   {'  '.join(f'{mean:5.3f}' for mean in means)}")
    stable = {f"{b:g}": round(float(np.mean(held)), 4) for b, held in used["stable"].items()}
    print(json.dumps({"bench": "budget", "streams": args.streams, "over": sum(over.values()), "used_stable": stable}))
    return int(any(over.values()))


if __name__ == "__main__":
    sys.exit(main())
