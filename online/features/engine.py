"""Runs a feature plan over batches: loads entity rows, calls the kernel pass by pass, saves them, builds the matrix.

It knows columns and stores by their ports; it does not know what the features are for.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from online.anomaly.factory import build_detector, schema_of
from online.batch import BoolVector, EventBatch, FloatMatrix, FloatVector, IntVector
from online.errors import TaskError
from online.features import kernel
from online.features.expression import Column
from online.features.plan import AnomalyPass, Plan, WindowPass
from online.features.store import FeatureStore
from online.features.timecolumns import TIME_COLUMNS, time_column

Modes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """What the engine makes of a batch of n rows."""

    x: FloatMatrix
    """``(n, F)``: the model's inputs; missing values are 0 and flagged by the indicator columns behind them."""
    label_masks: FloatMatrix
    """``(n, E)``: which label aggregates each event would feed; logged until its label comes."""
    columns: Mapping[str, Column]
    """Every raw, derived and feature column by name, NaN where missing."""


class _Columns(dict[str, Column]):
    """Columns of one batch by name; the time columns are made on first use."""

    def __init__(self, ts: FloatVector, utc_offset_s: float) -> None:
        super().__init__()
        self._ts, self._utc_offset_s = ts, utc_offset_s

    def __missing__(self, name: str) -> Column:
        column = time_column(name, self._ts, self._utc_offset_s)
        self[name] = column
        return column


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
    ) -> None:
        self.plan, self.store, self.utc_offset_s = plan, store, utc_offset_s
        self._prefix = f"{namespace}." if namespace else ""
        self._detectors = {id(p): build_detector(p.anomaly.params) for p in plan.passes if isinstance(p, AnomalyPass)}
        for layout in plan.layouts:
            store.create(self._prefix + layout.name, layout.row_bytes, layout.schema, layout.ttl_s)
        ttl = {layout.name: layout.ttl_s for layout in plan.layouts}
        for p in plan.passes:
            if isinstance(p, AnomalyPass):
                detector = self._detectors[id(p)]
                store.create(
                    self._prefix + _anomaly_table(p), 8 * detector.state_width, schema_of(detector), ttl[p.entity]
                )
        self._keys = {layout.name: layout.key for layout in plan.layouts}
        self._expressions = dict(plan.values)
        self._first_column: list[int] = []
        self._names: list[list[str]] = []
        self._made: list[tuple[str, str | None]] = []
        for p in plan.passes:
            self._first_column.append(len(self._made))
            self._names.append([name for name, _ in self._outputs(p)])
            self._made += self._outputs(p)
        self._schedule = self._schedule_values()
        self._choose(inputs, raw, indicators)

    @property
    def made(self) -> tuple[str, ...]:
        """Names of every column that a pass makes, whether the model sees it or not."""
        return tuple(name for name, _ in self._made)

    def _outputs(self, p: WindowPass | AnomalyPass) -> list[tuple[str, str | None]]:
        """Names and missing-groups of the columns a pass makes."""
        if isinstance(p, WindowPass):
            return [(f.name, f.missing_group) for f in p.features]
        stem = f"{p.entity}.{p.anomaly.name}"
        components = (*self._detectors[id(p)].component_names, "expected")
        return [(stem, stem), *((f"{stem}_{c}", stem) for c in components)]

    def _schedule_values(self) -> list[list[str]]:
        """For each pass, the derived values that become computable once it has run; the first entry is before all."""
        made_by = {name: k for k, p in enumerate(self.plan.passes) for name, _ in self._outputs(p)}
        stage: dict[str, int] = {}
        schedule: list[list[str]] = [[] for _ in range(len(self.plan.passes) + 1)]
        for name, expression in self.plan.values:
            stage[name] = max((stage.get(n, made_by.get(n, -1) + 1) for n in expression.names), default=0)
            schedule[stage[name]].append(name)
        return schedule

    def _choose(self, inputs: Sequence[str], raw: Sequence[str], indicators: bool) -> None:
        """Resolve the inputs and lay out the matrix: values first, then one indicator a missing-group."""
        group = dict(self._made)
        group |= {name: name for name in raw} | {name: name for name, _ in self.plan.values}
        order = [*raw, *(name for name, _ in self.plan.values), *(name for name, _ in self._made)]
        known = [*order, *(c for c in TIME_COLUMNS)]
        chosen: dict[str, None] = {}
        for pattern in inputs:
            bare = pattern.removeprefix("!")
            pool = order if "*" in bare else known
            hits = [name for name in pool if fnmatch.fnmatchcase(name, bare)]
            if not hits:
                raise TaskError(f"inputs: {pattern!r} matches no column; there are: {', '.join(known)}")
            for name in hits:
                if pattern.startswith("!"):
                    chosen.pop(name, None)
                else:
                    chosen[name] = None
        if not chosen:
            raise TaskError("inputs: nothing is left for the model to see; add a name or a glob such as 'user.*'")
        self._inputs = tuple(chosen)
        groups: dict[str, list[int]] = {}
        for k, name in enumerate(self._inputs):
            if indicators and (g := group.get(name)) is not None:
                groups.setdefault(g, []).append(k)
        self._groups = list(groups.values())
        self.features: tuple[str, ...] = (*self._inputs, *(f"{g}_missing" for g in groups))
        place = {name: j for j, (name, _) in enumerate(self._made)}
        self._from_made = np.array([place.get(name, -1) for name in self._inputs], dtype=np.int64)

    def process(self, batch: EventBatch, modes: Modes | None = None) -> FeatureBlock:
        """Features of every row in order; ``modes (n,) uint8`` marks rows that only read (timers)."""
        n = len(batch)
        modes = np.zeros(n, dtype=np.uint8) if modes is None else modes
        columns = _Columns(batch.ts, self.utc_offset_s)
        columns.update(batch.numbers)
        columns.update(batch.texts)
        columns.update(batch.entities)
        columns["type"] = batch.type
        made = np.full((n, len(self._made)), np.nan)
        loaded = {
            layout.name: _Loaded(self.store, self._prefix + layout.name, _keys_of(batch, layout.key))
            for layout in self.plan.layouts
        }
        with np.errstate(all="ignore"):  # what is undefined becomes NaN, that is missing
            self._run_passes(batch.ts, modes, columns, loaded, made)
            masks = self._label_masks(columns, n)
        if n:
            now = float(batch.ts.max())
            for state in loaded.values():
                state.save(now)
        return FeatureBlock(self._matrix(columns, made, n), masks, columns)

    def _run_passes(
        self, ts: FloatVector, modes: Modes, columns: _Columns, loaded: Mapping[str, _Loaded], made: FloatMatrix
    ) -> None:
        """Every pass in order, and after each the derived values that it makes computable."""
        n = len(ts)
        nothing, one = np.zeros(n), np.ones(n)
        self._derive(0, columns, n)
        for k, p in enumerate(self.plan.passes):
            first, names = self._first_column[k], self._names[k]
            block = made[:, first : first + len(names)]
            if isinstance(p, WindowPass):
                # Labels bring their own values and masks; those of events are not used, nor computable this early.
                values = np.zeros((len(p.values), n)) if p.fed_by == kernel.LABEL else _value_matrix(p, columns, n)
                loaded[p.entity].run(p, ts, modes, values, nothing, one, block)
            else:
                self._run_detector(p, columns, ts, modes, loaded[p.entity], block)
            for j, name in enumerate(names):
                columns[name] = block[:, j]
            self._derive(k + 1, columns, n)

    def _derive(self, stage: int, columns: _Columns, n: int) -> None:
        for name in self._schedule[stage]:
            value = self._expressions[name].evaluate(columns)
            columns[name] = value if value.ndim else np.full(n, value)

    def label(
        self,
        entities: Mapping[str, list[str | None]],
        masks: FloatMatrix,
        known_at: FloatVector,
        value: BoolVector,
        correction: BoolVector,
    ) -> None:
        """Feed labels that became known to the label aggregates; a correction moves one label to the other side."""
        n = len(known_at)
        if n == 0 or not any(isinstance(p, WindowPass) and p.fed_by == kernel.LABEL for p in self.plan.passes):
            return
        y = np.where(correction, np.where(value, 1.0, -1.0), value.astype(np.float64))
        unit = np.where(correction, 0.0, 1.0)
        modes = np.full(n, kernel.LABEL, dtype=np.uint8)
        at = 0
        for layout in self.plan.layouts:
            passes = [p for p in self.plan.passes if isinstance(p, WindowPass) and p.entity == layout.name]
            passes = [p for p in passes if p.fed_by == kernel.LABEL]
            if not passes:
                continue
            keys: Sequence[str | None] = ["*"] * n if layout.key == "*" else entities[layout.key]
            state = _Loaded(self.store, self._prefix + layout.name, keys)
            for p in passes:
                values = np.ascontiguousarray(masks[:, at : at + len(p.values)].T)
                at += len(p.values)
                state.run(p, known_at, modes, values, y, unit, np.empty((n, 0)))
            state.save(float(known_at.max()))

    def _label_masks(self, columns: _Columns, n: int) -> FloatMatrix:
        masks = np.empty((n, len(self.plan.label_masks)))
        for k, expression in enumerate(self.plan.label_masks):
            masks[:, k] = expression.evaluate(columns)
        return masks

    def _matrix(self, columns: _Columns, made: FloatMatrix, n: int) -> FloatMatrix:
        x = np.empty((n, len(self.features)))
        width = len(self._inputs)
        x[:, :width] = made[:, self._from_made] if made.shape[1] else 0.0
        for k in np.flatnonzero(self._from_made < 0).tolist():
            x[:, k] = columns[self._inputs[k]]
        for k in range(width):  # a derived value may be infinite where the kernel's own never is
            np.copyto(x[:, k], np.nan, where=np.isinf(x[:, k]))
        missing = np.isnan(x[:, :width])
        for g, members in enumerate(self._groups):
            x[:, width + g] = missing[:, members].any(axis=1)
        x[:, :width][missing] = 0.0
        return x

    def _run_detector(
        self, p: AnomalyPass, columns: _Columns, ts: FloatVector, modes: Modes, loaded: _Loaded, out: FloatMatrix
    ) -> None:
        values = np.where(modes == kernel.EVENT, p.value.evaluate(columns), np.nan)
        known = np.flatnonzero(loaded.slots >= 0)
        table = self._prefix + _anomaly_table(p)
        rows = self.store.load(table, loaded.keys)
        run = self._detectors[id(p)].run_many(
            rows.view(np.float64), loaded.slots[known], ts[known], np.ascontiguousarray(values[known])
        )
        out[known, 0], out[known, 1:-1], out[known, -1] = run.score, run.components, run.expected
        if len(known):
            self.store.save(table, loaded.keys, rows, float(ts.max()))


def _anomaly_table(p: AnomalyPass) -> str:
    return f"{p.entity}.{p.anomaly.name}"


def _keys_of(batch: EventBatch, key: str) -> Sequence[str | None]:
    return ["*"] * len(batch) if key == "*" else batch.entities[key]


def _value_matrix(p: WindowPass, columns: _Columns, n: int) -> FloatMatrix:
    values = np.empty((len(p.values), n))
    for k, expression in enumerate(p.values):
        values[k] = expression.evaluate(columns)
    return values


class _Loaded:
    """The rows of one entity that a batch touches."""

    def __init__(self, store: FeatureStore, table: str, ids: Sequence[str | None]) -> None:
        slot_of: dict[str | None, int] = {None: -1}
        self.slots: IntVector = np.fromiter(
            (slot_of.setdefault(key, len(slot_of) - 1) for key in ids), dtype=np.int64, count=len(ids)
        )
        del slot_of[None]
        self.keys: list[str] = [key for key in slot_of if key is not None]
        self._store, self._table = store, table
        self._rows = store.load(table, self.keys)
        if self._rows.shape[1]:
            self._views = (self._rows.view(np.float64), self._rows.view(np.float32), self._rows.view(np.uint32))

    def run(
        self,
        p: WindowPass,
        ts: FloatVector,
        modes: Modes,
        values: FloatMatrix,
        y: FloatVector,
        unit: FloatVector,
        out: FloatMatrix,
    ) -> None:
        """One kernel call over these rows."""
        kernel.run_rows(
            *self._views, self.slots, ts, modes, p.fed_by, values, values.view(np.int64), y, unit,
            p.rings, p.widths, p.priors, p.scalars, p.decays, p.table, out,
        )  # fmt: skip

    def save(self, now: float) -> None:
        self._store.save(self._table, self.keys, self._rows, now)
