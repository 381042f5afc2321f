"""Turns declared entities and values into passes: packed row layouts and the tables the kernel interprets.

A pass is one kernel call over a batch for one layout. An entity has a layout for what its events feed and another,
``<entity>.labels``, for what labels feed: labels come by another road, so another lane may own those rows.
Aggregates of values that need no features run first (level 0); an aggregate of a value derived from features runs after
the passes that make them. The plan knows names; the kernel knows offsets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from weir.online.durations import EVER, format_duration
from weir.online.errors import TaskError
from weir.online.features import descriptors as d
from weir.online.features import kernel
from weir.online.features.expression import Expression
from weir.online.features.levels import Levels, feature_names
from weir.online.features.quantiles import BIN_WORDS, SCALE_WORDS
from weir.online.features.spec import (
    GAP_OPS,
    QUANTILE_OPS,
    RUN_OPS,
    Aggregate,
    Anomaly,
    Entity,
    LabelAggregate,
    over_windows,
)

LABELS = "labels"
"""Ends the name of a layout that labels feed."""
EVENT_TIME = "ts"
"""The column that says when a label's event was; logged with the masks, as labels come at another time."""
# Scalars of a row, in their order in it: which operations need each, and how many float64.
_SLOTS = (
    (d.S_LAST_TS, {"last", "since_last", *GAP_OPS}, 1),
    (d.S_LAST, {"last"}, 1),
    (d.S_FIRST_TS, {"since_first"}, 1),
    (d.S_EW, {"ewmean", "over_ewmean"}, 3),
    (d.S_GAP, set(GAP_OPS), d.GAP_WORDS),
    (d.S_POSITIVE_TS, {"since_positive"}, 1),
    (d.S_FIRST_POSITIVE_TS, {"since_first_positive"}, 1),
)
_CODES = {"gap_mean": "MEAN", "gap_std": "STD", "gap_trend": "TREND"}
"""Windowed operations that are those of another name."""
_NEVER_MISSING = {"count", "sum", "distinct", "rate", "positives", "run_count"}


@dataclass(frozen=True)
class Feature:
    """One feature a pass makes, and the group whose indicator says that it is missing (``None``: never missing)."""

    name: str
    missing_group: str | None


@dataclass(frozen=True)
class WindowPass:
    """One kernel call: the tables, the value expressions it needs, and the features it makes."""

    layout: str
    level: int
    fed_by: int
    """``kernel.EVENT``, or ``kernel.LABEL`` for aggregates of labels."""
    values: tuple[Expression, ...]
    rings: NDArray[np.int64]
    widths: NDArray[np.float64]
    priors: NDArray[np.float64]
    scalars: NDArray[np.int64]
    decays: NDArray[np.float64]
    table: NDArray[np.int64]
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class AnomalyPass:
    """One detector over a value, or the sensors, of an entity; its state is a table of its own."""

    entity: str
    key: str
    kept_s: float
    level: int
    anomaly: Anomaly
    values: tuple[Expression, ...]


@dataclass(frozen=True)
class EntityLayout:
    """The packed row of what feeds an entity: ``row_bytes`` bytes, float64 slots first, then 32-bit words."""

    name: str
    key: str
    kept_s: float
    row_bytes: int
    schema: int
    """A digest of everything that gives the row its meaning; a stored row of another schema is not read."""
    fed_by: int
    """``kernel.EVENT``, or ``kernel.LABEL``: then its name ends in ``.labels``."""


@dataclass(frozen=True)
class LabelFeed:
    """Which of the logged label masks belong to a label layout: columns ``first`` to ``stop``."""

    layout: str
    key: str
    first: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """Everything the engine needs, in the order in which it runs."""

    layouts: tuple[EntityLayout, ...]
    passes: tuple[WindowPass | AnomalyPass, ...]
    values: tuple[tuple[str, Expression], ...]
    """Derived columns in an order in which each one's inputs exist (features count as existing at their level)."""
    label_masks: tuple[Expression, ...]
    """``where`` expressions of label aggregates, and the values of label runs; evaluated when scoring and logged, used
    when the label comes."""
    label_values: frozenset[int]
    """Which of ``label_masks`` are values rather than masks."""


@dataclass
class _Row:
    """Allocates offsets in one entity's row; those of 32-bit words are shifted behind the float64 part at the end."""

    doubles: int = 0
    words: int = 0

    def double(self, n: int = 1) -> int:
        self.doubles += n
        return self.doubles - n

    def word(self, n: int) -> int:
        self.words += n
        return self.words - n


@dataclass
class _Tables:
    """A window pass under construction."""

    layout: str
    level: int
    fed_by: int
    values: list[Expression] = field(default_factory=list)
    rings: list[list[int]] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    priors: list[tuple[float, float]] = field(default_factory=list)
    scalars: list[list[int]] = field(default_factory=list)
    decays: list[tuple[float, float]] = field(default_factory=list)
    table: list[list[int]] = field(default_factory=list)
    features: list[Feature] = field(default_factory=list)

    def column(self, source: str | None) -> int:
        """Index of an expression among the pass's value columns, -1 for none."""
        if source is None:
            return -1
        for k, known in enumerate(self.values):
            if known.source == source:
                return k
        self.values.append(Expression.parse(source))
        return len(self.values) - 1

    def emit(self, name: str, op: int, source: int, group: str | None) -> None:
        self.table.append([op, source, len(self.features)])
        self.features.append(Feature(name, group))

    def frozen(self, doubles: int) -> WindowPass:
        rings = np.array(self.rings, dtype=np.int64).reshape(-1, d.RING_COLUMNS)
        for column in d.RING_WORDS:
            # Only now: how many float64 there are in front is known when all passes of the row have been laid out.
            rings[:, column] += np.where(rings[:, column] >= 0, 2 * doubles, 0)
        widths, priors, decays = (np.array(rows, dtype=np.float64) for rows in (self.widths, self.priors, self.decays))
        scalars = np.array(self.scalars, dtype=np.int64).reshape(-1, d.SCALAR_COLUMNS)
        table = np.array(self.table, dtype=np.int64).reshape(-1, d.FEATURE_COLUMNS)
        pairs = (priors.reshape(-1, 2), scalars, decays.reshape(-1, 2))  # of no rows numpy makes one axis
        where, values = (self.layout, self.level, self.fed_by), tuple(self.values)
        return WindowPass(*where, values, rings, widths, *pairs, table, tuple(self.features))


def build_plan(entities: Sequence[Entity], values: Mapping[str, str]) -> Plan:
    """Compile declarations; raises ``TaskError`` naming the part that does not resolve."""
    levels = Levels(entities, values)
    layouts: list[EntityLayout] = []
    passes: list[WindowPass | AnomalyPass] = []
    masks: list[Expression] = []
    logged: set[int] = set()
    for entity in entities:
        for fed_by in (kernel.EVENT, kernel.LABEL):
            layout, made = _layout(entity, fed_by, levels)
            layouts += [layout] if made else []
            passes += made
            for p in made if fed_by == kernel.LABEL else ():
                wanted = {source for label in entity.labels for source in _logged_values(label)}
                logged |= {len(masks) + k for k, e in enumerate(p.values) if e.source in wanted}
                masks += p.values
        for a in entity.anomalies:
            sources = tuple(Expression.parse(source) for source in a.sources)
            passes.append(AnomalyPass(entity.name, entity.key, entity.kept_s, levels.anomaly(a), a, sources))
    ordered = [(name, Expression.parse(source)) for name, source in values.items()]
    ordered.sort(key=lambda item: levels.rank(item[0]))
    # Python's sort is stable: within a level passes stay in the order of the file, and columns in theirs.
    levelled = tuple(sorted(passes, key=lambda p: p.level))
    return Plan(tuple(layouts), levelled, tuple(ordered), tuple(masks), frozenset(logged))


def _layout(entity: Entity, fed_by: int, levels: Levels) -> tuple[EntityLayout, list[WindowPass]]:
    """The row of what events, or labels, feed an entity, and its passes; none where nothing does."""
    name, row = entity.name, _Row()
    building: dict[int, _Tables] = {}
    if fed_by == kernel.LABEL:
        name = f"{name}.{LABELS}"
        if any(a.name == LABELS for a in entity.anomalies) and entity.labels:
            raise TaskError(
                f"entity {entity.name}: the anomaly name {LABELS!r} is taken by label aggregates; rename it"
            )
        for label in entity.labels:
            _allocate(building.setdefault(0, _Tables(name, 0, fed_by)), row, entity.name, label)
        meaning = entity.model_copy(update={"aggregates": (), "anomalies": ()})
    else:
        for aggregate in entity.aggregates:
            level = levels.aggregate(aggregate)
            _allocate(building.setdefault(level, _Tables(name, level, fed_by)), row, entity.name, aggregate)
        kept = tuple(a.model_copy(update={"ratios": ()}) for a in entity.aggregates)  # ratios keep nothing in a row
        meaning = entity.model_copy(update={"labels": (), "anomalies": (), "aggregates": kept})
    words = 2 * row.doubles + row.words
    # Of what feeds this row alone: a changed label aggregate must not make the rows of events unreadable.
    said = f"{d.LAYOUT} {meaning.model_dump_json()}"
    digest = hashlib.blake2b(said.encode(), digest_size=4).digest()
    schema = int.from_bytes(digest, "little")
    # An even number of 32-bit words: a row is also read as float64, and stored by words of eight bytes.
    layout = EntityLayout(name, entity.key, entity.kept_s, 4 * (words + words % 2), schema, fed_by)
    return layout, [tables.frozen(row.doubles) for _, tables in sorted(building.items())]


def label_feeds(entities: Sequence[Entity]) -> tuple[LabelFeed, ...]:
    """Which columns of ``Plan.label_masks`` each label layout takes, known without compiling anything.

    >>> from weir.online.features.spec import Entity
    >>> bad = {"name": "bad", "ops": ["last"], "where": "amount > 5"}
    >>> label_feeds([Entity.model_validate({"name": "shop", "key": "merchant_id", "labels": [bad]})])
    (LabelFeed(layout='shop.labels', key='merchant_id', first=0, stop=1),)
    """
    feeds: list[LabelFeed] = []
    first = 0
    for entity in entities:
        if entity.labels:
            # Distinct ones, as `_Tables.column` makes a column of each expression once.
            sources = {source for label in entity.labels for source in (label.where, *_logged_values(label))}
            stop = first + len(sources - {None})
            feeds.append(LabelFeed(f"{entity.name}.{LABELS}", entity.key, first, stop))
            first = stop
    return tuple(feeds)


def _logged_values(label: LabelAggregate) -> tuple[str, ...]:
    """Columns of a label's event that its run needs beside the mask."""
    if not set(label.ops) & set(RUN_OPS):
        return ()
    return (EVENT_TIME,) if label.value is None else (EVENT_TIME, label.value)


def _allocate(tables: _Tables, row: _Row, entity: str, aggregate: Aggregate | LabelAggregate) -> None:
    """Give an aggregate its rings and scalars, and its features their table rows."""
    label = aggregate if isinstance(aggregate, LabelAggregate) else None
    value = -1 if isinstance(aggregate, LabelAggregate) else tables.column(aggregate.value)
    mask = tables.column(aggregate.where)
    windowed = over_windows(aggregate)
    plain, gaps = set(aggregate.ops) - windowed, windowed & set(GAP_OPS)
    scalar = len(tables.scalars)
    rings: dict[tuple[bool, float], int] = {}
    for of_gaps, ops in ((False, windowed - gaps), (True, gaps)):
        for window in aggregate.windows if ops else ():
            rings[of_gaps, window] = len(tables.rings)
            tables.rings.append(_ring(row, aggregate, ops, window, value, mask))
            if of_gaps:
                tables.rings[-1][d.R_GAP] = scalar
            tables.widths.append(window / tables.rings[-1][d.R_PANES])
            tables.priors.append((label.prior, label.prior_share) if label else (0.0, 0.0))
    if plain or gaps:
        logged = [tables.column(source) for source in _logged_values(label)] if label else []
        tables.scalars.append(_scalar(row, plain | ({"since_last"} if gaps else set()), value, mask, logged))
        clip = aggregate.clip if isinstance(aggregate, Aggregate) else 0.0
        tables.decays.append((aggregate.half_life, clip))
    for name, op, op_window in feature_names(entity, aggregate):
        code = getattr(d, (op_window and _CODES.get(op)) or op.upper())
        source = scalar if op_window is None else rings[op in gaps, op_window]
        tables.emit(name, code, source, _missing_group(f"{entity}.{aggregate.name}", name, op, op_window, label))


def _missing_group(stem: str, name: str, op: str, window: float | None, label: LabelAggregate | None) -> str | None:
    """The features that are missing together."""
    if op in _NEVER_MISSING or (op == "share" and label is not None and label.prior > 0):
        return None
    if op in GAP_OPS:
        return name
    if "positive" in op or op == "run_since_negative":
        return f"{stem}_{op}"
    if op in RUN_OPS:
        return f"{stem}_run"
    return stem if window is None else f"{stem}_{format_duration(window)}"


def _ring(
    row: _Row, aggregate: Aggregate | LabelAggregate, ops: set[str], window: float, value: int, mask: int
) -> list[int]:
    """Places of what a window keeps for ``ops``; slots stand in the order of versions before, new ones behind them."""
    panes = 1 if window == EVER else aggregate.panes
    ring = [-1] * d.RING_COLUMNS
    ring[d.R_VALUE], ring[d.R_MASK], ring[d.R_PANES] = value, mask, panes
    ring[d.R_HEAD], ring[d.R_COUNT] = row.double(), row.word(panes)
    ring[d.R_BIT_WORDS], ring[d.R_TREND] = 0, int("gap_trend" in ops)
    if window == EVER and ops & {"std", "gap_std"}:
        ring[d.R_MEAN_EVER] = row.double(2)
    elif ops & {"sum", "mean", "std", "over_mean", "positives", "share", *GAP_OPS}:
        ring[d.R_SUM] = row.double(panes)
        if ops & {"std", "gap_std"}:
            ring[d.R_M2] = row.word(panes)
    if "min" in ops:
        ring[d.R_MIN] = row.double(panes)
    if "max" in ops:
        ring[d.R_MAX] = row.double(panes)
    if isinstance(aggregate, Aggregate) and "distinct" in ops:
        ring[d.R_BIT_WORDS] = aggregate.bits // 32
        ring[d.R_BITS] = row.word(panes * aggregate.bits // 32)
    if ops & set(QUANTILE_OPS):
        ring[d.R_BINS], ring[d.R_SCALE] = row.word(panes * BIN_WORDS), row.double(SCALE_WORDS)
    if "rate" in ops:
        ring[d.R_FIRST] = row.double()
    ring[d.R_MORE] = int(max(ring[d.R_MEAN_EVER], ring[d.R_FIRST], ring[d.R_TREND] - 1, ring[d.R_BINS]) >= 0)
    ring[d.R_BEFORE] = int(isinstance(aggregate, Aggregate) and not aggregate.include_current)
    return ring


def _scalar(row: _Row, ops: set[str], value: int, mask: int, logged: Sequence[int]) -> list[int]:
    scalar = [-1] * d.SCALAR_COLUMNS
    scalar[d.S_VALUE], scalar[d.S_MASK] = value, mask
    for slot, users, doubles in _SLOTS:
        if ops & users:
            scalar[slot] = row.double(doubles)
    if logged:
        scalar[d.S_RUN], scalar[d.S_RUN_TS] = row.double(d.RUN_WORDS), logged[0]
        scalar[d.S_RUN_VALUE] = logged[1] if len(logged) > 1 else -1
    return scalar
