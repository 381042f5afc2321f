"""The scoring stage of a task: from events to scores, and to updates of rows that another lane owns.

The path of one event: is it ours -> which timers does it make due -> features (read, then updated) -> the full model,
where the task has one -> score. What a label needs to find later goes along in ``ScoredBatch``. It knows no topic,
store, clock or codec, and no threshold: what follows from a score is ``weir.online.stages.labelling``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace

import numpy as np

from weir.online.batch import (
    EventBatch,
    FloatMatrix,
    FloatVector,
    IntVector,
    LabelBatch,
    PredictionBatch,
    ScoredBatch,
    UpdateBatch,
    whole,
)
from weir.online.codec.judge import cut
from weir.online.errors import TaskError
from weir.online.features import kernel
from weir.online.features.engine import FeatureBlock
from weir.online.features.store import FeatureStore
from weir.online.features.touched_rows import Grouping, Modes
from weir.online.frozen import dataclass
from weir.online.intake_policy import MAX_STEP
from weir.online.labels.repeated_silence import EVENT_MARK, timers_of
from weir.online.labels.silence import TimerOutput
from weir.online.learners.online_model import OnlineModel
from weir.online.metrics.input_watch import InputWatch
from weir.online.stages.full_states import score_full
from weir.online.stages.merge import insert_timers
from weir.online.task.column_plan import columns_of
from weir.online.task.full_spec import FullScorer, columns, full_matrix, logged_matrix, usable
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of, model_of, shape_with


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """What one call made."""

    scored: ScoredBatch | None = None
    """``None`` when there was nothing to score."""
    timer_labels: LabelBatch | None = None
    """Labels that silence, or its end, told; they become known after ``scored``."""
    known_at: FloatVector | None = None
    """``(k,)`` event time at which each of them became known."""
    updates: dict[str, UpdateBatch] = field(default_factory=dict)
    """By layout: what the events feed to rows that another lane owns; none when embedded."""


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """Rows chosen and timers put between them: all that is to be known before rows are loaded."""

    batch: EventBatch
    modes: Modes
    """``(n,)`` the kernel's mode of each row: an event, or a timer that reads."""
    groups: dict[str, Grouping]
    """By key column: which entities the rows name."""
    fired: TimerOutput | None
    moved: tuple[list[str], FloatVector] | None
    """Keys and times of the events that moved the timers; no key, and one time, where time passed without events.
    ``None`` without timers."""

    @property
    def events(self) -> EventBatch:
        """The rows that are events."""
        return self.batch.where(self.modes == kernel.EVENT)


@dataclass(frozen=True, slots=True)
class FeaturedBatch:
    """A prepared batch with its features, before the full model: what a remote one is asked by, and what waits for it.

    k rows are to be scored: the events, or the timers that read where the task scores on timers. Only those step the
    full model's state.
    """

    prepared: PreparedBatch
    block: FeatureBlock | None
    """``None`` where there was nothing prepared."""
    batch: EventBatch
    """The k rows."""
    rows: IntVector
    """``(k,)`` their places among the prepared."""
    keys: list[str]
    """``(k,)`` the entity of each."""
    full_x: FloatMatrix
    """``(k, D)``: what the full model is given, the online model's own inputs first; empty where the task has none."""

    def __len__(self) -> int:
        return len(self.rows)


def keys_of(key: str, batch: EventBatch) -> Sequence[str | None]:
    """The entity that each event is about, if it names one; ``key`` is that of the task."""
    return ["*"] * len(batch) if key == "*" else batch.entities[key]


def seen_by(task: TaskSpec, batch: EventBatch) -> list[tuple[int, str]]:
    """The events a task is about, of its types and naming its entity: the row of each, and that entity."""
    types = task.types
    return [
        (row, key)
        for row, key in enumerate(keys_of(task.key, batch))
        if key is not None and (not types or batch.type[row] in types)
    ]


class ScoringStage:
    """Scores the events of one task; each lane has one of its own.

    A host that loads rows itself calls ``prepare``, then asks ``keys`` what to fetch, then calls ``score``; ``events``
    is all three. A batch that was prepared has moved the timers: it must be scored, or the stage rebuilt. A host whose
    full model is elsewhere calls ``features_of``, asks it, and calls ``finish``, in place of ``score``.

    Parameters
    ----------
    task : what to do.
    store : where entity rows live; tables are named ``<task>.<layout>``.
    side : whether rows of other entities than the stream's own belong to other lanes. They are then read, changed in
        a copy for this batch's features, and not saved: ``ScoreOutput.updates`` says what their owner is to do.
    model : shared by the stages of a process; a new one when not given.
    full : the full model of a task with ``[full]``; without one its columns are 0, and scores the online model's alone.
        Its state is in the table ``<task>.full``.
    max_step : how far one event moves the time of timers, in seconds, as in ``IntakePolicy``.
    watch : shared as ``model`` is; its host asks it for news.

    Raises
    ------
    TaskError
        When the task cannot run, or not in several lanes.
    """

    def __init__(
        self,
        task: TaskSpec,
        store: FeatureStore,
        *,
        side: bool = False,
        model: OnlineModel | None = None,
        full: FullScorer | None = None,
        max_step: float = MAX_STEP,
        watch: InputWatch | None = None,
    ) -> None:
        self.task, self.columns, self._key = task, columns_of(task), task.key
        self.watch = watch or InputWatch(task.name, task.stream, task.types)
        self.engine = engine_of(task, store, side=side)
        self.shape = shape_with(task, self.engine)
        self.features = self.shape.features
        self.model = model_of(task, self.features) if model is None else model
        self.full, self.full_table = full, f"{task.name}.full"
        self._further = self.shape.full_inputs[len(self.engine.features) :]
        if full is not None:
            self._create_full(full)
        silence = task.labels.silence
        self.timers = timers_of(silence, max_step) if silence is not None else None
        self._on_timers, self._prior = (False, None) if silence is None else (silence.on_timers, silence.prior)

    def events(self, batch: EventBatch) -> ScoreOutput:
        """Score events in arrival order, after whatever timers they make due."""
        return self.score(self.prepare(batch))

    def advance(self, now: float) -> ScoreOutput:
        """Let event time move to ``now`` without an event: timers fire."""
        return self.score(self.prepare_advance(now))

    def prepare(self, batch: EventBatch) -> PreparedBatch:
        """Choose this task's rows and columns, and put the timers that they make due between them."""
        came, batch = len(batch), self._mine(batch)
        if self.watch.open:
            self.watch.came(came, batch)
        if self.timers is None or len(batch) == 0:
            modes = np.zeros(len(batch), dtype=np.uint8)  # `kernel.EVENT`; `np.full` takes several times as long
            return PreparedBatch(batch, modes, self.engine.group(batch), None, None)
        keys = [key or "" for key in self._keys(batch)]
        if not self._on_timers:
            # Timers that score each event label it by its own id, which they are to know.
            keys = [f"{key}{EVENT_MARK}{event_id}" for key, event_id in zip(keys, batch.event_id, strict=True)]
        return self._insert(batch, self.timers.advance(keys, batch.ts), (keys, batch.ts))

    def prepare_advance(self, now: float) -> PreparedBatch:
        """The timers that are due at ``now``, as a batch."""
        nothing = self._empty()
        if self.timers is None:
            return PreparedBatch(nothing, np.empty(0, dtype=np.uint8), self.engine.group(nothing), None, None)
        return self._insert(nothing, self.timers.flush(now), ([], np.array([now])))

    def join(self, parts: Sequence[PreparedBatch]) -> PreparedBatch:
        """Batches of several lanes as one, each behind the one before: a call costs little more than for a part.

        Good where no entity of the stream's key is in two of them. What timers told stays with the parts.
        """
        if len(parts) == 1:
            return replace(parts[0], fired=None)
        batch = EventBatch.concat([part.batch for part in parts])
        groups = {key: Grouping.concat([part.groups[key] for part in parts]) for key in parts[0].groups}
        return PreparedBatch(batch, np.concatenate([p.modes for p in parts]), groups, None, None)

    def keys(self, prepared: PreparedBatch) -> dict[str, list[str]]:
        """By table, the distinct entities whose rows ``score`` will load; tables it needs none of are left out."""
        wanted = self.engine.keys(prepared.groups)
        if self.full is not None and self.full.row_bytes:
            keys, at = self._keys(prepared.batch), self._scored_rows(prepared).tolist()
            if full := list(dict.fromkeys(keys[i] or "" for i in at)):
                wanted[self.full_table] = full
        return wanted

    def score(self, prepared: PreparedBatch) -> ScoreOutput:
        """Features of every row, then scores: of the events, or of the timers where the task scores on timers."""
        featured = self.features_of(prepared)
        return self.finish(featured, self.ask(featured))

    def unscored(self, batch: EventBatch) -> tuple[ScoredBatch | None, IntVector]:
        """The task's events with their features, their scores and versions to be filled in; and which events they are.

        For a task without timers and full model.
        """
        rows = np.array([row for row, _ in seen_by(self.task, batch)], dtype=np.int64)
        featured = self.features_of(self.prepare(batch))
        if featured.block is None:
            return None, rows
        blank = np.zeros(len(featured)), np.zeros(len(featured), dtype=np.int64)
        return self._with_scores(featured, featured.block, featured.block.x, *blank), rows

    def features_of(self, prepared: PreparedBatch) -> FeaturedBatch:
        """Features of every row; rows of entities are updated and saved, but for the full model's."""
        batch = prepared.batch
        if len(batch) == 0:
            return FeaturedBatch(prepared, None, batch, np.empty(0, np.int64), [], np.empty((0, 0)))
        block = self.engine.process(batch, prepared.modes, prepared.groups)
        rows = self._scored_rows(prepared)
        if len(rows) < len(batch):
            batch = batch.take(rows)
        return FeaturedBatch(
            prepared, block, batch, rows, [key or "" for key in self._keys(batch)], self._full_x(block, rows)
        )

    def finish(self, featured: FeaturedBatch, full: FloatMatrix | None) -> ScoreOutput:
        """Scores of rows with features.

        Parameters
        ----------
        full : ``(k, width)``, what the full model said (``weir.online.task.full_spec.columns``); ``None`` where it did
            not answer.
        """
        prepared, block = featured.prepared, featured.block
        fired = prepared.fired
        labels, known_at = (fired.labels, fired.known_at) if fired is not None and len(fired.labels) else (None, None)
        if block is None:
            return ScoreOutput(None, labels, known_at)
        scored = self._score(featured, block, full) if len(featured) else None
        return ScoreOutput(scored, labels, known_at, self._updates(prepared, block))

    def ask(self, featured: FeaturedBatch) -> FloatMatrix | None:
        """What the full model of this process says of rows with features, for ``finish``; ``None`` without one."""
        if self.full is None or self.task.full is None or not len(featured):
            return None
        rows, kept_s = (featured.keys, featured.batch.ts, featured.full_x), self.task.full.kept_s
        return score_full(self.full, self.full_table, self.engine.store, *rows, kept_s)

    def _score(self, featured: FeaturedBatch, block: FeatureBlock, full: FloatMatrix | None) -> ScoredBatch:
        """Scores and everything that labelling will want to know of them."""
        rows, x = featured.rows, block.x
        if len(rows) < len(x):
            x = x[rows]
        x = x if self.task.full is None else self._logged(featured, full)
        score, version = self.model.score(x)
        if version == 0 and self._prior is not None:
            score = np.full(len(x), self._prior)
        return self._with_scores(featured, block, x, score, whole(len(rows), version))

    def _with_scores(
        self, featured: FeaturedBatch, block: FeatureBlock, x: FloatMatrix, score: FloatVector, versions: IntVector
    ) -> ScoredBatch:
        batch, rows, keys = featured.batch, featured.rows, featured.keys
        # All of them, as nearly always: then nothing is copied.
        chosen = slice(None) if len(rows) == len(block.x) else rows
        watched = np.empty((len(rows), len(self.shape.watched)))
        for k, name in enumerate(self.shape.watched):
            watched[:, k] = np.asarray(block.columns[name], dtype=np.float64)[chosen]
        # Values that a task computes may be larger than what a record carries.
        cut(watched)
        entities = {name: batch.entities[name] for name in self.shape.secondary}
        return ScoredBatch(
            PredictionBatch(batch.event_id, keys, batch.ts, score, versions, x),
            block.label_masks[chosen],
            watched,
            entities,
        )

    def _scored_rows(self, prepared: PreparedBatch) -> IntVector:
        if self.timers is None:  # all are events
            return np.arange(len(prepared.modes))
        rows: IntVector = (prepared.modes == (kernel.READ if self._on_timers else kernel.EVENT)).nonzero()[0]
        return rows

    def _full_x(self, block: FeatureBlock, rows: IntVector) -> FloatMatrix:
        """What the full model is given of ``rows``."""
        if self.task.full is None:
            return np.empty((len(rows), 0))
        further = [np.asarray(block.columns[name], dtype=np.float64)[rows] for name in self._further]
        return full_matrix(block.x[rows], further)

    def _logged(self, featured: FeaturedBatch, full: FloatMatrix | None) -> FloatMatrix:
        """All columns of a prediction, from what the full model was given and what it said."""
        spec, n, inputs = self.task.full, len(featured), len(self.engine.features)
        assert spec is not None
        width = len(self.features) - featured.full_x.shape[1]
        # Zeros where it did not answer: ``full.known`` is one of them, and says so.
        made = np.zeros((n, width)) if full is None else usable(full)
        if made.shape != (n, width):
            raise ValueError(f"task {self.task.name}: the full model gave {made.shape}, expected {(n, width)}")
        return logged_matrix(spec, featured.full_x, made, inputs)

    def _create_full(self, full: FullScorer) -> None:
        """The table of the full model's state."""
        spec = self.task.full
        if spec is None or full.width != len(columns(spec)):
            raise TaskError(
                f"task {self.task.name}: a full model of {full.width} columns was given, but "
                + ("there is no [full]" if spec is None else f"[full] makes {len(columns(spec))}")
            )
        if full.row_bytes:
            self.engine.store.create(self.full_table, full.row_bytes, full.schema, spec.kept_s)

    def _updates(self, prepared: PreparedBatch, block: FeatureBlock) -> dict[str, UpdateBatch]:
        """What the events, but not the timers, feed to the rows of other lanes."""
        out: dict[str, UpdateBatch] = {}
        batch = prepared.batch
        for layout, values in block.updates.items():
            grouping = prepared.groups[self.engine.key_of(layout)]
            # A timer reads and feeds nothing; an event may name no such entity.
            rows = np.flatnonzero((prepared.modes == kernel.EVENT) & (grouping.slots >= 0))
            if len(rows):
                ids = [batch.event_id[i] for i in rows.tolist()]
                entities = [grouping.keys[slot] for slot in grouping.slots[rows].tolist()]
                out[layout] = UpdateBatch(ids, entities, batch.ts[rows], values[rows])
        return out

    def _insert(
        self, batch: EventBatch, fired: TimerOutput, moved: tuple[list[str], FloatVector] | None
    ) -> PreparedBatch:
        merged, modes = insert_timers(batch, self._key, fired.before_row, fired.entity_id, fired.due_ts, fired.event_id)
        return PreparedBatch(merged, modes, self.engine.group(merged), fired, moved)

    def _mine(self, batch: EventBatch) -> EventBatch:
        """The events this task is about, of its types and naming its entity, and its own columns of them."""
        batch = self._own_columns(batch)
        # Where every event is the task's, no row of the batch is looked at.
        if not self.task.types and None not in self._keys(batch):
            return batch
        rows = [row for row, _ in seen_by(self.task, batch)]
        return batch if len(rows) == len(batch) else batch.take(np.array(rows, dtype=np.int64))

    def _own_columns(self, batch: EventBatch) -> EventBatch:
        """Leave out what other tasks on the stream asked for: they may read a name as text that is a number here."""
        c, entities = self.columns, len(self.columns.entities)
        if (entities, len(c.numbers), len(c.texts)) == (len(batch.entities), len(batch.numbers), len(batch.texts)):
            return batch
        return EventBatch(
            batch.event_id,
            batch.ts,
            batch.type,
            {name: batch.entities[name] for name in c.entities},
            {name: batch.numbers[name] for name in c.numbers},
            {name: batch.texts[name] for name in c.texts},
        )

    def _keys(self, batch: EventBatch) -> Sequence[str | None]:
        return keys_of(self._key, batch)

    def _empty(self) -> EventBatch:
        c, none = self.columns, np.empty(0)
        numbers = dict.fromkeys(c.numbers, none)
        return EventBatch([], none, [], {k: [] for k in c.entities}, numbers, {k: [] for k in c.texts})
