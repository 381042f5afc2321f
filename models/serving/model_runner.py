"""Runs the full model of one task over batches of events, its state in a store (design decision 9).

Within a batch the r-th events of all entities are one call, so a result does not depend on how events were cut into
batches. It knows matrices, keys and rows; what the columns mean, and where models come from, is told by others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.serving.active_models import ModelSlots
from weir.models.serving.entity_steps import StepOutput, as_inputs, rebuild, run_rounds
from weir.models.serving.occlusion import Baseline, Occlusion
from weir.models.serving.packed_rows import PackedSequence, rounds_of
from weir.models.serving.state_row import SHADOW, Record, StateLayout
from weir.models.types import Float32Matrix, FloatVector, IntVector, StepModel

FloatMatrix = NDArray[np.float64]

PROVIDERS = {"cpu": 1.0, "cuda": 2.0}
"""How ``full.provider`` says it; 0 is none."""
PRECISIONS = {"float32": 0.0, "float16": 2.0, "int8": 4.0}
"""What a precision adds to the provider in ``full.provider``. A column of its own would change the width of every
prediction, and what was logged before it could not be learned from any more; so 1 and 2 still mean float32."""
_NO_STATE = np.empty((0, 0), np.float32)


def ran_on(model: StepModel) -> float:
    """Provider and precision of a model as the one number that ``full.provider`` logs."""
    return PROVIDERS[model.provider] + PRECISIONS[model.precision]


class RowStore(Protocol):
    """What is used of ``weir.online.features.store.FeatureStore``."""

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        """Rows ``(len(keys), row_bytes)``, the caller's to change; zeros for a key not seen."""

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], now: float) -> None:
        """Store the rows ``(len(keys), row_bytes)``; ``now`` is event time, epoch seconds."""


@dataclass(slots=True)
class RunnerCounts:
    """Counts of what went another way than usual since the runner was made."""

    rebuilt: int = 0
    """States made again from the newest inputs."""
    not_finite: int = 0
    """Rows for which a model's output was not finite; its state began anew, and a champion was not known."""
    failed: int = 0
    """Calls of models that raised; the champion was then not known."""
    last_error: str = ""


class FullRunner:
    """An ``weir.online.task.full_spec.FullScorer``.

    Parameters
    ----------
    layout : what is kept of an entity, and the D names of the columns of x.
    embedding : E, the coordinates that the online model sees.
    reasons : how many inputs are told for a high logit.
    surprise : whether it is told how surprising an event is.
    """

    def __init__(self, layout: StateLayout, embedding: int, reasons: int, surprise: bool = False) -> None:
        self.layout, self.inputs, self.embedding = layout, layout.inputs, embedding
        self.slots = ModelSlots(layout.inputs, layout.state)
        self.counts = RunnerCounts()
        self._logged, self._reasons, self._surprise = 2 + embedding + surprise, reasons, surprise
        self.width = self._logged + 4 + 2 * reasons
        """Columns that ``score`` returns, as ``weir.online.task.full_spec.columns`` names them."""
        self.row_bytes, self.schema = self.layout.row_bytes, self.layout.schema

    def score(self, table: str, store: RowStore, keys: Sequence[str], ts: FloatVector, x: FloatMatrix) -> FloatMatrix:
        """See ``FullScorer``: ``x (n, D)`` in order to ``(n, width)``, states taken on in the store."""
        # The pair is taken once: what was adopted for it must not be stepped by another.
        pair, out = self.slots.pair, np.zeros((len(keys), self.width))
        if not len(keys):
            return out
        inputs = as_inputs(x)  # once for both models
        if not self.row_bytes:
            order = PackedSequence.distinct(len(keys))
            for place, model in pair.loaded():
                self._ask(place, model, None, order, inputs, out)
            return out
        names, order = rounds_of(keys)
        rows = store.load(table, names)
        record = self.layout.view(rows)
        stale = self.layout.adopt(record, pair.versions)
        for place, model in pair.loaded():
            self._rebuild(place, model, record, np.flatnonzero(stale[:, place]))
            self._ask(place, model, record, order, inputs, out)
        self.layout.push(record, order, inputs)  # after both models: a rebuild must not see this batch's inputs twice
        store.save(table, names, rows, float(ts.max()))
        return out

    def _rebuild(self, place: int, model: StepModel, record: Record, rows: IntVector) -> None:
        """Make the states of ``rows`` again, of those that remember any inputs."""
        # The others are zero since `adopt`, which is an entity never seen.
        rows = rows[self.layout.held(record)[rows] > 0]
        if len(rows) and model.state:
            self.counts.rebuilt += len(rows)
            state = record["state"][:, place, : model.state]
            with self._noting(place, record):
                rebuild(model, self.layout, record, rows, state, self.slots.columns(model))

    def _ask(
        self,
        place: int,
        model: StepModel,
        record: Record | None,
        order: PackedSequence,
        x: Float32Matrix,
        out: FloatMatrix,
    ) -> None:
        """Step through the rows and write what the model said to its columns of ``out``."""
        state = _NO_STATE if record is None else record["state"][:, place, : model.state]
        with self._noting(place, record):
            columns = self.slots.columns(model)
            said = run_rounds(model, order, x, state, columns, self._occlusion(place, model, columns))
            self.counts.not_finite += int(np.count_nonzero(~said.finite))
            self._write(place, model, said, out)

    def _occlusion(self, place: int, model: StepModel, columns: IntVector | None) -> Occlusion | None:
        """What explains a champion; ``None`` where nothing is to be told, or its artefact has no usual values."""
        usual: Baseline | None = getattr(model, "usual", None)
        # A shadow opens no alert, and an explanation costs as much as scoring D events.
        if place == SHADOW or not self._reasons or usual is None:
            return None
        return Occlusion(usual, self._reasons, (np.arange(len(self.inputs)) if columns is None else columns) + 1)

    def _write(self, place: int, model: StepModel, said: StepOutput, out: FloatMatrix) -> None:
        logged = self._logged
        if place == SHADOW:
            out[:, logged + 2], out[:, logged + 3] = said.logit, model.version
            return
        # The task says how many columns are logged; a model that was built for another number fills or is cut.
        width = min(self.embedding, model.embedding)
        out[:, 0], out[:, 1], out[:, 2 : 2 + width] = said.logit, said.finite, said.embedding[:, :width]
        if self._surprise:
            told = said.embedding[:, -1].astype(np.float64) if model.surprise else np.full(len(out), -1.0)
            # As a detector of states tells it: a threshold of .99 is passed by 1 % of usual events. -0.0 is missing.
            out[:, logged - 1] = np.where(told < 0.0, -0.0, -np.expm1(-np.maximum(told, 0.0)) + 0.0)
        out[:, logged], out[:, logged + 1] = model.version, ran_on(model)
        out[:, logged + 4 : logged + 4 + said.why.shape[1]] = said.why

    @contextmanager
    def _noting(self, place: int, record: Record | None) -> Iterator[None]:
        """A model that raises is not known for this batch, and its states are rebuilt when it answers again."""
        try:
            yield
        except ModelError as exc:
            self.counts.failed += 1
            self.counts.last_error = str(exc)
            if record is not None:
                record["version"][:, place] = 0  # some states are of before the failure, some of after it
