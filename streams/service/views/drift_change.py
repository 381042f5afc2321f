"""What drifted, before and after: the logged values of a watched column around the moment a drift was found."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np

from weir.online.batch import FloatVector
from weir.online.drift.change_point import find_change
from weir.online.errors import UNREADABLE
from weir.online.stages.labelling import PREDICTION
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.config import topics
from weir.streams.service.ports import ServiceLog, records_between

_BEFORE: Final = 16_000
"""Records of all partitions before the drift was found that are looked at, and so many after it:"""
_AFTER: Final = 2_000
_BLOCK: Final = 64
_BINS: Final = 24
RATE: Final = "label_rate"


class _LoggedScore(msgspec.Struct):
    task: str
    ts: float
    score: float
    features: dict[str, float | None] = {}
    watched: list[float | None] | None = None
    value: float = 0.0
    """Of an example: its label."""


class DriftChange(NamedTuple):
    """Values on either side of a change, binned alike; shares of each side add up to 1."""

    column: str
    edges: list[float]
    """One more than the bins. The outer bins also hold what lies beyond the middle 98 %."""
    before: list[float]
    after: list[float]
    counts: tuple[int, int]
    means: tuple[float, float]
    since: float
    """Event time of the first value after the change, epoch seconds."""


async def change_of(log: ServiceLog, task: TaskSpec, column: str, at: float) -> DriftChange | None:
    """How the values of a watched column changed around ``at``, when a drift was found, epoch seconds of the log.

    Values are split where their mean changed most (the largest standardised CUSUM over blocks of 64). ``None`` where
    too few are still kept, or there is no such column.
    """
    topic = topics.EXAMPLES if column == RATE else topics.PREDICTIONS
    found: list[tuple[float, float]] = []
    watched = shape_of(task).watched
    spans, offsets = await log.spans(topic), await log.offsets_at(topic, at)
    for partition, span in spans.items():
        place = min(offsets.get(partition, span.end), span.end)
        start, end = max(place - _BEFORE // len(spans), span.first), min(place + _AFTER // len(spans), span.end)
        async for _, record in records_between(log, topic, partition, start, end):
            found += _value(record.value, task.name, column, watched)
    return change_in(column, found)


def _value(value: bytes, task: str, column: str, watched: tuple[str, ...]) -> list[tuple[float, float]]:
    """Event time and value of one record; nothing where it has none, or is of another task."""
    try:
        scored = msgspec.json.decode(value, type=_LoggedScore)
    except UNREADABLE:
        return []
    if scored.task != task:
        return []
    known: dict[str, float | None] = {**scored.features, PREDICTION: scored.score, RATE: scored.value}
    known |= dict(zip(watched, scored.watched or (), strict=False))
    number = known.get(column)
    return [] if number is None or not math.isfinite(number) else [(scored.ts, number)]


def change_in(column: str, found: list[tuple[float, float]]) -> DriftChange | None:
    """The change in values with their times; ``None`` for fewer than four blocks.

    >>> change = change_in("amount", [(float(n), float(n % 7) + (9 if n >= 640 else 0)) for n in range(960)])
    >>> change.counts, change.since, [round(mean) for mean in change.means]
    ((640, 320), 640.0, [3, 12])
    """
    found.sort()
    blocks = len(found) // _BLOCK
    if blocks < 4:
        return None
    # Whole blocks alone: the oldest few values are left out.
    ts, values = np.array(found[-blocks * _BLOCK :]).T
    rows = values.reshape(blocks, _BLOCK)
    n = np.full(blocks, float(_BLOCK))
    split = (find_change(n, rows.sum(axis=1), (rows**2).sum(axis=1), spread=True).block + 1) * _BLOCK
    low, high = np.quantile(values, (0.01, 0.99))
    # Of a column with one value both quantiles are the same, and bins need a width.
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    sides = values[:split], values[split:]
    before, after = (_shares(side, edges) for side in sides)
    means = float(sides[0].mean()), float(sides[1].mean())
    return DriftChange(column, edges.tolist(), before, after, (split, len(values) - split), means, float(ts[split]))


def _shares(values: FloatVector, edges: FloatVector) -> list[float]:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    shares: list[float] = (counts / max(len(values), 1)).tolist()
    return shares
