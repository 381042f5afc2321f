"""Logged records as tables: what trainings need of the predictions, examples and events of one task.

One form for what comes from a log and what comes from an archive. It knows columns, not where records come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa

from weir.online.batch import EventBatch, FloatVector, IntVector, PredictionBatch
from weir.online.codec.accept import accept_records
from weir.online.codec.columns import ColumnRequest, event_columns
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.codec.wire import DeviceEvent, Example, UserEvent
from weir.online.errors import UNREADABLE
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.records import Record

Kind = Literal["predictions", "examples", "events"]
KINDS: Final[tuple[Kind, ...]] = ("predictions", "examples", "events")
FEATURE: Final = "features."
"""Begins the names of the columns of features, so that none is taken for another column."""


class _Layout(msgspec.Struct):
    """What tells the shape of a prediction."""

    task: str
    features: dict[str, float]
    entities: dict[str, Any] | None = None
    masks: list[Any] | None = None
    watched: list[Any] | None = None


_LAYOUT: Final = msgspec.json.Decoder(_Layout)


class RecordReader:
    """Reads the records of one task, predictions of whatever features the task had when they were made.

    Parameters
    ----------
    task : the task.
    limits : those of the workers that scored the events, or this leaves out what they took.
    """

    def __init__(self, task: TaskSpec, limits: InputLimits = DEFAULT_LIMITS) -> None:
        self.task, self._limits = task, limits
        self.left_out: Counter[Kind] = Counter()
        """Records that could not be read, by kind."""
        self._mark = msgspec.json.encode(task.name)
        self._shapes: list[ScoredShape] = []

    def topic(self, kind: Kind) -> str:
        """Weir's own name of the topic that holds a kind."""
        return {"predictions": topics.PREDICTIONS, "examples": topics.EXAMPLES, "events": self.task.stream}[kind]

    def tables(self, kind: Kind, records: Sequence[Record], written_at: FloatVector) -> list[pa.Table]:
        """The records of a kind, in order; several tables where the task's features changed in between.

        Parameters
        ----------
        written_at : ``(n,)`` when each record was written, epoch seconds by the clock of the log.
        """
        read: Callable[..., list[pa.Table]] = getattr(self, f"_{kind}")
        return [table for table in read(records, written_at) if table.num_rows]

    def _predictions(self, records: Sequence[Record], written_at: FloatVector) -> list[pa.Table]:
        values, at = self._own(records)
        made: list[pa.Table] = []
        for shape in self._shapes:
            at, table = self._of_shape(values, at, shape, written_at)
            made.append(table)
        while len(at):
            new = self._shape_of(values[int(at[0])])
            if new is None or new in self._shapes:  # unreadable, or of that shape and yet refused
                self.left_out["predictions"] += new is not None
                at = at[1:]
                continue
            self._shapes.insert(0, new)  # the newest is the most likely one
            at, table = self._of_shape(values, at, new, written_at)
            made.append(table)
        return made

    def _of_shape(
        self, values: list[bytes], at: IntVector, shape: ScoredShape, written_at: FloatVector
    ) -> tuple[IntVector, pa.Table]:
        """The records at ``at`` that have the shape, and where the others are."""
        found = decode_scored([values[i] for i in at.tolist()], {self.task.name: shape})
        own = found.tasks[self.task.name]
        rest = at[np.array([reject.index for reject in found.rejects], np.int64)]
        return rest, prediction_table(own.scored.predictions, shape.features, written_at[at[own.index]])

    def _own(self, records: Sequence[Record]) -> tuple[list[bytes], IntVector]:
        """Every value, and which may be of the task: a substring is found far faster than JSON is read."""
        values = [record.value for record in records]
        return values, np.array([i for i, value in enumerate(values) if self._mark in value], np.int64)

    def _shape_of(self, value: bytes) -> ScoredShape | None:
        try:
            layout = _LAYOUT.decode(value)
        except UNREADABLE:
            self.left_out["predictions"] += 1
            return None
        if layout.task != self.task.name:
            return None
        masks, watched = len(layout.masks or ()), len(layout.watched or ())
        return ScoredShape(tuple(layout.features), masks, watched, tuple(layout.entities or ()))

    def _examples(self, records: Sequence[Record], written_at: FloatVector) -> list[pa.Table]:
        values, at = self._own(records)
        accepted = accept_records(Example, [values[i] for i in at.tolist()])
        self.left_out["examples"] += len(accepted.rejects)
        mine = [k for k, struct in enumerate(accepted.structs) if struct.task == self.task.name]
        structs = [accepted.structs[k] for k in mine]
        columns = {
            "event_id": pa.array([s.event_id for s in structs], pa.string()),
            "n": pa.array([s.n for s in structs], pa.int64()),
            "ts": accepted.ts[mine],
            "written_at": written_at[at[accepted.index[mine]]],
            "y": pa.array([bool(s.value) for s in structs], pa.bool_()),
            "weight": pa.array([s.weight for s in structs], pa.float64()),
        }
        return [pa.table(columns)]

    def _events(self, records: Sequence[Record], written_at: FloatVector) -> list[pa.Table]:
        model = UserEvent if self.task.stream == topics.USER_EVENTS else DeviceEvent
        accepted = accept_records(model, [record.value for record in records], self._limits)
        self.left_out["events"] += len(accepted.rejects)
        item = "user_id" if self.task.key == "merchant_id" else "merchant_id"
        request = ColumnRequest(entities=(item,), numbers=("amount",))
        return [
            event_table(event_columns(model, accepted.structs, accepted.ts, request), item, written_at[accepted.index])
        ]


def event_table(batch: EventBatch, item: str, written_at: FloatVector) -> pa.Table:
    """What a training looks at of events: kind, amount, and the other party, which ``item`` names."""
    columns = {
        "event_id": pa.array(batch.event_id, pa.string()),
        "ts": batch.ts,
        "written_at": written_at,
        "type": pa.array(batch.type, pa.string()),
        "amount": batch.numbers["amount"],
        "item": pa.array(batch.entities[item], pa.string()),
    }
    return pa.table(columns)


def prediction_table(batch: PredictionBatch, features: Sequence[str], written_at: FloatVector) -> pa.Table:
    """Predictions as a table, the features ``(n, F)`` in columns of their own; ``written_at (n,)`` in epoch seconds."""
    columns = {
        "event_id": pa.array(batch.event_id, pa.string()),
        "entity_id": pa.array(batch.entity_id, pa.string()),
        "ts": batch.ts,
        "written_at": written_at,
        "score": batch.score,
        "model_version": batch.model_version,
    }
    by_column = np.ascontiguousarray(batch.features.T)
    return pa.table(columns | {f"{FEATURE}{name}": by_column[k] for k, name in enumerate(features)})


def features_of(table: pa.Table) -> tuple[str, ...]:
    """Names of the features a table of predictions has, in its order."""
    return tuple(name.removeprefix(FEATURE) for name in table.column_names if name.startswith(FEATURE))
