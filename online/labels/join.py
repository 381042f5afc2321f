"""Join labels with the predictions they speak of. It knows what was logged at scoring, not models or aggregates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import cast

import msgspec
import numpy as np

from weir.online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector, LabelBatch, PredictionBatch
from weir.online.digests import Digests, digests, pair_digests
from weir.online.errors import UNREADABLE, StateError
from weir.online.labels.join_policy import JoinPolicy, JoinResult, JoinStats
from weir.online.labels.logged_predictions import LoggedPredictions, RowsToRead
from weir.online.labels.logged_rows import SCORE, texts_at
from weir.online.labels.prediction_index import NEVER_FULL, PredictionIndex
from weir.online.labels.row_labels import NO_PAIRS, NO_ROWS, Pairs, RowLabels
from weir.online.labels.seen_labels import SeenLabels
from weir.online.labels.stored_join import StoredJoin
from weir.online.labels.upgrade import is_old, upgraded
from weir.online.labels.waiting import PendingLabels


class LabelJoiner:
    """Turn predictions and labels, in any arrival order, into examples with the features logged at scoring.

    - The set of examples does not depend on how predictions and labels interleave, as long as both stay within their
      waiting times. Labels of one event count in their own arrival order: the first gives an example, another value
      later a correction, the same value again nothing.
    - An event is known by its entity and its ``event_id``: the same id of two entities is two events.
    - The first prediction of an event counts; repeats (after a crash, perhaps by a newer model) do not.
    - Time is the watermark: the largest prediction time so far, or what is given with each row. Expiry is exact by row,
      so results do not depend on batch cuts. A row whose clock was ahead is as old as the watermark was at its arrival.
    - What has no label in time, or is not mature yet: see `RowLabels`.

    What waits is an index of some 60 bytes a prediction. What was logged with it stays in memory too, unless it has an
    offset, and so can be read back: then the newest rows do, and before a step the caller brings the others that the
    step needs (``wanted``, ``wanted_due``, ``lend``). ADR 21.

    Parameters
    ----------
    policy : what joins what, and for how long.
    n_features : F, columns of ``PredictionBatch.features``.
    n_extra : E, columns of the opaque ``extra`` matrix logged with each prediction.
    entities : names of the secondary identifiers logged with each prediction.
    unlogged : so many extra columns, the first ones, cannot be read back; they are part of the index.
    matures : whether each prediction says after what event time it is learned at the earliest (``ripens_s``).

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

    def __init__(
        self,
        policy: JoinPolicy,
        n_features: int,
        n_extra: int = 0,
        entities: tuple[str, ...] = (),
        unlogged: int = 0,
        matures: bool = False,
    ) -> None:
        self.policy = policy
        self.n_features, self.n_extra, self.entities, self.unlogged = n_features, n_extra, entities, unlogged
        self.cache_bytes = NEVER_FULL
        """What logged rows that can be read back may take in memory."""
        self._index = PredictionIndex(policy, unlogged, matures)
        self._labels = RowLabels(self._index)
        self._logged = LoggedPredictions(self._index, n_features, n_extra, entities, unlogged)
        self._waiting = PendingLabels(policy)
        self._seen = SeenLabels(policy.remember_labels)
        self._shape = (n_features, n_extra, unlogged, entities, self._index.ranged)

    @property
    def matures(self) -> bool:
        """Whether rows may wait for their maturity: new ones, or some of a snapshot."""
        return self._index.matures

    @property
    def stats(self) -> JoinStats:
        """Counts since the start."""
        self._index.stats.unmatched = self._waiting.unmatched
        return self._index.stats

    @property
    def watermark(self) -> float:
        """The largest prediction time so far, or what was given with the last row."""
        return self._index.watermark

    @property
    def no_pairs(self) -> JoinResult:
        """What a call joins that joins nothing."""
        return self._logged.examples(NO_PAIRS)

    @property
    def cap(self) -> int | None:
        """At most so many rows for now, besides ``policy.max_rows``: what memory allows."""
        return self._index.cap

    @cap.setter
    def cap(self, rows: int | None) -> None:
        self._index.cap = rows

    @property
    def waiting(self) -> int:
        """Labels that wait for predictions."""
        return len(self._waiting)

    @property
    def horizon_s(self) -> float:
        """For how long predictions do wait: ``keep_s``, or less where rows had to leave earlier."""
        return float(min(self.policy.keep_s, self.watermark - self._index.cut_mark))

    @property
    def row_bytes(self) -> int:
        """What one prediction that waits takes in memory, more or less: columns with their slack, and tables."""
        return self._index.row_bytes

    @property
    def index_bytes(self) -> int:
        """What grows with the rows that wait, in memory."""
        return self._index.nbytes

    @property
    def nbytes(self) -> int:
        """What all of it takes in memory, more or less."""
        parts = (self._index, self._labels, self._logged, self._waiting, self._seen)
        return sum(part.nbytes for part in parts)

    def __len__(self) -> int:
        """Predictions that wait for labels."""
        return len(self._index)

    # -- predictions ---------------------------------------------------------------------------------------------

    def log(
        self,
        predictions: PredictionBatch,
        extra: FloatMatrix | None = None,
        entities: dict[str, list[str | None]] | None = None,
        marks: FloatVector | None = None,
        offsets: IntVector | None = None,
        ripens_s: FloatVector | None = None,
        *,
        between: bool = False,
    ) -> JoinResult:
        """Keep what was scored and return the examples of labels that had come before.

        Parameters
        ----------
        predictions : scored events; their arrays are copied.
        extra : ``(n, E) float64`` to come back in ``JoinResult``; required when ``n_extra > 0``.
        entities : secondary identifiers by name; a missing one is absent in all rows.
        marks : ``(n,)`` watermark at each row; the largest prediction time so far when not given.
        offsets : ``(n,)`` by which each can be read back; without them all stay in memory.
        ripens_s : ``(n,)`` event time after which each is learned at the earliest, where the joiner ``matures``.
        between : whether labels that became known between these rows are told next, by ``label``; nothing that they may
            speak of leaves before.

        Raises
        ------
        ValueError
            When a matrix does not have the width the joiner was built with, or an identifier is unknown.
        """
        joined = self._logged_now(predictions, extra, entities or {}, marks, offsets, ripens_s)[0]
        if not between:
            self._free()
        return joined

    def interleave(
        self,
        predictions: PredictionBatch,
        extra: FloatMatrix,
        entities: dict[str, list[str | None]],
        marks: FloatVector,
        labels: LabelBatch,
        known_at: FloatVector | None,
        before: IntVector,
        score: Callable[[ExampleBatch, IntVector], None],
    ) -> tuple[JoinResult, FloatVector]:
        """Keep what is about to be scored, and join labels between its rows, as `log` and `label` of each in turn do.

        The joiner matches by event, assumes no negatives and lets nothing ripen; no label waits, and each speaks of a
        row that comes before it.

        Parameters
        ----------
        before : ``(m,)`` ascending: the row of ``predictions`` that each label comes before.
        score : given the examples, and before which row ``(k,)`` each is known, fills in the scores of ``predictions``
            and the unlogged columns of ``extra``, which nothing has read until then.

        Returns
        -------
        The pairs, and the watermark when each was made, ``(k,)``.
        """
        # Before the call below moves the watermark over the whole batch: a label is told when the row in front of it
        # has come.
        at_label = np.maximum.accumulate(np.concatenate([[self.watermark], marks]))[before]
        _, first, rows = self._logged_now(predictions, extra, entities, marks, None, None)
        pairs, of = self._pairs(labels, at_label if known_at is None else known_at, at_label, at_label)
        # Twice: what is learned needs no score, and the scores of the rows are known only when their examples were
        # learned.
        score(self._logged.examples(pairs).examples, before[of])
        self._index["unlogged"][first - self._index.first :] = extra[rows, : self.unlogged]
        self._logged.set_column(first, SCORE, predictions.score[rows])
        self._free()
        return self._logged.examples(pairs), at_label[of]

    def _logged_now(
        self, predictions: PredictionBatch, extra: FloatMatrix | None, entities: dict[str, list[str | None]],
        marks: FloatVector | None, offsets: IntVector | None, ripens_s: FloatVector | None,
    ) -> tuple[JoinResult, int, IntVector]:  # fmt: skip
        """What `log` joins; the number of the first row that is kept, and which of the predictions are ``(k,)``."""
        n, timeless = len(predictions), self.watermark == -np.inf
        texts = self._logged.texts_of(predictions, extra, entities)
        extra = np.empty((n, 0)) if extra is None else extra
        marks = self._index.move(predictions.ts if marks is None else marks)
        # Rows that came before any time was known had no time to be mature at.
        if timeless and self.watermark > -np.inf:
            self._labels.find_waiting()
        events = pair_digests(predictions.entity_id, predictions.event_id)
        rows = self._index.claim(events, predictions.ts, marks)
        if len(rows) < n:
            predictions, marks, events, extra = predictions.take(rows), marks[rows], events[rows], extra[rows]
            texts = texts_at(texts, rows)
            offsets = None if offsets is None else offsets[rows]
            ripens_s = None if ripens_s is None else ripens_s[rows]
        first, k = self._index.stop - len(rows), self.unlogged
        owners = digests(predictions.entity_id) if self._index.ranged else None
        if len(rows):
            self._index.fill(first, offsets, extra[:, :k], owners, ripens_s)
            numbers = [predictions.score, predictions.features, extra[:, k:]]
            self._logged.append(first, numbers, texts, offsets is not None)
        pairs = self._meet_waiting(events, owners, predictions.ts, marks, first)
        return self._logged.examples(pairs), first, rows

    def _meet_waiting(
        self, events: Digests, owners: Digests | None, ts: FloatVector, marks: FloatVector, first: int
    ) -> Pairs:
        """Pairs of rows from ``first`` on with labels that had come before, and what falls due before each row."""
        pairs, (at, numbers) = NO_PAIRS, self._waiting.meet(events, owners, ts, marks)
        if len(at):
            value, weight, known_at = self._waiting.columns(numbers)
            arrived = np.where(marks > -np.inf, np.minimum(ts, marks), ts)[at]
            known_at, now = np.maximum(known_at, arrived), np.maximum(known_at, marks[at])
            pairs, told = self._labels.give(first + at, value, weight, known_at, now)
            at = at[~told]
        return self._labels.with_due(pairs, at, marks, first)

    # -- labels --------------------------------------------------------------------------------------------------

    def label(self, labels: LabelBatch, known_at: FloatVector | None = None, *, between: bool = False) -> JoinResult:
        """Join labels with what was logged; those that find nothing wait.

        Parameters
        ----------
        labels : in the order in which they became known.
        known_at : ``(n,)`` event time at which each became known, for ``label_ts_known``; the watermark if None.
        between : whether they became known between the rows of the last ``log``, and so speak of what was kept then.
        """
        marks = np.full(len(labels), self.watermark)
        known = marks if known_at is None else known_at
        # Labels of silence become known while a batch passes, and rows that were kept then may be too old at its end.
        kept_at = np.minimum(known, marks) if between else marks
        joined = self._logged.examples(self._pairs(labels, known, marks, kept_at)[0])
        self._free()
        return joined

    def _pairs(
        self, labels: LabelBatch, known: FloatVector, marks: FloatVector, kept_at: FloatVector
    ) -> tuple[Pairs, IntVector]:
        """Pairs of labels, known at ``known`` and told at watermarks ``marks``; and which label each is of.

        They speak of what is kept at watermarks ``kept_at (n,)``.
        """
        fresh, stats = self._seen.new(digests(labels.label_id)), self._index.stats
        stats.labels += len(labels)
        stats.repeated_labels += len(labels) - len(fresh)
        if len(fresh) < len(labels):
            labels, known, marks, kept_at = labels.take(fresh), known[fresh], marks[fresh], kept_at[fresh]
        events, named = _event_digests(labels)
        # Of labels that name their events, nobody asks whose they are.
        owners = events if named is None else digests(labels.entity_id)
        rows, of = self._index.find(labels.ts, events, owners, named, kept_at)
        # Each has met its event, as nearly always: then there is nothing to choose, and none to wait.
        met = named is None and len(of) == len(labels)
        at = slice(None) if met else of
        now = np.maximum(known, marks)[at]
        pairs, told = self._labels.give(rows, labels.value[at], labels.weight[at], known[at], now)
        if not met:
            matched = np.zeros(len(labels), np.bool_)
            matched[of] = True
            self._waiting.add(labels, known, events, owners, named, matched)
        return pairs, fresh[of[~told]]

    # -- what was logged -----------------------------------------------------------------------------------------

    def wanted(self, labels: LabelBatch) -> RowsToRead:
        """What ``label`` will need that is not in memory; it changes nothing."""
        if len(labels) == 0:
            return self._logged.missing(NO_ROWS)
        events, named = _event_digests(labels)
        marks = np.full(len(labels), self.watermark)
        rows, of = self._index.find(labels.ts, events, digests(labels.entity_id), named, marks)
        # A label that says again what a row has been told needs nothing of it.
        return self._logged.missing(rows[(self._index.at("state", rows) & 3) != labels.value[of]])

    def wanted_due(self, marks: FloatVector) -> RowsToRead:
        """What ``log`` of predictions at watermarks ``marks (n,)`` will need that is not in memory; changes nothing."""
        if len(marks) == 0:
            return self._logged.missing(NO_ROWS)
        return self._logged.missing(self._labels.due_by(max(self.watermark, float(marks.max()))))

    def lend(self, rows: IntVector, predictions: PredictionBatch, extra: FloatMatrix,
             entities: dict[str, list[str | None]]) -> None:  # fmt: skip
        """Bring rows, ascending, as they were logged, for the next call; ``extra`` is without what is unlogged.

        A row whose event is another one is left out: offsets of a topic that was made anew say something else.
        """
        self._logged.bring(rows, predictions, extra, entities)

    def _free(self) -> None:
        self._waiting.free(self.watermark)
        if self._index.expire():
            self._logged.leave(self._index.first)
        self._logged.trim(self.cache_bytes)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def capture(self) -> Callable[[], bytes]:
        """Copy everything held; the call of what it returns makes a snapshot of it, in any thread."""
        index, label_ids = self._index, self._seen.held()
        marks, stats, first = (index.watermark, index.last_mark, index.cut_mark), list(astuple(self.stats)), index.first
        columns, pieces = index.packed(), self._logged.snapshot()
        waiting, next_negative = self._waiting.snapshot(), self._labels.next_negative
        return lambda: msgspec.msgpack.encode(
            StoredJoin(self._shape, *marks, next_negative, stats, first, columns, pieces, label_ids.tobytes(), waiting)
        )

    def snapshot(self) -> bytes:
        """Return everything held but what can be read back, as MessagePack."""
        return self.capture()()

    def upgraded(self, state: bytes, numbers: bytes | None) -> bytes:
        """A snapshot of before ADR 21, and what counted the examples of each event then, as a snapshot of today."""
        return upgraded(state, numbers, self.unlogged, self._index.ranged)

    def restore(self, state: bytes) -> None:
        """Replace everything held by a ``snapshot``; raises ``StateError`` when it is of another shape."""
        try:
            if is_old(state):
                state = self.upgraded(state, None)
            held = msgspec.msgpack.decode(state, type=StoredJoin)
        except UNREADABLE as error:
            raise StateError(f"not a snapshot of a label join: {error}") from error
        if held.shape != self._shape:
            raise StateError(
                f"the snapshot holds (features, extra, unlogged, entities, by range) = {held.shape}, this join "
                f"{self._shape}; log the predictions again"
            )
        index = self._index
        index.watermark, index.last_mark, index.cut_mark = held.watermark, held.last_mark, held.cut_mark
        index.stats, self._labels.next_negative = JoinStats(*held.stats), held.next_negative
        index.unpack(held.first, held.columns)
        self._labels.find_waiting()
        self._logged.restore(held.pieces)
        self._waiting.restore(held.waiting)
        self._seen.restore(held.label_ids)


def _event_digests(labels: LabelBatch) -> tuple[Digests, BoolVector | None]:
    """Digests of the events that labels name, and which do; ``None`` where all do."""
    if None not in labels.event_id:
        return pair_digests(labels.entity_id, cast("list[str]", labels.event_id)), None
    named = np.fromiter((event_id is not None for event_id in labels.event_id), np.bool_, len(labels))
    return pair_digests(labels.entity_id, [event_id or "" for event_id in labels.event_id]), named
