"""What labels feed to features, each as soon as it is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from weir.online.batch import UpdateBatch
from weir.online.features.plan import LabelFeed
from weir.online.labels.join_policy import JoinResult


def updates_of(told: JoinResult, feeds: Sequence[LabelFeed], key: str) -> dict[str, UpdateBatch]:
    """By label layout, what labels feed to its rows; a correction moves one label to the other side.

    Parameters
    ----------
    told : labels that became known.
    feeds : of the aggregates that labels feed.
    key : that of the task's entity; rows of another are found by the identifier of its name.
    """
    e = told.examples
    if not feeds or not len(e):
        return {}
    y = np.where(e.correction, np.where(e.y, 1.0, -1.0), e.y.astype(np.float64))
    unit = np.where(e.correction, 0.0, 1.0)
    # Each label of an event is an update of its own: under the event's id alone a correction would be a repeat.
    ids = [f"{event_id}#{n}" for event_id, n in zip(e.event_id, e.n.tolist(), strict=True)]
    out: dict[str, UpdateBatch] = {}
    for feed in feeds:
        entities = _entities(told, feed.key, key)
        values = np.column_stack([y, unit, told.extra[:, 1 + feed.first : 1 + feed.stop]])
        batch = UpdateBatch(ids, [entity or "" for entity in entities], told.label_ts_known, values)
        if None in entities:
            batch = batch.take(np.array([i for i, owner in enumerate(entities) if owner is not None], dtype=np.int64))
        if len(batch):
            out[feed.layout] = batch
    return out


def _entities(told: JoinResult, key: str, own: str) -> Sequence[str | None]:
    if key == "*":
        return ["*"] * len(told)
    return told.entity_id if key == own else told.entities[key]
