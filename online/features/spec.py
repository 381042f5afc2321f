"""What a task file may declare about features. These models know shapes and limits; ``plan`` turns them into tables."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from weir.online.anomaly.layout import COMPONENTS
from weir.online.anomaly.state_params import is_span, outputs, span
from weir.online.durations import EVER, Seconds, format_duration, parse_duration
from weir.online.features.expression import Expression
from weir.online.frozen import FrozenModel

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
WindowOp = Literal["count", "sum", "mean", "std", "min", "max", "distinct", "over_mean", "rate", "q50", "q90", "q99"]
GapOp = Literal["gap_mean", "gap_std", "gap_trend"]
PlainOp = Literal["last", "since_last", "since_first", "ewmean", "over_ewmean"]
LabelWindowOp = Literal["count", "positives", "share"]
LabelPlainOp = Literal["last", "since_last", "since_positive", "since_first_positive", "ewmean"]
LabelRunOp = Literal["run_count", "run_min", "run_since_first", "run_since_negative"]

WINDOW_OPS: tuple[str, ...] = get_args(WindowOp)
GAP_OPS: tuple[str, ...] = get_args(GapOp)
"""Of the time between an entity's events: over windows where there are any, else weighted by ``half_life``."""
RATIO_OPS = ("mean", "std", "min", "max", "rate", "q50", "q90", "q99", "gap_mean", "gap_std")
QUANTILE_OPS = ("q50", "q90", "q99")
LABEL_WINDOW_OPS = ("count", "positives", "share")
RUN_OPS = ("run_count", "run_min", "run_since_first", "run_since_negative")
"""Of the label run: the known positives whose events came after that of every known negative."""
Formula = Annotated[str, AfterValidator(lambda source: Expression.parse(source).source)]
"""A column or an expression of columns; wrong ones are refused where they stand."""
Sensor = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,47}$")]
"""A column, raw or of ``[values]``: its name is part of others."""
REFERENCE = "400 rows"
HOUR_S, DAY_S = 3600.0, 86_400.0
LONGEST_S = 3653 * DAY_S
KEPT: Final = 1.125
"""Rows are kept so many times the ``ttl``: an entity that comes back a little later than once a ``ttl`` is known."""


def _window(text: object) -> float:
    return EVER if text == "ever" else parse_duration(text)


Window = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_window)]
"""Seconds of a window; infinite for ``ever``."""


class _Aggregate(FrozenModel):
    name: Name
    """Part of the names of its features: ``ENTITY.NAME_OP_WINDOW``."""
    windows: tuple[Window, ...] = ()
    """Whole seconds from ``1s`` to ``3653d``, or ``ever``; each op that has windows makes a feature of each."""
    where: Formula | None = None
    """Only rows for which this expression is true feed the aggregate."""
    panes: int = Field(default=24, ge=2, le=256)
    """Panes a window is made of: its edge is exact to ``window / panes``."""
    half_life: Seconds = Field(default=7 * 86_400.0, gt=0)
    """Of ``ewmean`` and ``over_ewmean``, and of gaps where there are no windows."""

    @field_validator("windows")
    @classmethod
    def _check_windows(cls, windows: tuple[float, ...]) -> tuple[float, ...]:
        for window in windows:
            whole = window >= HOUR_S or window % 1.0 == 0.0
            if window != EVER and not (1.0 <= window <= LONGEST_S and whole):
                raise ValueError(
                    f"window {format_duration(window)} is not whole seconds from 1s to 3653d (a number without a unit "
                    "is seconds: write '7d'); give one of these, or 'ever'"
                )
        if len(set(windows)) != len(windows):
            raise ValueError("a window is named twice (24h is 1d); remove one")
        return windows

    def _check_ops(self, ops: tuple[str, ...], windowed: tuple[str, ...]) -> None:
        if len(set(ops)) != len(ops):
            raise ValueError(f"{next(op for op in ops if ops.count(op) > 1)}: an op is named twice; remove one")
        wants = [op for op in ops if op in windowed]
        if wants and not self.windows:
            raise ValueError(f"{wants[0]} needs windows, such as windows = ['1d', '7d']")


class Aggregate(_Aggregate):
    """An aggregate of an entity over its events."""

    value: Formula | None = None
    """Column or expression to aggregate; without it the aggregate counts events."""
    ops: tuple[WindowOp | GapOp | PlainOp, ...] = Field(min_length=1)
    """What is computed of the values or of the events' times; each is a feature."""
    include_current: bool = True
    """Whether windowed values include the event that is being scored."""
    clip: float = Field(default=0.0, ge=0)
    """``ewmean``: a value counts for at most this many times the current mean, where that is above 0 (0: no limit),
    for a robust mean."""
    bits: int = Field(default=64, ge=32, le=1024, multiple_of=32)
    """``distinct``: bitmap bits a pane; the estimate saturates near ``bits * ln(bits)``."""
    # Left out of a dump where there are none: schemas of rows are digests of dumps, and rows of before are to stay
    # readable.
    ratios: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Pairs of windows, as ``1d/30d``: a feature for each op that compares, the one window's value over the other's."""

    @property
    def pairs(self) -> list[tuple[float, ...]]:
        """The windows of each of ``ratios``, in seconds."""
        return [tuple(_window(part) for part in ratio.split("/")) for ratio in self.ratios]

    @model_validator(mode="after")
    def _check(self) -> Aggregate:
        self._check_ops(self.ops, WINDOW_OPS)
        needs = [op for op in self.ops if op not in ("count", "rate", "since_last", "since_first", *GAP_OPS)]
        if needs and self.value is None:
            raise ValueError(f"{needs[0]} needs value = a column or an expression")
        if self.ratios and not {*self.ops} & {*RATIO_OPS}:
            raise ValueError(f"ratios compare {', '.join(RATIO_OPS)}; add one of these to ops (for count: rate)")
        for ratio, pair in zip(self.ratios, self.pairs, strict=True):
            if len(pair) != 2 or not {*pair} <= {*self.windows}:
                raise ValueError(f"ratios: {ratio!r} is not two of the windows, such as '1d/30d'; write it so")
        if "gap_trend" in self.ops and EVER in self.windows:
            raise ValueError("gap_trend compares the halves of a window, and 'ever' has none; leave one of them out")
        return self


class LabelAggregate(_Aggregate):
    """An aggregate of an entity over labels, fed when each label becomes known (never earlier)."""

    ops: tuple[LabelWindowOp | LabelPlainOp | LabelRunOp, ...] = Field(min_length=1)
    """What is computed of the labels known so far; each is a feature."""
    value: Formula | None = None
    """``run_min``: column or expression, as it was when the event was scored."""
    prior: float = Field(default=0.0, ge=0)
    """``share``: strength of the prior, in labels; 0 leaves an empty window missing."""
    prior_share: float = Field(default=0.0, ge=0, le=1)
    """``share``: the share of positives that the prior stands for."""

    @model_validator(mode="after")
    def _check(self) -> LabelAggregate:
        self._check_ops(self.ops, LABEL_WINDOW_OPS)
        if ("run_min" in self.ops) != (self.value is not None):
            raise ValueError("run_min and value go together; give both or neither")
        return self


def over_windows(aggregate: Aggregate | LabelAggregate) -> set[str]:
    """Which operations of an aggregate make a feature for each of its windows."""
    known = (*WINDOW_OPS, *GAP_OPS) if isinstance(aggregate, Aggregate) else LABEL_WINDOW_OPS
    return {op for op in aggregate.ops if aggregate.windows and op in known}


class Anomaly(FrozenModel):
    """An unsupervised detector on one value of an entity, or on several sensors; what it tells becomes features."""

    name: Name
    """Its columns are ``ENTITY.NAME`` and those that begin so."""
    value: Formula | None = None
    """``onset``: a column or an expression, which is watched."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Of the detector, by ``score``: the two tables below."""
    score: Literal["onset", "state"] = Field(default="onset", exclude_if=lambda value: value == "onset")
    """When something new begins, told once and then got used to; or how unlike a reference it is, while that lasts."""
    values: tuple[Sensor, ...] = Field(default=(), max_length=32, exclude_if=lambda value: not value)
    """``state``: the sensors, raw columns or of ``[values]``."""
    reference: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """``state``: ``400 rows``, a duration, or a column or expression that is true while the reference runs."""
    restart: Formula | None = Field(default=None, exclude_if=lambda value: value is None)
    """``state``: where this is true the reference begins again, as after maintenance."""

    @model_validator(mode="after")
    def _check(self) -> Anomaly:
        state = self.score == "state"
        if state != bool(self.values) or state != (self.value is None):
            raise ValueError(
                "score = 'onset' needs value = a column or an expression, score = 'state' needs values = ['flow', "
                "'pressure'], and neither takes the other"
            )
        if not state and (self.reference or self.restart):
            raise ValueError("reference and restart are of score = 'state'; give that, or leave them out")
        if len(set(self.values)) != len(self.values):
            raise ValueError("values: a sensor is named twice; remove one")
        # Checked here and not by its type: a span may stand in its place.
        if self.flag is not None:
            Expression.parse(self.flag)
        elif self.span is not None:
            span(self.span)
        return self

    @property
    def span(self) -> str | None:
        """How long the reference is, in rows or time; none where a flag says it."""
        reference = self.reference or REFERENCE
        return reference if is_span(reference) else None

    @property
    def flag(self) -> str | None:
        """The expression that is true while the reference runs, if one says so."""
        return None if self.span else self.reference

    @property
    def sources(self) -> tuple[str, ...]:
        """What the detector reads: the value, or the sensors, the flag and the restart."""
        return (
            (self.value,) if self.value is not None else (*self.values, self.flag or "nan()", self.restart or "nan()")
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """What its columns end in: ``""`` is the score."""
        return outputs(self.values) if self.score == "state" else ("", *COMPONENTS, "expected")

    def column(self, entity: str, output: str) -> str:
        """Name of the column of one of ``outputs``."""
        return f"{entity}.{self.name}_{output}" if output else f"{entity}.{self.name}"


class Entity(FrozenModel):
    """Something events are about: its key column and what is remembered of it."""

    name: Name
    """What its features' names begin with."""
    key: str
    """A wire identifier such as ``user_id``, or ``*`` for one entity that every event belongs to."""
    ttl: Seconds = Field(default=60 * DAY_S, ge=0.0, allow_inf_nan=True)
    """How long an entity without events is remembered, and an eighth longer; left out, as its longest window (``ever``:
    2 years)."""
    aggregates: tuple[Aggregate, ...] = ()
    labels: tuple[LabelAggregate, ...] = ()
    anomalies: tuple[Anomaly, ...] = ()

    @property
    def kept_s(self) -> float:
        """Seconds between two events (of what labels feed: two labels) of an entity over which its rows are kept."""
        spans = (730 * DAY_S if w == EVER else w for a in self.windowed for w in a.windows)
        return KEPT * (self.ttl if "ttl" in self.model_fields_set else max(self.ttl, *spans, 0.0))

    @property
    def windowed(self) -> list[Aggregate | LabelAggregate]:
        """Every aggregate, of events and of labels."""
        return [*self.aggregates, *self.labels]

    @model_validator(mode="after")
    def _unique(self) -> Entity:
        names = [*(a.name for a in self.aggregates), *(a.name for a in self.labels), *(a.name for a in self.anomalies)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the aggregate name {name!r} is used twice; columns are called by it: rename one")
        return self
