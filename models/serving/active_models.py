"""The models of one task that are in use, swapped all at once (design decision 11). It knows no rows and no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weir.models.errors import ModelError
from weir.models.serving.state_row import CHAMPION, SHADOW
from weir.models.types import IntVector, StepModel


@dataclass(frozen=True, slots=True)
class Pair:
    """What serves, and what runs beside it to be compared."""

    champion: StepModel | None = None
    shadow: StepModel | None = None

    @property
    def versions(self) -> tuple[int, int]:
        """Versions of champion and shadow, 0 for none."""
        return (self.champion.version if self.champion else 0, self.shadow.version if self.shadow else 0)

    def loaded(self) -> list[tuple[int, StepModel]]:
        """The models there are, each with its place."""
        places = ((CHAMPION, self.champion), (SHADOW, self.shadow))
        return [(place, model) for place, model in places if model is not None]


class ModelSlots:
    """Holds the pair in use; whoever scores takes it once and keeps it for the whole batch.

    Parameters
    ----------
    inputs : D names of what models are given.
    state : S, the most floats a model may carry for an entity.
    """

    def __init__(self, inputs: Sequence[str], state: int) -> None:
        self.inputs, self.state = tuple(inputs), state
        self._pair = Pair()

    @property
    def pair(self) -> Pair:
        """The champion and the shadow that score now."""
        return self._pair

    def swap(self, pair: Pair) -> Pair:
        """Put another pair in use, by one assignment; the pair before.

        Raises ``ModelError`` where a model does not fit, and then nothing has changed.
        """
        # Both, before anything changes: half a swap would serve a pair nobody wanted.
        for model in (pair.champion, pair.shadow):
            if model is not None:
                self.check(model)
        before, self._pair = self._pair, pair
        return before

    def check(self, model: StepModel) -> None:
        """Raise ``ModelError`` where ``model`` cannot be used for this task."""
        if model.version < 1:
            raise ModelError(f"version is {model.version}; versions are 1 and up, 0 stands for none")
        if unknown := [name for name in model.inputs if name not in self.inputs]:
            raise ModelError(
                f"version {model.version} takes {unknown[:3]}, which the task does not have among its "
                f"{len(self.inputs)} inputs: it is of another version of the task; train it anew, or put them back "
                "into [full] inputs"
            )
        if model.state > self.state:
            raise ModelError(
                f"version {model.version} carries {model.state} floats for an entity, the task keeps {self.state}: "
                f"set [full] state = {model.state}"
            )

    def columns(self, model: StepModel) -> IntVector | None:
        """Return which of the inputs ``model`` takes, in its order; ``None`` where it takes all as they are."""
        # Not all of their numbers: an index copies every batch.
        if model.inputs == self.inputs:
            return None
        return np.array([self.inputs.index(name) for name in model.inputs], np.int64)
