"""One lane's batch among those that are scored together, and several of them as one batch of a task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector, ScoredBatch
from weir.online.stages.scoring import FeaturedBatch, PreparedBatch, ScoreOutput, ScoringStage
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.worker.scoring.misplaced import Astray

if TYPE_CHECKING:
    from weir.streams.worker.scoring.event_partition import ScoreLane


@dataclass(slots=True)
class LaneBatch:
    """One lane's batch on its way."""

    lane: ScoreLane
    batch: FetchedBatch
    prepared: list[PreparedBatch]
    """By task."""
    wanted: dict[str, list[str]]
    """By table, the entities whose rows are needed."""
    written: FloatVector
    """``(n,)`` timestamps of the records."""
    mark: bytes
    journal: list[bytes]
    drop: int
    """What the lane remembers from here on; see `Step`."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """Index in the batch and reason."""
    astray: Sequence[Astray] = ()
    """Records that another partition owns."""
    events: int = 0
    """Admitted."""
    duplicates: int = 0
    scored: dict[str, ScoredBatch] = field(default_factory=dict)
    """By task, where it scored anything."""


def owners_of(parts: Sequence[LaneBatch], side: Collection[str]) -> dict[str, int] | None:
    """Which part each entity of the stream's key is in; ``None`` where one is in two.

    Only a producer that does not partition by key can bring that about. ``side``: tables of other keys.
    """
    owner: dict[str, int] = {}
    for i, part in enumerate(parts):
        own = dict.fromkeys(chain.from_iterable(keys for table, keys in part.wanted.items() if table not in side), i)
        if not owner.keys().isdisjoint(own):
            return None
        owner |= own
    return owner


class MergedBatch:
    """What some parts have for one task, as one batch; parts without a row for it are left out.

    Parameters
    ----------
    stage : the task's, over the rows of all the parts' lanes.
    of : which of the parts have rows.
    prepared : theirs.
    """

    def __init__(self, stage: ScoringStage, of: Sequence[int], prepared: Sequence[PreparedBatch]) -> None:
        self.stage, self._of = stage, of
        self._cuts = list(accumulate((len(p.batch) for p in prepared), initial=0))
        """Where the prepared rows of each part begin, and where those of the last end."""
        self._prepared = stage.join(prepared)
        self.remote = stage.task.full is not None and stage.task.full.remote
        self.featured: FeaturedBatch
        self.out: ScoreOutput

    def features(self) -> None:
        """Features of every row."""
        self.featured = self.stage.features_of(self._prepared)
        # Rows that only feed windows are not scored, so the cuts among those that are lie elsewhere.
        self._scored_cuts: list[int] = np.searchsorted(self.featured.rows, self._cuts).tolist()

    def ask(self) -> FloatMatrix | None:
        """What the full model of this process says."""
        return self.stage.ask(self.featured)

    def finish(self, full: FloatMatrix | None) -> None:
        """Scores."""
        self.out = self.stage.finish(self.featured, full)

    def scored_rows(self) -> list[tuple[int, int, int]]:
        """Each part that has rows to score: its number, where they begin among all, and where they end."""
        return [(i, a, b) for i, (a, b) in zip(self._of, pairwise(self._scored_cuts), strict=True) if b > a]


def join(stages: Sequence[ScoringStage], parts: Sequence[LaneBatch]) -> list[MergedBatch]:
    """The parts as one batch of each task that any of them has rows for."""
    joints: list[MergedBatch] = []
    for k, stage in enumerate(stages):
        if of := [i for i, part in enumerate(parts) if len(part.prepared[k].batch)]:
            joints.append(MergedBatch(stage, of, [parts[i].prepared[k] for i in of]))
    return joints
