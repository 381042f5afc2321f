"""What the store holds of one entity, as a person reads it: every table's header, and its features at a time.

The values come from the engine itself, by a record that only reads: what is shown is what an event would see that
feeds nothing. It knows rows, tasks and which partitions may own a row, not how a store is reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from weir.models.serving.state_row import CHAMPION, SHADOW, StateLayout
from weir.online.batch import EventBatch
from weir.online.features import kernel
from weir.online.features.descriptors import OVER_EWMEAN, OVER_MEAN
from weir.online.features.engine import FeatureEngine, Table
from weir.online.features.plan import WindowPass
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of, shape_of
from weir.streams.config import topics
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.redis.stored_rows import StoredRow

if TYPE_CHECKING:
    from weir.streams.config.topic_settings import TopicSettings
    from weir.streams.redis.partitions.partition_store import LaneStore


class FullRows:
    """The table ``<task>.full`` of one task."""

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._layout: StateLayout | None = None
        if task.full is not None and task.full.state:
            self._layout = StateLayout(task.full.state, task.full.history, shape_of(task).full_inputs)

    @property
    def table(self) -> Table | None:
        """The table; ``None`` where the full model keeps nothing of an entity."""
        if self._layout is None or self._task.full is None:
            return None
        name, layout = f"{self._task.name}.full", self._layout
        return Table(name, self._task.key, layout.row_bytes, layout.schema, self._task.full.kept_s, side=False)

    @property
    def topic(self) -> str:
        """Whose lanes own it: those that run the model."""
        remote = self._task.full is not None and self._task.full.remote
        return topics.INFERENCE_REQUESTS if remote else self._task.stream

    def values(self, row: bytes) -> Mapping[str, float]:
        """Versions whose states it holds, how many inputs it has seen, the newest of them, and the champion's state."""
        assert self._layout is not None
        record = self._layout.view(np.frombuffer(row, dtype=np.uint8)[None, :].copy())[0]
        seen = int(record["count"])
        found = {
            "champion.version": float(record["version"][CHAMPION]),
            "shadow.version": float(record["version"][SHADOW]),
            "seen": float(seen),
        }
        if seen and self._layout.history:
            newest = record["ring"][(seen - 1) % self._layout.history]
            found |= {f"last.{name}": float(x) for name, x in zip(self._layout.inputs, newest, strict=True)}
        return found | {f"state.{i}": float(x) for i, x in enumerate(record["state"][CHAMPION])}


_OF_AN_EVENT: Final = frozenset({OVER_MEAN, OVER_EWMEAN})
"""Operations that set an event's own value in proportion; a row alone has none."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of an entity."""

    table: str
    key: str
    """The wire column that names its entities."""
    row: StoredRow
    fits: bool
    """Whether the row was written by this declaration of the task; its values cannot be read else."""
    at: float
    """The time of the values, epoch seconds."""
    values: Mapping[str, float]
    """By feature; NaN where it is missing."""


class _HeldRows(MemoryFeatureStore):
    """Rows that do not expire: each is read as of its own last change, whenever that was."""

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """See `MemoryFeatureStore`."""
        del kept_s
        super().create(table, row_bytes, schema, math.inf)


class TaskRows:
    """The tables of one task.

    Parameters
    ----------
    task : its declaration.
    side : whether rows of other entities than the stream's own belong to other lanes, as on Kafka.
    """

    def __init__(self, task: TaskSpec, *, side: bool = True) -> None:
        self.task = task
        self._rows = _HeldRows()
        self._engine: FeatureEngine = engine_of(task, self._rows, side=side)
        self._full = FullRows(task)
        made = self._full.table
        self.tables: Sequence[Table] = (*self._engine.tables, *(() if made is None else (made,)))
        self._names = _names_by_table(self._engine, task.name)

    def read(self, entity: str, table: Table, row: StoredRow, at: float | None = None) -> TableRow:
        """The features that ``row`` of ``table`` makes at time ``at``; without one, at its last change."""
        at = row.updated_at if at is None else at
        # The length too: a row of another layout would be read as numbers that mean nothing.
        fits = row.schema == table.schema and len(row.row) == table.row_bytes
        values: Mapping[str, float] = {}
        if fits:
            full = self._full.table is not None and table.name == self._full.table.name
            values = self._full.values(row.row) if full else self._values(entity, table, row, at)
        return TableRow(table.name, table.key, row, fits, at, values)

    async def stored(self, entity: str, table: Table, store: LaneStore, names: TopicSettings) -> list[StoredRow]:
        """The entity's rows of ``table`` in every partition that may own it, the one that counts first.

        Which one owns a key depends on the partitioner of its producers, and rows of before stay where they were.
        """
        topic = self.topic(table)
        lanes = [(topic, p) for p in range(names.partitions_of(topic))]
        store.create(table.name, table.row_bytes, table.schema, table.kept_s)
        return await store.read_rows(table.name, entity, lanes)

    def topic(self, table: Table) -> str:
        """The topic whose lanes own a table."""
        if table.side:
            return topics.ENTITY_UPDATES
        full = self._full.table
        return self._full.topic if full is not None and table.name == full.name else self.task.stream

    def _values(self, entity: str, table: Table, row: StoredRow, at: float) -> dict[str, float]:
        # In the place of the one before, or each entity that was ever looked up would stay; a row holds no name.
        name = entity if table.key == "*" else "-"
        # Other tables' rows of before are no part of its features.
        self._rows.save(table.name, [name], np.frombuffer(row.row, dtype=np.uint8)[None, :], at)
        batch = _reading(self._engine, self.task, name, table.key, at)
        columns = self._engine.process(batch, np.full(1, kernel.READ, dtype=np.uint8)).columns
        return {name: float(np.asarray(columns[name], dtype=np.float64)[0]) for name in self._names[table.name]}


def _reading(engine: FeatureEngine, task: TaskSpec, entity: str, key: str, at: float) -> EventBatch:
    """A record that names one entity and nothing else."""
    c = columns_of(task)
    keys = dict.fromkeys([*c.entities, *(t.key for t in engine.tables if t.key != "*")])
    entities: dict[str, list[str | None]] = {name: [entity if name == key else None] for name in keys}
    numbers = {name: np.full(1, np.nan) for name in c.numbers}
    return EventBatch(["-"], np.array([at]), [""], entities, numbers, {name: [None] for name in c.texts})


def _names_by_table(engine: FeatureEngine, namespace: str) -> dict[str, list[str]]:
    """The features that each table holds by itself, in the order of their declaration."""
    names: dict[str, list[str]] = {table.name: [] for table in engine.tables}
    for p in engine.plan.passes:
        if isinstance(p, WindowPass):
            alone = [p.features[out].name for op, _, out in p.table.tolist() if op not in _OF_AN_EVENT]
            names[f"{namespace}.{p.layout}"] += alone
        else:
            held = p.anomaly.outputs if p.anomaly.score == "state" else ("expected",)
            names[f"{namespace}.{p.entity}.{p.anomaly.name}"] += [p.anomaly.column(p.entity, each) for each in held]
    return names
