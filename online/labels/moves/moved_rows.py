"""What waits in several label joins, divided anew: each join gets what it is told to get of all of them.

It works on snapshots, between two lives of the joins. Whoever knows the entities says what goes where: a snapshot holds
digests, no ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.batch import BoolVector, IntVector, LabelBatch
from weir.online.digests import Digests, digests, pair_digests
from weir.online.labels.logged_rows import FEATURES, StoredPiece, Texts
from weir.online.labels.places import places_of, records_at
from weir.online.labels.prediction_index import columns_of
from weir.online.labels.stored_join import StoredJoin
from weir.online.labels.waiting import COLUMNS, StoredWaiting, awaited

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class JoinPart:
    """What one join gives to another."""

    held: StoredJoin
    partition: int
    """Of its lane."""
    rows: BoolVector
    """Which of its predictions."""
    labels: BoolVector
    """Which of its labels that wait."""
    label_ids: BoolVector
    """Which of the label ids that it remembers."""


def stored_join(state: bytes) -> StoredJoin:
    """A snapshot of a `LabelJoiner`, opened."""
    return msgspec.msgpack.decode(state, type=StoredJoin)


def records_of(held: StoredJoin, partition: int) -> tuple[IntVector, IntVector]:
    """Partition and offset ``(n,)`` of the predictions that wait in a join of the lane ``partition``."""
    return records_at(np.frombuffer(held.columns["offset"], np.int64), partition)


def digests_of(held: StoredJoin) -> tuple[Digests, Digests]:
    """What the labels speak of that wait in a join, and the ids of those that it remembers, ``(n, 2)`` each."""
    waiting, ids = held.waiting.columns["digest"], held.label_ids
    return np.frombuffer(waiting, np.uint64).reshape(-1, 2), np.frombuffer(ids, np.uint64).reshape(-1, 2)


def digests_by(labels: LabelBatch) -> tuple[Digests, Digests]:
    """The same of labels as they are read: what each waits for where it finds nothing, and its id."""
    named = np.fromiter((event_id is not None for event_id in labels.event_id), np.bool_, len(labels))
    events = pair_digests(labels.entity_id, [event_id or "" for event_id in labels.event_id])
    return awaited(events, digests(labels.entity_id), named), digests(labels.label_id)


def joined(base: StoredJoin, parts: Sequence[JoinPart], partition: int) -> bytes:
    """The snapshot of the join of lane ``partition`` that holds these parts, and the counts of ``base``.

    A prediction, a label or an id that is in two of the parts counts once. The parts are of one shape.
    """
    # Those that give nothing say nothing of the time of what is here.
    giving = [part.held for part in parts if part.rows.any() or part.labels.any()] + [base]
    rows, texts = _rows(parts, partition, bool(base.shape[4]))
    looked = rows.pop("looked")
    unlooked = np.flatnonzero(~looked)
    ids = _once(np.concatenate([np.empty((0, 2), np.uint64), *(digests_of(p.held)[1][p.label_ids] for p in parts)]))
    made = StoredJoin(
        shape=base.shape,
        watermark=max(held.watermark for held in giving),
        last_mark=float(rows["mark"][-1]) if len(looked) else base.last_mark,
        cut_mark=max(held.cut_mark for held in giving),
        # Rows behind it that were looked at before are labelled since: to look at them again changes nothing.
        next_negative=int(unlooked[0]) if len(unlooked) else len(looked),
        stats=base.stats,
        first=0,
        columns={name: column.tobytes() for name, column in rows.items()},
        pieces=texts,
        label_ids=ids.tobytes(),
        waiting=_waiting(parts, base.waiting.unmatched),
    )
    return msgspec.msgpack.encode(made)


def _rows(parts: Sequence[JoinPart], partition: int, ranged: bool) -> tuple[Table, list[StoredPiece]]:
    """All rows by their watermarks, as an index has them; and what was logged with those that are held here alone."""
    tables = list[Table]()
    matures = any("weight" in part.held.columns for part in parts)
    for i, part in enumerate(parts):
        table = {name: column[part.rows] for name, column in _index_columns(part.held, ranged, matures).items()}
        at = np.flatnonzero(part.rows) + part.held.first
        partitions, offsets = records_at(table["offset"], part.partition)
        table["offset"] = places_of(offsets, partitions, partition)
        tables.append(table | {"looked": at < part.held.next_negative, "part": np.full(len(at), i), "number": at})
    rows = _concatenated(tables)
    order = _first_of(rows["digest"])
    order = order[np.argsort(rows["mark"][order], kind="stable")]
    rows = {name: column[order] for name, column in rows.items()}
    of, number = rows.pop("part"), rows.pop("number")
    here = np.flatnonzero(rows["offset"] < 0).tolist()
    return rows, [piece for row in here for piece in _piece(row, parts[of[row]].held, int(number[row]))]


def _piece(row: int, held: StoredJoin, number: int) -> list[StoredPiece]:
    """What was logged with row ``number`` of a join, as a piece of its own that begins with ``row``.

    Pieces that follow each other become one when they are restored.
    """
    features, extra, unlogged, *_ = held.shape
    for piece in held.pieces:
        at = number - piece.first
        if 0 <= at < len(piece.texts[0]):
            numbers = np.frombuffer(piece.numbers).reshape(-1, FEATURES + features + extra - unlogged)[at]
            texts: Texts = [[column[at]] for column in piece.texts]
            return [StoredPiece(row, numbers.tobytes(), texts)]
    return []


def _index_columns(held: StoredJoin, ranged: bool, matures: bool) -> Table:
    """The columns of an index; one of a task that did not wait for maturity learned what was labelled at once."""
    kinds = columns_of(held.shape[2], ranged, matures)
    n = len(held.columns["ts"]) // 8
    absent: Table = {"weight": np.ones(n), "ripens_s": np.zeros(n)} if matures else {}
    found = {name: _array(held.columns[name], *kinds[name]) for name in kinds if name in held.columns}
    return absent | found


def _waiting(parts: Sequence[JoinPart], unmatched: int) -> StoredWaiting:
    kinds = {name: kind for name, kind in COLUMNS.items() if name != "before"}
    tables = [
        {name: _array(part.held.waiting.columns[name], *kind)[part.labels] for name, kind in kinds.items()}
        for part in parts
    ]
    labels = _concatenated(tables)
    told = np.column_stack([labels["digest"], labels["ts"].view(np.uint64), labels["known_at"].view(np.uint64)])
    # Those that are alike in one part are several: one may take back what the one before it said.
    again = np.concatenate([_again(told[part]) for part in _consecutive(tables)])
    order = _first_of(np.column_stack([told, again]))
    order = order[np.argsort(labels["known_at"][order], kind="stable")]
    return StoredWaiting(0, unmatched, {name: column[order].tobytes() for name, column in labels.items()})


def _consecutive(tables: Sequence[Mapping[str, NDArray[Any]]]) -> list[slice]:
    """Where the rows of each table are among those of all."""
    ends = np.cumsum([len(table["digest"]) for table in tables]).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]


def _again(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many before each row are the same, ``(n,)``."""
    order = np.lexsort(rows.T)
    ordered = rows[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    place = np.arange(len(rows))
    again = np.empty(len(rows), np.uint64)
    again[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return again


def _array(raw: bytes, kind: Any, width: int) -> NDArray[Any]:
    return np.frombuffer(raw, kind).reshape(-1, width) if width else np.frombuffer(raw, kind)


def _concatenated(tables: Sequence[Mapping[str, NDArray[Any]]]) -> Table:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _first_of(rows: NDArray[np.uint64]) -> IntVector:
    """The places of the first of each row of numbers, ascending."""
    # Faster than NumPy's own for rows. It is stable, so of those that are the same the first leads.
    order = np.lexsort(rows.T)
    ordered = rows[order]
    again = np.zeros(len(rows), np.bool_)
    again[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    first: IntVector = np.sort(order[~again])
    return first


def _once(ids: Digests) -> Digests:
    return ids[_first_of(ids)]
