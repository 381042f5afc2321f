"""A rebuild brings updates of rows to the partitions of their entities, out of blocks that hold those of several."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import UpdateBatch
from weir.online.codec.row_updates import decode_updates, encode_updates
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.records import Record
from weir.streams.worker.lanes.update_partition import SideLane

WIDTHS = {("t", "merchant"): 1, ("t", "user.labels"): 2}
PARTITIONS = 4
Update = tuple[str, str, int]
"""Table, entity and number."""


def lane(partition: int, silent: object = None) -> SideLane:
    """As much of a lane as knows what it owns."""
    made = SideLane.__new__(SideLane)
    made.lane, made._widths = ("entity-updates", partition), WIDTHS
    made.ctx = cast("Any", SimpleNamespace(partitions=PARTITIONS, silent=silent))
    return made


def block(task: str, table: str, entities: Sequence[str], first: int) -> bytes:
    n = len(entities)
    numbers = np.arange(first, first + n, dtype=np.float64)
    batch = UpdateBatch([f"u{first + i}" for i in range(n)], list(entities), 1.7e9 + numbers,
                        np.repeat(numbers[:, None], WIDTHS[task, table], axis=1))  # fmt: skip
    (made,) = encode_updates(batch, task, table)
    return made


def updates(records: Sequence[Record]) -> list[tuple[str, str, str, float, list[float]]]:
    """Table, entity, id, time and values of each, in the order of the records."""
    found = []
    for record in records:
        for of in decode_updates([record.value], WIDTHS).tables:
            b = of.batch
            rows = zip(b.entity_id, b.update_id, b.ts.tolist(), b.values.tolist(), strict=True)
            found += [(of.table, *row) for row in rows]
    return found


@given(st.lists(st.tuples(st.sampled_from([*WIDTHS]), st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9)),
                max_size=6), st.integers(0, PARTITIONS - 1))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_each_update_is_taken_by_its_owner_alone_as_it_was_and_in_its_order(
    blocks: list[tuple[tuple[str, str], list[str]]], partition: int
) -> None:
    records = [Record(b"", block(*at, ids, 100 * i), float(i)) for i, (at, ids) in enumerate(blocks)]
    side = lane(partition, silent=object())
    taken: dict[int, list[Record]] = {}
    for owner, record in side.strays(records):
        taken.setdefault(owner, []).append(record)
    whole = updates(records)
    assert len(whole) == sum(len(ids) for _, ids in blocks)
    for owner in range(PARTITIONS):
        mine = [u for u in whole if partitions_of_text([u[1]], PARTITIONS)[0] == owner]
        if owner != partition:
            for table in {u[0] for u in whole}:  # within one table the order counts
                got = [u for u in updates(taken.get(owner, [])) if u[0] == table]
                assert got == [u for u in mine if u[0] == table]
            times = {u[2]: r.ts for r in records for u in updates([r])}
            assert all(times[u[2]] == r.ts for r in taken.get(owner, []) for u in updates([r])), "each at its time"
            continue
        kept = [u for of in decode_updates([r.value for r in records], WIDTHS).tables
                for u in zip(side._own(of.batch).update_id, strict=True)]  # fmt: skip
        assert sorted(kept) == sorted((u[2],) for u in mine)


def test_a_worker_takes_what_it_is_given() -> None:
    """Its own topic holds what it owns; only a rebuild meets what was written when there were fewer partitions."""
    batch = decode_updates([block("t", "merchant", "abcdefgh", 0)], WIDTHS).tables[0].batch
    assert len(lane(0)._own(batch)) == 8
