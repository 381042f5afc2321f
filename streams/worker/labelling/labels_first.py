"""Which steps a label lane takes first: while it catches up, predictions wait for the labels that are there already.

Two topics have no order. A lane that comes back after long may be given the predictions of weeks before the labels of
the same weeks. Time would pass by the predictions, and events would count as negatives, or leave, although their
labels are there. So predictions of a lane that is behind the clock wait until the labels are taken up to where their
topic ended. A lane that is live waits for nothing: what is of the same moment has no order anyway.

It knows no records. The order in which steps are taken is journalled, so it need not come out the same again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from weir.streams.config import topics
from weir.streams.worker.context import Context
from weir.streams.worker.labelling.publisher import PendingStep

BEHIND_S: Final = 60.0
"""A lane whose event time is further behind the clock catches up."""


class LabelsFirst:
    """The steps of the label lane ``partition`` that have come and are not taken.

    Parameters
    ----------
    ctx : whose consumer knows where labels end.
    partition : the lane's number.
    """

    def __init__(self, ctx: Context, partition: int) -> None:
        self._ctx, self._partition = ctx, partition
        self._held = deque[PendingStep]()
        self._until: int | None = None
        """Offset of labels for which those that are held wait, once it is known."""

    def __bool__(self) -> bool:
        """Whether some are held."""
        return bool(self._held)

    def order(self, came: Sequence[PendingStep], watermark: float, taken: int, *, full: bool) -> list[PendingStep]:
        """The steps to take now, in order; the others are held, and come behind those of a later call.

        Parameters
        ----------
        came : new steps, behind those that are held.
        watermark : event time of the lane, epoch seconds.
        taken : next offset of labels, as of the steps taken.
        full : whether more labels that wait for their events would push others out.
        """
        self._held += came
        if full or watermark >= self._ctx.now() - BEHIND_S or not self._labels_left(taken):
            steps, self._until = list(self._held), None
            self._held.clear()
            return steps
        labels = [step for step in self._held if step.step.topic == topics.LABELS]
        self._held = deque(step for step in self._held if step.step.topic != topics.LABELS)
        return labels

    def _labels_left(self, taken: int) -> bool:
        """Whether labels that were there when the first step was held are not taken yet; also while nobody knows."""
        if all(step.step.topic == topics.LABELS for step in self._held):
            return False
        consumer, tp = self._ctx.consumer, self._ctx.topic_partition((topics.LABELS, self._partition))
        if self._until is None:  # once for all that is held: labels that keep coming hold nothing up
            self._until = consumer.told_end(tp)
        # The consumer's, too: markers of transactions have offsets, and are no step.
        through = max(taken, consumer.completed_through(tp) or 0)
        return self._until is None or through < self._until
