"""A task: everything one prediction problem declares, as it is written in a TOML file.

The models here know shapes, defaults and limits; ``weir.online.stages.pipeline`` turns a task into running stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from weir.online.batch import FloatMatrix, FloatVector, missing_of
from weir.online.codec.wire import FEATURE_MAX, NEGATIVE_RATE_MIN, Word
from weir.online.decisions.alert_policy import AlertPolicy
from weir.online.decisions.reasons import ReasonPolicy
from weir.online.decisions.threshold_policy import BudgetThreshold, ThresholdPolicy
from weir.online.drift.drift_policy import DriftPolicy
from weir.online.durations import Seconds, format_duration, parse_duration
from weir.online.errors import TaskError
from weir.online.features.levels import ratio_values
from weir.online.features.spec import Entity, Formula, Name
from weir.online.frozen import FrozenModel
from weir.online.labels.join_policy import JoinPolicy
from weir.online.labels.silence import SilencePolicy
from weir.online.learners.factory import LearnerSpec
from weir.online.mistakes import did_you_mean, mistakes, sentence, told
from weir.online.task.categories import Category, with_entities
from weir.online.task.full_spec import FullSpec
from weir.online.toml_text import parse_toml

STREAM_KEYS: dict[str, str] = {"user-events": "user_id", "device-events": "device_id"}
"""The wire column that each stream of events is partitioned by."""


NEXT_ONLY = (
    'kind = "next": tasks that recommend run in `weir backtest` and in the embedded host of a program; workers, '
    "`weir serve` and the trainer take tasks that score: leave this file out of theirs"
)
Spec = TypeVar("Spec", bound=FrozenModel)


class LabelSpec(FrozenModel):
    """How labels reach predictions, and which of them the model learns."""

    join: JoinPolicy = JoinPolicy()
    silence: SilencePolicy | None = None
    """Scores on a timer after an entity's first event, and labels from what follows it (churn)."""
    negative_rate: float = Field(default=1.0, ge=NEGATIVE_RATE_MIN, le=1)
    """Share of negatives that become examples; each counts for 1 / rate, so probabilities stay calibrated."""
    maturity: float | str = Field(default="horizon", exclude_if=lambda value: value == "horizon")
    """How long after it an event is learned and judged, however soon its label is known: a duration, or an input that
    tells the seconds (``keep_s`` where it is missing); ``none`` for as soon as its label is known; ``horizon`` for
    ``negative_after_s`` where that is given, else as ``none``."""
    act: Literal["between batches", "between rows"] = Field(
        default="between batches", exclude_if=lambda value: value == "between batches"
    )
    """When a label that has become known acts: ``between rows`` before the next row, however rows are batched, which a
    learner needs whose labels come right after each row; ``between batches`` costs less."""

    @property
    def matures_after(self) -> float | str:
        """What ``maturity`` comes to: seconds, the input that tells them, or ``none``.

        >>> LabelSpec.model_validate({"join": {"negative_after_s": "4d"}}).matures_after, LabelSpec().matures_after
        (345600.0, 'none')
        """
        if self.maturity != "horizon":
            return self.maturity
        # Silence has a horizon, too, and a key of its own for this: `reveal`.
        return "none" if self.join.negative_after_s is None else self.join.negative_after_s

    @property
    def matures(self) -> bool:
        """Whether events wait for their maturity."""
        return self.matures_after != "none"

    def ripens_s(self, features: Sequence[str], x: FloatMatrix) -> FloatVector:
        """Seconds after which events with features ``x (n, F)`` are mature, ``(n,)``.

        The longest, ``keep_s``, where the input that tells them is missing: learned at once, a label that is known
        sooner than the other would count too often.
        """
        wait = self.matures_after
        if not isinstance(wait, str):
            return np.full(len(x), wait)
        if wait == "none":
            return np.zeros(len(x))
        told = x[:, features.index(wait)]
        return np.where(missing_of(told), self.join.keep_s, told)

    @property
    def metrics_over(self) -> str:
        """The rows that metrics are over: where events wait for their maturity, no early label is among them.

        >>> LabelSpec(maturity="28d").metrics_over
        'mature events (maturity = 28d)'
        """
        after = self.matures_after
        shown = format_duration(after) if isinstance(after, float) else after
        return f"mature events (maturity = {shown})" if self.matures else "all known labels"

    @field_validator("maturity")
    @classmethod
    def _seconds_or_name(cls, value: float | str) -> float | str:
        return value if isinstance(value, str) and not value[:1].isdigit() else parse_duration(value)

    @model_validator(mode="after")
    def _mature_in_time(self) -> LabelSpec:
        if isinstance(self.maturity, float) and self.maturity > self.join.keep_s:
            # Frozen from here on: this is the last place where what follows from other fields can be put in.
            object.__setattr__(self, "join", self.join.waiting(self.maturity))
        wait, keep, negative = self.maturity, self.join.keep_s, self.join.negative_after_s or 0.0
        if isinstance(wait, float) and not negative <= wait <= keep:
            raise ValueError(
                f"maturity = {format_duration(wait)} is not between {format_duration(negative)}, when a 0 is known "
                f"(join.negative_after_s), and {format_duration(keep)}, for which predictions are kept (join.keep_s)"
            )
        return self


class MetricSpec(FrozenModel):
    """Which slices of prequential metrics a task keeps."""

    rolling: int = Field(default=2_000, ge=10)
    """Examples in the rolling window."""
    fading: int = Field(default=1_000, ge=1)
    """Examples after which one counts half in the fading metrics."""
    every: Seconds = Field(default=86_400.0, gt=0.0)
    """Interval of the report's time series, in event time."""


class RetrainPolicy(FrozenModel):
    """When a task asks for a new full model by itself."""

    on_drift: bool = True
    """Ask after each drift that is found."""
    after_labels: int | None = Field(default=None, ge=1)
    """Ask after this many examples since the last request."""
    cooldown: Seconds = Field(default=86_400.0, ge=0.0)
    """Event time after a request in which no other is made."""


def known_zone(name: str) -> str:
    """The name of a time zone that this machine knows; raises ``ValueError`` for another one."""
    try:
        ZoneInfo(name)
    # Where the system has a database the name is that of a file: "Europe" is a folder, told by an ``OSError``.
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; give a name such as 'Europe/Berlin'") from None
    return name


class SourceSpec(FrozenModel):
    """How rows of a file become wire events and labels, for ``weir backtest``."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Wire field (or property / metric name) to file column."""
    constants: dict[str, str] = Field(default_factory=dict)
    """Wire fields every row shares, such as ``type = "purchase"``."""
    time: str | None = None
    """Column of event time; without it rows are ``row_interval`` apart."""
    time_format: str = "auto"
    """``auto``, ``iso``, ``unix``, ``unix_ms``, ``unix_us``, ``unix_ns``, or a pattern such as ``%d.%m.%Y %H:%M``."""
    time_zone: str = "UTC"
    """Of times that have no offset, such as ``Europe/Berlin``."""
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the columns of a CSV; found by itself when left out."""
    decimal_mark: Literal["auto", ".", ","] = "auto"
    """``auto`` decides over the values of each column."""
    missing: tuple[str, ...] | None = None
    """Words that mean missing, in place of the usual ones; case and blanks do not matter."""
    row_interval: Seconds = Field(default=60.0, ge=0.0)
    """Event time from row to row where there is no ``time`` column."""
    order: Literal["time", "arrival"] = "time"
    """``arrival`` keeps each entity's rows in file order even where their times step back a little."""
    start: float = 1_500_000_000.0
    """Event time of the first row when there is no time column, epoch seconds."""
    event_id: str | None = None
    """Column of the event id; without it rows are numbered."""
    label: str | None = None
    """Column of the label; without it labels come from files, from silence or not at all."""
    positive: tuple[str, ...] = ()
    """Label values that mean 1, such as ``fraud``: all others are 0 where ``negative`` is empty. Without both lists
    1/0, true/false, yes/no and their like are understood. ``*`` is any value, such as the date of a chargeback."""
    negative: tuple[str, ...] = ()
    """Label values that mean 0. An empty text is a cell without a value, which is else not known."""
    unlabelled: tuple[str, ...] = ()
    """Label values that mean that the label is not known, beside those for missing."""
    label_delay: Seconds = Field(default=0.0, ge=0.0)
    """Event time after which a row's label becomes known; never earlier, in any mode."""
    label_known: str | None = None
    """Column that says when each label became known, in place of one delay for all; read as ``time`` is."""
    batch_size: int = Field(default=512, ge=1, le=65_536)
    """Rows scored together; a label that falls due inside a batch is seen by the next one, or by the next row where
    `act` in [labels] says so."""

    @field_validator("positive", "negative", "unlabelled", "missing", mode="before")
    @classmethod
    def _as_words(cls, value: object) -> object:
        # A column of 0 and 1 is listed as numbers; cells of files are compared as texts.
        return [v if isinstance(v, str) else str(v) for v in value] if isinstance(value, list | tuple) else value

    @field_validator("time_format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        names = ("auto", "iso", "unix", "unix_ms", "unix_us", "unix_ns")
        if value not in names and "%" not in value:
            raise ValueError(f"got {value!r}; give {', '.join(names)}, or a pattern: %d.%m.%Y %H:%M")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return known_zone(value)

    @model_validator(mode="after")
    def _words_differ(self) -> SourceSpec:
        if both := sorted({*self.positive} & {*self.negative}):
            raise ValueError(f"positive and negative both list {', '.join(map(repr, both))}")
        if self.label_known is not None and (self.label is None or "label_delay" in self.model_fields_set):
            raise ValueError("label_known says when each `label` became known: give label too, and no label_delay")
        return self


class TaskSpec(FrozenModel):
    """One prediction problem.

    >>> spec = TaskSpec.from_toml('''
    ... name = "fraud"
    ... entity = "user"
    ... [[entities]]
    ... name = "user"
    ... key = "user_id"
    ... [[entities.aggregates]]
    ... name = "amount"
    ... value = "amount"
    ... ops = ["count", "mean"]
    ... windows = ["1d", "7d"]
    ... [model]
    ... kind = "logistic"
    ... ''')
    >>> spec.entities[0].aggregates[0].windows
    (86400.0, 604800.0)
    """

    name: Name
    """Also the name of the task in labels, predictions and alerts."""
    description: str = ""
    """For people; nothing is computed from it."""
    stream: Literal["user-events", "device-events"] = "user-events"
    """The stream of events that it reads."""
    types: tuple[Word, ...] = ()
    """Event types the task sees; empty for all."""
    entity: Name
    """The entity that scores and alerts are about."""
    utc_offset: Seconds = Field(default=0.0, ge=-50_400.0, le=50_400.0)
    """Added to event time before hour, weekday and night are taken; ``-5h`` is west of Greenwich."""
    numbers: tuple[str, ...] = ()
    """Numeric raw columns the model may see as inputs (others are found in expressions)."""
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """By numeric raw column, the least and the largest value that can be true; others are missing."""
    missing: dict[str, tuple[Annotated[float, Field(allow_inf_nan=True)], ...]] = Field(default_factory=dict)
    """By numeric raw column, the values that stand for "no reading"; a list at the top, or ``"*"``, is for all."""
    values: dict[Name, Formula] = Field(default_factory=dict)
    """Derived columns by name: expressions of raw columns, of features and of each other."""
    entities: tuple[Entity, ...] = Field(min_length=1)
    categories: tuple[Category, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Texts that the model is to see."""
    inputs: tuple[str, ...] = ("*",)
    """Columns that the model sees: names, globs, and ``!`` before those to leave out."""
    indicators: bool = True
    """Whether a 0/1 column stands beside every group of inputs that can be missing."""
    model: LearnerSpec
    labels: LabelSpec = LabelSpec()
    threshold: ThresholdPolicy = BudgetThreshold(alerts_per_day=20)
    alerting: bool = True
    """Whether scores over the threshold open alerts."""
    alerts: AlertPolicy = AlertPolicy()
    reasons: ReasonPolicy = ReasonPolicy()
    wording: dict[str, str] = Field(default_factory=dict)
    """Feature name (or glob) to a sentence for alert reasons, with {value}, {typical} and {entity}."""
    drift: DriftPolicy | None = DriftPolicy()
    """``drift = false`` watches for none."""
    watch: tuple[str, ...] = ()
    """Columns watched for drift beside the score and the label rate; empty for the numeric raw columns."""
    retrain: RetrainPolicy = RetrainPolicy()
    metrics: MetricSpec = MetricSpec()
    full: FullSpec | None = None
    """The model that is trained in the background and served beside the online one; none without ``[full]``."""
    source: SourceSpec | None = None

    @field_validator("utc_offset", mode="before")
    @classmethod
    def _signed(cls, value: object) -> object:
        # No other duration may have a sign, so the reader of durations knows none.
        return -parse_duration(value[1:]) if isinstance(value, str) and value.startswith("-") else value

    @field_validator("missing", mode="before")
    @classmethod
    def _for_all(cls, value: object) -> object:
        return {"*": value} if isinstance(value, list | tuple) else value

    @field_validator("drift", "full", mode="before")
    @classmethod
    def _switched_off(cls, value: object) -> object:
        return None if value is False else value  # TOML has no null

    @model_validator(mode="before")
    @classmethod
    def _entities_of_categories(cls, document: Any) -> Any:
        return with_entities(document)

    @model_validator(mode="after")
    def _check(self) -> TaskSpec:
        names = [e.name for e in self.entities]
        if self.entity not in names:
            raise ValueError(
                f"entity = {self.entity!r} is not among the [[entities]]; {did_you_mean(self.entity, names)}"
            )
        if len(set(names)) != len(names):
            raise ValueError(f"an entity is declared twice ({', '.join(names)}); put all of one under one [[entities]]")
        if self.full is not None and "full" in names:
            raise ValueError("an entity is named 'full', as the columns of [full] are; give it another name")
        for name, (low, high) in self.ranges.items():
            if not -FEATURE_MAX <= low < high <= FEATURE_MAX:
                raise ValueError(f"ranges: {name} = [{low:g}, {high:g}]; give two numbers, the smaller one first")
        self._check_labels_in_time()
        return self

    def _check_labels_in_time(self) -> None:
        """A label that comes after its prediction was let go teaches nothing."""
        waits = dict[str, float]()
        if self.source is not None:
            waits["source.label_delay"] = self.source.label_delay
        if (silence := self.labels.silence) is not None:
            waits["labels.silence.horizon_s and lateness_s"] = silence.horizon_s + silence.lateness_s
        for name, wait in waits.items():
            # A label of silence is made when its horizon is over: a prediction that leaves just then would miss it.
            if wait > self.labels.join.keep_s or (wait == self.labels.join.keep_s and "silence" in name):
                object.__setattr__(self, "labels", self.waiting(wait).labels)
            if wait > (keep_s := self.labels.join.keep_s):
                raise ValueError(
                    f"{name} make {format_duration(wait)}, but predictions wait for labels only "
                    f"labels.join.keep_s = {format_duration(keep_s)}; raise keep_s"
                )

    def waiting(self, wait_s: float) -> TaskSpec:
        """The same whose predictions wait for labels for longer than ``wait_s``, where ``keep_s`` was not given."""
        labels = self.labels.model_copy(update={"join": self.labels.join.waiting(wait_s)})
        return self.model_copy(update={"labels": labels})

    @property
    def derived(self) -> dict[str, str]:
        """Every derived column with its expression: of ``values``, of ratios of windows and of categories."""
        ratios = [ratio_values(e.name, a) for e in self.entities for a in e.aggregates]
        made = (*ratios, *(c.values() for c in self.categories))
        return self.values | {name: source for each in made for name, source in each.items()}

    @property
    def key(self) -> str:
        """The wire column that names the entity scores are about."""
        return next(e.key for e in self.entities if e.name == self.entity)

    @classmethod
    def from_toml(cls, text: str, where: str = "task") -> TaskSpec:
        """Read a task; raises ``TaskError`` with every wrong key by its path."""
        return read_spec(cls, text, where)


def read_spec(model: type[Spec], text: str, where: str) -> Spec:
    """A task file as a ``model``; raises ``TaskError`` with every wrong key by its path."""
    try:
        document = parse_toml(text, where)
    except ValueError as exc:
        raise TaskError(str(exc)) from None
    if model is TaskSpec and document.get("kind") == "next":
        raise TaskError(f"{where}: {NEXT_ONLY}")
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        found = [sentence(each, document) for each in mistakes(model, exc, document)]
        raise TaskError(told(where, found)) from exc
