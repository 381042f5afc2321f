"""What an aggregate's features are called, and in which order aggregates and derived values can be computed.

A value may use features, and an aggregate may use such a value, so there are levels: 0 needs no features, and each next
one needs those of the level before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from weir.online.durations import format_duration
from weir.online.errors import TaskError
from weir.online.features.expression import Expression
from weir.online.features.spec import RATIO_OPS, Aggregate, Anomaly, Entity, LabelAggregate, over_windows
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.mistakes import did_you_mean


def feature_names(entity: str, aggregate: Aggregate | LabelAggregate) -> list[tuple[str, str, float | None]]:
    """``(feature name, op, window or None)`` of everything an aggregate makes, in output order.

    >>> [n for n, _, _ in feature_names("user", Aggregate(name="amount", value="amount", ops=("mean", "last"),
    ...                                                   windows=("1d", "7d")))]
    ['user.amount_mean_1d', 'user.amount_mean_7d', 'user.amount_last']
    """
    windowed = over_windows(aggregate)
    out: list[tuple[str, str, float | None]] = []
    for op in aggregate.ops:
        stem = f"{entity}.{aggregate.name}_{op}"
        if op in windowed:
            out += [(f"{stem}_{format_duration(w)}", op, w) for w in aggregate.windows]
        else:
            out.append((stem, op, None))
    return out


def ratio_values(entity: str, aggregate: Aggregate) -> dict[str, str]:
    """The derived column of each ratio of windows, and its expression.

    >>> ratio_values("user", Aggregate(name="n", ops=("rate",), windows=("1d", "7d"), ratios=("1d/7d",)))
    {'user.n_rate_1d_over_7d': 'user.n_rate_1d / user.n_rate_7d'}
    """
    made = {(op, window): name for name, op, window in feature_names(entity, aggregate)}
    return {
        f"{made[op, a]}_over_{format_duration(b)}": f"{made[op, a]} / {made[op, b]}"
        for op in aggregate.ops
        for a, b in aggregate.pairs
        if op in RATIO_OPS
    }


class Levels:
    """At which level each value and feature exists; finds cycles and names that nothing makes."""

    def __init__(self, entities: Sequence[Entity], values: Mapping[str, str]) -> None:
        self._values = {name: Expression.parse(source) for name, source in values.items()}
        for name in values:
            if name in TIME_COLUMNS:
                raise TaskError(f"[values] {name}: the name is a built-in time column; choose another")
        self._producers: dict[str, Aggregate | Anomaly | None] = {}
        for entity in entities:
            for aggregate in entity.windowed:
                for name, _, _ in feature_names(entity.name, aggregate):
                    self._producers[name] = aggregate if isinstance(aggregate, Aggregate) else None
            for anomaly in entity.anomalies:
                self._producers |= {anomaly.column(entity.name, output): anomaly for output in anomaly.outputs}
        self._memo: dict[str, int] = {}
        self._order: dict[str, int] = {}
        self._open: list[str] = []
        for name in values:
            self._name(name)
        for entity in entities:
            for label in entity.labels:
                self.of(label.where)
                self.of(label.value)

    def of(self, source: str | None) -> int:
        """Level at which an expression can be evaluated; raw columns and time are level 0."""
        if source is None:
            return 0
        return max((self._name(name) for name in Expression.parse(source).names), default=0)

    def aggregate(self, aggregate: Aggregate) -> int:
        """Level of the pass an aggregate belongs to."""
        return max(self.of(aggregate.value), self.of(aggregate.where))

    def anomaly(self, anomaly: Anomaly) -> int:
        """Level of the pass of a detector."""
        return max(self.of(source) for source in anomaly.sources)

    def rank(self, value: str) -> int:
        """A value's place in an order in which its inputs come first."""
        return self._order[value]

    def _name(self, name: str) -> int:
        if name in self._memo:
            return self._memo[name]
        if name in self._open:
            raise TaskError(f"values and aggregates depend on each other: {' -> '.join([*self._open, name])}")
        self._open.append(name)
        level = self._resolve(name)
        self._open.pop()
        self._memo[name] = level
        if name in self._values:
            self._order[name] = len(self._order)
        return level

    def _resolve(self, name: str) -> int:
        if name in self._values:
            return max((self._name(n) for n in self._values[name].names), default=0)
        # A raw column: which there are, events alone say.
        if "." not in name:
            return 0
        if name not in self._producers:
            own = sorted(n for n in self._producers if n.split(".")[0] == name.split(".")[0])
            raise TaskError(
                f"{name!r}: no aggregate makes this feature; {did_you_mean(name, own or [*self._producers])}"
            )
        producer = self._producers[name]
        if producer is None:  # labels feed it, so it can be read before anything of this event is known
            return 1
        if isinstance(producer, Anomaly):
            return self.anomaly(producer) + 1
        return self.aggregate(producer) + 1
