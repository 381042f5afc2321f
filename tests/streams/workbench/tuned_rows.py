"""Rows that tasks are tuned on, and a short search."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

N, DAY = 600, 86_400.0
TASK = """# Whose payments go bad.
name = "bad"
entity = "user"
numbers = ["x"]
inputs = ["x"]  # to begin with

[[entities]]
name = "user"  # who pays
key = "user_id"

[model]
kind = "logistic"

[threshold]
kind = "fixed"
value = 0.5

[source]
columns = { user_id = "user", x = "x" }
constants = { type = "row" }
time = "at"
label = "bad"
label_delay = "12h"
"""


def rows() -> pa.Table:
    """Users differ in how often theirs are bad, so that what is known of a user's labels helps."""
    rng = np.random.default_rng(2)
    user, x = rng.integers(20, size=N), rng.normal(size=N)
    at = np.datetime64("2024-03-01T00:00:00") + (np.arange(N) * 6_000).astype("timedelta64[s]")
    bad = rng.random(N) < np.where(user < 5, 0.9, 0.05)
    texts = {"user": [f"u{k}" for k in user], "at": [str(t) for t in at], "x": [f"{v:.4f}" for v in x]}
    return pa.table({**texts, "bad": ["yes" if b else "no" for b in bad]})
