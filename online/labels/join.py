"""Join labels with the predictions they speak of. It knows what was logged at scoring, not models or aggregates."""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass, field
from itertools import repeat
from typing import NamedTuple, cast

import msgspec
import numpy as np

from online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector, LabelBatch, PredictionBatch
from online.errors import StateError
from online.labels.policy import Joined, JoinPolicy, JoinStats
from online.labels.store import FEATURES, SCORE, TS, UNLABELLED, PredictionStore, StoredChunk, absent
from online.labels.timelines import Timelines
from online.labels.waiting import WaitingLabel, WaitingRoom


@dataclass(slots=True)
class _Pairs:
    """Pairs of a row and a label, one at a time."""

    rows: list[int] = field(default_factory=list)
    y: list[bool] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    known_at: list[float] = field(default_factory=list)
    correction: list[bool] = field(default_factory=list)

    def columns(self) -> _Columns:
        return _Columns(
            np.array(self.rows, dtype=np.int64),
            np.array(self.y, dtype=np.bool_),
            np.array(self.weight, dtype=np.float64),
            np.array(self.known_at, dtype=np.float64),
            np.array(self.correction, dtype=np.bool_),
        )


class _Columns(NamedTuple):
    """Pairs of a row and a label as columns, each ``(n,)``."""

    rows: IntVector
    y: BoolVector
    weight: FloatVector
    known_at: FloatVector
    correction: BoolVector


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
    - Time is the watermark: the largest prediction time so far, or what is given with each row. Expiry is exact by row,
      so results do not depend on batch cuts; memory is freed in chunks of ``chunk_rows``.
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
        self._at_once_from = 16  # labels in a call; fewer are quicker one by one
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
        marks: FloatVector | None = None,
    ) -> Joined:
        """Keep what was scored and return the examples of labels that had come before.

        Parameters
        ----------
        predictions : scored events; their arrays are copied.
        extra : ``(n, E) float64`` to come back in ``Joined``; required when ``n_extra > 0``.
        entities : secondary identifiers by name; a missing one is absent in all rows.
        marks : ``(n,)`` watermark at each row; the largest prediction time so far when not given.

        Raises
        ------
        ValueError
            When a matrix does not have the width the joiner was built with, or an identifier is unknown.
        """
        columns = self._check(predictions, extra, entities or {})
        marks = self._move(predictions.ts if marks is None else marks)
        rows = self._keep(predictions, marks)
        if rows is not None:
            predictions, marks = predictions.take(rows), marks[rows]
            columns = [[column[i] for i in rows.tolist()] for column in columns]
            extra = None if extra is None else extra[rows]
        first = self._store.next_row
        self._store.append(predictions, marks, extra, columns)
        self._stats.logged += len(predictions)
        if self._timelines is not None:
            self._timelines.add(predictions.entity_id, predictions.ts, first)
        pairs, positions = self._meet_waiting(predictions, marks, first)
        joined = self._emit(self._with_negatives(pairs.columns(), positions, marks, first))
        self._free()
        return joined

    def _move(self, marks: FloatVector) -> FloatVector:
        """Move the watermark over a batch; the watermark at each row, the first known one where it was not known."""
        before, marks = self.watermark, np.maximum.accumulate(np.append(self.watermark, marks))[1:]
        if len(marks):
            self.watermark = float(marks[-1])
        if before == -np.inf < self.watermark:
            began = float(marks[marks > -np.inf][0])
            self._store.begin(began)
            marks = np.maximum(marks, began)
        return marks

    def label(self, labels: LabelBatch, known_at: FloatVector | None = None) -> Joined:
        """Join labels with what was logged; those that find nothing wait.

        Parameters
        ----------
        labels : in the order in which they became known.
        known_at : ``(n,)`` event time at which each became known, for ``label_ts_known``; the watermark if None.
        """
        known = np.full(len(labels), self.watermark) if known_at is None else known_at
        self._stats.labels += len(labels)
        columns = self._label_at_once(labels, known)
        if columns is None:
            columns = self._label_each(labels, known)
        joined = self._emit(columns)
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
        wait_s, range_s = self.policy.wait_s, self.policy.range_s
        for i in self._waiting.concerned(batch.event_id, batch.entity_id):
            ts, mark = float(batch.ts[i]), float(marks[i])
            floor, known_at = mark - wait_s, min(ts, mark) if mark > -np.inf else ts
            for label in self._waiting.meet(batch.event_id[i], batch.entity_id[i], ts, floor, range_s):
                self._apply(first + i, label.value, label.weight, max(label.known_at, known_at), pairs)
            positions += [i] * (len(pairs.rows) - len(positions))
        return pairs, positions

    def _label_at_once(self, labels: LabelBatch, known: FloatVector) -> _Columns | None:
        """Join labels whose order among themselves does not matter; None when it may, with nothing changed."""
        n, fresh = len(labels), set(labels.label_id)
        if (
            n < self._at_once_from
            or len(fresh) < n
            or n > self.policy.remember_labels
            or not self._label_ids.isdisjoint(fresh)
        ):
            return None
        if None in labels.event_id:
            return None
        event_ids = cast("list[str]", labels.event_id)
        found = np.fromiter(map(self._store.row_of.get, event_ids, repeat(-1)), dtype=np.int64, count=n)
        at = np.flatnonzero(found >= 0)
        at = at[self._store.all_live(found[at], self.watermark - self.policy.keep_s)]
        rows = found[at]
        if len(set(rows.tolist())) < len(rows):
            return None
        self._remember_all(labels.label_id)
        values = labels.value[at]
        before = self._store.exchange_labels(rows, values.astype(np.uint8))
        self._wait_all(labels, known, at)
        new, told = before == UNLABELLED, before == values
        self._stats.joined += int(np.count_nonzero(new))
        self._stats.repeated_values += int(np.count_nonzero(told))
        self._stats.corrections += int(np.count_nonzero(~new & ~told))
        chosen = at[~told]
        return _Columns(rows[~told], values[~told], labels.weight[chosen], known[chosen], ~new[~told])

    def _wait_all(self, labels: LabelBatch, known: FloatVector, joined: IntVector) -> None:
        """Let all labels wait that are not among those ``joined``."""
        for i in np.setdiff1d(np.arange(len(labels)), joined, assume_unique=True).tolist():
            numbers = float(labels.ts[i]), bool(labels.value[i]), float(labels.weight[i]), float(known[i])
            self._waiting.add(WaitingLabel(0, labels.event_id[i], labels.entity_id[i], *numbers))

    def _label_each(self, labels: LabelBatch, known: FloatVector) -> _Columns:
        """Join labels one by one, in order."""
        pairs, store, floor = _Pairs(), self._store, self.watermark - self.policy.keep_s
        values = labels.ts.tolist(), labels.value.tolist(), labels.weight.tolist(), known.tolist()
        for label_id, entity_id, event_id, ts, value, weight, known_at in zip(
            labels.label_id, labels.entity_id, labels.event_id, *values, strict=True
        ):
            if label_id in self._label_ids:
                self._stats.repeated_labels += 1
                continue
            self._remember_all([label_id])
            row = None if event_id is None else store.row_of.get(event_id)
            if row is not None and store.live(row, floor):
                self._apply(row, value, weight, known_at, pairs)
                continue
            waiting = WaitingLabel(0, event_id, entity_id, ts, value, weight, known_at)
            if event_id is None:
                if self._timelines is None:
                    self._waiting.unmatched += 1
                    continue
                self._apply_range(self._timelines, waiting, floor, pairs)
            # A label without an event goes on waiting: more events of its range may arrive after it.
            self._waiting.add(waiting)
        return pairs.columns()

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
        pairs.rows.append(row)
        pairs.y.append(value)
        pairs.weight.append(weight)
        pairs.known_at.append(known_at)
        pairs.correction.append(before != UNLABELLED)

    def _with_negatives(self, pairs: _Columns, positions: list[int], marks: FloatVector, first: int) -> _Columns:
        """Add the negatives that fell due during a batch, each before the pairs of the row that made it due."""
        after = self.policy.negative_after_s
        if after is None or len(marks) == 0 or self.watermark == -np.inf:
            return pairs
        floors = marks - after
        rows, logged_at, self._next_negative = self._store.unlabelled_until(self._next_negative, floors[-1])
        at = np.searchsorted(floors, logged_at)
        # What max_rows would have evicted by then, had the batch been cut there, stays out.
        kept = rows >= first + at + 1 - self.policy.max_rows
        rows, due, at = rows[kept], logged_at[kept] + after, at[kept]
        self._stats.assumed_negatives += len(rows)
        no = np.zeros(len(rows), dtype=np.bool_)
        self._store.exchange_labels(rows, no.astype(np.uint8))
        negatives = _Columns(rows, no, np.ones(len(rows)), due, no)
        if not positions:
            return negatives
        order = np.argsort(np.concatenate([2 * at, 2 * np.array(positions, dtype=np.int64) + 1]), kind="stable")
        return _Columns(*(np.concatenate(both)[order] for both in zip(negatives, pairs, strict=True)))

    def _emit(self, pairs: _Columns) -> Joined:
        numbers, (event_id, entity_id, *entities) = self._store.gather(pairs.rows)
        split = FEATURES + self.n_features
        examples = ExampleBatch(
            event_id=cast("list[str]", event_id),
            ts=numbers[:, TS].copy(),
            x=numbers[:, FEATURES:split].copy(),
            score=numbers[:, SCORE].copy(),
            y=pairs.y,
            weight=pairs.weight,
            correction=pairs.correction,
            entity_id=entity_id,
        )
        return Joined(
            examples=examples,
            entity_id=cast("list[str]", entity_id),
            extra=numbers[:, split:].copy(),
            entities=dict(zip(self.entities, entities, strict=True)),
            # Where there is no watermark yet, not before its event.
            label_ts_known=np.where(pairs.known_at > -np.inf, pairs.known_at, numbers[:, TS]),
        )

    def _remember_all(self, label_ids: list[str]) -> None:
        self._label_ids.update(label_ids)
        self._label_order.extend(label_ids)
        surplus = len(self._label_order) - self.policy.remember_labels
        if surplus > 0:
            self._label_ids.difference_update([self._label_order.popleft() for _ in range(surplus)])

    def _free(self) -> None:
        self._waiting.free(self.watermark - self.policy.wait_s)
        # Not the watermark: a repeat may have moved it past negatives that fall due at the next kept row.
        chunks, first_row = self._store.free(self._store.last_mark - self.policy.keep_s)
        for chunk in chunks:
            self._stats.expired_unlabelled += chunk.label.count(UNLABELLED)
        if chunks and self._timelines is not None:
            self._timelines.free({entity_id for chunk in chunks for entity_id in chunk.entity_id}, first_row)
