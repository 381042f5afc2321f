"""A small made-up task for tests of training: the label depends on this event and on the one before it."""

from __future__ import annotations

import numpy as np

from weir.models.dataset.cut import training_set
from weir.models.types import FloatVector, History, IntVector, Labels, TrainingSet

DAY = 86_400.0
INPUTS = ("drive", "since_last", "noise")


def logged(n: int = 700, entities: int = 12, seed: int = 0) -> tuple[History, Labels]:
    """Events over 60 days, labels known 3 days later; items go round in a circle."""
    rng = np.random.default_rng(seed)
    entity = rng.integers(0, entities, n)
    ts = np.sort(rng.uniform(0, 60 * DAY, n))
    x = rng.normal(size=(n, 3)).astype(np.float32)
    before, seen = np.zeros(n), np.zeros(n, np.int64)
    last: dict[int, int] = {}
    for i, e in enumerate(entity.tolist()):
        j = last.get(e)
        x[i, 1] = 0 if j is None else ts[i] - ts[j]
        before[i] = 0 if j is None else x[j, 0]
        seen[i] = 0 if j is None else seen[j] + 1
        last[e] = i
    y = x[:, 0] + 2 * before + rng.normal(scale=0.3, size=n) > 1
    return history_of(x, entity, ts, seen % 4), Labels(np.arange(n), y, np.ones(n), ts + 3 * DAY)


def history_of(
    x: np.ndarray[tuple[int, int], np.dtype[np.float32]], entity: IntVector, ts: FloatVector, item: IntVector
) -> History:
    n = len(x)
    return History(
        INPUTS, [str(i) for i in range(n)], entity, ts, x, np.full(n, 0.5), item % 2, ("play", "view"),
        np.where(item > 0, 1.0 + item, np.nan), item,
    )  # fmt: skip


def small(n: int = 700, seed: int = 0) -> TrainingSet:
    """A training at day 60 that validates on 10 days."""
    history, labels = logged(n, seed=seed)
    return training_set(history, labels, 60 * DAY, 10 * DAY, 3 * DAY, min_labels=20, min_positives=5)
