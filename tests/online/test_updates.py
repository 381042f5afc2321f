from __future__ import annotations

import json
import math
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import UpdateBatch
from weir.online.codec.row_updates import Table, block_as_json, decode_updates, encode_updates
from weir.online.codec.wire import FEATURE_MAX, EntityUpdate

WIDTHS: dict[Table, int] = {("fraud", "merchant"): 2, ("fraud", "merchant.labels"): 3, ("churn", "shop"): 0}
ids = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=64)
values = st.one_of(st.just(float("nan")), st.floats(-FEATURE_MAX, FEATURE_MAX))
times = st.floats(946_684_800, 4_102_444_800)


@st.composite
def updates(draw: st.DrawFn, width: int) -> UpdateBatch:
    rows = draw(st.lists(st.tuples(ids, ids, times, st.lists(values, min_size=width, max_size=width)), max_size=4))
    return UpdateBatch(
        [f"{row[0]}#1" for row in rows],
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.float64).reshape(len(rows), width),
    )


def as_json(batch: UpdateBatch, task: str, table: str) -> list[bytes]:
    """As versions before blocks wrote it."""
    rows = zip(batch.update_id, batch.entity_id, batch.ts.tolist(), batch.values.tolist(), strict=True)
    return [
        json.dumps(
            {"v": 1, "update_id": update, "task": task, "table": table, "entity_id": entity, "ts": ts,
             "values": [None if math.isnan(value) else value for value in row]}
        ).encode()
        for update, entity, ts, row in rows
    ]  # fmt: skip


@given(st.tuples(*(updates(width) for width in WIDTHS.values())), st.randoms(), st.sampled_from([0, 150, 1 << 16]))
@settings(max_examples=100)
def test_blocks_and_records_of_before_read_back_bit_for_bit_in_log_order(
    batches: tuple[UpdateBatch, ...], random: Random, most: int
) -> None:
    expected = dict(zip(WIDTHS, batches, strict=True))
    logs: dict[Table, list[tuple[bytes, int]]] = {}
    for where, batch in expected.items():
        cut = random.randint(0, len(batch))  # the version before wrote what came first
        old, rest = batch.slice(0, cut), batch.slice(cut, len(batch))
        logs[where] = [(record, 1) for record in as_json(old, *where)]
        assert all(EntityUpdate.model_validate_json(record, extra="forbid") for record, _ in logs[where])
        for block in encode_updates(rest, *where, most):
            shown = block_as_json(block)
            assert shown is not None
            assert (shown["task"], shown["table"]) == where
            assert len(block) <= most or len(shown["updates"]) == 1
            logs[where].append((block, len(shown["updates"])))
    order = [where for where in expected for _ in logs[where]]
    random.shuffle(order)
    of = {where: iter(own) for where, own in logs.items()}
    log = [next(of[where]) for where in order]
    decoded = decode_updates([record for record, _ in log], WIDTHS)
    assert (decoded.rejects, decoded.unknown) == ([], {})
    assert [(t.task, t.table) for t in decoded.tables] == list(dict.fromkeys(order))
    for found in decoded.tables:
        where, batch = (found.task, found.table), expected[(found.task, found.table)]
        index = [
            i for i, (other, (_, n)) in enumerate(zip(order, log, strict=True)) if other == where for _ in range(n)
        ]
        assert found.index.tolist() == index
        assert (found.batch.update_id, found.batch.entity_id) == (batch.update_id, batch.entity_id)
        assert found.batch.ts.tobytes() == batch.ts.tobytes()
        assert found.batch.values.shape == batch.values.shape
        np.testing.assert_array_equal(found.batch.values, batch.values)
        np.testing.assert_array_equal(np.signbit(found.batch.values), np.signbit(batch.values))


GOOD = (2, "fraud", "merchant", ["e1"], ["m1"], np.array([1.7e9]).tobytes(), np.ones(2).tobytes())


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, 3, "format 3, this version reads 2"),
        (3, ["e1", "e2"], "2 update ids, 1 entities and 8 bytes of ts"),
        (3, [], "0 update ids"),
        (4, ["m1", "m2"], "1 update ids, 2 entities"),
        (4, [""], "an id is empty"),
        (4, ["m" * 5_000], "longer than"),
        (4, "m1", "Expected `array`"),
        (5, np.array([np.nan]).tobytes(), "out of range"),
        (5, b"\0" * 7, "7 bytes of ts"),
        (6, np.ones(3).tobytes(), "values: 3 of them, table 'merchant' of task 'fraud' takes 2"),
        (6, np.array([1.0, np.inf]).tobytes(), "out of range"),
        (6, b"", "values: 0 of them"),
    ],
)
def test_a_block_that_we_did_not_write_is_one_reject(field: int, value: object, why: str) -> None:
    bad = msgspec.msgpack.encode([value if i == field else held for i, held in enumerate(GOOD)])
    cut = msgspec.msgpack.encode(GOOD)[:-1]
    decoded = decode_updates([bad, msgspec.msgpack.encode(GOOD), cut], WIDTHS)
    assert [reject.index for reject in decoded.rejects] == [0, 2]
    assert why in decoded.rejects[0].reason
    assert decoded.tables[0].index.tolist() == [1]


def test_blocks_of_unknown_tables_are_counted_by_their_updates() -> None:
    batch = UpdateBatch(["e1", "e2"], ["m1", "m2"], np.full(2, 1.7e9), np.ones((2, 1)))
    assert decode_updates(encode_updates(batch, "gone", "shop"), WIDTHS).unknown == {("gone", "shop"): 2}


def one(table: str, **changes: object) -> bytes:
    record = {"v": 1, "update_id": "e1", "task": "fraud", "table": table, "entity_id": "m1", "ts": 1.7e9, "values": []}
    return json.dumps(record | changes).encode()


def test_unknown_tables_are_counted_and_misfits_are_rejects() -> None:
    raw = [
        one("merchant", values=[1, None]),
        one("old", values=[1]),
        one("merchant", values=[1]),
        b"hello",
        one("merchant.labels", values=[1, 1, 0.5], ts="2023-11-14T22:13:20Z"),
        one("merchant", values=[1, "2"]),
        one("merchant", values=[2, 3.5], update_id="e2"),
        one("merchant", task="gone", values=[2, 3.5]),
        one("old"),
        one("merchant", values=[1, 2]).replace(b"2]", b"1e999]"),
    ]
    decoded = decode_updates(raw, WIDTHS)
    assert decoded.unknown == {("fraud", "old"): 2, ("gone", "merchant"): 1}
    assert [reject.index for reject in decoded.rejects] == [2, 3, 5, 9]
    assert "values: 1 of them, table 'merchant' of task 'fraud' takes 2" in decoded.rejects[0].reason
    merchant, labels = decoded.tables
    assert (merchant.table, merchant.index.tolist(), merchant.batch.update_id) == ("merchant", [0, 6], ["e1", "e2"])
    np.testing.assert_array_equal(merchant.batch.values, [[1, np.nan], [2, 3.5]])
    assert (labels.table, labels.batch.ts.tolist(), labels.batch.values.tolist()) == (
        "merchant.labels",
        [1.7e9],
        [[1.0, 1.0, 0.5]],
    )
    assert decode_updates([], WIDTHS).tables == []


def test_an_infinite_value_is_an_error_that_names_it() -> None:
    batch = UpdateBatch(["e1"], ["m1"], np.array([1.7e9]), np.array([[1.0, np.inf]]))
    with pytest.raises(ValueError, match=r"values\[1\] of event 'e1' is inf"):
        encode_updates(batch, "fraud", "merchant")
