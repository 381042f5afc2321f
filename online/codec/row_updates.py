"""Codec of ``entity-updates``: what events and labels change in rows that another partition owns.

It knows tables by name and width, not what is in them. A reader applies the updates of each table in log order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, cast

import numpy as np

from weir.online.batch import IntVector, UpdateBatch
from weir.online.codec.accept import Reject, accept_records, in_range, seconds
from weir.online.codec.by_task import interleave
from weir.online.codec.encode import check_missing
from weir.online.codec.forms.form import InputBuffer, ParsedColumns
from weir.online.codec.judge import computed
from weir.online.codec.shapes import update_form
from weir.online.codec.wire import EntityUpdate

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
    if not np.isfinite(batch.ts).all():
        raise ValueError("a ts is not finite; no record can carry it")
    form = update_form(task, table, batch.values.shape[1])
    numbers = np.column_stack([batch.ts, batch.values])
    return form.write([batch.update_id, batch.entity_id], numbers, np.empty((len(batch), 0), np.int64))


def decode_updates(raw: Sequence[bytes | None], widths: Mapping[Table, int]) -> DecodedUpdates:
    """Decode ``entity-updates`` records; floats come back bit for bit as ``encode_updates`` was given them.

    Parameters
    ----------
    widths : how many values an update of each known table has; a record with more or fewer is a reject.
    """
    joined = InputBuffer([record or b"" for record in raw])
    tables: dict[Table, TableUpdates] = {}
    for where, width in widths.items():
        own = update_form(*where, width).read(joined)
        own = own.without(joined, ~(in_range(own.numbers[:, 0]) & computed(own.numbers)))
        if len(own):
            tables[where] = _filled(where, own)
    rejects, unknown = list[Reject](), dict[Table, int]()
    if len(rest := joined.rest()):
        others, rejects, unknown = _decode_others(raw, rest, widths)
        for where, other in others.items():
            tables[where] = _together(tables[where], other) if where in tables else other
    return DecodedUpdates(sorted(tables.values(), key=lambda table: int(table.index[0])), rejects, unknown)


def _filled(where: Table, own: ParsedColumns) -> TableUpdates:
    update_id, entity_id = own.texts
    ts, values = own.numbers[:, 0].copy(), own.numbers[:, 1:].copy()
    batch = UpdateBatch(cast("list[str]", update_id), cast("list[str]", entity_id), ts, values)
    return TableUpdates(*where, batch, own.index)


def _together(a: TableUpdates, b: TableUpdates) -> TableUpdates:
    return TableUpdates(a.task, a.table, *interleave(a.batch, a.index, b.batch, b.index))


def _decode_others(
    raw: Sequence[bytes | None], rest: IntVector, widths: Mapping[Table, int]
) -> tuple[dict[Table, TableUpdates], list[Reject], dict[Table, int]]:
    """Decode the records at ``rest``, which are not in the form of a table."""
    accepted = accept_records(EntityUpdate, [raw[i] for i in rest.tolist()])
    rejects = [Reject(int(rest[r.index]), r.raw, r.reason) for r in accepted.rejects]
    tables, unknown = dict[Table, TableUpdates](), dict[Table, int]()
    for where, rows in _rows_by_table(accepted.structs).items():
        if where not in widths:
            unknown[where] = len(rows)
            continue
        width, fits = widths[where], list[int]()
        for row in rows:
            if (found := len(accepted.structs[row].values)) == width:
                fits.append(row)
            else:
                i = int(rest[accepted.index[row]])
                rejects.append(Reject(i, raw[i] or b"", _misfit(where, found, width)))
        if fits:
            structs = [accepted.structs[row] for row in fits]
            tables[where] = _table(where, structs, rest[accepted.index[fits]], width)
    return tables, sorted(rejects, key=lambda reject: reject.index), unknown


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
