"""Rows of one stream in any order of time, and the feature engine that tests of windows send them through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from weir.online.batch import EventBatch
from weir.online.features.engine import FeatureBlock, FeatureEngine
from weir.online.features.plan import build_plan
from weir.online.features.spec import Entity
from weir.streams.embedded.memory_store import MemoryFeatureStore

HOUR, DAY = 3600.0, 86_400.0
T0 = 1_700_000_000.0
amounts = st.sampled_from([0.5, 1.0, 3.0, 20.0, 100.0, 950.0, math.nan])
gaps = st.sampled_from([0.0, 1.0, 30.0, 600.0, 3599.0, 3600.0, 20_000.0, 90_000.0, -40.0, -4000.0])
streams = st.lists(st.tuples(st.sampled_from(["a", "b", None]), gaps, amounts), min_size=1, max_size=60)


@dataclass(frozen=True)
class Row:
    user: str | None
    ts: float
    amount: float


def batch_of(rows: list[Row]) -> EventBatch:
    return EventBatch(
        event_id=[f"e{i}" for i in range(len(rows))],
        ts=np.array([r.ts for r in rows], dtype=np.float64),
        type=["purchase"] * len(rows),
        entities={"user_id": [r.user for r in rows]},
        numbers={"amount": np.array([r.amount for r in rows], dtype=np.float64)},
    )


def rows_of(stream: list[tuple[str | None, float, float]]) -> list[Row]:
    rows, now = [], T0
    for user, gap, amount in stream:
        now += gap
        rows.append(Row(user, now, amount))
    return rows


def engine_of(*entities: Entity, values: dict[str, str] | None = None) -> FeatureEngine:
    plan = build_plan(entities, values or {})
    return FeatureEngine(plan, MemoryFeatureStore(), inputs=("*",), raw=("amount",), indicators=False)


def run(engine: FeatureEngine, rows: list[Row], cuts: list[int]) -> dict[str, list[float]]:
    """Columns of all rows, processed in pieces that end at ``cuts``."""
    edges = sorted({0, len(rows), *(c for c in cuts if c < len(rows))})
    blocks = [engine.process(batch_of(rows[a:b])) for a, b in pairwise(edges)]
    return {name: [v for block in blocks for v in column(block, name)] for name in engine.made}


def column(block: FeatureBlock, name: str) -> list[float]:
    return [float(v) for v in np.asarray(block.columns[name], dtype=np.float64)]
