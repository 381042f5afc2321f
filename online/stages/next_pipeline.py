"""A running task of ``kind = "next"``, in the place of a ``TaskPipeline``: events in, what comes next out."""

from __future__ import annotations

import numpy as np

from weir.online.batch import EventBatch, RankedBatch
from weir.online.errors import TaskError
from weir.online.metrics.input_watch import InputWatch
from weir.online.ranking.next_ranker import NextRanker
from weir.online.stages.stateful import Anew, restore_fitting, restore_parts, snapshot_parts
from weir.online.task.next_spec import NextTask


class NextPipeline:
    """The running form of a ``NextTask``; its one part is the ``NextRanker``.

    Raises ``TaskError`` where the task's learner cannot be built.
    """

    def __init__(self, task: NextTask) -> None:
        self.task, self.columns, self.told = task, task.columns, 0
        self.watch = InputWatch(task.name, task.stream, task.types)
        try:
            self.ranker = NextRanker(task.model, task.k, task.remember, task.most_items, task.ttl)
        except ValueError as error:
            raise TaskError(f"[model]: {error}") from error

    def events(self, batch: EventBatch) -> RankedBatch | None:
        """Take in events in arrival order, and tell with each what its entity takes next; ``None`` without any.

        Events of other types, without entity, item or (where the task has one) basket tell nothing, and neither do
        those of an item beyond ``most_items``.
        """
        task, ranker = self.task, self.ranker
        entities, items = batch.entities[task.entity], batch.entities[task.item]
        baskets = [None] * len(batch) if task.basket is None else batch.entities[task.basket]
        rows, found, scores, versions = list[int](), list[list[str]](), list[list[float]](), list[int]()
        for row, (entity, item, basket, ts) in enumerate(zip(entities, items, baskets, batch.ts.tolist(), strict=True)):
            if not entity or not item or (task.types and batch.type[row] not in task.types):
                continue
            if (task.basket is not None and not basket) or not ranker.take(entity, item, basket, task.gap, ts):
                continue
            best, score = ranker.tell(entity)
            rows.append(row)
            found.append(best)
            scores.append(score)
            versions.append(ranker.learned)
        self.told += len(rows)
        if self.watch.open:
            # Without columns: an event that tells something has all that the task reads.
            mine = [batch.event_id[row] for row in rows], batch.ts[rows], [batch.type[row] for row in rows]
            self.watch.came(len(batch), EventBatch(*mine, {}, {}, {}))
        if not rows:
            return None
        who = [str(entities[row]) for row in rows]
        names = [batch.event_id[row] for row in rows]
        return RankedBatch(names, who, batch.ts[rows], found, scores, np.array(versions, np.int64))

    def snapshot(self) -> bytes:
        """The whole state, as MessagePack."""
        return snapshot_parts({"ranker": self.ranker})

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot`` of the same task; raises ``StateError`` where it does not fit."""
        restore_parts(self.task.name, {"ranker": self.ranker}, state)

    def restore_fitting(self, state: bytes) -> list[Anew]:
        """Take a ``snapshot`` if it fits the task as it is now; else what begins anew."""
        return restore_fitting(self.task.name, {"ranker": self.ranker}, state)
