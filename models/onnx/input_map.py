"""What a person says of a graph that another library exported: ``map.toml`` of ``weir models import``.

    positive = "fraud"                      # the class whose probability is meant; left out: 1, true or yes
    missing = nan                           # what the model sees where a feature is missing; left out: 0

    [inputs]                                # input of the graph = logged feature, or several, a column each
    numbers = ["amount", { feature = "ratio", missing = -1.0 }]
    country = { feature = "country_code", categories = ["DE", "FR"], missing = "other" }

It knows names and numbers, no graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AllowInfNan, BaseModel, ConfigDict, Field, field_validator

from weir.models.errors import ModelError
from weir.online.mistakes import did_you_mean


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("give a finite number, or nan for a model that knows a missing value itself")
    return value


_Fill = Annotated[float, AllowInfNan(True), AfterValidator(_not_infinite)]


class Column(BaseModel):
    """One column of an input: a logged feature, and how it is put."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    feature: str
    missing: _Fill | str | None = None
    """What the model sees where the feature is missing; that of the whole map when not given."""
    categories: tuple[str, ...] = ()
    """The text for each value 0, 1, 2, ... of the feature, for inputs that are texts; others are ``missing``."""


class InputMap(BaseModel):
    """All of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    inputs: dict[str, tuple[Column, ...]] = Field(min_length=1)
    """The columns of each input of the graph; a name stands for a column, and a single one needs no list."""
    missing: _Fill = 0.0
    """What the model sees where a feature is missing; NaN for models that know a missing value themselves."""
    clip: float | None = Field(default=None, gt=0)
    """Numbers are cut to this on either side of 0, for models that overflow."""
    output: Literal["probability", "logit"] = "probability"
    """What the graph gives."""
    output_name: str | None = None
    """Which of its outputs; found when not given."""
    positive: int | str | None = None
    """The class that a high score means, or the number of its column where the graph does not name its classes."""

    @field_validator("inputs", mode="before")
    @classmethod
    def _lists(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        lists = {name: of if isinstance(of, list | tuple) else [of] for name, of in given.items()}
        return {name: [{"feature": c} if isinstance(c, str) else c for c in of] for name, of in lists.items()}

    @property
    def features(self) -> tuple[str, ...]:
        """The features it names, each once, in order."""
        return tuple(dict.fromkeys(column.feature for columns in self.inputs.values() for column in columns))

    def fill(self, column: Column) -> float | str:
        """What the model sees of a column where the feature is missing."""
        return self.missing if column.missing is None else column.missing

    def check_features(self, known: Sequence[str]) -> None:
        """Raise ``ModelError`` for a feature that the task does not log."""
        for name, columns in self.inputs.items():
            for column in columns:
                if column.feature not in known:
                    raise ModelError(
                        f"inputs.{name}: {column.feature!r} is none of the {len(known)} features that the task logs "
                        f"for full models; {did_you_mean(column.feature, known)}, or add it to [full] inputs"
                    )
