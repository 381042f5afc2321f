"""Rows of files and of other programs get the verdict of the same records as JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.test_decode import ALL, event, records
from weir.online.codec.decode import decode_user_events, events_from_rows
from weir.online.codec.why_invalid import explain_row
from weir.online.codec.wire import UserEvent


@given(st.lists(records(UserEvent), max_size=5))
@settings(max_examples=75, deadline=None)
def test_rows_get_the_verdict_of_the_same_json(rows: list[dict[str, Any]]) -> None:
    versioned = [{"v": 1, **row} for row in rows]
    raw = [json.dumps(row).encode() for row in versioned]
    wire = decode_user_events(raw, ALL)
    table = events_from_rows(rows, ALL)
    assert table.index.tolist() == wire.index.tolist()
    np.testing.assert_equal(table.batch.numbers, wire.batch.numbers)
    np.testing.assert_equal(table.batch.ts, wire.batch.ts)
    assert (table.batch.entities, table.batch.texts) == (wire.batch.entities, wire.batch.texts)
    assert all((explain_row(UserEvent, rows[reject.index]) or "") in reject.reason for reject in table.rejects)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": math.nan}, "amount"),
        ({"properties": {"a": math.nan}}, "properties.a: got nan; give a finite number"),
        ({"properties": {"a": 1e30}}, "out of range: properties.a is 1e+30"),
        ({"ts": math.nan}, "ts"),
        ({"ts": datetime(2024, 1, 1)}, "ts"),
        ({"user_id": "a\ud800"}, "user_id"),
        ({"user_id": "a\n"}, "; give a text without control characters"),
        ({"properties": {"a": "\x00"}}, "properties.a"),
        ({"properties": {"a\x00": "b"}}, "properties"),
        ({"amount": np.float64(1)}, "amount"),
        ({"user_id": None}, "user_id: got null; give a text"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(change: dict[str, Any], reason: str) -> None:
    rows = [event(event_id="before"), event(**change), event(event_id="after")]
    decoded = events_from_rows(rows, ALL)
    assert decoded.batch.event_id == ["before", "after"]
    assert [reject.index for reject in decoded.rejects] == [1]
    assert reason in decoded.rejects[0].reason
    assert decoded.rejects[0].raw


def test_what_is_not_a_row_is_a_reject() -> None:
    rows: list[Any] = [None, 3, event()]
    assert [r.index for r in events_from_rows(rows, ALL).rejects] == [0, 1]


def test_rows_may_hold_aware_datetimes() -> None:
    rows = [event(ts=datetime(2024, 3, 1, 12, tzinfo=UTC)), event(ts=datetime(1990, 3, 1, 12, tzinfo=UTC))]
    decoded = events_from_rows(rows, ALL)
    assert decoded.batch.ts.tolist() == [1_709_294_400.0]
    assert "1990-03-01: before 2000" in decoded.rejects[0].reason
