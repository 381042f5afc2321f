"""Codec of ``entity-updates``: what events and labels change in rows that another partition owns.

It knows tables by name and width, not what is in them. A reader applies the updates of each table in log order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from online.accept import Reject, accept_records, seconds
from online.batch import IntVector, UpdateBatch
from online.encode import check_missing, lines
from online.structs import UnknownFields, record_struct
from online.wire import VERSION, EntityUpdate

Table = tuple[str, str]
"""A task and the name that its plan gives to the table: ``("fraud", "merchant.labels")``."""

_WHERE = attrgetter("task", "table")


@dataclass(frozen=True, slots=True)
class TableUpdates:
    """The updates of one table, in log order."""

    task: str
    table: str
    batch: UpdateBatch
    index: IntVector
    """``(n,) int64``, the position in the input of each update of ``batch``."""


@dataclass(frozen=True, slots=True)
class DecodedUpdates:
    """Every record of an input is in one of the tables, a reject, or of an unknown table."""

    tables: list[TableUpdates]
    """In order of first appearance."""
    rejects: list[Reject]
    unknown: dict[Table, int]
    """How many records there were of tables that were not asked for: of a task that another worker runs, or did."""


def encode_updates(batch: UpdateBatch, task: str, table: str) -> list[bytes]:
    """Encode updates as ``EntityUpdate`` records, in order; NaN is written as null.

    Raises ``ValueError`` for an infinite value.

    >>> batch = UpdateBatch(["e1"], ["m1"], np.array([1.7e9]), np.array([[12.5, np.nan]]))
    >>> encode_updates(batch, "fraud", "merchant")[0].decode()[:80]
    '{"v":1,"update_id":"e1","task":"fraud","table":"merchant","entity_id":"m1","ts":'
    """
    check_missing("values", batch.values, batch.update_id)
    new = record_struct(EntityUpdate)
    columns = zip(batch.update_id, batch.entity_id, batch.ts.tolist(), batch.values.tolist(), strict=True)
    return lines([new(VERSION, update_id, task, table, entity, ts, row) for update_id, entity, ts, row in columns])


def decode_updates(
    raw: Sequence[bytes | None], widths: Mapping[Table, int], *, unknown_fields: UnknownFields = "ignore"
) -> DecodedUpdates:
    """Decode ``entity-updates`` records; floats come back bit for bit as ``encode_updates`` was given them.

    Parameters
    ----------
    widths : how many values an update of each known table has; a record with more or fewer is a reject.
    """
    accepted = accept_records(EntityUpdate, raw, unknown_fields)
    rejects, unknown = list(accepted.rejects), dict[Table, int]()
    tables: list[TableUpdates] = []
    for where, rows in _rows_by_table(accepted.structs).items():
        if where not in widths:
            unknown[where] = len(rows)
            continue
        width, structs, index = widths[where], [accepted.structs[i] for i in rows], accepted.index[rows]
        if {width}.issuperset(len(s.values) for s in structs):
            tables.append(_table(where, structs, index, width))
            continue
        for i, s in zip(index.tolist(), structs, strict=True):
            if len(s.values) != width:
                rejects.append(Reject(i, raw[i] or b"", _misfit(where, len(s.values), width)))
        fits = [k for k, s in enumerate(structs) if len(s.values) == width]
        if fits:
            tables.append(_table(where, [structs[k] for k in fits], index[fits], width))
    return DecodedUpdates(tables, sorted(rejects, key=lambda reject: reject.index), unknown)


def _rows_by_table(structs: list[Any]) -> dict[Table, list[int]]:
    rows: dict[Table, list[int]] = {}
    for i, where in enumerate(map(_WHERE, structs)):
        rows.setdefault(where, []).append(i)
    return rows


def _table(where: Table, structs: list[Any], index: IntVector, width: int) -> TableUpdates:
    batch = UpdateBatch(
        update_id=[s.update_id for s in structs],
        entity_id=[s.entity_id for s in structs],
        ts=seconds([s.ts for s in structs]),
        values=np.array(list(chain.from_iterable(s.values for s in structs)), np.float64).reshape(len(structs), width),
    )
    return TableUpdates(*where, batch, index)


def _misfit(where: Table, found: int, width: int) -> str:
    return (
        f"values: {found} of them, table {where[1]!r} of task {where[0]!r} takes {width}; "
        "run one version of the task file everywhere"
    )
