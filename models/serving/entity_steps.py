"""Takes entities on through a model: round after round of new events, and again from remembered ones.

One implementation for serving, for the rebuilding of states and for the replay of a whole history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weir.models.errors import ModelError
from weir.models.serving.occlusion import Occlusion
from weir.models.serving.packed_rows import PackedSequence
from weir.models.serving.state_row import Record, StateLayout
from weir.models.types import BoolVector, Float32Matrix, Float32Vector, History, IntVector, StepModel


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a model said of n rows, in their order."""

    logit: Float32Vector
    """``(n,)``; 0 where the model's logit was not finite."""
    embedding: Float32Matrix
    """``(n, E)``, with the surprise behind it where the model has one."""
    finite: BoolVector
    """Where logit, state and embedding were; elsewhere the entity's state began anew from zero."""
    why: NDArray[np.float64]
    """``(n, 2 top)`` of ``Occlusion.explain``; no columns without one, zeros where a logit was not worth it."""


def as_inputs(x: NDArray[np.floating]) -> Float32Matrix:
    """What models see of ``x (n, D)``: float32, and 0 for what is not finite there.

    >>> as_inputs(np.array([[1.0, np.nan, 1e300]])).tolist()
    [[1.0, 0.0, 0.0]]
    """
    # A float64 beyond float32 becomes infinite, and then 0: no reason to warn.
    with np.errstate(over="ignore"):
        out = x.astype(np.float32)
    if not np.isfinite(out).all():
        out[~np.isfinite(out)] = 0.0
    return out


def run_rounds(
    model: StepModel,
    order: PackedSequence,
    x: Float32Matrix,
    state: Float32Matrix,
    columns: IntVector | None = None,
    occlusion: Occlusion | None = None,
) -> StepOutput:
    """Step through ``x (n, D)`` in the order of its rows; a model without a state in one call.

    Parameters
    ----------
    state : ``(U, S)`` by place, taken on in place; a view will do.
    columns : which columns of ``x`` the model takes, all when not given.
    occlusion : explains what is high.
    """
    # Rows of one entity need not wait for each other.
    if not model.state:
        order, state = PackedSequence.distinct(len(x)), np.empty((len(x), 0), np.float32)
    given = x if columns is None else x[:, columns]
    given = given if order.in_order else given[order.rows]
    logit = np.empty(len(x), np.float32)
    width, finite = model.embedding + model.surprise, np.ones(len(x), np.bool_)
    embedding = np.empty((len(x), width), np.float32)
    why = np.zeros((len(x), 0 if occlusion is None else 2 * occlusion.top))
    start = 0
    for m in order.sizes.tolist():
        part = slice(start, start + m)
        logit[part], after, embedding[part] = model.step(given[part], state[:m])
        if not _all_finite(logit[part], after, embedding[part]):
            finite[part] = _finite_rows(np.column_stack([logit[part], after, embedding[part]]))
            bad = ~finite[part]
            logit[part][bad], after[bad], embedding[part][bad] = 0.0, 0.0, 0.0
        # Before the state goes on: an explanation starts from the one that the logit came from.
        if occlusion is not None and len(high := np.flatnonzero(occlusion.wanted(logit[part]) & finite[part])):
            why[start + high] = occlusion.explain(model, given[part][high], state[:m][high])
        state[:m] = after  # the next round is of the same entities, or of the first of them
        start += m
    if order.in_order:
        return StepOutput(logit, embedding, finite, why)
    back = np.empty(len(x), np.int64)
    back[order.rows] = np.arange(len(x))
    return StepOutput(logit[back], embedding[back], finite[back], why[back])


def rebuild(
    model: StepModel,
    layout: StateLayout,
    record: Record,
    rows: IntVector,
    state: Float32Matrix,
    columns: IntVector | None = None,
) -> None:
    """Make ``state (U, S)`` of ``rows`` what the model makes of the inputs that they remember, from zero."""
    # So that those which have a j-th input are the first ones (`StateLayout.remembered`).
    rows = rows[np.argsort(-layout.held(record)[rows], kind="stable")]
    fresh = np.zeros((len(rows), model.state), np.float32)
    for inputs, m in layout.remembered(record[rows]):
        _, after, _ = model.step(inputs if columns is None else inputs[:, columns], fresh[:m])
        if not _all_finite(after):
            after[~_finite_rows(after)] = 0.0
        fresh[:m] = after
    state[rows] = fresh


def replay(model: StepModel, history: History) -> Float32Vector:
    """The logit ``(n,)`` of every event of a history, each entity's state taken on from zero in the order of the rows.

    It is what the model would have logged, had it served from the first event on.

    Raises
    ------
    ModelError : inputs the history does not have, or outputs that are not finite.
    """
    if missing := [name for name in model.inputs if name not in history.inputs]:
        raise ModelError(
            f"the history has no {missing[:3]}, which version {model.version} takes; make the data set anew"
        )
    columns = None
    if model.inputs != history.inputs:
        columns = np.array([history.inputs.index(name) for name in model.inputs], np.int64)
    known, codes = np.unique(history.entity, return_inverse=True)
    state = np.zeros((len(known), model.state), np.float32)
    stepped = run_rounds(model, PackedSequence.of(codes, len(known)), history.x, state, columns)
    # Serving goes on with a 0; a comparison with zeros that no model said would mean nothing.
    if not stepped.finite.all():
        first = int(np.argmin(stepped.finite))
        raise ModelError(
            f"version {model.version} gives outputs that are not finite for {np.count_nonzero(~stepped.finite)} of "
            f"{len(history)} events, the first {history.event_id[first]!r}; train it anew, with its inputs scaled"
        )
    return stepped.logit


def _finite_rows(x: Float32Matrix) -> BoolVector:
    rows: BoolVector = np.logical_and.reduce(np.isfinite(x), axis=1)
    return rows


def _all_finite(*parts: NDArray[np.float32]) -> bool:
    """Whether all are finite, by one sum each; a sum that overflows says no."""
    with np.errstate(all="ignore"):
        return all(bool(np.isfinite(part.sum())) for part in parts)
