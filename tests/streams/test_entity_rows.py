"""Stored rows read as the features that they make, at any time, and reading changes none."""

from __future__ import annotations

from typing import Any

import numpy as np

from weir.online.batch import EventBatch
from weir.online.features import kernel
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of
from weir.streams.checks.entity_rows import TaskRows
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.redis.stored_rows import StoredRow, decode_row, encode_row

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "sum", "mean", "over_mean", "last", "since_last"]
windows = ["1h", "1d"]
[[entities.anomalies]]
name = "odd"
value = "amount"
[[entities]]
name = "merchant"
key = "merchant_id"
[[entities.aggregates]]
name = "seen"
ops = ["count"]
windows = ["1d"]
[[entities.labels]]
name = "risk"
ops = ["share"]
prior = 2.0
prior_share = 0.25
windows = ["7d"]
[model]
kind = "logistic"
""")
T0 = 1.7e9


def stored(store: MemoryFeatureStore, rows: TaskRows, table: str, entity: str, updated_at: float) -> StoredRow:
    """A row as Redis would give it back."""
    (held,) = [t for t in rows.tables if t.name == table]
    value = encode_row(held.schema, 41, updated_at, store.load(table, [entity])[0].tobytes())
    return decode_row(("user-events", 0), value)


def fed() -> tuple[MemoryFeatureStore, TaskRows]:
    """A store after three payments of u1 at m1, an hour apart."""
    store = MemoryFeatureStore()
    ts = np.array([T0, T0 + 3600.0, T0 + 7200.0])
    batch = EventBatch(
        ["a", "b", "c"], ts, ["purchase"] * 3, {"user_id": ["u1"] * 3, "merchant_id": ["m1"] * 3},
        {"amount": np.array([10.0, 20.0, 60.0])},
    )  # fmt: skip
    engine_of(TASK, store).process(batch, np.full(3, kernel.EVENT, dtype=np.uint8))
    return store, TaskRows(TASK)


def read(store: MemoryFeatureStore, rows: TaskRows, table: str, entity: str, at: float | None = None) -> Any:
    (held,) = [t for t in rows.tables if t.name == table]
    return rows.read(entity, held, stored(store, rows, table, entity, T0 + 7200.0), at)


def test_a_row_reads_as_the_features_it_makes() -> None:
    store, rows = fed()
    found = read(store, rows, "fraud.user", "u1")
    assert (found.fits, found.at, found.row.offset) == (True, T0 + 7200.0, 41)
    assert found.values == {
        "user.amount_count_1h": 1.0, "user.amount_count_1d": 3.0, "user.amount_sum_1h": 60.0,
        "user.amount_sum_1d": 90.0, "user.amount_mean_1h": 60.0, "user.amount_mean_1d": 30.0,
        "user.amount_last": 60.0, "user.amount_since_last": 0.0,
    }  # fmt: skip
    assert read(store, rows, "fraud.merchant", "m1").values == {"merchant.seen_count_1d": 3.0}


def test_reading_at_a_later_time_moves_the_windows_and_changes_nothing() -> None:
    store, rows = fed()
    before = store.snapshot()
    later = read(store, rows, "fraud.user", "u1", T0 + 86_400.0 + 5400.0).values
    assert (later["user.amount_count_1h"], later["user.amount_count_1d"]) == (0.0, 1.0)
    assert np.isnan(later["user.amount_mean_1h"])
    assert later["user.amount_since_last"] == 86_400.0 - 1800.0
    assert store.snapshot() == before
    assert read(store, rows, "fraud.user", "u1").values["user.amount_count_1d"] == 3.0


def test_a_row_is_read_however_old_it_is_and_whatever_was_read_before() -> None:
    store, rows = fed()
    wanted = read(store, rows, "fraud.user", "u1").values
    (table,) = [t for t in rows.tables if t.name == "fraud.user"]
    row = stored(store, rows, "fraud.user", "u1", T0 + 7200.0)
    for years in (3.0, 0.0, 1.0):  # of another one, whose last change was so much later
        rows.read(f"of {years}", table, row, T0 + years * 365 * 86_400.0)
        assert rows.read("u1", table, row).values == wanted


def test_tables_of_labels_and_detectors_are_there_too() -> None:
    store, rows = fed()
    assert [t.name for t in rows.tables] == ["fraud.user", "fraud.merchant", "fraud.merchant.labels", "fraud.user.odd"]
    assert [t.side for t in rows.tables] == [False, True, True, False]
    assert read(store, rows, "fraud.merchant.labels", "m1").values == {"merchant.risk_share_7d": 0.25}
    assert list(read(store, rows, "fraud.user.odd", "u1").values) == ["user.odd_expected"]


def test_a_row_of_another_declaration_is_shown_without_values() -> None:
    store, rows = fed()
    (table,) = [t for t in rows.tables if t.name == "fraud.user"]
    row = stored(store, rows, "fraud.user", "u1", T0)
    for other in (
        StoredRow(row.lane, row.schema ^ 1, row.offset, row.updated_at, row.row),
        StoredRow(row.lane, row.schema, row.offset, row.updated_at, row.row[8:]),
    ):
        found = rows.read("u1", table, other)
        assert (found.fits, found.values) == (False, {})
