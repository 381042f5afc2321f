"""Turn what features added to a score into reasons a person can read. It knows names and numbers, not models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from pydantic import Field

from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.decisions.alert_state import Reason
from weir.online.decisions.feature_name import ALWAYS_KNOWN, FeatureName, Subject, indicated, missing_in
from weir.online.decisions.templates import Templates
from weir.online.decisions.wording import Fact, absent_of, missing_sentence, sentence
from weir.online.frozen import FrozenModel

_USUAL: Final = 1 / 3
"""What holds for more than this share of all rows, or is nearer to the median, is told last."""
_EXTREME: Final = ("min", "max")
"""Whose value in a long window holds for the shorter ones."""


class ReasonPolicy(FrozenModel):
    """Which contributions are worth telling."""

    top: int = Field(default=3, ge=1, le=64)
    """Reasons that an alert has at most."""
    min_contribution: float = Field(default=0.05, ge=0.0)
    """Log-odds below which a contribution is not told."""
    min_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of all positive contributions below which one is not told."""
    positive: str = Field(default="positive label", min_length=1)
    """What a positive label is called, such as ``fraud``."""


class _Row(NamedTuple):
    """What is known of one row, by column ``(F,)``."""

    values: FloatVector
    missing: BoolVector
    typical: FloatVector
    shares: FloatVector


class ReasonWriter:
    """Write the reasons of scores from their features and contributions.

    Parameters
    ----------
    features : names of the F columns. ``<entity>.<aggregate>_<op>_<window>``, ``<name>_missing`` and time columns get
        sentences; other names read ``name is value (usually 2)``.
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
        self._own = [FeatureName.parse(name, subjects) for name in features]
        # A value that is log1p of a feature is told as that feature.
        made_of = [(n, n.declared.made_of if n.declared and not n.missing else None) for n in self._own]
        self._names = [FeatureName.parse(made[0], subjects) if made else n for n, made in made_of]
        self._back = {c: made[1] for c, (_, made) in enumerate(made_of) if made}
        self._column = {name: column for column, name in enumerate(features)}
        self._templates = Templates(templates or {}, self._own, entity)
        self._indicated = indicated(self._own, self._column)
        self._stems = [(n.entity, n.subject, absent_of(n)) if n.entity else None for n in self._own]
        self._behind = {
            c: [self._column[part] for part in n.declared.behind if part in self._column]
            for c, n in enumerate(self._own)
            if n.declared is not None and n.declared.behind is not None and not n.op
        }
        self._one_of = {c: n.declared.one_of for c, n in enumerate(self._own) if n.declared and n.declared.one_of}
        counts: list[object] = [
            (n.entity, n.subject, n.op) if n.window and not n.missing else n.full for n in self._names
        ]
        for c, category in self._one_of.items():
            counts[c] = ("", category, "")
        number = {count: g for g, count in enumerate(dict.fromkeys(counts))}
        self._group = np.array([number[count] for count in counts], np.int64)
        self._members: list[list[int]] = [np.flatnonzero(self._group == g).tolist() for g in range(len(number))]
        # Ranks names for ties, so the order of columns does not matter.
        self._rank = np.argsort(np.argsort(np.array(features, dtype=object), kind="stable"), kind="stable")

    def write(
        self,
        values: FloatMatrix,
        contributions: FloatMatrix,
        typical: FloatVector | FloatMatrix | None = None,
        shares: FloatMatrix | None = None,
    ) -> list[list[Reason]]:
        """Write reasons for each row, what is usual after what is not, then by contribution, ties by name.

        Windows of one count are one reason, with what they added together, and so are columns of one category. What was
        missing is told as missing.

        Parameters
        ----------
        values : ``(n, F) float64`` as a person would know them (not scaled).
        contributions : ``(n, F) float64`` added to the log-odds.
        typical : ``(F,)`` or ``(n, F)`` usual values, NaN where unknown; see ``TypicalValues``.
        shares : ``(n, F)`` of all rows that are as far out; see ``TypicalValues.shares``.
        """
        n, f = len(values), len(self.features)
        if values.shape != (n, f) or contributions.shape != (n, f):
            raise ValueError(
                f"values {values.shape} and contributions {contributions.shape} must both be {(n, f)}: one column for "
                "each feature the writer was built with"
            )
        usual = np.broadcast_to(np.nan if typical is None else typical, (n, f))
        rare = np.zeros((n, f)) if shares is None else shares
        missing = missing_in(values, self._indicated)
        rows = (_Row(values[i], missing[i], usual[i], rare[i]) for i in range(n))
        return [self._row(row, contributions[i]) for i, row in enumerate(rows)]

    def _row(self, row: _Row, contributions: FloatVector) -> list[Reason]:
        added = np.where(np.isfinite(contributions), contributions, 0.0)
        # Summed before what lowers the score is dropped: windows of one count may speak against each other.
        raised = np.maximum(np.bincount(self._group, added, len(self._members)), 0.0)
        least = max(self.policy.min_contribution, self.policy.min_share * float(raised.sum()))
        # The window that added most speaks for all of its count.
        ordered = np.lexsort((self._rank, -added))
        first = ordered[np.unique(self._group[ordered], return_index=True)[1]]
        order = np.lexsort((self._rank[first], -raised, row.shares[first] > _USUAL))
        told: dict[str, Reason] = {}
        large = (raised > 0.0) & (raised >= least)
        if not large.any():  # a score that is a column is told however low: its log-odds say nothing of what is usual
            large[self._group[[*self._behind]]] = True
        for group in order[large[order]].tolist():
            if len(told) < self.policy.top:
                reason = self._reason(self._says_most(int(first[group]), row), row, float(raised[group]))
                # Two columns may come to the same sentence, such as those that are missing together.
                told.setdefault(reason.text, reason)
        return [*told.values()]

    def _says_most(self, column: int, row: _Row) -> int:
        """Of the windows with the same value, the one from which that of the others follows; of a category its text."""
        name, value = self._names[column], row.values[column]
        if column in self._one_of:  # the one that is 1, whichever of the others added more by being 0
            return next((c for c in self._members[self._group[column]] if row.values[c] > 0.0), column)
        if row.missing[column] or column in self._templates or name.op not in (*ALWAYS_KNOWN, *_EXTREME):
            return column
        same: list[int] = [
            c for c in self._members[self._group[column]] if row.values[c] == value and not row.missing[c]
        ]
        # Five events in an hour are five in a day too, where the day has no more; nothing in a day is nothing in its
        # hours.
        shortest = value > 0.0 and name.op not in _EXTREME
        return min(same, key=lambda c: self._names[c].span_s if shortest else -self._names[c].span_s)

    def _reason(self, column: int, row: _Row, contribution: float) -> Reason:
        own, value = self._own[column], float(row.values[column])
        if row.missing[column] or (own.missing and (value > 0.0 or row.missing[self._indicated.get(column, [])].any())):
            # A missing value is 0 in the matrix; what raises the score is that it is missing.
            text = missing_sentence(self._fact(self._widest(column, row), row, contribution, missing=True))
            return Reason(own.full, value if own.missing else 0.0, contribution, text)
        if column in self._templates:
            text = self._templates.text(column, value, float(row.typical[column]))
        else:
            text = sentence(self._fact(column, row, contribution))
        if known := [c for c in self._behind.get(column, ()) if not row.missing[c]]:
            rarest = min(known, key=lambda c: (row.shares[c], -row.values[c], self._rank[c]))
            part = self._sensor(own, row, rarest)
            text += f": {self._reason(part, row, contribution).text}"
        return Reason(own.full, value, contribution, text)

    def _sensor(self, name: FeatureName, row: _Row, other: int) -> int:
        """The column that says what is odd of the sensor that a detector of states names; ``other`` without one."""
        says = [self._column.get(f"{name.full}_{told}", -1) for told in ("sensor", "view")]
        sensor, view = (0 if column < 0 or row.missing[column] else int(row.values[column]) for column in says)
        behind = name.declared.behind if name.declared and name.of == "state" else None
        return self._column.get(behind[3 * (sensor - 1) + view - 1], other) if behind and sensor and view else other

    def _widest(self, column: int, row: _Row) -> int:
        """The missing column that says the most of what is missing: no entity, nothing known, or the longest window."""
        absent = [c for c in self._indicated.get(column, ()) if row.missing[c]]
        column = absent[0] if absent else column
        name = self._own[column]
        if name.entity is None:
            return column
        missing = [column, *np.flatnonzero(row.missing).tolist()]
        unnamed = [c for c in missing if self._own[c].entity == name.entity and self._own[c].op in ALWAYS_KNOWN]
        same = [c for c in missing if self._stems[c] == self._stems[column]]
        return unnamed[0] if unnamed else max(same, key=lambda c: self._own[c].span_s)

    def _fact(self, column: int, row: _Row, contribution: float, *, missing: bool = False) -> Fact:
        value, typical = float(row.values[column]), float(row.typical[column])
        name = self._own[column] if missing else self._names[column]
        if not missing and (back := self._back.get(column)) is not None:
            value, typical = back(value), back(typical)
        # An aggregate called amount need not be of the column amount, so the task's word goes before the name.
        at = self._column.get((name.declared.value or "") if name.declared else name.subject)
        subject = math.nan if at is None or row.missing[at] else float(row.values[at])
        other = self.entity is not None and name.entity != self.entity
        return Fact(name, value, contribution, typical, subject, self.policy.positive, other)
