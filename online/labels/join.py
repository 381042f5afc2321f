"""Join labels with the predictions they speak of. It knows what was logged at scoring, not models or aggregates."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import astuple
from functools import cached_property
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np

from weir.online.batch import BoolVector, ExampleBatch, FloatMatrix, FloatVector, IntVector, LabelBatch, PredictionBatch
from weir.online.digests import Digests, digests, pair_digests
from weir.online.errors import UNREADABLE, StateError
from weir.online.labels.join_policy import JoinPolicy, JoinResult, JoinStats
from weir.online.labels.kernel import COUNTED, UNLABELLED, WAITS, chain, claim, exchange, link
from weir.online.labels.logged_rows import FEATURES, SCORE, Columns, LoggedRows, StoredPiece
from weir.online.labels.upgrade import is_old, upgraded
from weir.online.labels.waiting import PendingLabels, StoredWaiting, unpacked
from weir.online.rows import NumberedRows, RowIndex

_NEVER_FULL: Final = 1 << 62


class _Pairs(NamedTuple):
    """Pairs of a row and a label as columns, each ``(n,)``."""

    rows: IntVector
    y: BoolVector
    weight: FloatVector
    known_at: FloatVector
    before: IntVector
    """How many labels the row had had."""
    new: BoolVector
    """The label is: no second mention, at the maturity of the row."""
    ripe: BoolVector
    """To be learned now."""

    def take(self, at: IntVector | BoolVector) -> _Pairs:
        """Some of them."""
        columns: list[Any] = [column[at] for column in self]
        return _Pairs(*columns)


class RowsToRead(NamedTuple):
    """Rows that have to be read back."""

    rows: IntVector
    offsets: IntVector
    """Where each was logged."""


_NO_ROWS: Final[IntVector] = np.empty(0, np.int64)
_NO_FLAGS: Final[BoolVector] = np.empty(0, np.bool_)
_NO_PAIRS: Final = _Pairs(_NO_ROWS, _NO_FLAGS, np.empty(0), np.empty(0), _NO_ROWS, _NO_FLAGS, _NO_FLAGS)


class _State(msgspec.Struct):
    """A snapshot."""

    shape: tuple[int, int, int, tuple[str, ...], bool]
    watermark: float
    last_mark: float
    cut_mark: float
    next_negative: int
    stats: list[int]
    first: int
    columns: dict[str, bytes]
    pieces: list[StoredPiece]
    label_ids: bytes
    waiting: StoredWaiting


class LabelJoiner:
    """Turn predictions and labels, in any arrival order, into examples with the features logged at scoring.

    - The set of examples does not depend on how predictions and labels interleave, as long as both stay within their
      waiting times. Labels of one event count in their own arrival order: the first gives an example, another value
      later a correction, the same value again nothing.
    - An event is known by its entity and its ``event_id``: the same id of two entities is two events.
    - The first prediction of an event counts; repeats (after a crash, perhaps by a newer model) do not.
    - Time is the watermark: the largest prediction time so far, or what is given with each row. Expiry is exact by row,
      so results do not depend on batch cuts. A row whose clock was ahead is as old as the watermark was at its arrival.
    - With ``negative_after_s`` an event becomes a negative, in arrival order, when the watermark has moved that far
      since it was logged without a label for it.
    - With ``matures`` an event is learned when its ``ripens_s`` (``keep_s`` at most) have passed since: a label known
      sooner is told at once and learned then, with the last value said by then. So a value that becomes known sooner
      than the other is not learned more often (what learning at once costs: Chapelle, 2014, "Modeling delayed feedback
      in display advertising").

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
        self.policy, self.matures = policy, matures
        self.n_features, self.n_extra, self.entities, self.unlogged = n_features, n_extra, entities, unlogged
        self.watermark = -np.inf
        self.cap: int | None = None
        """At most so many rows for now, besides ``policy.max_rows``: what memory allows."""
        self.cache_bytes = _NEVER_FULL
        """What logged rows that can be read back may take in memory."""
        self._stats = JoinStats()
        self._last_mark = self._cut_mark = -np.inf
        self._next_negative = 0
        self._ripening = list[tuple[float, int]]()  # a heap: when rows that wait are mature
        self._ranged = policy.match == "entity_range"
        self._columns = _columns_of(unlogged, self._ranged, matures)
        self._index = NumberedRows(self._columns)
        self._by_event = RowIndex(self._index)
        self._by_entity = RowIndex(self._index, "entity") if self._ranged else None
        self._logged = LoggedRows(FEATURES + n_features + n_extra - unlogged, 2 + len(entities), policy.chunk_rows)
        self._waiting = PendingLabels(policy.max_waiting)
        self._label_ids = NumberedRows({"digest": (np.uint64, 2), "ts": (np.float64, 0)})
        self._by_label = RowIndex(self._label_ids)
        self._shape = (n_features, n_extra, unlogged, entities, self._ranged)

    @cached_property
    def _nothing(self) -> JoinResult:
        """Made once: most calls of `log` join nothing, and a row alone pays for each array."""
        return self._emit(_NO_PAIRS)

    @property
    def stats(self) -> JoinStats:
        """Counts since the start."""
        self._stats.unmatched = self._waiting.unmatched
        return self._stats

    @property
    def waiting(self) -> int:
        """Labels that wait for predictions."""
        return len(self._waiting)

    @property
    def horizon_s(self) -> float:
        """For how long predictions do wait: ``keep_s``, or less where rows had to leave earlier."""
        return float(min(self.policy.keep_s, self.watermark - self._cut_mark))

    @property
    def row_bytes(self) -> int:
        """What one prediction that waits takes in memory, more or less: columns with their slack, and tables."""
        width: int = sum(np.dtype(kind).itemsize * max(width, 1) for kind, width in self._columns.values())
        return width + width // 8 + (24 if self._ranged else 12)

    @property
    def index_bytes(self) -> int:
        """What grows with the rows that wait, in memory."""
        tables = self._by_event.nbytes + (self._by_entity.nbytes if self._by_entity is not None else 0)
        return self._index.nbytes + tables

    @property
    def nbytes(self) -> int:
        """What all of it takes in memory, more or less."""
        ids = self._label_ids.nbytes + self._by_label.nbytes
        return self.index_bytes + self._logged.nbytes + self._waiting.nbytes + ids

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

        Raises
        ------
        ValueError
            When a matrix does not have the width the joiner was built with, or an identifier is unknown.
        """
        joined = self._logged_now(predictions, extra, entities or {}, marks, offsets, ripens_s)[0]
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
        at_label = np.maximum.accumulate(np.concatenate([[self.watermark], marks]))[before]
        _, first, rows = self._logged_now(predictions, extra, entities, marks, None, None)
        pairs, of = self._pairs(labels, at_label if known_at is None else known_at, at_label)
        score(self._emit(pairs).examples, before[of])
        self._index.buffers["unlogged"][first - self._index.base :][: len(rows)] = extra[rows, : self.unlogged]
        self._logged.set_column(first, SCORE, predictions.score[rows])
        self._free()
        return self._emit(pairs), at_label[of]

    def _logged_now(
        self,
        predictions: PredictionBatch,
        extra: FloatMatrix | None,
        entities: dict[str, list[str | None]],
        marks: FloatVector | None,
        offsets: IntVector | None,
        ripens_s: FloatVector | None,
    ) -> tuple[JoinResult, int, IntVector]:
        """What `log` joins; the number of the first row that is kept, and which of the predictions are ``(k,)``."""
        columns = self._check(predictions, extra, entities)
        n = len(predictions)
        extra = np.empty((n, 0)) if extra is None else extra
        marks = self._move(predictions.ts if marks is None else marks)
        events = pair_digests(predictions.entity_id, predictions.event_id)
        rows = self._claim(events, predictions.ts, marks)
        if len(rows) < n:
            predictions, marks, events, extra = predictions.take(rows), marks[rows], events[rows], extra[rows]
            columns = [[column[i] for i in rows.tolist()] for column in columns]
            offsets = None if offsets is None else offsets[rows]
            ripens_s = None if ripens_s is None else ripens_s[rows]
        first = self._index.stop - len(rows)
        owners = digests(predictions.entity_id) if self._ranged else None
        self._append(first, predictions, marks, extra, columns, offsets, owners, ripens_s)
        pairs, positions = self._meet_waiting(events, owners, predictions.ts, marks, first)
        pairs = self._with_due(pairs, positions, marks, first)
        return self._emit(pairs) if len(pairs.rows) else self._nothing, first, rows

    def _move(self, marks: FloatVector) -> FloatVector:
        """Move the watermark over a batch; the watermark at each row, the first known one where it was not known."""
        before, marks = self.watermark, np.maximum.accumulate(np.concatenate(([self.watermark], marks)))[1:]
        if len(marks):
            self.watermark = float(marks[-1])
        if before == -np.inf < self.watermark:
            began = float(marks[marks > -np.inf][0])
            marks, held = np.maximum(marks, began), self._index["mark"]
            if len(held) and held[0] == -np.inf:
                self._index.buffers["mark"] = self._index.buffers["mark"].copy()  # a snapshot may hold the old one
                held = self._index["mark"]
                held[held == -np.inf] = began
                self._find_waiting()
        return marks

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
        return [entities.get(name) or [None] * n for name in self.entities]

    @property
    def _most(self) -> int:
        """Of the rows, only the last so many are live."""
        limits = [limit for limit in (self.policy.max_rows, self.cap) if limit is not None]
        return min(limits, default=_NEVER_FULL)

    def _claim(self, events: Digests, ts: FloatVector, marks: FloatVector) -> IntVector:
        """The rows that are neither late nor repeats; they are in the index from here on."""
        index, table, n = self._index, self._by_event, len(ts)
        # Room first: the kernel writes into the tables and the columns, and cannot make them larger.
        table.reserve(n)
        if self._by_entity is not None:
            self._by_entity.reserve(n)
        keep, held = np.empty(n, np.bool_), index.buffers
        late, used = claim(
            events, ts, marks, self.policy.keep_s, self._most, table.slots, table.origin, held["digest"], held["ts"],
            held["mark"], index.base, index.first, index.stop, keep,
        )  # fmt: skip
        rows = np.flatnonzero(keep)
        table.used += used
        index.stop += len(rows)
        self._stats.late_predictions += late
        self._stats.repeated_predictions += n - late - len(rows)
        self._stats.logged += len(rows)
        return rows

    def _append(
        self,
        first: int,
        batch: PredictionBatch,
        marks: FloatVector,
        extra: FloatMatrix,
        columns: list[list[str | None]],
        offsets: IntVector | None,
        owners: Digests | None,
        ripens_s: FloatVector | None,
    ) -> None:
        """Fill in the rest of rows that were claimed."""
        n, index, k = len(batch), self._index, self.unlogged
        if n == 0:
            return
        filled = {
            "state": UNLABELLED,
            "offset": -1 if offsets is None else offsets,
            "unlogged": extra[:, :k],
            "entity": owners,
            "weight": 1.0,
            "ripens_s": 0.0 if ripens_s is None else np.minimum(ripens_s, self.policy.keep_s),
        }
        start = first - index.base
        for name in self._columns.keys() & filled.keys():
            index.buffers[name][start : start + n] = filled[name]
        if self._by_entity is not None:
            self._by_entity.used += self._link(first)
        texts = [cast("list[str | None]", batch.event_id), cast("list[str | None]", batch.entity_id), *columns]
        self._logged.append(first, [batch.score, batch.features, extra[:, k:]], texts, offsets is not None)
        self._last_mark = float(marks[-1])

    def _link(self, first: int) -> int:
        """Tie rows to those before them of the same entity; the table has room for them."""
        index, table = self._index, cast("RowIndex", self._by_entity)
        held = index.buffers
        return int(link(table.slots, table.origin, held["entity"], held["before"], index.base, first, index.stop))

    def _meet_waiting(
        self, events: Digests, owners: Digests | None, ts: FloatVector, marks: FloatVector, first: int
    ) -> tuple[_Pairs, IntVector]:
        """Pairs with labels that had come before, and the position in the batch at which each was made."""
        numbers, counts, room = list[IntVector](), list[int](), self._waiting
        wait_s, range_s = self.policy.wait_s, self.policy.range_s
        # Nearly no row of a batch is waited for; only those that are cost Python time.
        concerned = room.concerned(events, owners)
        for i in concerned.tolist():
            entity = None if owners is None else owners[i : i + 1]
            numbers.append(room.meet(events[i : i + 1], entity, float(ts[i]), float(marks[i]) - wait_s, range_s))
            counts.append(len(numbers[-1]))
        if not sum(counts):
            return _NO_PAIRS, _NO_ROWS
        positions = np.repeat(concerned, counts)
        value, weight, known_at = room.columns(np.concatenate(numbers))
        arrived = np.where(marks > -np.inf, np.minimum(ts, marks), ts)[positions]
        known_at, now = np.maximum(known_at, arrived), np.maximum(known_at, marks[positions])
        pairs, told = self._exchange(first + positions, value, weight, known_at, now)
        return pairs, positions[~told]

    # -- labels --------------------------------------------------------------------------------------------------

    def label(self, labels: LabelBatch, known_at: FloatVector | None = None) -> JoinResult:
        """Join labels with what was logged; those that find nothing wait.

        Parameters
        ----------
        labels : in the order in which they became known.
        known_at : ``(n,)`` event time at which each became known, for ``label_ts_known``; the watermark if None.
        """
        marks = np.full(len(labels), self.watermark)
        joined = self._emit(self._pairs(labels, marks if known_at is None else known_at, marks)[0])
        self._free()
        return joined

    def _pairs(self, labels: LabelBatch, known: FloatVector, marks: FloatVector) -> tuple[_Pairs, IntVector]:
        """Pairs of labels, known at ``known`` and told at watermarks ``marks (n,)``; and which label each is of."""
        self._stats.labels += len(labels)
        fresh = self._remember(digests(labels.label_id))
        if len(fresh) < len(labels):
            labels, known, marks = labels.take(fresh), known[fresh], marks[fresh]
        events, named = _event_digests(labels)
        owners = digests(labels.entity_id) if len(labels) else events
        rows, of = self._find(labels.ts, events, owners, named, marks)
        now = np.maximum(known[of], marks[of])
        pairs, told = self._exchange(rows, labels.value[of], labels.weight[of], known[of], now)
        matched = np.zeros(len(labels), np.bool_)
        matched[of] = True
        self._let_wait(labels, known, events, owners, named, matched)
        return pairs, fresh[of[~told]]

    def _remember(self, ids: Digests) -> IntVector:
        """The labels whose ids are not among the last ``remember_labels``."""
        seen, table, keep = self._label_ids, self._by_label, np.empty(len(ids), np.bool_)
        table.reserve(len(ids))
        held, always = seen.buffers, np.zeros(len(ids))
        _, used = claim(
            ids, always, always, 0.0, self.policy.remember_labels, table.slots, table.origin, held["digest"],
            held["ts"], held["ts"], seen.base, seen.first, seen.stop, keep,
        )  # fmt: skip
        fresh = np.flatnonzero(keep)
        table.used += used
        seen.stop += len(fresh)
        seen.leave(seen.stop - self.policy.remember_labels)
        self._stats.repeated_labels += len(ids) - len(fresh)
        return fresh

    def _find(
        self, ts: FloatVector, events: Digests, owners: Digests, named: BoolVector, marks: FloatVector
    ) -> tuple[IntVector, IntVector]:
        """The rows that labels speak of, live at ``marks (n,)``, and of which label each is, in the order of labels."""
        rows = self._by_event.find(events)
        rows[~named] = -1
        at = np.flatnonzero(rows >= 0)
        if self._by_entity is not None and not named.all():
            found = [(rows[i : i + 1] if named[i] else self._in_range(owners[i : i + 1], float(ts[i])))
                     for i in range(len(ts))]  # fmt: skip
            of = np.repeat(np.arange(len(ts)), [len(some) for some in found])
            rows = np.concatenate(found) if found else _NO_ROWS
            at = np.flatnonzero(rows >= 0)
            rows, of = rows[at], of[at]
        else:
            rows, of = rows[at], at
        live = self._live(rows, marks[of])
        return rows[live], of[live]

    def _in_range(self, owner: Digests, ts: float) -> IntVector:
        """Rows of an entity in the range of a label, ordered by time, then by arrival."""
        index, table = self._index, cast("RowIndex", self._by_entity)
        held, newest = index.buffers, int(table.find(owner)[0])
        rows = chain(newest, held["before"], held["ts"], index.base, index.first, ts - self.policy.range_s, ts)
        return rows[np.argsort(index.at("ts", rows), kind="stable")]

    def _live(self, rows: IntVector, marks: FloatVector) -> BoolVector:
        """Which rows may still be joined at watermarks ``marks``."""
        index = self._index
        live = rows >= max(index.first, index.stop - self._most)
        kept = np.minimum(index.at("ts", rows[live]), index.at("mark", rows[live]))
        live[live] = kept >= marks[live] - self.policy.keep_s
        return live

    def _give(
        self, rows: IntVector, y: BoolVector, weight: FloatVector, known_at: FloatVector, now: FloatVector
    ) -> tuple[_Pairs, BoolVector]:
        """Give rows labels, in order, each at a time ``now``; the pairs that are news, and which labels were none."""
        index, before, at = self._index, np.empty(len(rows), np.uint32), rows - self._index.base
        ripe_at = self._ripe_at(rows) if self.matures else now
        exchange(index.buffers["state"], at, y.astype(np.uint32), now < ripe_at, before)
        ripe = (now >= ripe_at) & ((before & WAITS) == 0)
        told, new = (before & 3) == y, (before & 3) == UNLABELLED
        if not ripe.all():
            index.buffers["weight"][at[~told]] = weight[~told]
            for i in np.flatnonzero(~ripe & ~told & ((before & WAITS) == 0)).tolist():
                self._stats.early += bool(new[i])
                heapq.heappush(self._ripening, (float(ripe_at[i]), int(rows[i])))
        count = ((before & COUNTED) >> 2).astype(np.int64)
        return _Pairs(rows, y, weight, known_at, count, np.ones(len(rows), np.bool_), ripe).take(~told), told

    def _exchange(
        self, rows: IntVector, y: BoolVector, weight: FloatVector, known_at: FloatVector, now: FloatVector
    ) -> tuple[_Pairs, BoolVector]:
        """Give rows their labels, in order; the pairs that say something new, and which labels did not."""
        pairs, told = self._give(rows, y, weight, known_at, now)
        new = int(np.count_nonzero(pairs.before == 0))
        self._stats.repeated_values += int(np.count_nonzero(told))
        self._stats.joined += new
        self._stats.corrections += len(pairs.rows) - new
        return pairs, told

    def _let_wait(
        self, labels: LabelBatch, known: FloatVector, events: Digests, owners: Digests, named: BoolVector,
        matched: BoolVector,
    ) -> None:  # fmt: skip
        """Let labels wait that found nothing, or that may find more: those of a range go on waiting."""
        waits = ~named if self._ranged else np.zeros(len(named), np.bool_)
        self._waiting.unmatched += int(np.count_nonzero(~named & ~waits))
        at = np.flatnonzero(waits | (named & ~matched))
        if len(at):
            columns = {"ts": labels.ts, "value": labels.value, "weight": labels.weight, "known_at": known}
            chosen = {name: column[at] for name, column in columns.items()}
            self._waiting.add(events[at], owners[at], named[at], chosen, matched[at])

    # -- what falls due ------------------------------------------------------------------------------------------

    def _due(self, mark: float) -> tuple[IntVector, FloatVector, int]:
        """Rows without a label whose watermark at arrival was at most ``mark``, not looked at yet.

        Returns them, their watermarks, and the first row after them, where the next search starts.
        """
        index = self._index
        start = max(self._next_negative, index.first)
        marks = index["mark"][start - index.first :]
        n = int(np.searchsorted(marks, mark, side="right"))
        at = np.flatnonzero((index["state"][start - index.first :][:n] & 3) == UNLABELLED)
        return start + at, marks[at], start + n

    def _with_due(self, pairs: _Pairs, positions: IntVector, marks: FloatVector, first: int) -> _Pairs:
        """Add what fell due during a batch, each row before the pairs of the one that made it due."""
        after = self.policy.negative_after_s
        if len(marks) == 0 or self.watermark == -np.inf or (after is None and not self._ripening):
            return pairs
        # Even before odd: what fell due comes before the pairs of the row that made it due.
        made = [(pairs, 2 * positions + 1)]
        if after is not None:
            made.append(self._negatives(marks - after, after, first))
        made.append(self._ripened(marks, first))
        places = np.concatenate([place for _, place in made])
        joined = _Pairs(*(np.concatenate(column) for column in zip(*(some for some, _ in made), strict=True)))
        return joined.take(np.lexsort((joined.rows, places)))

    def _negatives(self, floors: FloatVector, after: float, first: int) -> tuple[_Pairs, IntVector]:
        rows, logged_at, self._next_negative = self._due(floors[-1])
        at = np.searchsorted(floors, logged_at)
        # What max_rows would have evicted by then, had the batch been cut there, stays out.
        kept = rows >= first + at + 1 - self._most
        rows, due, at = rows[kept], logged_at[kept] + after, at[kept]
        self._stats.assumed_negatives += len(rows)
        return self._give(rows, np.zeros(len(rows), np.bool_), np.ones(len(rows)), due, due)[0], 2 * at

    def _ripened(self, marks: FloatVector, first: int) -> tuple[_Pairs, IntVector]:
        """What was told early of rows that are mature now, as the last label said."""
        index, found = self._index, self._pop_ripe(marks[-1])
        ripe_at, rows = np.array([at for at, _ in found], np.float64), np.array([row for _, row in found], np.int64)
        at = np.searchsorted(marks, ripe_at)
        kept = rows >= np.maximum(first + at + 1 - self._most, index.first)
        rows, ripe_at, at = rows[kept], ripe_at[kept], at[kept]
        held = index.at("state", rows)
        index.buffers["state"][rows - index.base] = held & COUNTED
        weight = index.at("weight", rows) if self.matures else np.ones(0)
        before, yes = ((held & COUNTED) >> 2).astype(np.int64) - 1, np.ones(len(rows), np.bool_)
        return _Pairs(rows, (held & 3) == 1, weight, ripe_at, before, ~yes, yes), 2 * at

    def _pop_ripe(self, mark: float) -> list[tuple[float, int]]:
        """Rows that wait and are mature by a watermark, with the time at which they are."""
        out = list[tuple[float, int]]()
        while self._ripening and self._ripening[0][0] <= mark:
            out.append(heapq.heappop(self._ripening))
        return out

    def _ripe_at(self, rows: IntVector) -> FloatVector:
        """When rows are mature; one whose clock was ahead is as old as the watermark was at its arrival."""
        index = self._index
        ts, mark = index.at("ts", rows), index.at("mark", rows)
        base: FloatVector = np.where(mark > -np.inf, np.minimum(ts, mark), ts)
        ripe_at: FloatVector = base + index.at("ripens_s", rows)
        return ripe_at

    def _find_waiting(self) -> None:
        """Find the rows that wait by their states."""
        if self.matures:
            rows = self._index.first + np.flatnonzero(self._index["state"] & WAITS)
            self._ripening = sorted(zip(self._ripe_at(rows).tolist(), rows.tolist(), strict=True))

    # -- what was logged -----------------------------------------------------------------------------------------

    def wanted(self, labels: LabelBatch) -> RowsToRead:
        """What ``label`` will need that is not in memory; it changes nothing."""
        if len(labels) == 0:
            return self._missing(_NO_ROWS)
        events, named = _event_digests(labels)
        marks = np.full(len(labels), self.watermark)
        rows, of = self._find(labels.ts, events, digests(labels.entity_id), named, marks)
        return self._missing(rows[(self._index.at("state", rows) & 3) != labels.value[of]])

    def wanted_due(self, marks: FloatVector) -> RowsToRead:
        """What ``log`` of predictions at watermarks ``marks (n,)`` will need that is not in memory; changes nothing."""
        after, rows = self.policy.negative_after_s, _NO_ROWS
        if len(marks) == 0:
            return self._missing(rows)
        newest = max(self.watermark, float(marks.max()))
        if after is not None:
            rows = self._due(newest - after)[0]
        ripe = self._pop_ripe(newest)
        for each in ripe:
            heapq.heappush(self._ripening, each)
        live = [row for _, row in ripe if row >= self._index.first]
        return self._missing(np.append(rows, np.array(live, np.int64)))

    def _missing(self, rows: IntVector) -> RowsToRead:
        rows = np.unique(rows)
        rows = rows[~self._logged.holds(rows)]
        return RowsToRead(rows, self._index.at("offset", rows))

    def lend(self, rows: IntVector, predictions: PredictionBatch, extra: FloatMatrix,
             entities: dict[str, list[str | None]]) -> None:  # fmt: skip
        """Bring rows, ascending, as they were logged, for the next call; ``extra`` is without what is unlogged.

        A row whose event is another one is left out: offsets of a topic that was made anew say something else.
        """
        events = pair_digests(predictions.entity_id, predictions.event_id)
        same = (events == self._index.at("digest", rows)).all(axis=1)
        if not same.all():
            at = np.flatnonzero(same)
            rows, predictions, extra = rows[at], predictions.take(at), extra[at]
            entities = {name: [column[i] for i in at.tolist()] for name, column in entities.items()}
        texts = [predictions.event_id, predictions.entity_id, *(entities[name] for name in self.entities)]
        numbers = np.column_stack([predictions.score, predictions.features, extra])
        self._logged.lend(rows, Columns(numbers, cast("list[list[str | None]]", texts)))

    def _emit(self, pairs: _Pairs) -> JoinResult:
        (numbers, texts), found = self._logged.gather(pairs.rows)
        if not found.all():
            self._stats.lost += int(np.count_nonzero(~found))
            there = np.flatnonzero(found)
            pairs, numbers = pairs.take(there), numbers[there]
            texts = [[column[i] for i in there.tolist()] for column in texts]
        event_id, entity_id, *entities = texts
        ts = self._index.at("ts", pairs.rows)
        split = FEATURES + self.n_features
        unlogged = self._index.at("unlogged", pairs.rows) if self.unlogged else np.empty((len(pairs.rows), 0))
        examples = ExampleBatch(
            event_id=cast("list[str]", event_id),
            ts=ts,
            x=numbers[:, FEATURES:split].copy(),
            score=numbers[:, SCORE].copy(),
            y=pairs.y,
            weight=pairs.weight,
            correction=(pairs.before > 0) & pairs.new,
            n=pairs.before,
            entity_id=entity_id,
        )
        return JoinResult(
            examples=examples,
            entity_id=cast("list[str]", entity_id),
            extra=np.column_stack([unlogged, numbers[:, split:]]),
            entities=dict(zip(self.entities, entities, strict=True)),
            # Where there is no watermark yet, not before its event.
            label_ts_known=np.where(pairs.known_at > -np.inf, pairs.known_at, ts),
            new=pairs.new,
            ripe=pairs.ripe,
        )

    def _free(self) -> None:
        self._waiting.free(self.watermark - self.policy.wait_s)
        index = self._index
        # Not the watermark: a repeat may have moved it past negatives that fall due at the next kept row.
        old = index.first + int(np.searchsorted(index["mark"], self._last_mark - self.policy.keep_s))
        until = max(old, index.stop - self._most)
        if until > index.first:
            gone = index["state"][: until - index.first] & 3
            self._stats.expired_unlabelled += int(np.count_nonzero(gone == UNLABELLED))
            self._stats.evicted += max(until - old, 0)
            if until > old:
                self._cut_mark = float(index["mark"][until - index.first - 1])
            index.leave(until)
            self._logged.leave(until)
        self._logged.trim(self.cache_bytes)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def capture(self) -> Callable[[], bytes]:
        """Copy everything held; the call of what it returns makes a snapshot of it, in any thread."""
        marks = self.watermark, self._last_mark, self._cut_mark
        stats, first, pieces = list(astuple(self.stats)), self._index.first, self._logged.snapshot()
        columns, label_ids = self._index.frozen("state", "weight"), self._label_ids["digest"]
        waiting, next_negative = self._waiting.snapshot(), self._next_negative

        def encode() -> bytes:
            packed = {name: cast("bytes", column.data) for name, column in columns.items() if name != "before"}
            return msgspec.msgpack.encode(
                _State(self._shape, *marks, next_negative, stats, first, packed, pieces, label_ids.tobytes(), waiting)
            )

        return encode

    def snapshot(self) -> bytes:
        """Return everything held but what can be read back, as MessagePack."""
        return self.capture()()

    def upgraded(self, state: bytes, numbers: bytes | None) -> bytes:
        """A snapshot of before ADR 21, and what counted the examples of each event then, as a snapshot of today."""
        return upgraded(state, numbers, self.unlogged, self._ranged)

    def restore(self, state: bytes) -> None:
        """Replace everything held by a ``snapshot``; raises ``StateError`` when it is of another shape."""
        try:
            if is_old(state):
                state = self.upgraded(state, None)
            held = msgspec.msgpack.decode(state, type=_State)
        except UNREADABLE as error:
            raise StateError(f"not a snapshot of a label join: {error}") from error
        if held.shape != self._shape:
            raise StateError(
                f"the snapshot holds (features, extra, unlogged, entities, by range) = {held.shape}, this join "
                f"{self._shape}; log the predictions again"
            )
        self.watermark, self._last_mark, self._cut_mark = held.watermark, held.last_mark, held.cut_mark
        self._next_negative, self._stats = held.next_negative, JoinStats(*held.stats)
        known = {name: column for name, column in held.columns.items() if name in self._columns}
        columns: dict[str, Any] = unpacked(self._columns, known)
        if self.matures and "weight" not in columns:  # of a task that did not wait: what was labelled is learned
            columns |= {"weight": np.ones(len(columns["ts"])), "ripens_s": np.zeros(len(columns["ts"]))}
        elif not self.matures:
            columns["state"] = columns["state"] & np.uint32(COUNTED)
        if self._by_entity is not None:
            columns["before"] = np.empty(len(columns["ts"]), np.int64)
        self._index.restore(held.first, columns)
        self._find_waiting()
        self._by_event.rebuild()
        if self._by_entity is not None:
            self._by_entity.clear(len(self._index))
            self._by_entity.used += self._link(held.first)
        self._logged.restore(held.pieces)
        self._waiting.restore(held.waiting)
        ids = np.frombuffer(held.label_ids, np.uint64).reshape(-1, 2)
        self._label_ids.restore(0, {"digest": ids, "ts": np.zeros(len(ids))})
        self._by_label.rebuild()


def _columns_of(unlogged: int, ranged: bool, matures: bool) -> dict[str, tuple[Any, int]]:
    """The index: digest of entity and event id, time, the watermark at arrival, label state, where it was logged."""
    columns: dict[str, tuple[Any, int]] = {
        "digest": (np.uint64, 2),
        "ts": (np.float64, 0),
        "mark": (np.float64, 0),
        "state": (np.uint32, 0),
        "offset": (np.int64, 0),
    }
    if unlogged:
        columns["unlogged"] = (np.float64, unlogged)
    if matures:
        columns |= {"weight": (np.float64, 0), "ripens_s": (np.float64, 0)}
    if ranged:
        columns |= {"entity": (np.uint64, 2), "before": (np.int64, 0)}
    return columns


def _event_digests(labels: LabelBatch) -> tuple[Digests, BoolVector]:
    """Digests of the events that labels name, and which do."""
    named = np.fromiter((event_id is not None for event_id in labels.event_id), np.bool_, len(labels))
    return pair_digests(labels.entity_id, [event_id or "" for event_id in labels.event_id]), named
