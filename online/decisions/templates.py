"""The sentences that a task gives for its features, in place of ours. It knows names and numbers, not models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from string import Formatter

from weir.online.decisions.feature_name import FeatureName, words
from weir.online.decisions.wording import shower
from weir.online.errors import TaskError

_FIELDS = ("value", "typical", "entity")


class _ReadableNumber(float):
    """A number that formats as people write it, or as a template's own format spec says."""

    text: str

    def __new__(cls, value: float, text: str) -> _ReadableNumber:
        shown = super().__new__(cls, value)
        shown.text = text
        return shown

    def __format__(self, spec: str) -> str:
        return float(self).__format__(spec) if spec else self.text


class Templates:
    """``[wording]`` of a task.

    Parameters
    ----------
    templates : feature name or glob to a sentence; an exact name goes before a glob, an earlier glob before another.
    names : of all columns, taken apart.
    entity : the entity that scores are about.

    Raises
    ------
    TaskError
        When a template matches no feature, has an unknown field or cannot be formatted.
    """

    def __init__(self, templates: Mapping[str, str], names: list[FeatureName], entity: str | None) -> None:
        self._names, self._entity = names, entity
        self._column = {name.full: column for column, name in enumerate(names)}
        self._found = self._resolve(templates)

    def __contains__(self, column: int) -> bool:
        return column in self._found

    def text(self, column: int, value: float, typical: float) -> str:
        """The task's sentence of a column that it has one for; a flag that is 0 negates it."""
        name = self._names[column]
        text = self._fill(self._found[column], name, value, typical)
        return f"not {text}" if name.declared and name.declared.flag and value <= 0.0 else text

    def _resolve(self, templates: Mapping[str, str]) -> dict[int, str]:
        found: dict[int, str] = {}
        for exact in (True, False):
            for pattern, template in templates.items():
                is_exact = pattern in self._column
                if is_exact != exact:
                    continue
                matching = [c for name, c in self._column.items() if name == pattern or fnmatchcase(name, pattern)]
                if not matching:
                    raise TaskError(
                        f"the wording for {pattern!r} matches no feature; there are {', '.join(self._column)}"
                    )
                self._check(pattern, template)
                for column in [self._column[pattern]] if is_exact else matching:
                    found.setdefault(column, template)
        return found

    def _check(self, pattern: str, template: str) -> None:
        try:
            parsed = [(field, spec or "") for _, field, spec, _ in Formatter().parse(template) if field is not None]
            unknown = [field for field, _ in parsed if field not in _FIELDS]
            # What fits as a spec here need not at an alert, where the field inside it has another value.
            if nested := [spec for _, spec in parsed if "{" in spec]:
                raise ValueError(f"the format {nested[0]!r} holds a field; write it out, as in {{value:.2f}}")
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
            entity=words(name.entity or self._entity or "entity"),
        )
