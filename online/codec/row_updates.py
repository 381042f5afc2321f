"""Codec of ``entity-updates``: what events and labels change in rows that another partition owns.

One record is a block of updates of one table, all of entities that one partition owns, as MessagePack with numbers as
their bytes (ADR 30). Versions before wrote one update a record as JSON (``EntityUpdate``), which is still read.

It knows tables by name and width, not what is in them. A reader applies the updates of each table in log order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np

from weir.online.batch import IntVector, UpdateBatch
from weir.online.codec.accept import Reject, accept_records, in_range, seconds
from weir.online.codec.encode import check_missing
from weir.online.codec.judge import OUT_OF_RANGE, computed
from weir.online.codec.wire import MADE_ID_CHARS, EntityUpdate
from weir.online.errors import UNREADABLE

VERSION: Final = 2
BLOCK_BYTES: Final = 64 << 10
"""Of a block, at most; the topic takes more, a reader holds several."""
_BLOCK: Final = b"\x97"
"""How a block begins: an array of seven."""
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
    """``(n,) int64``, the position in the input of the record of each update of ``batch``."""


@dataclass(frozen=True, slots=True)
class DecodedUpdates:
    """Every record of an input is in one of the tables, a reject, or of an unknown table."""

    tables: list[TableUpdates]
    """In order of first appearance."""
    rejects: list[Reject]
    unknown: dict[Table, int]
    """How many updates there were of tables that were not asked for: of a task that another worker runs, or did."""


class _Block(msgspec.Struct, array_like=True, frozen=True):
    """Updates of one table, column by column; seven fields, so that a record of it begins with `_BLOCK`."""

    v: int
    task: str
    table: str
    update_id: list[str]
    entity_id: list[str]
    ts_bytes: bytes
    """``(n,) float64``."""
    values_bytes: bytes
    """``(n, V) float64``."""


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(_Block).decode


def encode_updates(batch: UpdateBatch, task: str, table: str, most: int = BLOCK_BYTES) -> list[bytes]:
    """Encode updates in order, as blocks of at most ``most`` bytes; one that is larger by itself has its own.

    Raises ``ValueError`` for an infinite value.

    >>> batch = UpdateBatch(["e1"], ["m1"], np.array([1.7e9]), np.array([[12.5, np.nan]]))
    >>> decode_updates(encode_updates(batch, "fraud", "merchant"), {("fraud", "merchant"): 2}).tables[0].batch.values
    array([[12.5,  nan]])
    """
    check_missing("values", batch.values, batch.update_id)
    if not np.isfinite(batch.ts).all():
        raise ValueError("a ts is not finite; no record can carry it")
    return _blocks(batch, task, table, most) if len(batch) else []


def _blocks(batch: UpdateBatch, task: str, table: str, most: int) -> list[bytes]:
    numbers = batch.ts.astype("<f8").tobytes(), np.ascontiguousarray(batch.values, "<f8").tobytes()
    block = _ENCODE(_Block(VERSION, task, table, batch.update_id, batch.entity_id, *numbers))
    if len(block) <= most or len(batch) == 1:
        return [block]
    half = len(batch) // 2  # ids differ in length, so that only trying tells
    parts = batch.slice(0, half), batch.slice(half, len(batch))
    return [block for part in parts for block in _blocks(part, task, table, most)]


def decode_updates(raw: Sequence[bytes | None], widths: Mapping[Table, int]) -> DecodedUpdates:
    """Decode ``entity-updates`` records; floats come back bit for bit as ``encode_updates`` was given them.

    Parameters
    ----------
    widths : how many values an update of each known table has; a record with more or fewer is a reject.
    """
    found, rejects, unknown = list[TableUpdates](), list[Reject](), Counter[Table]()
    rest = [i for i, record in enumerate(raw) if record is None or record[:1] != _BLOCK]
    if rest:  # of a version before, or nothing of ours
        found, rejects, unknown = _decode_json(raw, np.array(rest), widths)
    for i, record in enumerate(raw) if len(rest) < len(raw) else ():
        if record is None or record[:1] != _BLOCK:
            continue
        try:
            block = _DECODE(record)
            if (where := (block.task, block.table)) not in widths:
                unknown[where] += len(block.update_id)
                continue
            found.append(TableUpdates(*where, _batch(block, widths[where]), np.full(len(block.update_id), i)))
        except (*UNREADABLE, ValueError) as error:
            rejects.append(Reject(i, record, f"not a block of updates: {error}; only workers write this topic"))
    return DecodedUpdates(_by_table(found), sorted(rejects, key=lambda reject: reject.index), dict(unknown))


def _batch(block: _Block, width: int) -> UpdateBatch:
    """The rows of a block; raises ``ValueError`` where it is not one that we wrote."""
    n = len(block.update_id)
    if block.v != VERSION:
        raise ValueError(f"v: format {block.v}, this version reads {VERSION}; run one version everywhere")
    if len(block.entity_id) != n or len(block.ts_bytes) != 8 * n or n == 0:
        raise ValueError(f"{n} update ids, {len(block.entity_id)} entities and {len(block.ts_bytes)} bytes of ts")
    if len(block.values_bytes) != 8 * n * width:
        raise ValueError(_misfit((block.task, block.table), len(block.values_bytes) // (8 * n), width))
    # Copies: to compiled code an array that cannot be written is of another type, and to be compiled anew.
    ts = np.frombuffer(block.ts_bytes, "<f8").copy()
    values = np.frombuffer(block.values_bytes, "<f8").reshape(n, width).copy()
    if not (in_range(ts).all() and computed(values).all()):
        raise ValueError(f"{OUT_OF_RANGE}: ts or values hold what no record may")
    if not 0 < min(map(len, block.entity_id)) <= max(map(len, (*block.update_id, *block.entity_id))) <= MADE_ID_CHARS:
        raise ValueError(f"an id is empty, or longer than {MADE_ID_CHARS} characters")
    return UpdateBatch(block.update_id, block.entity_id, ts, values)


def _by_table(found: Sequence[TableUpdates]) -> list[TableUpdates]:
    """The parts of each table as one, in log order; tables in the order in which they appear."""
    parts: dict[Table, list[TableUpdates]] = {}
    # Blocks and JSON were decoded apart; tables are applied in the order of the log.
    for part in sorted(found, key=lambda part: int(part.index[0])):
        parts.setdefault((part.task, part.table), []).append(part)
    return [_joined(where, of) for where, of in parts.items()]


def _joined(where: Table, parts: Sequence[TableUpdates]) -> TableUpdates:
    if len(parts) == 1:
        return parts[0]
    index = np.concatenate([part.index for part in parts])
    # Stable: updates of one record have one position, and keep their order.
    batch, order = UpdateBatch.concat([part.batch for part in parts]), np.argsort(index, kind="stable")
    return TableUpdates(*where, batch.take(order), index[order])


def block_as_json(record: bytes | None) -> dict[str, Any] | None:
    """A block for a person who looks at the topic; ``None`` for another record."""
    try:
        block = _DECODE(record or b"")
        n = len(block.update_id)
        values = np.frombuffer(block.values_bytes, "<f8").reshape(n, -1).tolist()
        rows = zip(block.update_id, block.entity_id, np.frombuffer(block.ts_bytes, "<f8").tolist(), values, strict=True)
        updates = [{"update_id": u, "entity_id": e, "ts": t, "values": v} for u, e, t, v in rows]
    except (*UNREADABLE, ValueError):
        return None
    return {"v": block.v, "task": block.task, "table": block.table, "updates": updates}


def _decode_json(
    raw: Sequence[bytes | None], rest: IntVector, widths: Mapping[Table, int]
) -> tuple[list[TableUpdates], list[Reject], Counter[Table]]:
    """Decode the records at ``rest``, each of which is one update as JSON, as versions before blocks wrote it."""
    accepted = accept_records(EntityUpdate, [raw[i] for i in rest.tolist()])
    rejects = [Reject(int(rest[r.index]), r.raw, r.reason) for r in accepted.rejects]
    tables, unknown = list[TableUpdates](), Counter[Table]()
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
            tables.append(_table(where, structs, rest[accepted.index[fits]], width))
    return tables, rejects, unknown


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
