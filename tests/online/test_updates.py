from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import UpdateBatch
from weir.online.codec.row_updates import Table, decode_updates, encode_updates
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


@given(st.tuples(*(updates(width) for width in WIDTHS.values())), st.randoms())
@settings(max_examples=100)
def test_updates_of_several_tables_read_back_bit_for_bit_in_log_order(
    batches: tuple[UpdateBatch, ...], random: Random
) -> None:
    expected = dict(zip(WIDTHS, batches, strict=True))
    records = {where: encode_updates(batch, *where) for where, batch in expected.items()}
    assert all(EntityUpdate.model_validate_json(record, extra="forbid") for own in records.values() for record in own)
    order = [where for where in expected for _ in records[where]]
    random.shuffle(order)
    of = {where: iter(own) for where, own in records.items()}
    decoded = decode_updates([next(of[where]) for where in order], WIDTHS)
    assert (decoded.rejects, decoded.unknown) == ([], {})
    assert [(t.task, t.table) for t in decoded.tables] == list(dict.fromkeys(order))
    for found in decoded.tables:
        where, batch = (found.task, found.table), expected[(found.task, found.table)]
        assert found.index.tolist() == [i for i, other in enumerate(order) if other == where]
        assert (found.batch.update_id, found.batch.entity_id) == (batch.update_id, batch.entity_id)
        assert found.batch.ts.tobytes() == batch.ts.tobytes()
        assert found.batch.values.shape == batch.values.shape
        np.testing.assert_array_equal(found.batch.values, batch.values)
        np.testing.assert_array_equal(np.signbit(found.batch.values), np.signbit(batch.values))


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
