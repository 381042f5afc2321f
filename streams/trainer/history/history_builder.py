"""Builds a history and its labels from tables of predictions, examples and events, in whatever order they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.models.types import Float32Matrix, FloatVector, History, IntVector, Labels
from weir.streams.errors import UsageError
from weir.streams.trainer.history.logged_tables import FEATURE, KINDS, Kind, features_of

FULL: Final = "full."
"""Begins the names of the columns that the full model itself made: they are logged, and not its inputs."""
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class LoggedHistory:
    """What was read."""

    history: History
    labels: Labels
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that are not in it, by why."""


def model_inputs(features: Sequence[str]) -> tuple[str, ...]:
    """Of the features of a logged prediction, those that the full model sees: all but its own columns.

    >>> model_inputs(("amount", "full.logit", "full.known", "lunar_phase", "full.version"))
    ('amount', 'lunar_phase')
    """
    return tuple(name for name in features if not name.startswith(FULL))


class HistoryBuilder:
    """Collects what was logged of one task.

    Predictions, examples and events may come in any order and more than once: of repeats the one that was written first
    counts, as it did when they were made. A label becomes known when its example was written, on the clock of event
    time (`known_times`); one whose prediction is not there is left out. The columns of ``x`` are the inputs that the
    newest prediction has; a prediction without all of them is left out, too.
    """

    def __init__(self) -> None:
        self._tables: dict[Kind, list[pa.Table]] = {kind: [] for kind in KINDS}
        self._taken_back: set[tuple[str, int]] = set()

    def add(self, kind: Kind, tables: Sequence[pa.Table]) -> None:
        """Take tables as `RecordReader.tables` makes them."""
        self._tables[kind] += tables

    def take_back(self, tables: Sequence[pa.Table]) -> None:
        """Leave these examples out, whoever brings them."""
        for table in tables:
            self._taken_back.update(zip(table["event_id"].to_pylist(), table["n"].to_pylist(), strict=True))

    def build(self) -> LoggedHistory:
        """The history and labels of everything taken so far.

        Raises
        ------
        UsageError
            No prediction was logged, or none has all the inputs.
        """
        left_out: Counter[str] = Counter()
        inputs = self._newest_inputs()
        usable, x = self._inputs_of(inputs, left_out)
        logged = pa.concat_tables([table.select(_LOGGED) for table in usable])
        written_at = _floats(logged, "written_at")
        order = np.argsort(written_at, kind="stable")
        order = order[_first(_codes(logged["event_id"])[order])]
        left_out["repeated predictions"] += logged.num_rows - len(order)
        logged, x, written_at = logged.take(pa.array(order)), x[order], written_at[order]
        history = self._history(inputs, logged, x)
        return LoggedHistory(history, self._labels(logged["event_id"], history.ts, written_at, left_out), left_out)

    def _newest_inputs(self) -> tuple[str, ...]:
        tables = self._tables["predictions"]
        if not tables:
            raise UsageError(
                "no prediction of the task in this range: look further back, or see whether the worker scores it"
            )
        return model_inputs(features_of(max(tables, key=lambda table: pc.max(table["written_at"]).as_py())))

    def _inputs_of(self, inputs: tuple[str, ...], left_out: Counter[str]) -> tuple[list[pa.Table], Float32Matrix]:
        """The predictions that have all inputs, and these, ``(n, D)``."""
        names = [f"{FEATURE}{name}" for name in inputs]
        usable: list[pa.Table] = []
        for table in self._tables["predictions"]:
            absent = set(names).difference(table.column_names)
            whole = table.slice(0, 0) if absent else _without_nulls(table, names)
            left_out["predictions without all inputs"] += table.num_rows - whole.num_rows
            usable += [whole] if whole.num_rows else []
        if not usable:
            raise UsageError(
                f"no prediction has a value of each of the {len(inputs)} inputs of the full model; wait for new ones, "
                "or archive for longer"
            )
        x = np.empty((sum(table.num_rows for table in usable), len(names)), np.float32)
        start = 0
        for table in usable:
            for k, name in enumerate(names):
                values = _floats(table, name)
                # As serving does it (``weir.models.serving.entity_steps.as_inputs``): what float32 cannot hold is 0.
                x[start : start + len(values), k] = np.where(np.abs(values) <= _FLOAT32_MAX, values, 0.0)
            start += table.num_rows
        return usable, x

    def _history(self, inputs: tuple[str, ...], logged: pa.Table, x: Float32Matrix) -> History:
        n = logged.num_rows
        types, kinds = np.full(n, _NONE, np.int64), tuple[str, ...]()
        amount, item = np.full(n, np.nan), np.full(n, _NONE, np.int64)
        if self._tables["events"]:
            events = pa.concat_tables(self._tables["events"])
            at = _places(logged["event_id"], events["event_id"])
            there = np.flatnonzero(at >= 0)
            events = events.take(pa.array(at[there]))
            types[there], kinds = _words(events["type"])
            amount[there] = _floats(events, "amount")
            item[there], _ = _words(events["item"])
        return History(
            inputs=inputs,
            event_id=logged["event_id"].to_pylist(),
            entity=_codes(logged["entity_id"]),
            ts=_floats(logged, "ts"),
            x=x,
            score=_floats(logged, "score"),
            type=types,
            types=kinds,
            amount=amount,
            item=item,
        )

    def _labels(
        self, event_id: pa.ChunkedArray, ts: FloatVector, written_at: FloatVector, left_out: Counter[str]
    ) -> Labels:
        if not self._tables["examples"]:
            nothing = np.empty(0)
            return Labels(nothing.astype(np.int64), nothing.astype(np.bool_), nothing, nothing)
        examples = self._examples(left_out)
        told_at = _floats(examples, "written_at")
        order = np.argsort(told_at, kind="stable")
        # The pair is what an example is known by: one event may have several, as where a label was corrected.
        number = _codes(examples["event_id"]) * (int(pc.max(examples["n"]).as_py() or 0) + 1) + _ints(examples, "n")
        order = order[_first(number[order])]
        left_out["repeated examples"] += examples.num_rows - len(order)
        row = _places(examples["event_id"], event_id)[order]
        left_out["examples without their prediction"] += int(np.count_nonzero(row < 0))
        order, row = order[row >= 0], row[row >= 0]
        known_at = known_times(told_at[order], row, ts, written_at)
        by_time = np.argsort(known_at, kind="stable")
        order = order[by_time]
        y = np.asarray(examples["y"].combine_chunks().to_numpy(zero_copy_only=False), np.bool_)
        return Labels(row[by_time], y[order], _floats(examples, "weight")[order], known_at[by_time])

    def _examples(self, left_out: Counter[str]) -> pa.Table:
        """Every example but those taken back."""
        examples = pa.concat_tables(self._tables["examples"])
        if not self._taken_back:
            return examples
        identities = zip(examples["event_id"].to_pylist(), examples["n"].to_pylist(), strict=True)
        kept = [identity not in self._taken_back for identity in identities]
        left_out["examples taken back"] += kept.count(False)
        return examples.filter(pa.array(kept))


_LOGGED: Final = ["event_id", "entity_id", "ts", "written_at", "score"]


def _without_nulls(table: pa.Table, names: list[str]) -> pa.Table:
    """Rows with a value in each column: an archive file may hold predictions of two versions of a task."""
    gaps = [name for name in names if table[name].null_count]
    for name in gaps:
        table = table.filter(pc.is_valid(table[name]))
    return table


def _floats(table: pa.Table, name: str) -> FloatVector:
    return np.asarray(table[name].to_numpy(), np.float64)


def _ints(table: pa.Table, name: str) -> IntVector:
    return np.asarray(table[name].to_numpy(), np.int64)


def _codes(texts: pa.ChunkedArray) -> IntVector:
    """A number for each text, by first appearance; -1 for none."""
    return _encoded(texts)[0]


def _words(texts: pa.ChunkedArray) -> tuple[IntVector, tuple[str, ...]]:
    """Index of each text in the sorted distinct ones, which come along; -1 for none."""
    codes, words = _encoded(texts)
    order = sorted(range(len(words)), key=words.__getitem__)
    rank = np.full(len(words) + 1, _NONE, np.int64)  # the last is found by -1
    rank[order] = np.arange(len(words))
    return rank[codes], tuple(words[k] for k in order)


def _encoded(texts: pa.ChunkedArray) -> tuple[IntVector, list[str]]:
    whole: Any = pc.dictionary_encode(pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.string()))
    return np.asarray(pc.fill_null(whole.indices, _NONE).to_numpy(), np.int64), whole.dictionary.to_pylist()


def _places(texts: pa.ChunkedArray, among: pa.ChunkedArray) -> IntVector:
    """Where each text is first among others; -1 where it is not."""
    whole = pa.concat_arrays(among.chunks)
    distinct = _first(_codes(among))
    found = pc.fill_null(pc.index_in(texts, value_set=whole.take(pa.array(distinct))), _NONE)
    at = np.asarray(found.to_numpy(), np.int64)
    return np.where(at >= 0, distinct[at], _NONE) if len(distinct) else at


def _first(codes: IntVector) -> IntVector:
    """Places of the first appearance of each code, increasing."""
    return np.sort(np.unique(codes, return_index=True)[1])


def known_times(told_at: FloatVector, row: IntVector, ts: FloatVector, written_at: FloatVector) -> FloatVector:
    """Event time at which each of m labels became known, given a history of n events.

    Logs tell when a record was written: by the wall clock in production, in event time in the embedded host, and years
    later where old events are replayed. What the log does tell in each case is which events had been scored by then.

    Event time moves when an event later than all before it is scored. A label that was written between two such moves
    became known between their times, and at the time it was written where that lies between; behind the last one, as
    long after it as it was written after it. So whoever takes the events and labels up to a time of this clock
    has what was in the log at some moment, and nothing later.

    Parameters
    ----------
    told_at : ``(m,)`` when each was written, by the clock of the log.
    row : ``(m,)`` index of its event; a label is never known before that.
    ts, written_at : ``(n,)`` event time of each event, and when its prediction was written; the latter increasing.
    """
    if len(row) == 0:
        return np.empty(0)
    mark = np.maximum.accumulate(ts)
    last = np.maximum(np.searchsorted(written_at, told_at, side="right") - 1, row)
    low = mark[last]
    later = np.searchsorted(mark, low, side="right")
    beyond = low + np.maximum(told_at - written_at[last], 0.0)
    high = np.where(later < len(mark), mark[np.minimum(later, len(mark) - 1)], beyond)
    known: FloatVector = np.clip(told_at, low, np.maximum(low, high))
    return known
