"""Labelled events to train a full model from, as the demo saw them become known: bounded, part of a checkpoint.

Trees have no memory, so unlabelled events tell them nothing: the logged examples are the whole history they need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from weir.models.evaluation.gate import measure
from weir.models.types import FloatVector, History, IntVector, Labels
from weir.online.batch import ExampleBatch
from weir.online.full_columns import SEEN
from weir.streams.trainer.history.history_builder import LoggedHistory, model_inputs

KEPT: Final = 40_000
"""Newest examples that are kept: some 7 MB."""
_WINDOW: Final = 1_000
"""Labels that a value of the metric is over."""
_EVERY: Final = 200
"""Labels between two values."""
_SCALARS: Final = ("ts", "score", "y", "weight", "correction", "known_at")


class Examples(msgspec.Struct, frozen=True):
    """n labelled events in the order in which their labels became known."""

    event_id: list[str]
    columns: dict[str, bytes]
    """Arrays by name, as float64."""
    x: bytes
    """``(n, F)`` float32, everything that was logged: exact, for what is logged of the full model is float32 itself."""
    entity_id: list[str | None] = []
    """Whose events they are; of a checkpoint of before that was kept, empty."""

    def __len__(self) -> int:
        return len(self.event_id)

    @classmethod
    def of(cls, batch: ExampleBatch, known_at: float) -> Examples:
        """Examples of a pipeline, known since ``known_at`` (event time)."""
        arrays = {name: getattr(batch, name) for name in _SCALARS[:-1]} | {"known_at": np.full(len(batch), known_at)}
        columns = {name: array.astype(np.float64).tobytes() for name, array in arrays.items()}
        return cls(list(batch.event_id), columns, batch.x.astype(np.float32).tobytes(), list(batch.entity_id))

    def column(self, name: str) -> FloatVector:
        """One of the arrays."""
        return np.frombuffer(self.columns[name])

    def batch(self) -> ExampleBatch:
        """The examples as a pipeline made them, but for what float32 rounds off."""
        x = np.frombuffer(self.x, np.float32).reshape(len(self), -1).astype(np.float64)
        return ExampleBatch(
            self.event_id, self.column("ts"), x, self.column("score"), self.column("y") > 0, self.column("weight"),
            self.column("correction") > 0, entity_id=self.entity_id,
        )  # fmt: skip


class ExampleMemory:
    """The newest examples of one task.

    Parameters
    ----------
    features : names of the F logged columns.
    kept : how many.
    """

    def __init__(self, features: Sequence[str], kept: int = KEPT) -> None:
        self.features, self.kept = tuple(features), kept
        self._held: list[Examples] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, examples: Examples) -> None:
        """Take in examples; the oldest go when there are too many."""
        self._held.append(examples)
        self._rows += len(examples)
        # Whole batches go, and never so many that fewer than `kept` are left.
        while self._rows - len(self._held[0]) >= self.kept:
            self._rows -= len(self._held.pop(0))

    def logged(self) -> LoggedHistory:
        """History and labels for ``weir.models.dataset``; the history is in the order of event time."""
        inputs = model_inputs(self.features)
        columns = {name: self._joined(name) for name in _SCALARS}
        x = np.frombuffer(b"".join(e.x for e in self._held), np.float32).reshape(-1, len(self.features))
        ids = [event for e in self._held for event in e.event_id]
        first, row = _events(ids, columns["ts"])
        n = len(first)
        whose = [entity for e in self._held for entity in e.entity_id or [None] * len(e)]
        owners = [whose[i] or ids[i] for i in first.tolist()]
        entity = np.unique(owners, return_inverse=True)[1] if n else np.empty(0, np.int64)
        nothing = np.full(n, -1, np.int64)
        history = History(
            inputs=inputs, event_id=[ids[i] for i in first.tolist()], entity=entity, ts=columns["ts"][first],
            x=x[first][:, [self.features.index(name) for name in inputs]], score=columns["score"][first],
            type=nothing, types=(), amount=np.full(n, np.nan), item=nothing,
        )  # fmt: skip
        return LoggedHistory(history, Labels(row, columns["y"] > 0, columns["weight"], columns["known_at"]))

    def _joined(self, name: str) -> FloatVector:
        return np.concatenate([e.column(name) for e in self._held]) if self._held else np.empty(0)

    def snapshot(self) -> list[Examples]:
        """Everything that is held."""
        return list(self._held)

    def restore(self, held: Sequence[Examples]) -> None:
        """Replace what is held by a ``snapshot``."""
        self._held, self._rows = list(held), sum(map(len, held))


class LiveMetric:
    """How well the full model alone ranks what it served, over the newest labels; whichever version it was.

    >>> LiveMetric(("amount", "full.logit", "full.known")).history
    []
    """

    def __init__(self, features: Sequence[str]) -> None:
        self._logit, self._known = (list(features).index(name) for name in SEEN)
        self._new = 0
        self._rows: deque[tuple[float, bool, float]] = deque(maxlen=_WINDOW)
        self.history: list[float] = []
        """Average precision, oldest first."""

    def add(self, examples: Examples) -> None:
        """Take in examples; those that no full model scored say nothing."""
        batch = examples.batch()
        logit, known = batch.x[:, self._logit], batch.x[:, self._known] > 0
        rows = zip(logit[known].tolist(), batch.y[known].tolist(), batch.weight[known].tolist(), strict=True)
        self._rows.extend(rows)
        self._new += int(np.count_nonzero(known))
        if self._new >= _EVERY:
            self._new = 0
            said, y, weight = map(np.array, zip(*self._rows, strict=True))
            if y.any():
                self.history.append(float(measure("average_precision", y, said)(weight[None, :])[0]))


def _events(ids: Sequence[str], ts: FloatVector) -> tuple[IntVector, IntVector]:
    """Where each event is first met, in the order of their times; and for every example which of those it is of."""
    met: dict[str, int] = {}
    number = np.array([met.setdefault(event, len(met)) for event in ids], np.int64)
    # A corrected label is a second example of one event, which is in the history once.
    first = np.unique(number, return_index=True)[1].astype(np.int64)
    order = np.argsort(ts[first], kind="stable")
    place = np.empty(len(first), np.int64)
    place[order] = np.arange(len(first))
    return first[order], place[number]
