"""What the label join is told and what it returns."""

from __future__ import annotations

import math
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from weir.online.batch import Batch, BoolVector, ExampleBatch, FloatMatrix, FloatVector
from weir.online.durations import Seconds
from weir.online.frozen import FrozenModel, dataclass

_DAY_S: Final = 86_400.0


class JoinPolicy(FrozenModel):
    """How labels find predictions, and how long either waits for the other.

    With ``match="event"`` a label joins the prediction of its ``event_id``. With ``"entity_range"`` a label without an
    ``event_id`` joins every prediction of its entity with ``label.ts - range_s <= ts <= label.ts``.
    """

    match: Literal["event", "entity_range"] = "event"
    """Whether a label finds its prediction by ``event_id``, or by entity and time."""
    range_s: Seconds = Field(default=0.0, ge=0.0)
    """``entity_range``: how long before a label's time its predictions may be."""
    keep_s: Seconds = Field(default=30 * 86400.0, gt=0.0)
    """Event time for which a prediction waits for labels: the label horizon. Where it is not given and labels
    take longer (``label_delay``, ``maturity``, ``negative_after_s``, silence), it is an eighth more than they take."""
    wait_s: Seconds = Field(default=86400.0, ge=0.0)
    """Event time for which a label waits for predictions that arrive after it."""
    negative_after_s: Seconds | None = Field(default=None, gt=0.0)
    """Event time after which an event that met no label counts as a negative; a later label corrects it."""
    max_rows: int | None = Field(default=None, ge=1)
    """Predictions of one partition that wait at most, the newest; by default as many as ``keep_s`` says. A worker's
    ``[worker] label_bytes`` bounds what all of them take in memory."""
    max_waiting: int = Field(default=200_000, ge=1)
    """Labels of one partition that wait for predictions at most, the newest."""
    remember_labels: int = Field(default=100_000, ge=1)
    """How many of the last ``label_id`` are remembered to ignore repeats."""
    chunk_rows: int = Field(default=4096, ge=1)
    """Logged rows in one piece of memory."""

    @model_validator(mode="after")
    def _negatives_are_still_there(self) -> Self:
        if self.negative_after_s is None or self.negative_after_s <= self.keep_s:
            return self
        if "keep_s" in self.model_fields_set:
            raise ValueError(
                f"negative_after_s={self.negative_after_s:g} is longer than keep_s={self.keep_s:g}: the features would "
                "be gone; raise keep_s"
            )
        object.__setattr__(self, "keep_s", self.waiting(self.negative_after_s).keep_s)  # frozen from here on
        return self

    def waiting(self, wait_s: float) -> JoinPolicy:
        """The same with a ``keep_s`` beyond ``wait_s``, by an eighth and in whole days; as it is where it was given.

        What was derived still counts as not given, so that a later and longer wait moves it again. It never gets less.

        >>> [policy.waiting(40 * 86400.0).keep_s / 86400 for policy in (JoinPolicy(), JoinPolicy(keep_s="5d"))]
        [45.0, 5.0]
        """
        keep_s = math.ceil(wait_s * 1.125 / _DAY_S) * _DAY_S if math.isfinite(wait_s) else self.keep_s
        if "keep_s" in self.model_fields_set or keep_s <= self.keep_s:
            return self
        made = self.model_copy(update={"keep_s": keep_s})
        made.model_fields_set.discard("keep_s")
        return made


@dataclass(slots=True)
class JoinStats:
    """What became of predictions and labels since the start."""

    logged: int = 0
    repeated_predictions: int = 0
    late_predictions: int = 0
    """Older than ``keep_s`` on arrival: not kept."""
    expired_unlabelled: int = 0
    """Freed without having met a label."""
    labels: int = 0
    repeated_labels: int = 0
    """Came with a ``label_id`` seen before."""
    repeated_values: int = 0
    """Said again what an event's label already said."""
    joined: int = 0
    corrections: int = 0
    assumed_negatives: int = 0
    """Made by ``negative_after_s``."""
    unmatched: int = 0
    """Labels that met no prediction in time."""
    evicted: int = 0
    """Predictions that left before ``keep_s`` was over: ``max_rows``, or memory."""
    lost: int = 0
    """Labels that met a prediction whose record could not be read back: retention, or a changed task."""
    early: int = 0
    """Labels that became known before their event was mature: they are learned when it is."""
    no_maturity: int = 0
    """Predictions without the number that says when they are mature: they wait for ``keep_s``, as long as any."""


@dataclass(frozen=True, slots=True)
class JoinResult(Batch):
    """Examples and the logged columns behind each, in the order in which the pairs became known.

    Every labelled event is here, whatever is later sampled for learning, so aggregates fed by labels stay exact. For
    a row with ``examples.correction`` the value to take back is ``~examples.y``. Where events have to be mature, one
    whose label was early is here twice: when the label came (``new``), and when it is to be learned (``ripe``).
    """

    examples: ExampleBatch
    entity_id: list[str]
    extra: FloatMatrix
    """``(n, E) float64`` as given to ``log``."""
    entities: dict[str, list[str | None]]
    """The secondary identifiers as given to ``log``."""
    label_ts_known: FloatVector
    """``(n,)`` event time at which label and prediction were both known; for what was early, that of maturity."""
    new: BoolVector
    """``(n,)``: the label is."""
    ripe: BoolVector
    """``(n,)``: it is to be learned now."""

    def __len__(self) -> int:
        return len(self.examples.event_id)
