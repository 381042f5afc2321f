"""Two tasks, and the events and labels that tests of pipelines and stages send them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from weir.online.batch import EventBatch, LabelBatch

HOUR, DAY = 3600.0, 86_400.0
T0 = 1_700_000_000.0

FRAUD = """
name = "fraud"
entity = "user"
types = ["purchase", "refund"]
numbers = ["amount"]

[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"

[[entities]]
name = "merchant"
key = "merchant_id"
labels = [{ name = "fraud", ops = ["positives", "count", "last"], windows = ["7d"], where = "ratio < 3" }]

[[entities]]
name = "user"
key = "user_id"
aggregates = [
  { name = "amount", value = "amount", ops = ["count", "mean", "ewmean", "since_last"], windows = ["1h", "1d"] },
  { name = "high", ops = ["count"], windows = ["1d"], where = "ratio > 2 and channel == 'web'" },
]
labels = [{ name = "seen", ops = ["share", "since_positive"], windows = ["1d"], prior = 2, prior_share = 0.1 }]

[model]
kind = "logistic"
params = { lr = 0.3 }

[labels]
negative_rate = 0.5

[labels.join]
keep_s = "3d"
chunk_rows = 16

[threshold]
kind = "precision"
precision = 0.4
min_labels = 3
fallback = { kind = "budget", alerts_per_day = 40, min_scores = 20, min_days = 0.01 }

[alerts]
resolve_after_s = "6h"
cooldown_s = "1h"

[drift]
reference_days = 0
block_events = 8
reference_blocks = 8
sample_every = 1
kswin_window_blocks = 8
kswin_recent_blocks = 2
psi_window_blocks = 4
cooldown_s = 600

[retrain]
after_labels = 25
cooldown = "2h"

[metrics]
rolling = 20
fading = 20
every = "1h"
"""

CHURN = """
name = "churn"
entity = "player"
types = ["play"]

[[entities]]
name = "player"
key = "user_id"
aggregates = [{ name = "plays", ops = ["count", "since_first", "since_last"], windows = ["30d"] }]

[model]
kind = "logistic"

[labels.silence]
observe_s = "2h"
horizon_s = "5h"

[threshold]
kind = "fixed"
value = 0.5
"""

Call = tuple[str, EventBatch | LabelBatch | float]
seeds = st.integers(0, 10_000)


def events(n: int, seed: int) -> EventBatch:
    """A stream with steps back in time, repeats of a moment, missing values, and a shift in its second half."""
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.0, 20.0, 300.0, 2000.0, -100.0, 9000.0], n, p=[0.1, 0.3, 0.3, 0.2, 0.07, 0.03])
    amount = np.asarray(np.round(np.exp(rng.normal(2.0, 1.0, n) + 2.0 * (np.arange(n) > n // 2)), 2), dtype=np.float64)
    amount[rng.random(n) < 0.1] = np.nan
    merchants: list[str | None] = ["m1", "m2", "m3", None]
    return EventBatch(
        event_id=[f"e{i}" for i in range(n)],
        ts=T0 + np.cumsum(gaps),
        type=rng.choice(["purchase", "refund", "view"], n, p=[0.7, 0.1, 0.2]).tolist(),
        entities={
            "user_id": rng.choice(["u1", "u2", "u3", "u4"], n).tolist(),
            "merchant_id": [merchants[i] for i in rng.integers(0, 4, n)],
        },
        numbers={"amount": amount},
        texts={"channel": [None if c == "" else c for c in rng.choice(["web", "pos", ""], n).tolist()]},
    )


def label(number: int, event: int, value: bool, ts: float = T0, user: str = "u1") -> LabelBatch:
    return LabelBatch([f"l{number}"], [user], [f"e{event}"], np.array([ts]), np.array([value]), np.ones(1))


def script(n: int, seed: int) -> list[Call]:
    """The stream in batches of random size, and labels between them: early, late, corrected, of unscored events."""
    rng = np.random.default_rng([seed, 1])
    stream = events(n, seed)
    cuts = np.sort(rng.choice(np.arange(1, n), min(n - 1, n // 6), replace=False))
    edges = [0, *cuts.tolist(), n]
    calls: list[Call] = []
    made = 0
    for a, b in pairwise(edges):
        calls.append(("events", stream.slice(a, b)))
        for _ in range(int(rng.integers(0, 8))):
            event = int(rng.integers(max(0, b - 30), min(n, b + 5)))
            value, ts, user = bool(rng.random() < 0.35), float(stream.ts[event]), stream.entities["user_id"][event]
            calls.append(("labels", label(made, event, value, ts, str(user))))
            made += 1
    return calls


def purchase(
    number: int,
    ts: float,
    user: str | None = "u1",
    merchant: str | None = "m1",
    kind: str = "purchase",
    amount: float = 10,
) -> EventBatch:
    return EventBatch(
        [f"e{number}"], np.array([ts]), [kind], {"user_id": [user], "merchant_id": [merchant]},
        {"amount": np.array([float(amount)])}, {"channel": ["web"]},
    )  # fmt: skip


def plays(rows: list[tuple[str, float]]) -> EventBatch:
    return EventBatch(
        [f"e{i}" for i in range(len(rows))], np.array([T0 + ts for _, ts in rows]), ["play"] * len(rows),
        {"user_id": [user for user, _ in rows]},
    )  # fmt: skip
