"""What follows from a task alone, before an event: its features by name, its engine, its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatVector
from weir.online.codec.columns import no_column
from weir.online.codec.wire import ID_CHARS
from weir.online.errors import TaskError
from weir.online.features.engine import FeatureEngine
from weir.online.features.plan import build_plan, label_feeds
from weir.online.features.store import FeatureStore
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.learners.factory import build_learner
from weir.online.learners.online_model import OnlineModel
from weir.online.task.column_plan import columns_of
from weir.online.task.full_spec import features_of, further_inputs
from weir.online.task.spec import STREAM_KEYS, TaskSpec


@dataclass(frozen=True, slots=True)
class TaskShape:
    """Names and widths that follow from a task alone: what a prediction carries, and what labelling is told."""

    features: tuple[str, ...]
    """F names: what is logged of each score, the online model's inputs first (see ``weir.online.task.full_spec``)."""
    masks: int
    """E, columns of ``ScoredBatch.masks``."""
    secondary: tuple[str, ...]
    """Identifiers in ``ScoredBatch.entities``: of every entity with label aggregates but the primary one."""
    watched: tuple[str, ...]
    """W names: columns of ``ScoredBatch.watched``; none when the task does not watch for drift."""
    full_inputs: tuple[str, ...] = ()
    """D names: what the full model is given; none where the task has no full model."""


def engine_of(task: TaskSpec, store: FeatureStore, *, side: bool = False) -> FeatureEngine:
    """The features of a task over a store; what a lane needs that only applies updates.

    Raises ``TaskError`` where the task does not fit together, or scores an entity that its stream is not keyed by and
    ``side`` says that there are several lanes.
    """
    key = STREAM_KEYS[task.stream]
    if side and task.key != key:
        raise TaskError(
            f"task {task.name}: entity {task.entity!r} is keyed by {task.key!r}, but {task.stream} is partitioned by "
            f"{key!r}: no worker sees all its events. Score an entity with key = {key!r}, or run the task without Kafka"
        )
    numbers = columns_of(task).numbers
    engine = FeatureEngine(
        build_plan(task.entities, task.derived),
        store,
        namespace=task.name,
        inputs=task.inputs,
        raw=numbers,
        indicators=task.indicators,
        utc_offset_s=task.utc_offset,
        own_key=key if side else None,
        ranges=task.ranges,
        missing=task.missing,
    )
    for key, named in (("ranges", task.ranges.keys()), ("missing", task.missing.keys() - {"*"})):
        if unknown := sorted(named - {*numbers}):
            raise TaskError(
                f"task {task.name}: {key}: {unknown[0]!r} is no numeric raw column that the task reads; there are: "
                f"{', '.join(numbers) or 'none'}"
            )
    _check_names(task, engine.features)
    return engine


def _check_names(task: TaskSpec, features: Sequence[str]) -> None:
    """A feature's name is a key on the wire: find one that does not fit now, not at the first event."""
    if long := [name for name in features if len(name) > ID_CHARS]:
        raise TaskError(
            f"task {task.name}: the feature name {long[0]!r} has {len(long[0])} characters, the limit is {ID_CHARS}; "
            "shorten the names of the entity and its aggregates"
        )


def model_of(task: TaskSpec, features: tuple[str, ...]) -> OnlineModel:
    """A model of the task's kind that has learned nothing; raises ``TaskError`` where ``[model]`` is wrong."""
    try:
        return OnlineModel(build_learner(task.model, features))
    except (ValueError, TypeError) as exc:
        raise TaskError(f"task {task.name}: [model]: {exc}") from exc


def shape_of(task: TaskSpec) -> TaskShape:
    """The shape of a task where nothing is scored; raises ``TaskError`` where the task cannot run."""
    return shape_with(task, engine_of(task, _NoRows()))


def shape_with(task: TaskSpec, engine: FeatureEngine) -> TaskShape:
    """The shape of a task whose engine there is."""
    numbers = columns_of(task).numbers
    watched = tuple(task.watch or numbers)
    shown = [name for name in task.derived if not name.startswith("_")]
    known = {*numbers, *shown, *TIME_COLUMNS, *engine.made}
    if unknown := [name for name in watched if name not in known]:
        raise TaskError(
            f"task {task.name}: watch: no numeric column {', '.join(map(repr, unknown))}; there are: "
            f"{', '.join(sorted(known))}"
        )
    keys = dict.fromkeys(feed.key for feed in label_feeds(task.entities))
    secondary = tuple(key for key in keys if key not in ("*", task.key))
    masks = len(engine.plan.label_masks)
    watched = watched if task.drift is not None else ()
    if task.full is None:
        return TaskShape(engine.features, masks, secondary, watched)
    pool = (*numbers, *shown, *engine.made)
    try:
        further = further_inputs(task.full, engine.features, pool, TIME_COLUMNS)
    except TaskError as exc:
        raise TaskError(f"task {task.name}: {exc}") from exc
    seen = (*engine.features, *further)
    if unknown := [pattern for pattern in task.full.surprise if not any(fnmatchcase(name, pattern) for name in seen)]:
        raise TaskError(f"task {task.name}: {no_column('[full] surprise', unknown[0], seen)}")
    features = features_of(task.full, engine.features, further)
    _check_names(task, features)
    return TaskShape(features, masks, secondary, watched, seen)


class _NoRows:
    """A ``FeatureStore`` for an engine that is only asked for names.

    Giving that engine a batch is a mistake of ours, so it raises: with rows of zeros the features would be wrong
    without a word.
    """

    def create(self, table: str, row_bytes: int, schema: int, kept_s: float) -> None:
        """Nothing is kept."""

    def load(self, table: str, keys: Sequence[str]) -> NDArray[np.uint8]:
        raise NotImplementedError(f"{table}: this engine has no store")

    def last_seen(self, table: str, keys: Sequence[str]) -> FloatVector:
        raise NotImplementedError(f"{table}: this engine has no store")

    def save(self, table: str, keys: Sequence[str], rows: NDArray[np.uint8], seen: FloatVector | float) -> None:
        raise NotImplementedError(f"{table}: this engine has no store")
