"""Runs a feature plan over batches: loads entity rows, calls the kernel pass by pass, and saves them.

It knows columns and stores by their ports; it does not know what the features are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import numpy as np

from weir.online.anomaly.detector import SeriesAnomalyDetector, build_detector
from weir.online.anomaly.state_detector import StateDetector, build_state_detector
from weir.online.batch import EventBatch, FloatMatrix, FloatVector, UpdateBatch, filled
from weir.online.codec.judge import cut
from weir.online.errors import TaskError
from weir.online.features import kernel
from weir.online.features.expression import Column
from weir.online.features.lives import LivingRows
from weir.online.features.model_inputs import ModelInputs
from weir.online.features.plan import AnomalyPass, EntityLayout, Plan, WindowPass
from weir.online.features.readings import Readings
from weir.online.features.spec import Anomaly
from weir.online.features.store import FeatureStore
from weir.online.features.timecolumns import TIME_COLUMNS, time_columns
from weir.online.features.touched_rows import Grouping, LoadedRows, Modes, group
from weir.online.frozen import dataclass

# The largest value that feeds a window or a detector: ``std`` keeps sums of its square as float32.
_VALUE_MAX = 1e16


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """What the engine makes of a batch of n rows."""

    x: FloatMatrix
    """``(n, F)``: the model's inputs; missing values are -0.0 and flagged by the indicator columns behind them."""
    label_masks: FloatMatrix
    """``(n, E)``: which label aggregates each event would feed (0 or 1), and what their runs take from it (NaN where
    missing); logged until its label comes."""
    columns: Mapping[str, Column]
    """Finds every raw, derived and feature column by name, NaN where missing."""
    updates: Mapping[str, FloatMatrix] = field(default_factory=dict)
    """``(n, V)`` by layout: what each row brings to the passes of a side table that events feed, pass after pass."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the store, as an engine uses it."""

    name: str
    """``<namespace>.<layout>``, or ``<namespace>.<entity>.<anomaly>``."""
    key: str
    """The wire column whose values are its keys; ``*`` for one row that every event belongs to."""
    row_bytes: int
    schema: int
    kept_s: float
    side: bool
    """Owned by another lane than that of the stream: read and updated, saved by ``apply`` only."""


class _Columns(dict[str, Column]):
    """Columns of one batch by name; those of time, and those that passes make, are looked for on first use.

    Parameters
    ----------
    made : ``(n, M)``, what passes make; ``place`` says which column is which.
    """

    def __init__(self, batch: EventBatch, utc_offset_s: float, made: FloatMatrix, place: Mapping[str, int]) -> None:
        super().__init__(batch.texts)
        self.update(batch.entities)
        self["type"] = batch.type
        self._ts, self._utc_offset_s, self._made, self._place = batch.ts, utc_offset_s, made, place

    def __missing__(self, name: str) -> Column:
        if (at := self._place.get(name)) is not None:
            self[name] = self._made[:, at]
        elif name in TIME_COLUMNS:
            # What the batch brings by such a name is its own.
            self.update(time_columns(self._ts, self._utc_offset_s) | self)
        else:
            raise KeyError(name)
        return self[name]


class FeatureEngine:
    """The one implementation of features, live and in a backtest.

    Parameters
    ----------
    plan : the compiled declarations.
    namespace : put before table names, so that several tasks share a store.
    inputs : names or globs (``user.*``), in order; a leading ``!`` takes names out again.
    raw : numeric raw columns that may be inputs, such as ``amount``.
    store : where entity rows live.
    indicators : whether inputs that can be missing get an indicator column.
    utc_offset_s : time zone of hour, night and weekend.
    own_key : the stream's key where the stream is split into lanes. Tables that events feed by another key, and tables
        that labels feed, are then *side tables*: ``process`` changes them in a copy and returns what their owner is to
        ``apply``. ``None``: every table is its own.

    ranges, missing : what raw columns can hold, and what stands for "no reading" in them; see ``Readings``.

    Raises
    ------
    TaskError
        When an input does not exist, or a detector's state would be in a side table.
    """

    def __init__(
        self,
        plan: Plan,
        store: FeatureStore,
        *,
        namespace: str = "",
        inputs: Sequence[str] = ("*",),
        raw: Sequence[str] = (),
        indicators: bool = True,
        utc_offset_s: float = 0.0,
        own_key: str | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        missing: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.plan, self.store, self.utc_offset_s, self.own_key = plan, store, utc_offset_s, own_key
        self.readings = Readings(ranges or {}, missing or {})
        self._prefix = f"{namespace}." if namespace else ""
        self._detectors = {id(p): _detector(p.anomaly) for p in plan.passes if isinstance(p, AnomalyPass)}
        self._layouts = {layout.name: layout for layout in plan.layouts}
        self._passes = {
            name: [p for p in plan.passes if isinstance(p, WindowPass) and p.layout == name] for name in self._layouts
        }
        self._check_detectors()
        self.tables = tuple(self._list_tables())
        """Every table it uses, in a fixed order."""
        self._key_columns = tuple(dict.fromkeys(table.key for table in self.tables))
        for table in self.tables:
            store.create(table.name, table.row_bytes, table.schema, table.kept_s)
        self._side = [
            name for name, each in self._layouts.items() if each.fed_by == kernel.EVENT and self._is_side(each)
        ]
        """Layouts whose owners are sent what events feed."""
        self._own = [
            name for name, each in self._layouts.items() if each.fed_by == kernel.EVENT and not self._is_side(each)
        ]
        """Layouts that a batch of events changes."""
        self._expressions = dict(plan.values)
        self._blocks: list[slice] = []
        """The columns that each pass makes."""
        self._made: list[tuple[str, str | None]] = []
        for p in plan.passes:
            first = len(self._made)
            self._made += self._outputs(p)
            self._blocks.append(slice(first, len(self._made)))
        self._place = {name: at for at, (name, _) in enumerate(self._made)}
        self._schedule = self._schedule_values()
        self._inputs = ModelInputs(plan, self._made, inputs, raw, indicators=indicators)
        self.features = self._inputs.features

    def _list_tables(self) -> list[Table]:
        out = [
            Table(self._prefix + each.name, each.key, each.row_bytes, each.schema, each.kept_s, self._is_side(each))
            for each in self.plan.layouts
        ]
        for p in self.plan.passes:
            if isinstance(p, AnomalyPass):
                detector = self._detectors[id(p)]
                width = 8 * detector.state_width
                out.append(Table(self._prefix + _anomaly_table(p), p.key, width, detector.schema, p.kept_s, False))
        return out

    def _is_side(self, layout: EntityLayout) -> bool:
        return self.own_key is not None and (layout.fed_by == kernel.LABEL or layout.key != self.own_key)

    def _check_detectors(self) -> None:
        for p in self.plan.passes:
            if isinstance(p, AnomalyPass) and self.own_key not in (None, p.key):
                raise TaskError(
                    f"entity {p.entity}: the anomaly {p.anomaly.name!r} keeps state by {p.key!r}, but the stream is "
                    f"partitioned by {self.own_key!r}: no worker sees all its values in order. Watch an entity with "
                    f"key = {self.own_key!r}, or run the task without Kafka"
                )

    @property
    def made(self) -> tuple[str, ...]:
        """Names of every column that a pass makes, whether the model sees it or not."""
        return tuple(name for name, _ in self._made)

    def _outputs(self, p: WindowPass | AnomalyPass) -> list[tuple[str, str | None]]:
        """Names and missing-groups of the columns a pass makes."""
        if isinstance(p, WindowPass):
            return [(f.name, f.missing_group) for f in p.features]
        stem = p.anomaly.column(p.entity, "")
        return [(p.anomaly.column(p.entity, output), stem) for output in p.anomaly.outputs]

    def _schedule_values(self) -> list[list[str]]:
        """For each pass, the derived values that become computable once it has run; the first entry is before all."""
        made_by = {name: k for k, p in enumerate(self.plan.passes) for name, _ in self._outputs(p)}
        stage: dict[str, int] = {}
        schedule: list[list[str]] = [[] for _ in range(len(self.plan.passes) + 1)]
        for name, expression in self.plan.values:
            stage[name] = max((stage.get(n, made_by.get(n, -1) + 1) for n in expression.names), default=0)
            schedule[stage[name]].append(name)
        return schedule

    def group(self, batch: EventBatch) -> dict[str, Grouping]:
        """Which entities the rows of a batch name, by key column."""
        return {key: group(["*"] * len(batch) if key == "*" else batch.entities[key]) for key in self._key_columns}

    def keys(self, groups: Mapping[str, Grouping]) -> dict[str, list[str]]:
        """By table, the distinct entities whose rows ``process`` will load; tables it needs none of are left out."""
        return {t.name: groups[t.key].keys for t in self.tables if groups[t.key].keys}

    def update_keys(self, layout: str, batch: UpdateBatch) -> dict[str, list[str]]:
        """By table, the distinct entities whose rows ``apply`` will load."""
        return {self._prefix + layout: list(dict.fromkeys(batch.entity_id))}

    def key_of(self, layout: str) -> str:
        """The wire column that names the entities of a layout."""
        return self._layouts[layout].key

    def width(self, layout: str) -> int:
        """V, how many values an update of a layout has."""
        return sum(len(p.values) for p in self._passes[layout]) + 2 * (self._layouts[layout].fed_by == kernel.LABEL)

    def process(
        self, batch: EventBatch, modes: Modes | None = None, groups: Mapping[str, Grouping] | None = None
    ) -> FeatureBlock:
        """Features of every row in order.

        Parameters
        ----------
        batch : the rows, in order.
        modes : ``(n,) uint8``, marks rows that only read (timers); none do when not given.
        groups : of this batch, where ``group`` has been called already.
        """
        n = len(batch.ts)
        groups = self.group(batch) if groups is None else groups
        modes = np.zeros(n, dtype=np.uint8) if modes is None else modes
        made = filled(n * len(self._made), np.nan).reshape(n, len(self._made))
        columns = _Columns(batch, self.utc_offset_s, made, self._place)
        loaded = {name: self._load(layout, groups[layout.key], batch.ts) for name, layout in self._layouts.items()}
        sent: dict[str, list[FloatMatrix]] = {name: [] for name in self._side}
        with np.errstate(all="ignore"):  # what is undefined becomes NaN, that is missing
            for name, values in batch.numbers.items():
                columns[name] = self.readings.clean(name, values)
            self._run_passes(batch.ts, modes, columns, loaded, groups, sent, made)
            masks = self._label_masks(columns, n)
        for name in self._own if n else ():
            loaded[name].save()
        updates = {name: np.concatenate(values).T for name, values in sent.items()}
        return FeatureBlock(self._inputs.matrix(columns, made), masks, columns, updates)

    def _load(self, layout: EntityLayout, grouping: Grouping, ts: FloatVector) -> LoadedRows:
        """The rows of a layout for events; those that labels feed live by labels alone: their owner knows no event."""
        table, touches = self._prefix + layout.name, layout.fed_by == kernel.EVENT
        return LoadedRows(self.store, table, grouping, ts, layout.kept_s, touches=touches)

    def _run_passes(
        self,
        ts: FloatVector,
        modes: Modes,
        columns: _Columns,
        loaded: Mapping[str, LoadedRows],
        groups: Mapping[str, Grouping],
        sent: Mapping[str, list[FloatMatrix]],
        made: FloatMatrix,
    ) -> None:
        """Every pass in order, and after each the derived values that it makes computable."""
        n = len(ts)
        nothing, one = np.zeros(n), filled(n, 1.0)
        self._derive(0, columns, n)
        for k, p in enumerate(self.plan.passes):
            block = made[:, self._blocks[k]]
            if isinstance(p, WindowPass):
                # Labels bring their own values and masks; those of events are not used, nor computable this early.
                values = np.zeros((len(p.values), n)) if p.fed_by == kernel.LABEL else _value_matrix(p, columns, n)
                loaded[p.layout].run(p, ts, modes, values, nothing, one, block)
                if p.layout in sent:
                    sent[p.layout].append(values)
            else:
                self._run_detector(p, columns, ts, modes, groups[p.key], block)
            self._derive(k + 1, columns, n)

    def _derive(self, stage: int, columns: _Columns, n: int) -> None:
        for name in self._schedule[stage]:
            value = self._expressions[name].evaluate(columns)
            # An expression of numbers alone, such as ``nan()``, has no rows of its own.
            columns[name] = value if value.ndim else np.full(n, value)

    def apply(self, layout: str, batch: UpdateBatch) -> None:
        """Update the rows of one layout in order and save them.

        Parameters
        ----------
        layout : its name.
        batch : values as ``FeatureBlock.updates`` gives them. For a label layout: y (for a correction its change, +1 or
            -1), unit (1, or 0 for a correction), then the logged masks of the layout.

        Raises
        ------
        TaskError
            When the task has no such layout, or its updates have another width.
        """
        self._check_update(layout, batch)
        fed_by, n = self._layouts[layout].fed_by, len(batch)
        if n == 0:
            return
        kept_s = self._layouts[layout].kept_s
        rows = LoadedRows(self.store, self._prefix + layout, group(batch.entity_id), batch.ts, kept_s)
        modes = np.full(n, fed_by, dtype=np.uint8)
        y, unit, at = np.zeros(n), np.ones(n), 0
        if fed_by == kernel.LABEL:
            y, unit, at = np.ascontiguousarray(batch.values[:, 0]), np.ascontiguousarray(batch.values[:, 1]), 2
        for p in self._passes[layout]:
            values = np.ascontiguousarray(batch.values[:, at : at + len(p.values)].T)
            at += len(p.values)
            rows.run(p, batch.ts, modes, values, y, unit, None)
        rows.save()

    def _check_update(self, layout: str, batch: UpdateBatch) -> None:
        if layout not in self._layouts:
            raise TaskError(f"there is no layout {layout!r}; the task has {', '.join(self._layouts)}")
        if batch.values.shape != (len(batch), self.width(layout)):
            raise TaskError(
                f"updates of {layout!r} have shape {batch.values.shape}, expected {(len(batch), self.width(layout))}: "
                "they were made by another version of the task; drop them and rebuild the features"
            )

    def _label_masks(self, columns: _Columns, n: int) -> FloatMatrix:
        masks = np.empty((n, len(self.plan.label_masks)))
        for k, expression in enumerate(self.plan.label_masks):
            value = expression.evaluate(columns)
            if k in self.plan.label_values:
                # A copy: the expression may be a bare column, which other passes read and which `cut` would change.
                masks[:, k] = cut(np.array(value), _VALUE_MAX)
            else:
                masks[:, k] = value > 0.0
        return masks

    def _run_detector(
        self, p: AnomalyPass, columns: _Columns, ts: FloatVector, modes: Modes, grouping: Grouping, out: FloatMatrix
    ) -> None:
        # A timer only looks: to a detector that is a missing value, from which it learns nothing.
        values = np.empty((len(p.values), len(ts)))
        for k, expression in enumerate(p.values):
            values[k] = np.where(modes == kernel.EVENT, cut(np.array(expression.evaluate(columns)), _VALUE_MAX), np.nan)
        known = np.flatnonzero(grouping.slots >= 0)
        table = self._prefix + _anomaly_table(p)
        living = LivingRows(self.store, table, grouping.keys, grouping.slots, ts, p.kept_s)
        state, slots = living.rows.view(np.float64), living.slots[known]
        out[known] = self._detectors[id(p)].run_columns(state, slots, ts[known], values[:, known])
        if len(known):
            living.save()


def _detector(anomaly: Anomaly) -> SeriesAnomalyDetector | StateDetector:
    if anomaly.score == "state":
        return build_state_detector(anomaly.values, anomaly.span, anomaly.params)
    return build_detector(anomaly.params)


def _anomaly_table(p: AnomalyPass) -> str:
    return f"{p.entity}.{p.anomaly.name}"


def _value_matrix(p: WindowPass, columns: _Columns, n: int) -> FloatMatrix:
    """What each row brings to a pass, ``(V, n)``."""
    values = np.empty((len(p.values), n))
    for k, expression in enumerate(p.values):
        values[k] = expression.evaluate(columns)
    return cut(values, _VALUE_MAX)
