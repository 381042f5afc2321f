"""What the label lanes of one task hold, divided anew by entity, where entities have come to other partitions.

It works on the parts of snapshots, while no lane runs. It knows no topics: it is told where each prediction and each
label belongs that the snapshots hold as a digest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from weir.online.batch import BoolVector, IntVector
from weir.online.decisions import moved_alerts
from weir.online.labels.moves import moved_rows
from weir.online.labels.moves.moved_rows import JoinPart
from weir.online.labels.stored_join import StoredJoin
from weir.online.stages.labelling import LabellingStage

OwnersOf = Callable[[Sequence[str]], IntVector]
"""The partitions of some entities, ``(n,)``."""
OF_THE_STREAM: Final = ("time", "threshold", "typical")
"""Parts that are alike in all lanes, as each has a part of the same stream: a lane that is new begins with another's.
What it does not begin with counts from 0: the old lanes still have those counts."""


@dataclass(slots=True)
class HeldLane:
    """One lane of a task, and where what it holds belongs; all ``(n,)`` of partitions."""

    partition: int
    of: int
    """How many lanes there were when its parts were made."""
    parts: Mapping[str, bytes]
    """As `LabellingStage.parts` names them."""
    join: StoredJoin = field(init=False)
    rows: IntVector = field(init=False)
    labels: IntVector = field(init=False)
    label_ids: IntVector = field(init=False)

    def __post_init__(self) -> None:
        self.join = moved_rows.stored_join(self.parts["joiner"])
        # Where nobody says otherwise it stays.
        waiting, ids = moved_rows.digests_of(self.join)
        offsets = moved_rows.records_of(self.join, self.partition)[1]
        self.rows, self.labels, self.label_ids = (np.full(len(of), self.partition) for of in (offsets, waiting, ids))

    @property
    def moving(self) -> int:
        """How many predictions belong elsewhere."""
        return int(np.count_nonzero(self.rows != self.partition))


def divide(
    stage: LabellingStage,
    partition: int,
    of: int,
    lanes: Sequence[HeldLane],
    owners_of: OwnersOf,
    *,
    keep: bool = False,
) -> None:
    """Bring a new stage to where the lane ``partition`` of ``of`` goes on, with what belongs there of all ``lanes``.

    Parameters
    ----------
    keep : whether what it held itself stays, too, until all others have what they get.
    """
    own = next((lane for lane in lanes if lane.partition == partition), None)
    like, parts = own or lanes[partition % len(lanes)], stage.parts()
    for name, part in parts.items():
        if name in like.parts and (own is not None or name in OF_THE_STREAM):
            part.restore(like.parts[name])
    # A lane of more lanes has fewer entities, and fewer alerts are its share of a budget.
    stage.threshold.thin(like.of / of)

    def here(owners: IntVector, lane: HeldLane) -> BoolVector:
        if keep and lane is own:
            return np.ones(len(owners), np.bool_)
        mine: BoolVector = owners == partition
        return mine

    def takes(lane: HeldLane, entities: Sequence[str]) -> BoolVector:
        return here(owners_of(entities), lane)

    given = [
        JoinPart(of.join, of.partition, here(of.rows, of), here(of.labels, of), here(of.label_ids, of)) for of in lanes
    ]
    base = moved_rows.stored_join(parts["joiner"].snapshot())
    parts["joiner"].restore(moved_rows.joined(base, given, partition))
    books = [(lane.parts["book"], partial(takes, lane)) for lane in lanes]
    parts["book"].restore(moved_alerts.joined(parts["book"].snapshot(), books))
