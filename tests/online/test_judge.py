"""The one line of defence for values: whatever way a record comes, it is judged by the same limits."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.online.task_streams import T0
from weir.online.anomaly.detector import build_detector
from weir.online.batch import EventBatch, ExampleBatch, UpdateBatch
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import (
    decode_device_events,
    decode_labels,
    decode_user_events,
    events_from_rows,
)
from weir.online.codec.encode import encode_examples
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.hot_structs import limited_fields
from weir.online.codec.judge import OUT_OF_RANGE
from weir.online.codec.limits import DEFAULT_LIMITS, InputLimits
from weir.online.codec.row_updates import decode_updates, encode_updates
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import FEATURE_MAX, MODELS, NO_DATA, DeviceEvent, Label, UserEvent
from weir.online.decisions.typical import TypicalValues
from weir.online.errors import TaskError
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

READINGS = ColumnRequest(numbers=("temp",))
LIMIT = DEFAULT_LIMITS.number


def device(**changes: Any) -> dict[str, Any]:
    return {"v": 1, "event_id": "e1", "device_id": "d1", "ts": 1.7e9, "metrics": {"temp": 20.5}} | changes


def label(**changes: Any) -> dict[str, Any]:
    return {"v": 1, "task": "fraud", "entity_id": "u1", "event_id": "e1", "ts": 1.7e9, "value": 1} | changes


def raw(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def test_a_broken_sensor_is_named_with_value_limit_and_fix() -> None:
    decoded = decode_device_events([raw(device()), raw(device(metrics={"temp": 3.4e28}))], READINGS)
    assert decoded.batch.numbers["temp"].tolist() == [20.5]
    assert [(r.index, r.reason) for r in decoded.rejects] == [
        (1, "out of range: metrics.temp is 3.4e+28, allowed 1e+15; correct the sensor, or raise [limits] number")
    ]


def test_a_label_that_outweighs_all_others_is_refused() -> None:
    decoded = decode_labels([raw(label(weight=1e12)), raw(label(weight=1_000))])
    assert decoded.batch.weight.tolist() == [1_000.0]
    assert decoded.rejects[0].reason == (
        "out of range: weight is 1e+12, allowed 1000; correct the sender, or raise [limits] weight"
    )


def test_an_operator_raises_and_lowers_the_limits() -> None:
    record = raw(device(metrics={"temp": 50.0}, properties={"site": "x", "rpm": -60.0, "on": True}))
    assert decode_device_events([record], READINGS, limits=InputLimits(number=60)).rejects == []
    [reject] = decode_device_events([record], READINGS, limits=InputLimits(number=55)).rejects
    assert reject.reason.startswith("out of range: properties.rpm is -60, allowed 55;")
    assert decode_labels([raw(label(weight=2e5))], limits=InputLimits(weight=1e6)).rejects == []


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    most=st.floats(1e-3, 1e16),
    neighbour=st.booleans(),
)
def test_rows_and_records_and_the_words_agree(value: float, most: float, neighbour: bool) -> None:
    limits = InputLimits(number=most)
    record = device(metrics={"temp": value})
    rows = [record, *([device(metrics={"temp": 2 * 1e16})] if neighbour else [])]
    wire = decode_device_events([raw(row) for row in rows], READINGS, limits=limits)
    fits = abs(value) <= most or abs(value) >= NO_DATA
    assert (0 in wire.index) == fits
    assert (explain(DeviceEvent, raw(record), limits=limits) is None) == fits
    table, usual = (
        events_from_rows(rows, READINGS, model=DeviceEvent),
        decode_device_events([*map(raw, rows)], READINGS),
    )
    assert table.index.tolist() == usual.index.tolist()
    assert [r.reason for r in usual.rejects] == [r.reason for r in table.rejects]
    assert all(r.reason.startswith(f"{OUT_OF_RANGE}: metrics.temp is ") for r in wire.rejects)


def test_user_events_are_judged_by_the_same_limits() -> None:
    event = {"v": 1, "event_id": "e", "type": "view", "user_id": "u", "ts": 1.7e9, "properties": {"items": -1.1e15}}
    [reject] = decode_user_events([raw(event)], ColumnRequest()).rejects
    assert reject.reason.startswith("out of range: properties.items is -1.1e+15, allowed 1e+15;")


def test_a_key_that_cannot_be_shown_is_escaped() -> None:
    [reject] = decode_device_events([raw(device(metrics={"a\u202eb": 1e30}))], READINGS).rejects
    assert "metrics.'a\\u202eb' is 1e+30" in reject.reason


def test_every_number_that_a_producer_brings_has_a_limit() -> None:
    fields = {model.__name__: limited_fields(model) for model in (UserEvent, DeviceEvent, Label)}
    assert fields == {
        "UserEvent": {"amount": "amount", "properties": "number"},
        "DeviceEvent": {"metrics": "number", "properties": "number"},
        "Label": {"weight": "weight"},
    }
    named = {name for model in MODELS for name in limited_fields(model).values()}
    assert named <= InputLimits.model_fields.keys()


@pytest.mark.parametrize("value", [2 * FEATURE_MAX, -1.7e308])
@pytest.mark.parametrize("spaced", [False, True])
def test_forged_internal_records_are_held_to_what_weir_computes(value: float, spaced: bool) -> None:
    def forge(record: bytes, old: bytes) -> bytes:
        assert old in record
        forged = record.replace(old, repr(value).encode())
        return forged.replace(b'"v":1,', b'"v": 1,') if spaced else forged  # so that no compiled form reads it

    [block] = encode_updates(UpdateBatch(["e1"], ["m1"], np.array([1.7e9]), np.array([[12.5]])), "fraud", "merchant")
    old = b'{"v":1,"update_id":"e0","task":"fraud","table":"merchant","entity_id":"m1","ts":1.7e9,"values":[12.5]}'
    forged = block.replace(np.float64(12.5).tobytes(), np.float64(value).tobytes())
    updates = decode_updates([forge(old, b"12.5"), forged, old, block], {("fraud", "merchant"): 1})
    assert [r.index for r in updates.rejects] == [0, 1]
    assert updates.tables[0].batch.values.tolist() == [[12.5], [12.5]]

    one = np.ones(1)
    made = ExampleBatch(["e1"], 1.7e9 * one, np.array([[12.5]]), 0.5 * one, one == 1, 3.25 * one, one == 0)
    [example] = encode_examples(made, ("a",), "fraud")
    log = decode_example_log([forge(example, b"12.5"), forge(example, b"3.25"), example], {"fraud": ("a",)})
    assert [r.index for r in log.rejects] == [0, 1]
    assert log.tasks["fraud"].batch.x.tolist() == [[12.5]]


def test_the_usual_value_of_what_was_kept_from_before_is_a_number() -> None:
    usual = TypicalValues(("temp",), every=1, size=4)
    usual.update(np.full((4, 1), 1.7e308))
    assert np.isfinite(usual.values()).all()


KWH = """
name = "usage"
stream = "device-events"
entity = "meter"
numbers = ["kwh"]
[[entities]]
name = "meter"
key = "device_id"
aggregates = [{ name = "kwh", value = "kwh", ops = ["ewmean", "mean", "count"], windows = ["1d"], half_life = "2d" }]
[model]
kind = "logistic"
[ranges]
kwh = [0, 500]
"""


def test_what_is_out_of_a_tasks_range_is_missing_and_an_ewmean_does_not_remember_it() -> None:
    task = TaskSpec.from_toml(KWH)
    engine = engine_of(task, MemoryFeatureStore())
    kwh = np.array([20.0, 20.0, 9e14, -1.0, np.nan, 20.0])
    batch = EventBatch(
        [*"abcdef"],
        T0 + np.arange(6, dtype=np.float64) * 3600.0,
        ["device"] * 6,
        {"device_id": ["d"] * 6},
        {"kwh": kwh},
    )
    made = dict(zip(engine.features, engine.process(batch).x.T, strict=True))
    assert made["kwh_missing"].tolist() == [0, 0, 1, 1, 1, 0]
    assert made["kwh"].tolist() == [20, 20, 0, 0, 0, 20]
    assert made["meter.kwh_ewmean"][5] == pytest.approx(20.0)
    assert made["meter.kwh_count_1d"].tolist() == [1, 2, 2, 2, 2, 3]
    assert kwh[2] == 9e14, "other tasks see it"


@pytest.mark.parametrize("value", [3.4e38, -3.4028235e38, 1.7976931348623157e308, 9.96921e36, 10**40])
def test_what_formats_write_for_no_data_is_missing_on_every_way_and_counted(value: float) -> None:
    odd = device(metrics={"kwh": value, "temp": 20.5})
    for decoded in (
        decode_device_events([raw(device()), raw(odd)], ColumnRequest(numbers=("kwh", "temp"))),
        events_from_rows([device(), odd], ColumnRequest(numbers=("kwh", "temp")), model=DeviceEvent),
    ):
        assert decoded.rejects == []
        engine = engine_of(TaskSpec.from_toml(KWH.replace("[ranges]\nkwh = [0, 500]\n", "")), MemoryFeatureStore())
        batch = replace(decoded.batch, entities={"device_id": ["d", "d"]})
        made = dict(zip(engine.features, engine.process(batch).x.T, strict=True))
        assert made["kwh_missing"].tolist() == [1, 1]
        assert made["meter.kwh_count_1d"].tolist() == [0, 0]
        assert dict(engine.readings.taken) == {"kwh": 1}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_number_of_a_table_is_missing(value: float) -> None:
    decoded = events_from_rows([device(metrics={"temp": value})], READINGS, model=DeviceEvent)
    assert decoded.rejects == []
    assert abs(decoded.batch.numbers["temp"][0]) >= NO_DATA


def test_a_refund_is_an_amount_below_0_and_its_limit_can_be_set() -> None:
    event = {"v": 1, "event_id": "e", "type": "refund", "user_id": "u", "ts": 1.7e9, "amount": -30}
    assert decode_user_events([raw(event)], ColumnRequest(numbers=("amount",))).batch.numbers["amount"] == [-30]
    for limits, amount in ((DEFAULT_LIMITS, -2e12), (InputLimits(amount=20), -30)):
        [reject] = decode_user_events([raw(event | {"amount": amount})], ColumnRequest(), limits=limits).rejects
        assert reject.reason.startswith(f"out of range: amount is {amount:g}, allowed {limits.amount:g};")


@pytest.mark.parametrize(
    "missing",
    [
        "missing = [-9999, 65535]",
        "[missing]\nkwh = [-9999, 65535]",
        '[missing]\n"*" = [-9999, 65535]',
        "missing = [inf, -9999, nan, 65535, -inf]",
    ],
)
def test_declared_values_stand_for_no_reading(missing: str) -> None:
    head, tables = KWH.split("[[entities]]")
    tables = "[[entities]]" + tables.replace("[ranges]\nkwh = [0, 500]\n", "")
    toml = f"{head}{missing}\n{tables}" if missing.startswith("missing") else f"{head}{tables}{missing}\n"
    engine = engine_of(TaskSpec.from_toml(toml), MemoryFeatureStore())
    kwh = np.array([20.0, -9999.0, float(np.float32(65535.0)), -9998.0])
    batch = EventBatch([*"abcd"], T0 + np.arange(4.0), ["device"] * 4, {"device_id": ["d"] * 4}, {"kwh": kwh})
    made = dict(zip(engine.features, engine.process(batch).x.T, strict=True))
    assert made["kwh_missing"].tolist() == [0, 1, 1, 0]
    assert made["meter.kwh_count_1d"].tolist() == [1, 1, 1, 2]
    assert dict(engine.readings.taken) == {"kwh": 2}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kwh = [0, 500]", "kwh = [500, 0]", r"ranges: kwh = \[500, 0\]; give two numbers, the smaller one first"),
        (
            "kwh = [0, 500]",
            "khw = [0, 500]",
            "ranges: 'khw' is no numeric raw column that the task.*: kwh",
        ),
    ],
)
def test_a_range_that_cannot_be_meant_is_said(old: str, new: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        engine_of(TaskSpec.from_toml(KWH.replace(old, new)), MemoryFeatureStore())


def test_detectors_forget_a_glitch_at_the_limit() -> None:
    rng = np.random.default_rng(0)
    value = 20.0 + rng.normal(size=6_000)
    plain = scores_of(value)
    marks = []
    for glitch in (40.0, 1e15):
        broken = value.copy()
        broken[1_000:1_003] += [glitch, -glitch, glitch]
        made = scores_of(broken)
        assert np.isfinite(made).all()
        assert made[1_000] > 0.5
        marks.append(np.abs(plain - made)[-1_000:].mean())
    assert marks[1] < marks[0] + 0.02, "an absurd one is remembered no longer than an ordinary one"


def scores_of(series: np.ndarray) -> np.ndarray:
    detector = build_detector({})
    rows, n = np.zeros((1, detector.state_width)), len(series)
    ts = T0 + np.arange(n, dtype=np.float64) * 3600.0
    return detector.run_many(rows, np.zeros(n, np.int64), ts, series).score
