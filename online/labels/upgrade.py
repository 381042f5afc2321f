"""Snapshots of the label join as versions before ADR 21 wrote them: with what was logged in them, and ids as text."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.batch import FloatMatrix
from weir.online.digests import digests, pair_digests
from weir.online.labels.prediction_index import UNLABELLED, States
from weir.online.labels.waiting import StoredWaiting, awaited

_TS, _SCORE, _MARK, _FEATURES = 0, 1, 2, 3


class _OldChunk(msgspec.Struct, array_like=True):
    numbers: bytes
    label: bytes
    event_id: list[str]
    entity_id: list[str]
    entities: list[list[str | None]]


class _OldWaiting(msgspec.Struct, array_like=True):
    number: int
    event_id: str | None
    entity_id: str
    ts: float
    value: bool
    weight: float
    known_at: float
    matched: bool = False


class _Old(msgspec.Struct, array_like=True):
    shape: tuple[int, int, tuple[str, ...], int]
    watermark: float
    next_negative: int
    stats: list[int]
    label_ids: list[str]
    next_row: int
    chunks: list[_OldChunk]
    waiting: tuple[int, int, list[_OldWaiting]]


def is_old(state: bytes) -> bool:
    """Whether it is such a snapshot: they begin as an array, new ones as a map."""
    return state[:1] >= b"\x90" and state[:1] != b"\xde" and state[:1] != b"\xdf"


def upgraded(state: bytes, numbers: bytes | None, unlogged: int, ranged: bool) -> bytes:
    """The snapshot as it is written now; its rows stay in memory until they expire, for they have no offset.

    Parameters
    ----------
    numbers : what counted the corrections of events then, a part of its own.
    unlogged, ranged : as the join that is to restore it was built.

    Raises ``msgspec.DecodeError`` where it is something else.
    """
    old = msgspec.msgpack.decode(state, type=_Old)
    n_features, n_extra, entities, chunk_rows = old.shape
    # Chunks were of one size and left whole: rows are numbered from a multiple of it.
    first = (-(-old.next_row // chunk_rows) - len(old.chunks)) * chunk_rows
    tables = [np.frombuffer(chunk.numbers).reshape(-1, _FEATURES + n_features + n_extra) for chunk in old.chunks]
    rows = np.concatenate(tables) if tables else np.empty((0, _FEATURES + n_features + n_extra))
    event_ids = [event_id for chunk in old.chunks for event_id in chunk.event_id]
    entity_ids = [entity_id for chunk in old.chunks for entity_id in chunk.entity_id]
    columns: dict[str, NDArray[Any]] = {
        "digest": pair_digests(entity_ids, event_ids),
        "ts": rows[:, _TS],
        "mark": rows[:, _MARK],
        "state": _states(old, event_ids, numbers),
        "offset": np.full(len(rows), -1),
    }
    split = _FEATURES + n_features + unlogged
    if unlogged:
        columns["unlogged"] = rows[:, _FEATURES + n_features : split]
    if ranged:
        columns["entity"] = digests(entity_ids)
    last_mark = float(rows[-1, _MARK]) if len(rows) else -np.inf
    new = {
        "shape": (n_features, n_extra, unlogged, entities, ranged),
        "watermark": old.watermark,
        "last_mark": last_mark,
        "cut_mark": -np.inf,
        "next_negative": old.next_negative,
        "stats": old.stats,
        "first": first,
        "columns": {name: column.tobytes() for name, column in columns.items()},
        "pieces": _pieces(first, old.chunks, tables, split, n_features),
        "label_ids": digests(old.label_ids).tobytes(),
        "waiting": _waiting(*old.waiting),
    }
    return msgspec.msgpack.encode(new)


def _states(old: _Old, event_ids: list[str], numbers: bytes | None) -> States:
    value = np.frombuffer(b"".join(chunk.label for chunk in old.chunks), np.uint8).astype(np.uint32)
    made = (value != UNLABELLED).astype(np.uint32)
    if numbers is not None:
        _, before, now = msgspec.msgpack.decode(numbers, type=tuple[float | None, dict[str, int], dict[str, int]])
        counted = before | now
        made *= np.array([1 + counted.get(event_id, 0) for event_id in event_ids], np.uint32)
    states: States = (made << np.uint32(2)) | value
    return states


def _pieces(
    first: int, chunks: list[_OldChunk], tables: list[FloatMatrix], split: int, n_features: int
) -> list[object]:
    pieces, at = list[object](), first
    for chunk, table in zip(chunks, tables, strict=True):
        numbers = np.column_stack([table[:, _SCORE], table[:, _FEATURES : _FEATURES + n_features], table[:, split:]])
        pieces.append((at, numbers.tobytes(), [chunk.event_id, chunk.entity_id, *chunk.entities]))
        at += len(table)
    return pieces


def _waiting(next_number: int, unmatched: int, labels: list[_OldWaiting]) -> StoredWaiting:
    named = np.array([label.event_id is not None for label in labels], np.bool_)
    entity_ids = [label.entity_id for label in labels]
    events = pair_digests(entity_ids, [label.event_id or "" for label in labels])
    columns = {
        "digest": awaited(events, digests(entity_ids), named),
        "ts": np.array([label.ts for label in labels], np.float64),
        "weight": np.array([label.weight for label in labels], np.float64),
        "known_at": np.array([label.known_at for label in labels], np.float64),
        "value": np.array([label.value for label in labels], np.bool_),
        "named": named,
        "matched": np.array([label.matched for label in labels], np.bool_),
    }
    # Numbers follow each other: only from the front do labels leave.
    return StoredWaiting(next_number - len(labels), unmatched, {n: c.tobytes() for n, c in columns.items()})
