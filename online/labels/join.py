"""Join labels with the predictions they speak of. It knows what was logged at scoring, not models or aggregates."""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass, field

import msgspec
import numpy as np

from online.batch import ExampleBatch, FloatMatrix, FloatVector, IntVector, LabelBatch, PredictionBatch
from online.errors import StateError
from online.labels.policy import Joined, JoinPolicy, JoinStats
from online.labels.store import FEATURES, SCORE, TS, UNLABELLED, PredictionStore, StoredChunk, Timelines, absent
from online.labels.waiting import WaitingLabel, WaitingRoom


@dataclass(slots=True)
class _Pairs:
    """Pairs of a row and a label, as columns."""

    rows: list[int] = field(default_factory=list)
    y: list[bool] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    known_at: list[float] = field(default_factory=list)
    correction: list[bool] = field(default_factory=list)

    def add(self, row: int, y: bool, weight: float, known_at: float, correction: bool) -> None:
        self.rows.append(row)
        self.y.append(y)
        self.weight.append(weight)
        self.known_at.append(known_at)
        self.correction.append(correction)


class _State(msgspec.Struct, array_like=True):
    """A snapshot."""

    shape: tuple[int, int, tuple[str, ...], int]
    watermark: float
    next_negative: int
    stats: list[int]
    label_ids: list[str]
    next_row: int
    chunks: list[StoredChunk]
    waiting: tuple[int, int, list[WaitingLabel]]


class LabelJoiner:
    """Turn predictions and labels, in any arrival order, into examples with the features logged at scoring.

    - The set of examples does not depend on how predictions and labels interleave, as long as both stay within their
      waiting times. Labels of one event count in their own arrival order: the first gives an example, another value
      later a correction, the same value again nothing.
    - The first prediction of an ``event_id`` counts; repeats (after a crash, perhaps by a newer model) do not.
    - Time is the largest prediction time so far (the watermark). Expiry is exact by row, so results do not depend on
      batch cuts; memory is freed in chunks of ``chunk_rows``.
    - With ``negative_after_s`` an event becomes a negative, in arrival order, when the watermark has moved that far
      since it was logged without a label for it.

    Parameters
    ----------
    policy : what joins what, and for how long.
    n_features : F, columns of ``PredictionBatch.features``.
    n_extra : E, columns of the opaque ``extra`` matrix logged with each prediction.
    entities : names of the secondary identifiers logged with each prediction.

    Examples
    --------
    >>> joiner = LabelJoiner(JoinPolicy(), n_features=1)
    >>> one = np.ones(1)
    >>> p = PredictionBatch(["e1"], ["u1"], one, 0.3 * one, np.ones(1, np.int64), np.array([[5.0]]))
    >>> len(joiner.log(p))
    0
    >>> known = joiner.label(LabelBatch(["l1"], ["u1"], ["e1"], one, np.array([True]), one))
    >>> known.examples.x.tolist(), known.examples.y.tolist()
    ([[5.0]], [True])
    """

    def __init__(self, policy: JoinPolicy, n_features: int, n_extra: int = 0, entities: tuple[str, ...] = ()) -> None:
        self.policy = policy
        self.n_features = n_features
        self.n_extra = n_extra
        self.entities = entities
        self.watermark = -np.inf
        self._stats = JoinStats()
        width = FEATURES + n_features + n_extra
        self._store = PredictionStore(width, len(entities), policy.max_rows, policy.chunk_rows)
        self._timelines = Timelines() if policy.match == "entity_range" else None
        self._waiting = WaitingRoom(policy.max_waiting)
        self._next_negative = 0
        self._label_ids: set[str] = set()
        self._label_order: deque[str] = deque()

    @property
    def stats(self) -> JoinStats:
        """Counts since the start."""
        self._stats.unmatched = self._waiting.unmatched
        return self._stats

    def __len__(self) -> int:
        """Rows of predictions in memory."""
        return len(self._store)

    def log(
        self,
        predictions: PredictionBatch,
        extra: FloatMatrix | None = None,
        entities: dict[str, list[str | None]] | None = None,
    ) -> Joined:
        """Keep what was scored and return the examples of labels that had come before.

        Parameters
        ----------
        predictions : scored events; their arrays are copied.
        extra : ``(n, E) float64`` to come back in ``Joined``; required when ``n_extra > 0``.
        entities : secondary identifiers by name; a missing one is absent in all rows.

        Raises
        ------
        ValueError
            When a matrix does not have the width the joiner was built with, or an identifier is unknown.
        """
        columns = self._check(predictions, extra, entities or {})
        marks = np.maximum.accumulate(np.append(self.watermark, predictions.ts))[1:]
        if len(marks):
            self.watermark = float(marks[-1])
        rows = self._keep(predictions, marks)
        if rows is not None:
            predictions, marks = _take(predictions, rows), marks[rows]
            columns = [[column[i] for i in rows.tolist()] for column in columns]
            extra = None if extra is None else extra[rows]
        first = self._store.next_row
        self._store.append(predictions, marks, extra, columns)
        self._stats.logged += len(predictions)
        if self._timelines is not None:
            self._timelines.add(predictions.entity_id, predictions.ts, first)
        joined = self._emit(self._with_negatives(*self._meet_waiting(predictions, marks, first), marks, first))
        self._free()
        return joined

    def label(self, labels: LabelBatch, known_at: FloatVector | None = None) -> Joined:
        """Join labels with what was logged; those that find nothing wait.

        Parameters
        ----------
        labels : in the order in which they became known.
        known_at : ``(n,)`` event time at which each became known, for ``label_ts_known``; the watermark if None.
        """
        pairs = _Pairs()
        store, stats, floor = self._store, self._stats, self.watermark - self.policy.keep_s
        known = [self.watermark] * len(labels) if known_at is None else known_at.tolist()
        values = labels.ts.tolist(), labels.value.tolist(), labels.weight.tolist(), known
        stats.labels += len(labels)
        for label_id, entity_id, event_id, ts, value, weight, known_ts in zip(
            labels.label_id, labels.entity_id, labels.event_id, *values, strict=True
        ):
            if label_id in self._label_ids:
                stats.repeated_labels += 1
                continue
            self._remember(label_id)
            row = None if event_id is None else store.row_of.get(event_id)
            if row is not None and store.live(row, floor):
                self._apply(row, value, weight, known_ts, pairs)
                continue
            waiting = WaitingLabel(0, event_id, entity_id, ts, value, weight, known_ts)
            if event_id is None:
                if self._timelines is None:
                    self._waiting.unmatched += 1
                    continue
                self._apply_range(self._timelines, waiting, floor, pairs)
            # A label without an event goes on waiting: more events of its range may arrive after it.
            self._waiting.add(waiting)
        joined = self._emit(pairs)
        self._free()
        return joined

    def snapshot(self) -> bytes:
        """Return everything held, as MessagePack."""
        shape = (self.n_features, self.n_extra, self.entities, self.policy.chunk_rows)
        next_row, chunks = self._store.snapshot()
        state = _State(
            shape,
            self.watermark,
            self._next_negative,
            list(astuple(self.stats)),
            list(self._label_order),
            next_row,
            chunks,
            self._waiting.snapshot(),
        )
        return msgspec.msgpack.encode(state)

    def restore(self, state: bytes) -> None:
        """Replace everything held by a ``snapshot``; raises ``StateError`` when it is of another shape."""
        try:
            held = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError as error:
            raise StateError(f"not a snapshot of a label join: {error}") from error
        shape = (self.n_features, self.n_extra, self.entities, self.policy.chunk_rows)
        if held.shape != shape:
            raise StateError(
                f"the snapshot holds (features, extra, entities, chunk_rows) = {held.shape}, this join {shape}; "
                "log the predictions again"
            )
        self.watermark, self._next_negative = held.watermark, held.next_negative
        self._stats = JoinStats(*held.stats)
        self._label_order, self._label_ids = deque(held.label_ids), set(held.label_ids)
        self._store.restore(held.next_row, held.chunks)
        self._waiting.restore(*held.waiting)
        if self._timelines is not None:
            first = self._store.next_row - len(self._store)
            self._timelines.rebuild(held.chunks, first, self._store.width)

    def _check(
        self, batch: PredictionBatch, extra: FloatMatrix | None, entities: dict[str, list[str | None]]
    ) -> list[list[str | None]]:
        n = len(batch)
        if batch.features.shape != (n, self.n_features):
            raise ValueError(
                f"features have shape {batch.features.shape}, expected {(n, self.n_features)}; build the joiner with "
                "the number of features that the model scores"
            )
        shape = (n, 0) if extra is None else extra.shape
        if shape != (n, self.n_extra):
            raise ValueError(f"extra has shape {shape}, expected {(n, self.n_extra)}; n_extra sets its width")
        if unknown := entities.keys() - set(self.entities):
            raise ValueError(f"identifiers {sorted(unknown)} are not among {self.entities}; name them in entities=")
        return [entities.get(name) or absent(n) for name in self.entities]

    def _keep(self, batch: PredictionBatch, marks: FloatVector) -> IntVector | None:
        """Rows that are neither late nor repeats, their ids claimed; None when that is all of them."""
        keep_s, event_ids = self.policy.keep_s, batch.event_id
        in_time = np.flatnonzero(batch.ts >= marks - keep_s)
        if len(in_time) < len(batch):
            self._stats.late_predictions += len(batch) - len(in_time)
            event_ids = [event_ids[i] for i in in_time.tolist()]
        first_seen = self._store.claim(event_ids, batch.ts[in_time], marks[in_time], keep_s)
        rows = in_time[first_seen]
        self._stats.repeated_predictions += len(in_time) - len(rows)
        return None if len(rows) == len(batch) else rows

    def _meet_waiting(self, batch: PredictionBatch, marks: FloatVector, first: int) -> tuple[_Pairs, list[int]]:
        """Pairs with labels that had come before, and the position in the batch at which each was made."""
        pairs, positions = _Pairs(), list[int]()
        if not self._waiting.concerns(batch.event_id, batch.entity_id):
            return pairs, positions
        floors = (marks - self.policy.wait_s).tolist()
        rows = zip(batch.event_id, batch.entity_id, batch.ts.tolist(), floors, strict=True)
        for i, (event_id, entity_id, ts, floor) in enumerate(rows):
            for label in self._waiting.meet(event_id, entity_id, ts, floor, self.policy.range_s):
                self._apply(first + i, label.value, label.weight, max(label.known_at, ts), pairs)
            positions += [i] * (len(pairs.rows) - len(positions))
        return pairs, positions

    def _apply_range(self, timelines: Timelines, label: WaitingLabel, floor: float, pairs: _Pairs) -> None:
        for row in timelines.between(label.entity_id, label.ts - self.policy.range_s, label.ts):
            if self._store.live(row, floor):
                label.matched = True
                self._apply(row, label.value, label.weight, label.known_at, pairs)

    def _apply(self, row: int, value: bool, weight: float, known_at: float, pairs: _Pairs) -> None:
        states = self._store.chunk_of(row).label
        at = row % self.policy.chunk_rows
        before = states[at]
        if before == value:
            self._stats.repeated_values += 1
            return
        states[at] = value
        if before == UNLABELLED:
            self._stats.joined += 1
        else:
            self._stats.corrections += 1
        pairs.add(row, value, weight, known_at, before != UNLABELLED)

    def _with_negatives(self, pairs: _Pairs, positions: list[int], marks: FloatVector, first: int) -> _Pairs:
        """Add the negatives that fell due during a batch, each before the pairs of the row that made it due."""
        after = self.policy.negative_after_s
        if after is None or len(marks) == 0:
            return pairs
        floors = marks - after
        rows, logged_at, self._next_negative = self._store.unlabelled_until(self._next_negative, floors[-1])
        at = np.searchsorted(floors, logged_at)
        # What max_rows would have evicted by then, had the batch been cut there, stays out.
        kept = rows >= first + at + 1 - self.policy.max_rows
        rows, due, at = rows[kept], logged_at[kept] + after, at[kept]
        self._stats.assumed_negatives += len(rows)
        for row in rows.tolist():
            self._store.chunk_of(row).label[row % self.policy.chunk_rows] = 0
        order = np.argsort(np.concatenate([2 * at, 2 * np.array(positions, dtype=np.int64) + 1]), kind="stable")
        n = len(rows)
        columns = (
            rows.tolist() + pairs.rows,
            [False] * n + pairs.y,
            [1.0] * n + pairs.weight,
            due.tolist() + pairs.known_at,
            [False] * n + pairs.correction,
        )
        merged = _Pairs()
        for i in order.tolist():
            merged.add(*(column[i] for column in columns))
        return merged

    def _emit(self, pairs: _Pairs) -> Joined:
        numbers = self._store.gather(np.array(pairs.rows, dtype=np.int64))
        size, split = self.policy.chunk_rows, FEATURES + self.n_features
        homes = [(self._store.chunk_of(row), row % size) for row in pairs.rows]
        examples = ExampleBatch(
            event_id=[chunk.event_id[at] for chunk, at in homes],
            ts=numbers[:, TS].copy(),
            x=numbers[:, FEATURES:split].copy(),
            score=numbers[:, SCORE].copy(),
            y=np.array(pairs.y, dtype=np.bool_),
            weight=np.array(pairs.weight, dtype=np.float64),
            correction=np.array(pairs.correction, dtype=np.bool_),
        )
        columns = [[chunk.entities[k][at] for chunk, at in homes] for k in range(len(self.entities))]
        return Joined(
            examples=examples,
            entity_id=[chunk.entity_id[at] for chunk, at in homes],
            extra=numbers[:, split:].copy(),
            entities=dict(zip(self.entities, columns, strict=True)),
            label_ts_known=np.array(pairs.known_at, dtype=np.float64),
        )

    def _remember(self, label_id: str) -> None:
        self._label_ids.add(label_id)
        self._label_order.append(label_id)
        if len(self._label_order) > self.policy.remember_labels:
            self._label_ids.remove(self._label_order.popleft())

    def _free(self) -> None:
        self._waiting.free(self.watermark - self.policy.wait_s)
        # Not the watermark: a repeat may have moved it past negatives that fall due at the next kept row.
        chunks, first_row = self._store.free(self._store.last_mark - self.policy.keep_s)
        for chunk in chunks:
            self._stats.expired_unlabelled += chunk.label.count(UNLABELLED)
        if chunks and self._timelines is not None:
            self._timelines.free({entity_id for chunk in chunks for entity_id in chunk.entity_id}, first_row)


def _take(batch: PredictionBatch, rows: IntVector) -> PredictionBatch:
    return PredictionBatch(
        event_id=[batch.event_id[i] for i in rows.tolist()],
        entity_id=[batch.entity_id[i] for i in rows.tolist()],
        ts=batch.ts[rows],
        score=batch.score[rows],
        model_version=batch.model_version[rows],
        features=batch.features[rows],
    )
