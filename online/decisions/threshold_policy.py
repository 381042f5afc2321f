"""What a task file may say of its line: by costs, alerts a day, precision, or fixed. It knows no scores."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from weir.online.batch import FloatVector
from weir.online.decisions.alert_cap import DAY_S
from weir.online.frozen import FrozenModel

HOUR_S = 3600.0
Worth = Literal["amount"] | None
"""What is at stake in an event: its amount, so that the line is one of expected loss; the same for all where None."""


def is_none(value: object) -> bool:
    """Whether a setting is left out of a dump: task files of before keep their digest."""
    return value is None


WORTH: Any = Field(default=None, exclude_if=is_none)


class FixedThreshold(FrozenModel):
    """A constant."""

    kind: Literal["fixed"] = "fixed"
    value: float = Field(ge=0.0, le=1.0)
    """Scores from it on alert; before anything is learned every score is 0.5."""


class CostThreshold(FrozenModel):
    """Alert when that is expected to be cheaper than not to; needs calibrated probabilities.

    An alert costs ``review``, and ``false_positive`` when nothing is wrong; no alert costs ``false_negative`` when
    something is. Alerting is cheaper from ``p = (false_positive + review) / (false_positive + false_negative)`` on
    (Elkan, "The foundations of cost-sensitive learning", IJCAI 2001). With ``value`` no alert costs the event's amount
    times ``false_negative`` when something is.
    """

    kind: Literal["cost"] = "cost"
    false_positive: float = Field(ge=0.0)
    """What an alert costs where nothing is wrong."""
    false_negative: float = Field(gt=0.0)
    """What no alert costs where something is wrong; with ``value`` the part of the amount that is lost."""
    review: float = Field(default=0.0, ge=0.0)
    """What a look at an alert costs, whatever it finds."""
    value: Worth = WORTH
    """What is at stake: the amount of the event, which must be an input; left out, the same for all events."""

    @model_validator(mode="after")
    def _worth_it(self) -> Self:
        if self.value is None and self.review >= self.false_negative:
            raise ValueError(
                f"review={self.review:g} costs no less than the false_negative={self.false_negative:g} it prevents: no "
                "alert would ever pay; correct the costs"
            )
        return self

    def line(self, amount: FloatVector | float = 1.0) -> FloatVector:
        """The Bayes threshold on the probability, by the amount at stake; above 1 where no alert pays."""
        saved = self.false_positive + np.maximum(amount, 0.0) * self.false_negative
        # Where no amount is at stake and no alert costs anything, nothing is divided by nothing.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(saved > 0.0, (self.false_positive + self.review) / saved, np.inf)


class SegmentBudget(FrozenModel):
    """Alerts a day of events whose ``input`` is in a range: a team's, a region's, those of large amounts."""

    name: str = Field(min_length=1, max_length=64)
    """Whose it is."""
    input: str
    """A number among the inputs of the model; missing is 0."""
    at_least: float | None = Field(default=None)
    """The smallest value of the range; without it there is none."""
    below: float | None = Field(default=None)
    """The first value above the range; without it there is none."""
    alerts_per_day: float = Field(gt=0.0)
    """The most alerts in any day of event time."""
    alerts_per_hour: float | None = Field(default=None, gt=0.0)
    """The burst: a quarter of the day's when not given, and at least 1."""
    min_score: float = Field(default=0.0, ge=0.0, lt=1.0)
    """No score below it alerts."""

    @model_validator(mode="after")
    def _some_range(self) -> Self:
        low, high = self.range
        if not low < high or (low, high) == (-math.inf, math.inf):
            raise ValueError(
                f"budget {self.name!r}: from {low:g} to below {high:g} is no range of {self.input!r}; give `at_least`, "
                "`below` or both, `at_least` the smaller"
            )
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The smallest value, and the first one above."""
        return (-math.inf if self.at_least is None else self.at_least), math.inf if self.below is None else self.below


class BudgetThreshold(FrozenModel):
    """As many alerts as the budget allows, never more: the line follows a fading histogram of scores, a cap holds it.

    No span of a day or an hour of event time, wherever it begins, has more alerts than ``alerts_per_day`` and
    ``alerts_per_hour``, whatever scores, pauses and clocks do (see ``AlertCap``); events of an open alert cost nothing.
    Before ``min_scores`` scores and ``min_days`` of event time nothing is over the line, nor while all scores are
    alike, as before anything is learned. A gap in the stream counts for a day at most, and for no longer than the
    stream has been seen. Where the cap is not used up the line falls, where the level of scores jumps the past is
    forgotten; it is never below ``min_score`` nor the mean score.
    """

    kind: Literal["budget"] = "budget"
    alerts_per_day: float = Field(gt=0.0)
    """24 times ``alerts_per_hour`` where only that is given."""
    alerts_per_hour: float | None = Field(default=None, gt=0.0, exclude_if=is_none)
    """The burst: a quarter of the day's when not given, and at least 1."""
    min_score: float = Field(default=0.0, ge=0.0, lt=1.0, exclude_if=lambda value: value == 0.0)
    """No score below it alerts, whatever is left of the budget."""
    value: Worth = WORTH
    """What alerts are weighed by: the probability times the amount of the event; left out, the probability alone."""
    half_life_days: float = Field(default=7.0, gt=0.0)
    """Event time after which a score counts half for the line."""
    min_scores: int = Field(default=1000, ge=1)
    """Scores before which nothing alerts."""
    min_days: float = Field(default=1.0, ge=0.0)
    """Event time before which nothing alerts."""
    bins: int = Field(default=2048, ge=16, le=65536)
    """Of the histogram of scores that the line is read from."""
    budgets: tuple[SegmentBudget, ...] = Field(default=(), max_length=32, exclude_if=lambda value: not value)
    """Budgets of their own for some events, each with a line of its own: an event is of the first whose range it is in.
    ``alerts_per_day`` is for the rest, and everything else holds for all."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [each.name for each in self.budgets]
        if len({*names}) < len(names):
            raise ValueError(f"budgets = {', '.join(names)}: two have the same name; rename one")
        return self

    @property
    def parts(self) -> tuple[BudgetThreshold, ...]:
        """The budget of the rest, then those of ``budgets``, each as a policy."""
        fields = ("alerts_per_day", "alerts_per_hour", "min_score")
        own = ({name: getattr(each, name) for name in fields} for each in self.budgets)
        return tuple(self.model_copy(update={"budgets": (), **update}) for update in ({}, *own))

    @property
    def most_a_day(self) -> float:
        """Alerts a day of all budgets together."""
        return self.alerts_per_day + sum(each.alerts_per_day for each in self.budgets)

    @model_validator(mode="before")
    @classmethod
    def _by_the_hour(cls, held: Any) -> Any:
        # Before anything is checked, as ``alerts_per_day`` has no default.
        hourly = held.get("alerts_per_hour") if isinstance(held, dict) else None
        return {"alerts_per_day": 24 * hourly, **held} if isinstance(hourly, int | float) else held

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The most alerts in any day and in any hour, each with its seconds."""
        hourly = self.alerts_per_hour or max(self.alerts_per_day / 4.0, 1.0)
        return (self.alerts_per_day, DAY_S), (hourly, HOUR_S)


class PrecisionThreshold(FrozenModel):
    """The lowest threshold at which labelled scores, fading with event time, reach a precision.

    Considered are thresholds with at least ``min_labels`` labels (by faded count) over them. While there is none, the
    ``fallback`` decides; without one, nothing is over the threshold.
    """

    kind: Literal["precision"] = "precision"
    precision: float = Field(gt=0.0, lt=1.0)
    """Share of the scores over the line that are to be positive."""
    half_life_days: float = Field(default=30.0, gt=0.0)
    """Event time after which a label counts half."""
    min_labels: int = Field(default=30, ge=1)
    """Labels over a line, faded, without which it is not considered."""
    fallback: BudgetThreshold | None = None
    """A budget that decides while no line reaches the precision; without ``budgets``."""
    bins: int = Field(default=2048, ge=16, le=65536)
    """Of the histograms of scores that the line is read from."""

    @model_validator(mode="after")
    def _one_fallback(self) -> Self:
        if self.fallback is not None and self.fallback.budgets:
            names = ", ".join(each.name for each in self.fallback.budgets)
            raise ValueError(f"fallback.budgets = {names}: a fallback is one budget; remove them")
        return self


ThresholdPolicy = Annotated[
    FixedThreshold | CostThreshold | BudgetThreshold | PrecisionThreshold, Field(discriminator="kind")
]
"""What a task file may say under ``[decision.threshold]``, told apart by ``kind``."""
