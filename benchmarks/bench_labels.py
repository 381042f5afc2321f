"""Cost per row of labels and decisions: join, sampling, timers, thresholds, alerts, reasons.

Prints a table and then one JSON line. Run: ``python -m benchmarks.bench_labels``. The baseline of the join is what one
writes first: a dict of feature rows by event id, read one label at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import IntVector, LabelBatch, PredictionBatch
from weir.online.decisions.alert_policy import AlertPolicy
from weir.online.decisions.alert_state import Reason
from weir.online.decisions.alerts import AlertBook
from weir.online.decisions.reasons import ReasonWriter
from weir.online.decisions.threshold import Threshold
from weir.online.decisions.threshold_policy import BudgetThreshold, PrecisionThreshold
from weir.online.decisions.typical import TypicalValues
from weir.online.labels.join import LabelJoiner
from weir.online.labels.join_policy import JoinPolicy
from weir.online.labels.sampling import NegativeSampler
from weir.online.labels.silence import SilencePolicy, SilenceTimers

ROWS, BATCH, FEATURES, EXTRA = 200_000, 2_000, 30, 8
DAY = 86_400.0
REPEATS = 3


def batches() -> list[PredictionBatch]:
    """Twenty days of scores of 20,000 entities."""
    random = np.random.default_rng(0)
    ts = np.sort(random.uniform(0.0, 20 * DAY, ROWS))
    score = 1.0 / (1.0 + np.exp(-random.normal(-3.0, 2.0, ROWS)))
    x = random.normal(size=(ROWS, FEATURES))
    entity = random.integers(0, 20_000, ROWS)
    version = np.zeros(ROWS, dtype=np.int64)
    return [
        PredictionBatch(
            [f"tx-{i:012d}" for i in range(at, at + BATCH)],
            [f"user-{i}" for i in entity[at : at + BATCH]],
            ts[at : at + BATCH],
            score[at : at + BATCH],
            version[at : at + BATCH],
            x[at : at + BATCH],
        )
        for at in range(0, ROWS, BATCH)
    ]


def labels_of(batch: PredictionBatch) -> LabelBatch:
    """Return a label for each row."""
    ids: list[str | None] = list(batch.event_id)
    labels = [f"l-{i}" for i in batch.event_id]
    return LabelBatch(labels, batch.entity_id, ids, batch.ts, batch.score > 0.3, np.ones(len(batch)))


def best(make: Callable[[], Iterator[None]], rows: int = ROWS) -> float:
    """CPU microseconds a row (other work on the machine does not count), best of some; set-up is before ``yield``."""
    times: list[float] = []
    for _ in range(REPEATS):
        steps = make()
        next(steps)
        start = time.process_time()
        for _ in steps:
            pass
        times.append(time.process_time() - start)
    return min(times) / rows * 1e6


def main() -> None:
    """Measure and print."""
    data = batches()
    labels = [labels_of(batch) for batch in data]
    extra = np.zeros((BATCH, EXTRA))
    merchants: dict[str, list[str | None]] = {"merchant_id": [f"m{i}" for i in range(BATCH)]}
    random_order = np.random.default_rng(1).permutation(ROWS)

    def scattered() -> list[LabelBatch]:
        """Labels that come in any order, so one batch of them reads rows of all days."""
        ids = [e for batch in data for e in batch.event_id]
        out = []
        for at in range(0, ROWS, BATCH):
            chosen = [ids[i] for i in random_order[at : at + BATCH]]
            names: list[str | None] = list(chosen)
            flat: NDArray[np.float64] = np.zeros(BATCH)
            out.append(LabelBatch(chosen, chosen, names, flat, flat > 1, flat + 1))
        return out

    far = scattered()

    def joiner(**policy: object) -> LabelJoiner:
        return LabelJoiner(JoinPolicy.model_validate(policy), FEATURES, EXTRA, ("merchant_id",))

    def filled() -> LabelJoiner:
        to = joiner()
        for batch in data:
            to.log(batch, extra, merchants)
        return to

    def log(**policy: object) -> Callable[[], Iterator[None]]:
        def steps() -> Iterator[None]:
            to = joiner(**policy)
            yield
            for batch in data:
                to.log(batch, extra, merchants)

        return steps

    def label(order: list[LabelBatch]) -> Callable[[], Iterator[None]]:
        def steps() -> Iterator[None]:
            to = filled()
            yield
            for batch in order:
                to.label(batch)

        return steps

    def naive_log() -> Iterator[None]:
        rows: dict[str, dict[str, object]] = {}
        yield
        for batch in data:
            for i, event_id in enumerate(batch.event_id):
                rows[event_id] = {
                    "ts": float(batch.ts[i]),
                    "score": float(batch.score[i]),
                    "entity": batch.entity_id[i],
                    "merchant": merchants["merchant_id"][i],
                    "features": batch.features[i].copy(),
                    "extra": extra[i].copy(),
                }

    def naive_label() -> Iterator[None]:
        rows = {e: (batch.features[i].copy(), extra[i].copy()) for batch in data for i, e in enumerate(batch.event_id)}
        yield
        for batch in labels:
            found = [rows.get(e or "") for e in batch.event_id]
            np.array([row[0] for row in found if row is not None])
            np.array([row[1] for row in found if row is not None])

    def sample() -> Iterator[None]:
        to = filled()
        joined = [to.label(batch).examples for batch in labels]
        sampler = NegativeSampler(0.1, "s")
        yield
        for examples in joined:
            sampler.sample(examples)

    def timers() -> Iterator[None]:
        to = SilenceTimers(SilencePolicy(observe_s=3 * DAY, horizon_s=5 * DAY))
        yield
        for batch in data:
            to.advance(batch.entity_id, batch.ts)

    def threshold(to: Threshold) -> Iterator[None]:
        yield
        for batch, known in zip(data, labels, strict=True):
            to.thresholds(batch.ts, batch.score)
            to.update_labels(batch.score, known.value, known.weight)

    def alerts(share: float) -> Callable[[], Iterator[None]]:
        line = float(np.quantile(np.concatenate([batch.score for batch in data]), 1 - share)) if share else 2.0
        at = np.full(BATCH, line)

        def steps() -> Iterator[None]:
            book = AlertBook(AlertPolicy(), "fraud")
            yield
            for batch in data:
                book.decide_by(batch, lambda take: take(0, BATCH, at))

        return steps

    names = ("amount", "night", *(f"user.v{i}_mean_7d" for i in range(FEATURES - 2)))

    def usual() -> Iterator[None]:
        to = TypicalValues(names)
        yield
        for batch in data:
            to.update(batch.features)

    def reasons() -> Iterator[None]:
        writer, values = ReasonWriter(names), TypicalValues(names)
        values.update(data[0].features)
        rows: IntVector = np.arange(200)
        out: list[list[Reason]] = []
        yield
        for batch in data[:10]:
            out += writer.write(batch.features[rows], batch.features[rows], values.values())

    table = {
        "naive join, log": best(naive_log),
        "naive join, label": best(naive_label),
        "join, log": best(log()),
        "join, log, by entity": best(log(match="entity_range", range_s=DAY)),
        "join, log, expiring after 2 d": best(log(keep_s=2 * DAY)),
        "join, log, negatives after 7 d": best(log(negative_after_s=7 * DAY)),
        "join, label": best(label(labels)),
        "join, label, scattered over 20 d": best(label(far)),
        "negative sampling": best(sample),
        "silence timers": best(timers),
        "threshold, budget": best(lambda: threshold(Threshold(BudgetThreshold(alerts_per_day=50)))),
        "threshold, precision": best(lambda: threshold(Threshold(PrecisionThreshold(precision=0.8)))),
        "alerts, none over": best(alerts(0.0)),
        "alerts, 1 % over": best(alerts(0.01)),
        "typical values": best(usual),
        "reasons, an alert": best(reasons, 2000),
    }
    print(f"{ROWS:,} rows in batches of {BATCH:,}, {FEATURES} features, {EXTRA} extra columns; best of {REPEATS}")
    for name, cost in table.items():
        print(f"  {name:<36}{cost:9.3f} us a row")
    print(json.dumps({"benchmark": "labels", "rows": ROWS, "us_per_row": {k: round(v, 4) for k, v in table.items()}}))


if __name__ == "__main__":
    main()
