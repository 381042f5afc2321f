"""Turn what features added to a score into reasons a person can read. It knows names and numbers, not models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from string import Formatter

import numpy as np
from pydantic import Field

from weir.online.batch import FloatMatrix, FloatVector
from weir.online.decisions.alert_state import Reason
from weir.online.decisions.feature_name import FeatureName, Subject, indicator_of, words
from weir.online.decisions.wording import Fact, missing_sentence, sentence, shower
from weir.online.errors import TaskError
from weir.online.frozen import FrozenModel

_FIELDS = ("value", "typical", "entity")


class ReasonPolicy(FrozenModel):
    """Which contributions are worth telling."""

    top: int = Field(default=3, ge=1, le=64)
    min_contribution: float = Field(default=0.05, ge=0.0)
    """Log-odds below which a contribution is not told."""
    min_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of all positive contributions below which one is not told."""
    positive: str = Field(default="positive label", min_length=1)
    """What a positive label is called, such as ``fraud``."""


class _ReadableNumber(float):
    """A number that formats as people write it, or as a template's own format spec says."""

    text: str

    def __new__(cls, value: float, text: str) -> _ReadableNumber:
        shown = super().__new__(cls, value)
        shown.text = text
        return shown

    def __format__(self, spec: str) -> str:
        return float(self).__format__(spec) if spec else self.text


class ReasonWriter:
    """Write the reasons of scores from their features and contributions.

    Parameters
    ----------
    features : names of the F columns. ``<entity>.<aggregate>_<op>_<window>``, ``<name>_missing`` and time columns get
        sentences; other names read ``name = value (raises the odds ...)``.
    policy : how many reasons, and how small ones are dropped.
    templates : feature name or glob to a sentence with ``{value}``, ``{typical}`` and ``{entity}``, each with an
        optional format spec; an exact name goes before a glob, an earlier glob before a later one.
    entity : the entity that scores are about; counts of others then say whose they are.
    subjects : what aggregates and detectors are of, by ``<entity>.<name>`` (``weir.online.task.reason_subjects``).

    Raises
    ------
    TaskError
        When a template matches no feature, has an unknown field or cannot be formatted.

    Examples
    --------
    >>> writer = ReasonWriter(("amount", "user.amount_over_mean_30d", "user.amount_count_1h"))
    >>> (reasons,) = writer.write(np.array([[512.0, 8.3, 17.0]]), np.array([[-0.1, 2.0, 0.5]]), np.array([40.0, 1, 2]))
    >>> [reason.text for reason in reasons]
    ["amount 512.00 is 8.3x this user's 30-day mean", '17 events in 1 h (usually 2)']
    """

    def __init__(
        self,
        features: tuple[str, ...],
        policy: ReasonPolicy | None = None,
        templates: Mapping[str, str] | None = None,
        entity: str | None = None,
        subjects: Mapping[str, Subject] | None = None,
    ) -> None:
        self.features = features
        self.policy = policy or ReasonPolicy()
        self.entity = entity
        self._names = [FeatureName.parse(name, subjects) for name in features]
        self._column = {name: column for column, name in enumerate(features)}
        self._templates = self._resolve(templates or {})
        self._indicators = [indicator_of(name, self._column) for name in self._names]
        # Ranks names for ties, so the order of columns does not matter.
        self._rank = np.argsort(np.argsort(np.array(features, dtype=object), kind="stable"), kind="stable")

    def write(
        self, values: FloatMatrix, contributions: FloatMatrix, typical: FloatVector | FloatMatrix | None = None
    ) -> list[list[Reason]]:
        """Write reasons for each row, largest contribution first, ties by name.

        Parameters
        ----------
        values : ``(n, F) float64`` as a person would know them (not scaled).
        contributions : ``(n, F) float64`` added to the log-odds.
        typical : ``(F,)`` or ``(n, F)`` usual values, NaN where unknown; see ``TypicalValues``.
        """
        n, f = len(values), len(self.features)
        if values.shape != (n, f) or contributions.shape != (n, f):
            raise ValueError(
                f"values {values.shape} and contributions {contributions.shape} must both be {(n, f)}: one column for "
                "each feature the writer was built with"
            )
        usual = np.broadcast_to(np.nan if typical is None else typical, (n, f))
        return [self._row(values[i], contributions[i], usual[i]) for i in range(n)]

    def _row(self, values: FloatVector, contributions: FloatVector, typical: FloatVector) -> list[Reason]:
        raised = np.where(np.isfinite(contributions), np.maximum(contributions, 0.0), 0.0)
        least = max(self.policy.min_contribution, self.policy.min_share * float(raised.sum()))
        order = np.lexsort((self._rank, -raised))[: self.policy.top]
        return [
            self._reason(column, values, float(contributions[column]), float(typical[column]))
            for column in order.tolist()
            if raised[column] > 0.0 and raised[column] >= least
        ]

    def _reason(self, column: int, values: FloatVector, contribution: float, typical: float) -> Reason:
        name, value = self._names[column], float(values[column])
        template, indicator = self._templates.get(column), self._indicators[column]
        # An aggregate called amount need not be of the column amount, so the task's word goes before the name.
        own = self._column.get((name.declared.value or "") if name.declared else name.subject)
        subject = math.nan if own is None else float(values[own])
        other = self.entity is not None and name.entity != self.entity
        fact = Fact(name, value, contribution, typical, subject, self.policy.positive, other)
        if not math.isfinite(value) or (indicator is not None and values[indicator] > 0.0):
            # A missing value is 0 in the matrix; what raises the score is that it is missing.
            value, text = 0.0, missing_sentence(fact)
        elif template is not None:
            text = self._fill(template, name, value, typical)
        else:
            text = sentence(fact)
        return Reason(name.full, value, contribution, text)

    def _resolve(self, templates: Mapping[str, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        for exact in (True, False):
            for pattern, template in templates.items():
                is_exact = pattern in self._column
                if is_exact != exact:
                    continue
                matching = [c for c, name in enumerate(self.features) if name == pattern or fnmatchcase(name, pattern)]
                if not matching:
                    raise TaskError(
                        f"the wording for {pattern!r} matches no feature; there are {', '.join(self.features)}"
                    )
                self._check(pattern, template)
                for column in [self._column[pattern]] if is_exact else matching:
                    found.setdefault(column, template)
        return found

    def _check(self, pattern: str, template: str) -> None:
        try:
            fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
            unknown = [field for field in fields if field not in _FIELDS]
            if not unknown:
                self._fill(template, FeatureName.parse(pattern), 1.5, 1.5)
        except (ValueError, TypeError) as error:
            raise TaskError(f"the wording for {pattern!r} cannot be used: {error}; it is {template!r}") from error
        if unknown:
            raise TaskError(
                f"the wording for {pattern!r} has {{{unknown[0]}}}; only {{value}}, {{typical}}, {{entity}} exist"
            )

    def _fill(self, template: str, name: FeatureName, value: float, typical: float) -> str:
        show = shower(name)
        return template.format(
            value=_ReadableNumber(value, show(value) if math.isfinite(value) else "unknown"),
            typical=_ReadableNumber(typical, "unknown" if math.isnan(typical) else show(typical)),
            entity=words(name.entity or self.entity or "entity"),
        )
