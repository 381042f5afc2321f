"""Blocks of decisions read back as they were written, whatever was decided; what nobody wrote is refused in words."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.codec.decision_blocks import (
    Decision,
    DecisionBatch,
    RowAlert,
    decisions_as_json,
    decode_decisions,
    encode_decisions,
)
from weir.online.decisions.alert_state import SEVERITIES, Reason

AT = 1.7e9
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=64)
finite = st.floats(allow_nan=False, allow_infinity=False)
reasons = st.builds(Reason, texts, finite, finite, st.text(st.characters(codec="utf-8"), max_size=200))
alerts = st.builds(
    RowAlert,
    texts,
    st.sampled_from(["open", "escalated", "resolved"]),
    st.sampled_from(SEVERITIES),
    st.lists(reasons, max_size=3).map(tuple),
)
decisions = st.builds(
    Decision,
    texts,
    texts,
    st.floats(946_684_800, 4_102_444_800),
    st.floats(0, 1),
    st.floats(0, 1) | st.just(math.inf),
    st.integers(0, 2**63 - 1) | st.just(7),
    st.booleans(),
    st.none() | alerts,
)


def batch_of(rows: list[Decision]) -> DecisionBatch:
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Decision._fields]
    events, entities, ts, score, threshold, versions, degraded, of_rows = columns
    return DecisionBatch(
        events, entities, np.array(ts, np.float64), np.array(score, np.float64), np.array(threshold, np.float64),
        np.array(versions, np.int64), np.array(degraded, np.bool_), of_rows,
    )  # fmt: skip


@given(st.lists(decisions, max_size=20), st.sampled_from([0, 300, 1 << 20]))
@settings(max_examples=100, deadline=None)
def test_blocks_read_back_bit_for_bit_in_order_and_no_larger_than_asked_for(rows: list[Decision], most: int) -> None:
    blocks = encode_decisions(batch_of(rows), "fraud", AT, most)
    decoded = [decode_decisions(block) for block in blocks]
    assert [row for block in decoded for row in block.batch.rows()] == rows
    assert {(block.task, block.made_at) for block in decoded} <= {("fraud", AT)}
    assert all(len(b) <= most or len(d.batch) == 1 for b, d in zip(blocks, decoded, strict=True))
    for block, shown in zip(decoded, map(decisions_as_json, blocks), strict=True):
        assert shown is not None
        told = json.loads(orjson.dumps(shown))["decisions"]
        assert [d["event_id"] for d in told] == block.batch.event_id
        assert [d.get("alert_id") for d in told] == [a and a.alert_id for a in block.batch.alert]
        assert [d.get("threshold", math.inf) for d in told] == block.batch.threshold.tolist()


def test_what_most_rows_share_costs_nothing() -> None:
    rows = [Decision(f"e{i}", "u", AT, 0.1, math.inf, 7, False, None) for i in range(1_000)]
    mixed = [row._replace(degraded=i == 3, model_version=i) for i, row in enumerate(rows)]
    one, other = (sum(map(len, encode_decisions(batch_of(r), "fraud", AT))) for r in (rows, mixed))
    assert other - one == pytest.approx(8_000 + 1_000 / 8, abs=10)


def test_a_row_in_a_cooldown_alerted_nobody() -> None:
    held = Decision("e", "u", AT, 0.9, 0.5, 7, False, RowAlert("a", "resolved", "low", ()))
    assert not held.alerted
    assert not held._replace(alert=None).alerted
    assert held._replace(alert=RowAlert("a", "escalated", "low", ())).alerted


ALERT = ("fraud:u:e1", "open", "high", [("amount", 1.0, 2.0, "much")])
BYTES = {name: np.array([value]).tobytes() for name, value in (("ts", AT), ("score", 0.9), ("line", 0.5))}
GOOD = [1, "fraud", AT, ["e1"], ["u1"], *BYTES.values(), 7, None, [0], [ALERT]]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, 2, "format 2, this version reads 1; run one version"),
        (1, "", "length >= 1"),
        (2, math.nan, "at `$[2]`"),
        (2, AT * 1000, "at `$[2]`"),
        (3, [], "length >= 1"),
        (3, [""], "length >= 1"),
        (3, ["e" * 257], "length <= 256"),
        (3, ["e1", "e2"], "2 event ids, 1 entities"),
        (4, ["u1", "u2"], "1 event ids, 2 entities"),
        (4, "u1", "Expected `array`"),
        (5, b"\0" * 7, "columns of [7, 8, 8] bytes"),
        (5, np.array([np.nan]).tobytes(), "out of range: event 'e1' has ts nan"),
        (6, np.array([1.5]).tobytes(), "score 1.5"),
        (6, np.array([np.nan]).tobytes(), "score nan"),
        (7, np.array([np.nan]).tobytes(), "threshold nan"),
        (7, np.array([-1.0]).tobytes(), "threshold -1.0"),
        (8, -1, ">= 0"),
        (8, b"\0" * 9, "model versions of 9 bytes"),
        (8, np.array([-5]).tobytes(), "version -5"),
        (9, b"\0\0", "degraded of 2 bytes"),
        (10, [], "1 alerts at rows []"),
        (10, [1], "alerts at rows [1]"),
        (10, [-1], "alerts at rows [-1]"),
        (11, [ALERT, ALERT], "2 alerts at rows [0]"),
        (11, [("", *ALERT[1:])], "length >= 1"),
        (11, [(ALERT[0], "acknowledged", *ALERT[2:])], "enum"),
        (11, [(*ALERT[:3], [("amount", math.inf, 2.0, "much")])], "alert 'fraud:u:e1' has a reason"),
        (11, [(*ALERT[:3], [("", 1.0, 2.0, "much")])], "has a reason"),
        (11, [(*ALERT[:3], [("amount", 1.0, 2.0, "x" * 2_001)])], "has a reason"),
        (11, [(*ALERT[:3], ALERT[3] * 65)], "length <= 64"),
    ],
)
def test_a_block_that_no_host_wrote_is_refused_in_words(field: int, value: object, why: str) -> None:
    assert decode_decisions(msgspec.msgpack.encode(GOOD)).batch.event_id == ["e1"]
    bad = msgspec.msgpack.encode([value if i == field else held for i, held in enumerate(GOOD)])
    with pytest.raises(
        ValueError, match=r"^not a block of decisions: .*; only hosts of tasks write this topic$"
    ) as found:
        decode_decisions(bad)
    assert why in str(found.value)
    assert decisions_as_json(bad) is None


def test_rows_of_alerts_are_ascending() -> None:
    two = [1, "fraud", AT, ["e1", "e2"], ["u1", "u2"], *(b * 2 for b in BYTES.values()), 7, None]
    for rows in ([1, 0], [0, 0]):
        with pytest.raises(ValueError, match="not each in its order"):
            decode_decisions(msgspec.msgpack.encode([*two, rows, [ALERT, ALERT]]))


@given(
    st.none() | st.binary(max_size=200) | st.integers(0, len(msgspec.msgpack.encode(GOOD)) - 1), st.binary(max_size=3)
)
@settings(max_examples=300)
def test_any_bytes_are_a_block_or_refused(raw: bytes | int | None, put: bytes) -> None:
    if isinstance(raw, int):  # a good block, cut or changed at some place
        good = msgspec.msgpack.encode(GOOD)
        raw = good[:raw] + put + good[raw + len(put) :]
    try:
        decode_decisions(raw)
    except ValueError as error:
        assert str(error).startswith("not a block of decisions: ")  # noqa: PT017 - it may as well be one


@pytest.mark.parametrize("bad", [{"score": 1.5}, {"threshold": math.nan}, {"ts": math.inf}, {"model_version": -1}])
def test_nothing_is_written_that_would_not_be_read(bad: dict[str, Any]) -> None:
    row = Decision("e", "u", AT, 0.9, 0.5, 7, False, None)._replace(**bad)
    with pytest.raises(ValueError, match="out of range: event 'e' has"):
        encode_decisions(batch_of([row]), "fraud", AT)
