"""Which columns a model sees, by names and globs, and the matrix that is made of them.

A value that is missing is -0.0 in it, and flagged by an indicator column behind the values.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from weir.online.batch import FloatMatrix, FloatVector, IntVector
from weir.online.codec.columns import no_column
from weir.online.codec.wire import FEATURE_MAX
from weir.online.errors import TaskError
from weir.online.features.expression import Column
from weir.online.features.plan import AnomalyPass, Plan
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.jit import njit


class ModelInputs:
    """The inputs of one engine: values first, then one indicator a missing-group.

    Parameters
    ----------
    plan : the compiled declarations.
    made : names and missing-groups of the columns that passes make, in order.
    inputs, raw, indicators : see `FeatureEngine`.

    Raises
    ------
    TaskError
        When an input does not exist, or none is left.
    """

    def __init__(
        self,
        plan: Plan,
        made: Sequence[tuple[str, str | None]],
        inputs: Sequence[str],
        raw: Sequence[str],
        *,
        indicators: bool,
    ) -> None:
        self._names = _chosen(plan, made, inputs, raw)
        group = dict(made)
        group |= {name: name for name in raw} | {name: name for name, each in plan.values if each.source[0] != "_"}
        asked = [group.get(name) if indicators else None for name in self._names]
        groups = {g: i for i, g in enumerate(dict.fromkeys(g for g in asked if g is not None))}
        self._group_of = np.array([-1 if g is None else groups[g] for g in asked], dtype=np.int64)
        """Of each input, which indicator says that it is missing; -1 where none does."""
        self.features: tuple[str, ...] = (*self._names, *(f"{g}_missing" for g in groups))
        """F names: the columns of the matrix."""
        place = {name: j for j, (name, _) in enumerate(made)}
        self._from_made = np.array([place.get(name, -1) for name in self._names], dtype=np.int64)
        self._from_columns = [(k, name) for k, name in enumerate(self._names) if name not in place]
        # Added to a column, 0.0 makes a 0 of what came as -0.0; detectors of onsets say by -0.0 that none was there.
        onsets = [p for p in plan.passes if isinstance(p, AnomalyPass) and p.anomaly.score == "onset"]
        detected = {p.anomaly.column(p.entity, output) for p in onsets for output in p.anomaly.outputs}
        self._zero = np.array([-0.0 if name in detected else 0.0 for name in self._names])

    def matrix(self, columns: Mapping[str, Column], made: FloatMatrix) -> FloatMatrix:
        """``(n, F)`` of n rows: from ``made (n, M)``, what passes made, and from ``columns`` by name."""
        x = np.empty((len(made), len(self.features)))
        for k, name in self._from_columns:
            x[:, k] = columns[name]
        _show(x, made, self._from_made, self._zero, self._group_of)
        return x


def _chosen(
    plan: Plan, made: Sequence[tuple[str, str | None]], inputs: Sequence[str], raw: Sequence[str]
) -> tuple[str, ...]:
    """The columns that ``inputs`` names, in order."""
    shown = [name for name, _ in plan.values if not name.startswith("_")]
    order = [*raw, *shown, *(name for name, _ in made)]
    known = [*order, *(c for c in TIME_COLUMNS)]
    chosen: dict[str, None] = {}
    for pattern in inputs:
        bare = pattern.removeprefix("!")
        # Time columns are inputs only where they are named: ``*`` would let a model learn the date itself.
        pool = order if "*" in bare else known
        hits = [name for name in pool if fnmatch.fnmatchcase(name, bare)]
        if not hits:
            raise no_column("inputs", pattern, known, {text for _, each in plan.values for text in each.texts})
        for name in hits:
            if pattern.startswith("!"):
                chosen.pop(name, None)
            else:
                chosen[name] = None
    if not chosen:
        raise TaskError("inputs: nothing is left for the model to see; add a name or a glob such as 'user.*'")
    return tuple(chosen)


@njit(cache=True, nogil=True)
def _show(x: FloatMatrix, made: FloatMatrix, from_made: IntVector, zero: FloatVector, group_of: IntVector) -> None:
    """Make rows as a model sees them: what is missing is -0.0, and larger values are cut to ``FEATURE_MAX``.

    Parameters
    ----------
    x : (n, F) float64, changed in place: inputs that passes do not make are there, indicators stand behind all inputs.
    made : (n, C) float64, columns of passes.
    from_made : (I,) int64, the column of ``made`` that each input is, -1 for none.
    zero : (I,) float64, added to each: 0.0 makes a 0 of what came as -0.0, and -0.0 leaves it.
    group_of : (I,) int64, the indicator of each, -1 for none.
    """
    inputs = from_made.shape[0]
    for i in range(x.shape[0]):
        x[i, inputs:] = 0.0
        for k in range(inputs):
            value = made[i, from_made[k]] if from_made[k] >= 0 else x[i, k]
            if value == value and abs(value) != np.inf:
                x[i, k] = min(max(value, -FEATURE_MAX), FEATURE_MAX) + zero[k]
            else:
                x[i, k] = -0.0
                if group_of[k] >= 0:
                    x[i, inputs + group_of[k]] = 1.0
