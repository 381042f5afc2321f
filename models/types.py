"""Shared types of the full model: histories, labels, what a training sees, and a model that takes one event at a time.

Training, export, inference and the registry meet here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from weir.online.errors import WeirError

if TYPE_CHECKING:
    from weir.models.manifest import Precision, Variant

FloatVector = NDArray[np.float64]
Float32Vector = NDArray[np.float32]
Float32Matrix = NDArray[np.float32]
IntVector = NDArray[np.int64]
BoolVector = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class History:
    """n scored events of one task, in the order in which they were scored."""

    inputs: tuple[str, ...]
    """D names of the columns of ``x``."""
    event_id: list[str]
    entity: IntVector
    """``(n,)`` code of the entity: equal codes, equal entities."""
    ts: FloatVector
    """``(n,)`` event time, epoch seconds."""
    x: Float32Matrix
    """``(n, D)`` the logged features the full model sees; finite, missing values as 0."""
    score: FloatVector
    """``(n,)`` what the online model said at the time."""
    type: IntVector
    """``(n,)`` index into ``types``; -1 where not known."""
    types: tuple[str, ...]
    amount: FloatVector
    """``(n,)`` NaN where the event has none or it is not known."""
    item: IntVector
    """``(n,)`` code of the other entity (merchant, item) the event names; -1 for none."""

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of events of a history, in the order in which they became known."""

    row: IntVector
    """``(m,)`` index into the history; increasing ``known_at``, not row."""
    y: BoolVector
    weight: FloatVector
    known_at: FloatVector
    """``(m,)`` event time at which each became known, epoch seconds."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What one training may see: nothing of it was unknown at ``cutoff``."""

    history: History
    labels: Labels
    """Known at ``cutoff``, one a row: the newest where a label was corrected."""
    cutoff: float
    """Event time, epoch seconds."""
    valid_from: float
    """Event time from which labelled rows are validation; rows to learn from are labelled before, and their label was
    known before it."""


@dataclass(frozen=True, slots=True)
class Built:
    """A trained candidate, not registered yet."""

    kind: str
    """``encoder``, ``trees`` or ``blend``."""
    onnx: bytes
    """One graph: inputs ``x`` float32 ``(n, D)`` raw (it normalises by itself) and, with a state, ``state`` float32
    ``(n, S)``; outputs ``logit`` float32 ``(n,)``, and ``state_out`` ``(n, S)``, ``embedding`` ``(n, E)``, ``surprise``
    ``(n,)`` where it has them. A zero state is an entity never seen. The surprise is minus the natural logarithm of the
    share of usual events that surprise as much, and -1 where an event says nothing of it."""
    inputs: tuple[str, ...]
    state: int = 0
    embedding: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of the artefact, such as ``weights.safetensors`` to go on training from."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Which of ``files`` are the graph in other precisions, and their cost (``weir.models.evaluation.quantise``)."""


class StepModel(Protocol):
    """A loaded model: takes the next event of each of n entities."""

    version: int
    provider: str
    """``cpu`` or ``cuda``."""
    precision: Precision
    """Precision of the graph that runs."""
    inputs: tuple[str, ...]
    state: int
    """S, the floats of state that the model carries for an entity; 0 for none."""
    embedding: int
    """E, the coordinates of the embedding; 0 for none."""
    surprise: bool
    """Whether it tells how surprising an event is (see ``Built.onnx``)."""

    def step(self, x: Float32Matrix, state: Float32Matrix) -> tuple[Float32Vector, Float32Matrix, Float32Matrix]:
        """``x (n, D)``, ``state (n, S)`` to logit ``(n,)``, the next state ``(n, S)`` and the embedding ``(n, E)``.

        With a surprise the embedding has it behind its coordinates: ``(n, E + 1)``.
        """


Progress = Callable[[str, int, int], None]
"""``progress(what, done, of)``."""


class Builder(Protocol):
    """Trains one kind of candidate."""

    @property
    def kind(self) -> str:
        """What it makes, such as ``trees``."""

    def build(
        self,
        data: TrainingSet,
        work: Path,
        seed: int,
        *,
        warm_start: Mapping[str, bytes] | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Built:
        """Train on ``data``.

        Parameters
        ----------
        work : directory for checkpoints; a call that was killed goes on there when repeated with the same arguments.
        warm_start : ``files`` of the serving artefact of the same kind, to fine-tune from.
        stop : asked often; when true, raises ``TrainingStoppedError`` after a checkpoint.
        """


class TrainingStoppedError(WeirError):
    """The training was asked to stop; its checkpoint is in the work directory."""
