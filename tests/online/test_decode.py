from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import (
    DecodedEvents,
    decode_device_events,
    decode_labels,
    decode_user_events,
)
from weir.online.codec.limits import DEFAULT_LIMITS
from weir.online.codec.why_invalid import explain
from weir.online.codec.wire import DeviceEvent, UserEvent, WireModel
from weir.online.errors import TaskError

ALL = ColumnRequest(
    entities=("user_id", "merchant_id", "device_id", "session_id"),
    numbers=("amount", "items"),
    texts=("channel", "country", "note"),
)


def event(**changes: Any) -> dict[str, Any]:
    return {"v": 1, "event_id": "e1", "type": "purchase", "user_id": "u1", "ts": 1.7e9} | changes


def encoded(**changes: Any) -> bytes:
    return json.dumps(event(**changes)).encode()


def with_raw(name: str, token: bytes) -> bytes:
    """An event whose field ``name`` holds ``token`` as it is."""
    return encoded(**{name: "@"}).replace(b'"@"', token)


GOOD = encoded()
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the record is empty"),
    "spaces": (b" \n", "the record is empty"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "utf-16": (GOOD.decode().encode("utf-16"), "not UTF-8: the text is in UTF-16 or UTF-32; write UTF-8"),
    "invalid utf-8": (encoded(user_id="@").replace(b"@", b"\xff"), "not UTF-8: byte 0xff"),
    "invalid utf-8 in an unknown field": (encoded(zz="@").replace(b"@", b"\xc3"), "not UTF-8: byte 0xc3"),
    "not json": (b"hello", "not JSON"),
    "truncated": (GOOD[:-1], "not JSON"),
    "null": (b"null", "record: null, not a JSON object; send an object with v, event_id"),
    "array": (b"[" + GOOD + b"]", "record: a JSON array of 1 items; send each"),
    "two records": (GOOD + b"," + GOOD, "the record goes on after its end"),
    "NaN": (with_raw("amount", b"NaN"), "NaN is not JSON"),
    "-Infinity": (with_raw("amount", b"-Infinity"), "-Infinity is not JSON"),
    "NaN in an unknown field": (with_raw("zz", b"NaN"), "NaN is not JSON"),
    "1e999": (with_raw("amount", b"1e999"), "amount: got inf; give a finite number"),
    "huge integer": (with_raw("amount", b"9" * 400), "a number of 400 characters; at most 64"),
    "huge integer, unknown": (with_raw("zz", b"9" * 5_000), "a number of 5000 characters; at most 64"),
    "large amount": (with_raw("amount", b"9" * 30), "out of range: amount is 1e+30, allowed 1e+12"),
    "far below 0": (encoded(amount=-2e12), "out of range: amount is -2e+12, allowed 1e+12"),
    "amount as text": (encoded(amount="12"), "without quotes, as 12"),
    "amount as bool": (encoded(amount=True), "amount: got true; give a number"),
    "milliseconds": (encoded(ts=1.7e12), "in milliseconds; give seconds, as 1700000000"),
    "before 2000": (encoded(ts=946_684_799), "which is 1999-12-31: before 2000"),
    "text time before 2000": (encoded(ts="1999-12-31T23:59:59Z"), "before 2000, as of a clock"),
    "text for no number": (encoded(ts="NaN"), "ts: got 'NaN'; give epoch seconds, or RFC 3339"),
    "text time after 2100": (encoded(ts="2100-01-01T00:00:01Z"), ": after 2100"),
    "no offset": (encoded(ts="2024-03-01T12:00:00"), "ts: got '2024-03-01T12:00:00', without an offset; give"),
    "time is bool": (encoded(ts=True), "ts: got true; give epoch seconds"),
    "long id": (encoded(event_id="x" * 65), "give a text of 1 to 64 characters (it has 65)"),
    "empty id": (encoded(user_id=""), "user_id: got ''; give a text of 1 to 64"),
    "long type": (encoded(type="x" * 33), "1 to 32 characters (it has 33)"),
    "id is a number": (encoded(user_id=7), "user_id: got 7; give a text"),
    "control character": (encoded(user_id="a\nb"), "; give a text without control characters"),
    "raw control character": (encoded(user_id="@").replace(b"@", b"\x01"), "not JSON: invalid control character"),
    "delete": (encoded(user_id="a\x7f"), "; give a text without control characters"),
    "C1 control": (json.dumps(event(user_id="a\x85"), ensure_ascii=False).encode(), "without control characters"),
    "half a surrogate pair": (with_raw("user_id", b'"\\ud83d"'), "half a surrogate pair"),
    "wrong half": (with_raw("user_id", b'"\\ude00\\ud83d"'), "half a surrogate pair"),
    "wrong version": (encoded(v=2), "v: got 2; give the number 1"),
    "version as float": (with_raw("v", b"1.0"), "v: got 1.0; give the number 1"),
    "version as bool": (encoded(v=True), "v: got true; give the number 1"),
    "no version": (GOOD.replace(b'"v": 1, ', b""), "v: missing; give the number 1"),
    "no id": (GOOD.replace(b'"event_id": "e1", ', b""), "event_id: missing; give a text"),
    "an id that says null": (encoded(user_id="null"), "user_id: got 'null', a word for a missing id"),
    "an id of blanks": (encoded(user_id=" " * 64), "a word for a missing id"),
    "an id of other blanks": (encoded(event_id="\u3000\u2003"), "a word for a missing id"),
    "an event id that says NaN": (encoded(event_id="NaN"), "event_id: got 'NaN', a word for a missing id"),
    "repeated key": (GOOD[:-1] + b',"ts":1}', "the key ts is given more than once"),
    "repeated key after a map": (encoded(properties={"a": 1})[:-1] + b',"ts":1}', "the key ts is given more than once"),
    "repeated key, escaped": (GOOD[:-1] + b',"\\u0074s":1.7e9}', "the key ts is given more than once"),
    "repeated property": (with_raw("properties", b'{"a":1,"a" :2}'), "the key a is given more than once"),
    "deep": (with_raw("zz", b"[" * 40 + b"]" * 40), "nested deeper than 32"),
    "very deep": (with_raw("zz", b"[" * 100_000 + b"]" * 100_000), "nested deeper than 32"),
    "nested property": (encoded(properties={"a": [1]}), "properties.a: got a list of 1; give a number"),
    "null property": (encoded(properties={"a": None}), "properties.a: got null; give a number"),
    "infinite property": (with_raw("properties", b'{"a":1e999}'), "properties.a: got inf; give a finite number"),
    "long property": (encoded(properties={"a": "x" * 257}), "at most 256 characters (it has 257)"),
    "long property name": (encoded(properties={"x" * 65: 1}), "give one of at most 64 characters"),
    "many properties": (encoded(properties={f"k{i}": i for i in range(65)}), "has 65 items; give at most 64"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_rejected_with_its_reason_and_its_neighbours_are_not(name: str) -> None:
    raw, reason = BAD[name]
    decoded = decode_user_events([encoded(event_id="before"), raw, encoded(event_id="after")], ALL)
    assert decoded.batch.event_id == ["before", "after"]
    assert decoded.index.tolist() == [0, 2]
    [reject] = decoded.rejects
    assert (reject.index, reject.raw) == (1, raw)
    assert reason in reject.reason


def test_a_tombstone_is_a_reject() -> None:
    decoded = decode_user_events([None, GOOD], ALL)
    assert [(r.index, r.raw, r.reason) for r in decoded.rejects] == [(0, b"", "the record is empty")]


def test_nothing_in_nothing_out() -> None:
    decoded = decode_user_events([], ALL)
    assert (len(decoded.batch), decoded.rejects, decoded.index.tolist()) == (0, [], [])
    assert decode_labels([]).by_task() == {}


OTHER = encoded(event_id="smuggled")
OPEN_TEXT, OPEN_LIST = encoded(zz="@").split(b"@")[0], encoded(zz=["@"]).split(b'"@"')[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (GOOD + b", " + OTHER, b""),
        (GOOD + b", " + OTHER, b"  "),
        (b"", GOOD + b", " + OTHER),
        (OPEN_TEXT, b'"}, ' + OTHER),
        (OPEN_TEXT + b"}", b'{"}, ' + OTHER),
        (OPEN_LIST + b"1", b"2]}, " + OTHER),
        (GOOD[:-1], b'"amount": 1}, ' + OTHER),
        (GOOD + b"," + OPEN_TEXT, b'"}'),
        (GOOD + b"], [" + OTHER, b""),
        (GOOD + b"," + GOOD[:9], GOOD[10:]),
    ],
)
def test_a_record_can_neither_smuggle_nor_swallow_another(first: bytes, second: bytes) -> None:
    """Joined with commas each pair is a good JSON array of as many records as went in."""
    raw = [encoded(event_id="before"), first, second, encoded(event_id="after")]
    decoded = decode_user_events(raw, ALL)
    assert decoded.batch.event_id == ["before", "after"]
    assert decoded.index.tolist() == [0, 3]
    assert [reject.index for reject in decoded.rejects] == [1, 2]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_moved_record_edges_change_no_verdict(data: st.DataObject) -> None:
    """Cut a joined batch anywhere into as many pieces: only pieces that are records by themselves are decoded."""
    notes = st.sampled_from(["", "},{", "], [", '"', "\\", ",", "{}", "a"])
    whole = [encoded(event_id=f"e{i}", zz=data.draw(notes)) for i in range(4)]
    joined = b",".join(whole)
    edges = [sum(map(len, whole[: i + 1])) + i for i in range(3)]
    moved = sorted(min(max(edge + data.draw(st.integers(-60, 60)), 0), len(joined)) for edge in edges)
    cuts = [0, *moved, len(joined)]
    # The comma that the decoder will put between two pieces takes the place of the byte at the cut.
    pieces = [joined[a + (a > 0) : b] for a, b in pairwise(cuts)]
    decoded = decode_user_events(pieces, ALL)
    assert decoded.index.tolist() == [i for i, piece in enumerate(pieces) if explain(UserEvent, piece) is None]


numbers = st.one_of(
    st.sampled_from([0, 1, -1, 0.0, -0.0, 1e12, 1.0000001e12, 946_684_800, 4_102_444_800.5, 2**53 + 1, 2**64, 1e308]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(9e8, 4.2e9),
    st.integers(-(10**30), 10**30),
)
texts = st.one_of(
    st.sampled_from(["", "a", "x" * 32, "x" * 33, "x" * 64, "x" * 65, "x" * 256, "x" * 257, "\n", "\x7f", "\x85", "é"]),
    st.sampled_from(["2024-03-01T12:00:00Z", "2024-03-01t12:00:00.123456789+05:30", "1999-12-31T00:00:00Z", "nan"]),
    st.text(max_size=70),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
keys = st.one_of(
    st.sampled_from(["a", "items", "note", "", "x" * 64, "x" * 65, "a\nb", "é", "a\u200bb", "\u00ad", "a\u2066"]),
    st.text(max_size=8),
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(keys, scalars, max_size=4))
likely = {
    "v": st.just(1),
    "ts": st.floats(946_684_800, 4_102_444_800),
    "amount": st.floats(0, 1e12),
    "properties": st.dictionaries(keys, st.one_of(st.booleans(), numbers, texts), max_size=5),
    "metrics": st.dictionaries(keys, st.one_of(st.none(), numbers), max_size=5),
    "zz": values,
}


def records(model: type[UserEvent] | type[DeviceEvent]) -> st.SearchStrategy[dict[str, Any]]:
    good = {
        name: likely.get(name, st.text("abc-é \u200b\u2019", min_size=1, max_size=32))
        for name in [*model.model_fields, "zz"]
    }
    field = {name: st.one_of(strategy, strategy, strategy, strategy, values) for name, strategy in good.items()}
    required = {name: field[name] for name, info in model.model_fields.items() if info.is_required()}
    optional = {name: strategy for name, strategy in field.items() if name not in required}
    return st.one_of(
        st.fixed_dictionaries(required, optional=optional), st.fixed_dictionaries({}, optional=required | optional)
    )


def check_columns(contract: UserEvent | DeviceEvent, decoded: DecodedEvents, row: int) -> None:
    batch = decoded.batch
    maps: dict[str, Any] = dict(contract.properties or {})
    if isinstance(contract, DeviceEvent):
        maps |= contract.metrics
    fields = contract.model_dump()
    assert batch.event_id[row] == contract.event_id
    assert batch.ts[row] == contract.ts
    for name, numbers_ in batch.numbers.items():
        value = fields[name] if name in fields else maps.get(name)
        expected = float(value) if isinstance(value, float | bool) else math.nan
        np.testing.assert_equal(numbers_[row], expected)
    for name, texts_ in (batch.texts | batch.entities).items():
        value = fields[name] if name in fields else maps.get(name)
        assert texts_[row] == (value if isinstance(value, str) else None)


@given(st.lists(records(UserEvent), max_size=5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_user_events_decode_as_the_contract_says(rows: list[dict[str, Any]], ascii_: bool) -> None:
    raw = [json.dumps(row, ensure_ascii=ascii_).encode("utf-8", "surrogatepass") for row in rows]
    decoded = decode_user_events(raw, ALL)
    valid = [i for i, record in enumerate(raw) if explain(UserEvent, record) is None]
    assert decoded.index.tolist() == valid
    assert [reject.index for reject in decoded.rejects] == [i for i in range(len(raw)) if i not in valid]
    for row, i in enumerate(valid):
        check_columns(UserEvent.model_validate_json(raw[i]), decoded, row)


@given(st.lists(records(DeviceEvent), max_size=5))
@settings(max_examples=60, deadline=None)
def test_device_events_decode_as_the_contract_says(rows: list[dict[str, Any]]) -> None:
    raw = [json.dumps(row).encode() for row in rows]
    columns = ColumnRequest(entities=("device_id",), numbers=("a", "items"), texts=("status", "note"))
    decoded = decode_device_events(raw, columns)
    valid = [i for i, record in enumerate(raw) if explain(DeviceEvent, record) is None]
    assert decoded.index.tolist() == valid
    for row, i in enumerate(valid):
        check_columns(DeviceEvent.model_validate_json(raw[i]), decoded, row)


@given(st.lists(records(UserEvent), max_size=8), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_verdicts_do_not_depend_on_batch_cuts(rows: list[dict[str, Any]], cut: int) -> None:
    raw = [json.dumps(row).encode() for row in rows]
    whole = decode_user_events(raw, ALL)
    parts = decode_user_events(raw[:cut], ALL), decode_user_events(raw[cut:], ALL)
    assert whole.batch.event_id == [*parts[0].batch.event_id, *parts[1].batch.event_id]
    assert [r.reason for r in whole.rejects] == [r.reason for part in parts for r in part.rejects]


def test_escapes_and_nested_unknown_fields_are_no_reason_to_reject() -> None:
    raw = [
        encoded(user_id="caf\u00e9 \U0001f600"),
        json.dumps(event(user_id="caf\u00e9 \U0001f600"), ensure_ascii=False).encode(),
        encoded(properties={"note": 'say "hi" \\ {[, :'}),
        encoded(zz={"a": [{"b": {"c": [1, "x"]}}]}),
        GOOD.replace(b'"ts"', b'"\\u0074s"').replace(b": ", b" \t: \n"),
    ]
    decoded = decode_user_events(raw, ALL)
    assert decoded.rejects == []
    assert decoded.batch.entities["user_id"][:2] == ["caf\u00e9 \U0001f600"] * 2
    assert decoded.batch.texts["note"][2] == 'say "hi" \\ {[, :'


def test_unknown_fields_are_ignored() -> None:
    assert len(decode_user_events([encoded(zz=1)], ALL).batch) == 1


def test_a_column_is_a_wire_field_first_then_a_property() -> None:
    raw = [encoded(amount=5, properties={"amount": 7, "items": 2, "gift": True, "note": "hi", "shop": "s1"}), GOOD]
    columns = ColumnRequest(
        entities=("shop", "user_id"), numbers=("amount", "items", "gift", "note", "ts"), texts=("note", "items")
    )
    batch = decode_user_events(raw, columns).batch
    nan = math.nan
    expected = {"amount": [5.0, nan], "items": [2.0, nan], "gift": [1.0, nan], "note": [nan, nan], "ts": [1.7e9, 1.7e9]}
    np.testing.assert_equal({name: column.tolist() for name, column in batch.numbers.items()}, expected)
    assert batch.texts == {"note": ["hi", None], "items": [None, None]}
    assert batch.entities == {"shop": ["s1", None], "user_id": ["u1", "u1"]}


def test_a_device_column_is_a_metric_before_a_property() -> None:
    record = {"v": 1, "event_id": "e1", "device_id": "d1", "ts": 1.7e9, "metrics": {"temp": None, "rpm": 3}}
    raw = [json.dumps(record | {"properties": {"temp": 9, "mode": "eco", "limit": 80}}).encode()]
    batch = decode_device_events(raw, ColumnRequest(numbers=("temp", "rpm", "limit", "none"), texts=("mode",))).batch
    np.testing.assert_equal([c[0] for c in batch.numbers.values()], [math.nan, 3.0, 80.0, math.nan])
    assert (batch.texts, batch.type) == ({"mode": ["eco"]}, ["device"])


def test_a_column_of_the_wrong_kind_is_an_error_in_the_task() -> None:
    with pytest.raises(TaskError, match="'channel' is text, no number"):
        decode_user_events([], ColumnRequest(numbers=("channel",)))
    with pytest.raises(TaskError, match="'amount' is no text"):
        decode_user_events([], ColumnRequest(texts=("amount",)))


def test_the_largest_numbers_are_kept() -> None:
    batch = decode_user_events([encoded(amount=1e12, properties={"items": -1e15})], ALL).batch
    assert (batch.numbers["amount"][0], batch.numbers["items"][0]) == (1e12, -1e15)


def test_labels_of_several_tasks_come_apart() -> None:
    base = {"v": 1, "entity_id": "u1", "ts": 1.7e9}
    rows = [
        base | {"label_id": "l0", "task": "fraud", "value": 1, "event_id": "e1", "weight": 2.5},
        base | {"label_id": "l1", "task": "churn", "value": 0},
        base | {"label_id": "l2", "task": "fraud", "value": 2},
        base | {"label_id": "l3", "task": "fraud", "value": True},
        base | {"label_id": "l4", "task": "fraud", "value": 0, "weight": 0},
        base | {"label_id": "l5", "task": "fraud", "value": 0, "source": "desk"},
    ]
    decoded = decode_labels([json.dumps(row).encode() for row in rows])
    assert [reject.index for reject in decoded.rejects] == [2, 3, 4]
    assert decoded.tasks == ["fraud", "churn", "fraud"]
    tasks = decoded.by_task()
    assert list(tasks) == ["fraud", "churn"]
    fraud = tasks["fraud"]
    assert (fraud.label_id, fraud.event_id, fraud.entity_id) == (["l0", "l5"], ["e1", None], ["u1", "u1"])
    assert (fraud.value.tolist(), fraud.weight.tolist()) == ([True, False], [2.5, 1.0])
    assert fraud.ts.tolist() == [1.7e9, 1.7e9]
    assert decode_labels([json.dumps(rows[1]).encode()]).by_task()["churn"].label_id == ["l1"]


def test_a_label_without_an_id_is_known_by_what_it_says() -> None:
    record = b'{"v":1,"task":"fraud","entity_id":"u1","event_id":"e1","ts":1700000000,"value":%d}'
    ids = decode_labels([record % 1, record % 1, record % 0]).batch.label_id
    assert ids[0] == ids[1] != ids[2]


def test_a_label_without_an_id_is_the_same_however_its_time_and_ids_are_written() -> None:
    record = {"v": 1, "task": "fraud", "entity_id": "u1", "ts": 1709294400, "value": 1}
    times = [1709294400.0, "2024-03-01T12:00:00Z", "2024-03-01T13:00:00+01:00"]
    ways = [record, *({**record, "ts": ts} for ts in times), {**record, "entity_id": " u1 "}]
    assert {*decode_labels([json.dumps(way).encode() for way in ways]).batch.label_id} == {"fraud:u1:1709294400.0=1"}
    of_event = [{**record, "event_id": event_id} for event_id in ("e1", "e1 ")]
    assert {*decode_labels([json.dumps(way).encode() for way in of_event]).batch.label_id} == {"fraud:u1:e1=1"}


@pytest.mark.parametrize(
    ("begin", "again", "end", "reason"),
    [
        (b'{"v":1,"a": x', b" ", b"y}", "not JSON: a is 'x "),
        (b'{"v":1,"a": x', b", ", b"y}", "not JSON: a is 'x, "),
        (b'{"v":1,"a": x', b" ,", b" ", "not JSON: a is 'x "),
        (b'{"v":1', b"", b',"k0":2}', "the key k0 is given more than once"),
    ],
)
def test_the_largest_record_is_explained_by_work_that_grows_as_it_does(
    begin: bytes, again: bytes, end: bytes, reason: str
) -> None:
    size = DEFAULT_LIMITS.record_bytes
    middle = again * (size // len(again)) if again else b"".join(b',"k%d":1' % i for i in range(size // 12))
    assert (explain(UserEvent, begin + middle + end) or "").startswith(reason)


@pytest.mark.parametrize(("model", "name", "most"), [(UserEvent, "properties", 64), (DeviceEvent, "metrics", 256)])
def test_of_far_too_many_items_only_that_is_told(model: type[WireModel], name: str, most: int) -> None:
    """Each of them would else be told three times over, which is seconds of work for one record."""
    record = {"v": 1, "event_id": "e", "ts": 1.7e9, "type": "t", "user_id": "u", "device_id": "d"}
    record |= {name: {f"k{i}": [] for i in range(5_000)}}
    assert explain(model, json.dumps(record).encode()) == f"{name}: has 5,000 items; give at most {most}"
