"""Events and labels over HTTP: every form of a body, what becomes of each record, and what reaches the log."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.running import EVENT, READING, running
from weir.streams.config import topics
from weir.streams.records import Record, RecordBatch
from weir.streams.service.intake.bodies import split_array, split_body
from weir.streams.service.parts import Problem
from weir.streams.service.ports import Decoded, Outcome
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio
LABEL = {"v": 1, "task": "fraud", "entity_id": "u1", "event_id": "e1", "ts": 1.7e9, "value": 1}
CLOUD = {"specversion": "1.0", "source": "/shop", "type": "purchase", "subject": "u1", "time": "2023-11-14T22:13:20Z"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def event(event_id: str, **fields: Any) -> dict[str, Any]:
    return {**EVENT, "event_id": event_id, **fields}


def spy(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Sequence[Record], Decoded | None]]:
    """What is appended from now on."""
    appended: list[tuple[str, Sequence[Record], Decoded | None]] = []
    append = service.log.append

    async def seen(topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        appended.append((topic, records, decoded))
        return await append(topic, records, decoded)

    monkeypatch.setattr(service.log, "append", seen)
    return appended


# Splitting


@given(st.lists(JSON, min_size=1, max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_split_where_its_items_end(items: list[Any], indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert [json.loads(item.decode("utf-8", "surrogatepass")) for item in split_array(body, 8)] == items


@given(st.binary(max_size=64))
def test_any_bytes_are_split_or_refused_with_words(tail: bytes) -> None:
    for body in (tail, b"[" + tail, b"[{" + tail + b"]", b"{" + tail):
        with suppress(Problem):  # nothing else may come out
            records = split_body(body, "", 16)
            assert records
            assert all(record in body for record in records)


@pytest.mark.parametrize("body", [b"[{}", b"[{}]]", b"[{}] {}", b'[{"a":"]', b"[", b'["'])
def test_an_array_that_is_cut_off_or_goes_on_is_none(body: bytes) -> None:
    with pytest.raises(Problem, match="cut off, or something stands after its end"):
        split_array(body, 9)


# Forms of a body


@pytest.mark.parametrize("encode", [None, gzip.compress, lambda body: bytes(cramjam.zstd.compress(body))])
@pytest.mark.parametrize("form", ["one", "pretty", "array", "lines", "ndjson"])
async def test_records_reach_the_log_as_they_were_sent(
    form: str, encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        json.dumps(event(f"é{i}"), ensure_ascii=False).encode() for i in range(1 if form in ("one", "pretty") else 3)
    ]
    if form == "pretty":
        texts = [json.dumps(EVENT, indent=2).encode()]
    body = b"[" + b" ,\n".join(texts) + b"]" if form == "array" else b"\r\n\n".join(texts) + b"\n"
    headers = {"Content-Type": "application/x-ndjson" if form == "ndjson" else "application/json"}
    if encode is not None:
        body, headers["Content-Encoding"] = encode(body), "gzip" if encode is gzip.compress else "zstd"
    async with running(tmp_path) as (service, client):
        appended = spy(service, monkeypatch)
        answer = await client.post("/v1/events", content=body, headers=headers)
    assert answer.json() == {"accepted": len(texts), "repeats": 0, "refused": 0, "results": []}
    ((topic, records, decoded),) = appended
    assert topic == topics.USER_EVENTS
    assert [record.value for record in records] == texts
    assert {record.key for record in records} == {b"u1"}
    assert decoded is not None
    assert decoded.index.tolist() == list(range(len(texts)))


@pytest.mark.parametrize("mode", ["structured", "batch", "binary", "base64"])
async def test_cloud_events(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"amount": 9.5, "type": "refund"}  # what data says counts
    headers = {"Content-Type": "application/cloudevents+json"}
    body: Any = {**CLOUD, "id": "c1", "data": data}
    if mode == "batch":
        body, headers = [body], {"Content-Type": "application/cloudevents-batch+json"}
    if mode == "base64":
        body = {**CLOUD, "id": "c1", "data_base64": msgspec.json.encode(data)}
    if mode == "binary":
        headers = {f"ce-{name}": value for name, value in {**CLOUD, "id": "c1", "subject": "u%31"}.items()}
        headers |= {"ce-data": "{}", "ce-data_base64": "e30="}  # no attributes: the body is the data
        headers["Content-Type"], body = "application/json; charset=utf-8", data
    async with running(tmp_path) as (service, client):
        appended = spy(service, monkeypatch)
        answer = await client.post("/v1/events", content=msgspec.json.encode(body), headers=headers)
    assert answer.json()["accepted"] == 1
    assert json.loads(appended[0][1][0].value) == {
        "v": 1, "event_id": "c1", "user_id": "u1", "ts": CLOUD["time"], "type": "refund", "amount": 9.5
    }  # fmt: skip


async def test_a_cloud_event_may_be_a_reading_or_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Content-Type": "application/cloudevents+json"}
    reading = {**CLOUD, "id": "c1", "subject": "p1", "data": {"metrics": {"temp": 1.5}}}
    label = {**CLOUD, "id": "l1", "data": {"task": "fraud", "value": 1, "event_id": "e1"}}
    async with running(tmp_path) as (service, client):
        appended = spy(service, monkeypatch)
        await client.post("/v1/events", json=reading, headers=headers)
        await client.post("/v1/labels", json=label, headers=headers)
    assert [(topic, records[0].key) for topic, records, _ in appended] == [
        (topics.DEVICE_EVENTS, b"p1"), (topics.LABELS, b"u1")
    ]  # fmt: skip
    assert json.loads(appended[1][1][0].value)["label_id"] == "l1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"specversion": "0.3"}, "only 1.0 is known"),
        ({"datacontenttype": "application/xml"}, "send application/json"),
        ({"data": "text"}, "data of the CloudEvent is no JSON object"),
        ({"id": None}, "not a CloudEvent"),
    ],
)
async def test_a_cloud_event_that_is_none_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    body = [{**CLOUD, "id": "c1", "data": {}, **change}, {**CLOUD, "id": "c2", "data": {}}]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    async with running(tmp_path) as (_, client):
        answer = (await client.post("/v1/events", json=body, headers=headers)).json()
        binary = await client.post("/v1/events", json={}, headers={"ce-specversion": "1.0"})
    assert answer["accepted"] == 1
    assert words in answer["results"][0]["reason"]
    assert "the header ce-id is missing" in binary.json()["detail"]


# What becomes of each record


async def test_a_bad_record_does_not_hold_up_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = [READING, event("e1"), 5, event("e2", amount="nine"), event("e3"), {**READING, "event_id": "d2"}]
    async with running(tmp_path) as (service, client):
        appended = spy(service, monkeypatch)
        answer = (await client.post("/v1/events?each=true", json=body)).json()
    assert [(r["index"], r["status"]) for r in answer.pop("results")] == list(
        enumerate(["accepted", "accepted", "refused", "refused", "accepted", "accepted"])
    )
    assert answer == {"accepted": 4, "repeats": 0, "refused": 2}
    assert sorted((topic, len(records)) for topic, records, _ in appended) == [("device-events", 2), ("user-events", 2)]


async def test_repeats_and_what_a_host_refuses_are_told_in_their_place(tmp_path: Path) -> None:
    late = event("e0", ts=1.6e9)
    async with running(tmp_path) as (_, client):
        await client.post("/v1/events", json=event("e1"))
        answer = (await client.post("/v1/events", json=[event("e2"), event("e1"), late])).json()
    assert (answer["accepted"], answer["repeats"], answer["refused"]) == (1, 1, 1)
    assert [(r["index"], r["status"], r.get("reason", "")[:5]) for r in answer["results"]] == [
        (1, "repeat", ""), (2, "refused", "late:")
    ]  # fmt: skip


async def test_a_body_of_nothing_but_bad_records_is_422_and_appends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as (service, client):
        appended = spy(service, monkeypatch)
        answer = await client.post("/v1/events", json=[{"v": 1}, {"v": 2}])
        labels = await client.post("/v1/labels", json=[{**LABEL, "task": "fraudd"}, {**LABEL, "ts": 4e9}])
    assert answer.status_code == labels.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["refused"] == 2
    reasons = [result["reason"] for result in labels.json()["results"]]
    assert "no 'fraudd' runs here; did you mean 'fraud'?" in reasons[0]
    assert reasons[1].startswith("ahead: ")
    assert not appended


async def test_a_large_body_is_decoded_beside_the_event_loop_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    async with running(tmp_path) as (service, client):
        judge = service.door.decoder.events

        def seen(*arguments: Any) -> Any:
            threads.add(threading.get_ident())
            return judge(*arguments)

        monkeypatch.setattr(service.door.decoder, "events", seen)
        body = [event(f"e{i}", properties={"note": "x" * 100}) for i in range(2_000)]
        body[7]["amount"] = "nine"
        answer = (await client.post("/v1/events", content=gzip.compress(json.dumps(body).encode()),
                                    headers={"Content-Encoding": "gzip"})).json()  # fmt: skip
        decided = await client.post("/v1/decisions?deadline_ms=60000", json=body[:3])
    assert (answer["accepted"], [r["index"] for r in answer["results"]]) == (1_999, [7])
    assert [r["status"] for r in decided.json()["results"]] == ["repeat"] * 3
    assert len(threads) == 2


async def test_the_stream_can_be_said(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        assert (await client.post("/v1/events?stream=device-events", json=READING)).json()["accepted"] == 1
        wrong = await client.post("/v1/events?stream=device-events", json=EVENT)
        unknown = await client.post("/v1/events?stream=events", json=EVENT)
    assert "device_id: missing" in wrong.json()["detail"]
    assert (unknown.status_code, unknown.json()["parameter"], unknown.json()["value"]) == (422, "stream", "events")


async def test_a_label_is_joined_with_its_prediction(tmp_path: Path) -> None:
    seen: list[RecordBatch] = []
    async with running(tmp_path) as (service, client):
        service.log.subscribe(["examples"], seen.append)
        await client.post("/v1/events", json=EVENT)
        answer = await client.post("/v1/labels", json=LABEL)
        assert answer.json()["accepted"] == 1
    assert b'"event_id":"e1"' in seen[0].records[0].value


async def test_a_key_is_the_sender_even_where_no_task_has_it_as_an_entity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as (service, client):  # the one task is of users: device ids are no column of its
        appended = spy(service, monkeypatch)
        await client.post("/v1/events", json={**READING, "device_id": " p1 "})
    assert appended[0][1][0].key == b"p1"
