"""What a task says of its full model, and the port by which scoring asks one.

A full model is trained in the background and served beside the online model: its logit is one more input of the online
model, which so keeps adapting it between two trainings (design decisions 9 to 12). Its columns are logged with every
prediction, hence learned from, explained and replayed like any other feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.codec.columns import no_column
from weir.online.codec.wire import FEATURE_MAX
from weir.online.durations import Seconds
from weir.online.features.spec import KEPT
from weir.online.features.store import FeatureStore
from weir.online.frozen import FrozenModel
from weir.online.full_columns import LOGGED, SEEN, SURPRISE


class TrainingSpec(FrozenModel):
    """When the full model of a task is trained anew, and what it must show before it serves."""

    candidates: tuple[Literal["encoder", "trees"], ...] = ("encoder", "trees")
    """What is trained; with both, their blend is a third candidate, and the best on the newest labels is proposed.
    Empty: nothing is, and models come from ``weir models import``."""
    schedule: str | None = None
    """Cron expression in UTC, such as ``0 3 * * 1``; drift, label volume and ``weir retrain`` ask as well."""
    window: Seconds = Field(default=90 * 86_400.0, ge=0.0)
    """How much history is learned from."""
    validation: Seconds = Field(default=7 * 86_400.0, ge=0.0)
    """The newest part of the labelled history, kept for early stopping and for the gate."""
    min_labels: int = Field(default=500, ge=20)
    """Known labels without which there is no training."""
    min_positives: int = Field(default=30, ge=5)
    """Positive ones among them without which there is no training."""
    metric: Literal["average_precision", "roc_auc"] = "average_precision"
    """What a candidate and the champion are compared by."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Of the bootstrap interval by which a candidate must not be worse than the champion."""
    shadow_examples: int = Field(default=300, ge=20, le=100_000)
    """Labelled examples that a candidate is shadowed for before it serves, and that the champion it replaced shadows it
    for before it is let go."""
    encoder: dict[str, float | str | bool] = Field(default_factory=dict)
    """Settings of the encoder other than the defaults, such as those that ``weir tune --out`` found
    (``weir.models.training.training_settings.EncoderSettings``); its width is the task's ``state``."""
    seed: int = 1
    """Of everything random in training."""


class FullSpec(FrozenModel):
    """The full model of a task: ``[full]`` of a task file."""

    inputs: tuple[str, ...] = ()
    """Further columns it sees beside the online model's inputs, names or globs; logged, missing values as 0."""
    state: int = Field(default=64, ge=0, le=1024)
    """Floats a model may carry for each entity; 0 for models without memory."""
    history: int = Field(default=16, ge=0, le=256)
    """Newest inputs kept for each entity, from which a new model rebuilds its state."""
    embedding: int = Field(default=0, ge=0, le=64)
    """Coordinates of the entity's embedding that the online model sees beside the logit."""
    surprise: tuple[str, ...] = ()
    """Inputs of the encoder, names or globs, whose next values it foretells: ``full.surprise`` is then how wrong that
    was, as the share of usual events that surprised less. Changing it makes what was logged before useless."""
    surprise_events: int = Field(default=8, ge=1, le=1000)
    """Events of the entity that the surprise is a running mean over; 1 for each event by itself, more for states."""
    reasons: int = Field(default=0, ge=0, le=8)
    """Inputs named behind a high logit, which alerts then tell in its place; 0 leaves it at the logit. Two columns each
    are logged, so changing it makes what was logged before useless, as changing inputs does."""
    ttl: Seconds = Field(default=30 * 86_400.0, ge=0.0, allow_inf_nan=True)
    """How long the state of a silent entity is kept, and an eighth longer."""
    remote: bool = False
    """Whether ``weir inference`` workers run it instead of the scoring worker."""
    deadline: Seconds = Field(default=0.25, ge=0.0)
    """How long a decision waits for a remote answer, before it is made on the online model alone."""
    training: TrainingSpec = TrainingSpec()

    @property
    def kept_s(self) -> float:
        """Seconds between two events of an entity over which its state is kept."""
        return KEPT * self.ttl

    @model_validator(mode="after")
    def _can_be_surprised(self) -> Self:
        if self.surprise and self.state < 2:
            raise ValueError(f"surprise needs a state to foretell from: set state to 2 or more, not {self.state}")
        if self.surprise and self.training.candidates and "encoder" not in self.training.candidates:
            raise ValueError("surprise is told by an encoder, and candidates names none: add 'encoder' to it")
        return self


class FullScorer(Protocol):
    """The full model of one task, as the scoring stage uses it.

    Between two calls it may have become another version (a hot swap); within one it is the same.
    """

    width: int
    """Columns it returns: as many as ``columns`` names, in that order."""
    row_bytes: int
    """Of the state it keeps for an entity in the store; 0 for none."""
    schema: int

    def score(
        self, table: str, store: FeatureStore, keys: Sequence[str], ts: FloatVector, x: FloatMatrix
    ) -> FloatMatrix:
        """Take in ``n`` rows in order and return ``(n, width)``.

        Parameters
        ----------
        table, store : where the state of the entities is loaded from and saved to.
        keys : ``(n,)`` the entity of each row.
        ts : ``(n,)`` event time, epoch seconds.
        x : ``(n, D)`` the online model's inputs, then the further ones.
        """


def columns(spec: FullSpec) -> tuple[str, ...]:
    """Names of what a ``FullScorer`` returns.

    >>> columns(FullSpec(embedding=1))[:3]
    ('full.logit', 'full.known', 'full.e0')
    """
    why = (f"full.{name}{k}" for k in range(spec.reasons) for name in ("why", "part"))
    return (*_seen(spec), *LOGGED, *why)


def _seen(spec: FullSpec) -> tuple[str, ...]:
    """Those of ``columns`` that the online model sees."""
    return (*SEEN, *(f"full.e{k}" for k in range(spec.embedding)), *((SURPRISE,) if spec.surprise else ()))


def features_of(spec: FullSpec, inputs: Sequence[str], further: Sequence[str]) -> tuple[str, ...]:
    """All columns of a prediction: what the online model sees, then what is only logged.

    Parameters
    ----------
    inputs : the online model's own.
    further : what ``spec.inputs`` names beside them.
    """
    made, split = columns(spec), len(_seen(spec))
    # What the online model sees comes first, so that it takes a prefix of the columns (`ColumnPrefix`).
    return (*inputs, *made[:split], *further, *made[split:])


def further_inputs(spec: FullSpec, inputs: Sequence[str], pool: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    """Names of what the full model sees beside the online model's ``inputs``, in the order of ``spec.inputs``.

    Parameters
    ----------
    pool : columns that globs choose among.
    named : further columns, which are chosen by their names only.

    Raises
    ------
    TaskError : a pattern that matches no column.

    Examples
    --------
    >>> further_inputs(FullSpec(inputs=("user.*", "hour")), ("user.a",), ("user.a", "user.b"), ("hour", "night"))
    ('user.b', 'hour')
    """
    chosen: dict[str, None] = {}
    for pattern in spec.inputs:
        hits = [name for name in (pool if "*" in pattern else (*pool, *named)) if fnmatchcase(name, pattern)]
        if not hits:
            raise no_column("[full] inputs", pattern, (*pool, *named))
        chosen |= dict.fromkeys(name for name in hits if name not in inputs)
    return tuple(chosen)


def full_matrix(x: FloatMatrix, further: Sequence[FloatVector]) -> FloatMatrix:
    """What a full model is given: the online model's inputs ``(n, F)``, then further ones, missing values as -0.0."""
    out = np.empty((len(x), x.shape[1] + len(further)))
    out[:, : x.shape[1]] = x
    for k, column in enumerate(further, start=x.shape[1]):
        # A -0.0 that was measured becomes 0.0: else it would stand for a missing value.
        out[:, k] = column + 0.0
        np.copyto(out[:, k], -0.0, where=~np.isfinite(out[:, k]))
    return out


def logged_matrix(spec: FullSpec, full_x: FloatMatrix, made: FloatMatrix, inputs: int) -> FloatMatrix:
    """The columns of ``features_of`` from what a full model was given ``(n, D)`` and what it said ``(n, width)``.

    Where it said nothing, the surprise is missing: -0.0 and not 0, which is an event as usual as can be.
    """
    split = len(_seen(spec))
    if spec.surprise and (unknown := made[:, SEEN.index("full.known")] == 0.0).any():
        made = made.copy()
        made[unknown, split - 1] = -0.0
    return np.concatenate([full_x[:, :inputs], made[:, :split], full_x[:, inputs:], made[:, split:]], axis=1)


def usable(made: FloatMatrix) -> FloatMatrix:
    """What a full model said ``(n, width)``; where it is no number that a record can carry, as if there were no model.

    >>> usable(np.array([[1.5, 1.0], [np.nan, 1.0], [1e30, 1.0]])).tolist()
    [[1.5, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    odd: BoolVector = np.asarray(~(np.abs(made) <= FEATURE_MAX).all(axis=1))  # NaN is not within any bound
    return np.where(odd[:, None], 0.0, made) if odd.any() else made
