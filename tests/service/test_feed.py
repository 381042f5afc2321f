"""The live feed: types, filters, places, heartbeats, and how it ends."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.service.feed_reader import turns
from tests.service.feed_service import alert, feed_service, ids
from tests.service.memory_log import MemoryServiceLog
from weir.streams.records import Record
from weir.streams.service.access.scopes import administrator
from weir.streams.service.feed import fan_out, feed_item
from weir.streams.service.parts import Problem

pytestmark = pytest.mark.anyio


def record(**fields: Any) -> Record:
    return Record(b"k", json.dumps(fields).encode(), 1.7e9)


async def test_what_happens_after_the_beginning_is_sent_with_its_place() -> None:
    async with feed_service() as feed:
        feed.log.add("alerts", [alert(0)])
        await feed.flush()
        reader = await feed.connect()
        feed.log.add("alerts", [alert(1), alert(2)])
        await feed.flush()
        assert reader.status == 200
        assert reader.headers["content-type"].startswith("text/event-stream")
        assert reader.headers["cache-control"] == "no-store"
        assert reader.headers["x-accel-buffering"] == "no"
        assert not [name for name in reader.headers if name.startswith("access-control")]
        assert [event.type for event in reader.events] == ["alert", "alert"]
        first = reader.events[0].data
        assert {k: first[k] for k in ("type", "topic", "partition", "offset", "ts")} == {
            "type": "alert", "topic": "alerts", "partition": 0, "offset": 1, "ts": 1.7e9 + 1,
        }  # fmt: skip
        assert first["record"] == json.loads(alert(1).value)
        await reader.hang_up()


async def test_types_and_predictions_only_for_who_asks() -> None:
    async with feed_service() as feed:
        usual, asked = await feed.connect(), await feed.connect("?type=prediction&type=drift")
        feed.log.add("predictions", [record(task="fraud", entity_id="u", score=0.2)])
        feed.log.add("retrain-requests", [record(task="fraud", cause="drift"), record(task="fraud", cause="manual")])
        feed.log.add("model-updates", [record(task="fraud", action="promote")])
        feed.log.add("dead-letters", [record(topic="user-events", reason="no")])
        feed.log.add("case-events", [record(alert_id="a", task="fraud")])
        feed.log.add("user-events", [record(event_id="e")])
        await feed.flush()
        assert [e.type for e in usual.events] == ["drift", "retrain", "model-update", "dead-letter", "case-event"]
        assert [e.type for e in asked.events] == ["prediction", "drift"]
        assert not feed.log.reads


async def test_filters() -> None:
    asked = {
        "?task=churn": [1, 4],
        "?task=churn&task=fraud": [0, 1, 2, 3, 4],
        "?entity=user-2": [2],
        "?min_score=0.8": [0, 4],
        "?severity=high": [0, 3],
        "?task=fraud&severity=medium&min_score=0.5": [0, 2, 3],
        "?type=drift": [],
    }
    async with feed_service() as feed:
        readers = {query: await feed.connect(query) for query in asked}
        same = await feed.connect("?severity=high")
        values = [("fraud", 0.9, "critical"), ("churn", 0.1, "low"), ("fraud", 0.5, "medium"), ("fraud", 0.7, "high"),
                  ("churn", 0.8, "low")]  # fmt: skip
        feed.log.add("alerts", [alert(i, *value) for i, value in enumerate(values)])
        feed.log.add("model-updates", [record(task="fraud", action="promote")])
        feed.log.add("dead-letters", [record(topic="user-events", reason="no task, no entity")])
        await feed.flush()
        for query, expected in asked.items():
            alerts = [r for r in readers[query].records if r["type"] == "alert"]
            assert ids(alerts) == [f"user-{i}" for i in expected], query
        others = {
            query: [r["type"] for r in reader.records if r["type"] != "alert"] for query, reader in readers.items()
        }
        assert others["?min_score=0.8"] == ["model-update", "dead-letter"], "what has no score passes"
        assert others["?task=churn"] == others["?entity=user-2"] == [], "what is of nobody is not of this one"
        assert same.body[same.body.index(b"event") :] == readers["?severity=high"].body[same.body.index(b"event") :]


async def test_a_record_is_encoded_once_and_decoded_for_filters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with feed_service() as feed:
        readers = [await feed.connect() for _ in range(5)]
        monkeypatch.setattr(feed_item, "Facts", None)  # no type to decode to: who tries fails
        feed.log.add("alerts", [alert(1)])
        await feed.flush()
        assert [ids(r.records) for r in readers] == [["user-1"]] * 5
        (batch,) = feed.fan_out.ring.after(feed.fan_out.ring.first, ["alerts"])
        assert batch.items[0].data is batch.items[0].data
        assert len(feed.fan_out._groups) == 1


async def test_what_is_no_json_is_sent_as_it_is_and_breaks_no_event() -> None:
    values = [
        b"not json",
        b"",
        b'{"a":1}\n\nevent: fake\ndata: {}\n\n',
        b'{\r\n"a":\n1}',
        b'"\xff\xfe"',
        b"[1,2]",
        b"\x00",
    ]
    async with feed_service() as feed:
        reader = await feed.connect("?type=alert&type=retrain")
        feed.log.add("alerts", [Record(b"", value, 1.7e9) for value in values])
        feed.log.add("retrain-requests", [Record(b"", value, 1.7e9) for value in values])
        await feed.flush()
        assert [event.type for event in reader.events] == ["alert"] * 7 + ["retrain"] * 7
        assert [set(event.data) & {"record", "raw"} for event in reader.events[:7]] == [
            {"raw"}, {"raw"}, {"raw"}, {"record"}, {"raw"}, {"record"}, {"raw"},
        ]  # fmt: skip
        assert reader.events[3].data["record"] == {"a": 1}


async def test_texts_end_no_line_of_any_client() -> None:
    note = "one\x85two\u2028three\u2029four\nfive"
    async with feed_service() as feed:
        reader = await feed.connect()
        feed.log.add("case-events", [Record(b"", json.dumps({"note": note}, ensure_ascii=False).encode(), 1.7e9)])
        await feed.flush()
        assert len(reader.body.decode().splitlines()) == reader.body.count(b"\n")
        assert reader.events[0].data["record"]["note"] == note


async def test_a_client_that_is_too_slow_is_told_and_others_do_not_notice() -> None:
    async with feed_service(client_bytes=16_384) as feed:
        slow, other = await feed.connect(), await feed.connect()
        feed.log.add("alerts", [alert(0)])
        await feed.flush()
        slow.stall()
        for n in range(1, 200):
            feed.log.add("alerts", [alert(n)])
            await feed.flush()
        assert len(other.records) == 200
        (waiting,) = [c for c in feed.fan_out.clients if c.last is not None]
        assert waiting.idle, "what waited is given back before the client reads on"
        slow.go_on()
        await turns(slow.task.done)
        *_, last = slow.events
        assert last.type == "resync"
        assert last.data["next"] == last.id
        resumed = await feed.connect(last_event_id=slow.last_id)
        await turns()
        assert ids(slow.records + resumed.records) == [f"user-{n}" for n in range(200)]


async def test_heartbeats_move_the_place_on() -> None:
    async with feed_service(heartbeat_s=0.001) as feed:
        reader = await feed.connect("?type=drift")
        at = reader.last_id
        feed.log.add("alerts", [alert(1)])
        await feed.flush()
        time.sleep(0.002)  # the least heartbeat passes
        feed.fan_out.beat(time.time())
        await turns()
        assert reader.comments
        assert reader.events == []
        assert reader.last_id == feed.fan_out.ring.end.text() != at


async def test_rights_of_the_caller() -> None:
    async with feed_service() as feed:
        feed.access.caller = replace(
            administrator("key"), scopes=frozenset({"feed:read"}), tasks=frozenset({"churn"}), expires_at=2e9
        )
        assert (await feed.connect("?task=fraud")).status == 422
        assert (await feed.connect("?type=dead-letter")).status == 403
        reader = await feed.connect()
        feed.log.add("alerts", [alert(1, "fraud"), alert(2, "churn")])
        feed.log.add("dead-letters", [record(task="churn")])
        await feed.flush()
        assert ids(reader.records) == ["user-2"]
        feed.fan_out.beat(2e9 - 1)
        assert not reader.task.done()
        feed.fan_out.beat(2e9)
        await turns(reader.task.done)
        assert reader.events[-1].type == "expired"
        assert not feed.fan_out.clients


async def test_who_is_no_longer_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out, "_KNOWN_S", 0.0)
    async with feed_service() as feed:
        reader = await feed.connect()

        async def unknown(request: object) -> None:
            raise problem

        problem = Problem(429, "Too many", "of others at this address")
        monkeypatch.setattr(feed.access, "identify", unknown)
        await turns()
        assert not reader.task.done()
        problem = Problem(401, "Not known", "revoked")
        await turns(reader.task.done)
        assert reader.events[-1].type == "expired"


async def test_clients_and_ends_are_counted() -> None:
    async with feed_service() as feed:
        left, told = await feed.connect(), await feed.connect()
        await left.hang_up()
        assert feed.metrics.gauge("weir_feed_clients").value == 1
    assert told.events[-1].type == "drain"
    assert feed.metrics.counter("weir_feed_ended_total", why="left").value == 1
    assert feed.metrics.counter("weir_feed_ended_total", why="drain").value == 1


async def test_a_feed_that_fails_is_told_to_all(caplog: pytest.LogCaptureFixture) -> None:
    async with feed_service() as feed:
        reader = await feed.connect()
        feed.fan_out.arrived(None)
        await reader.task
        assert reader.events[-1].type == "resync"
        assert (await feed.connect()).status == 503
        assert feed.faults
        assert "the feed has failed" in caplog.text


async def test_nobody_is_left_behind_in_memory() -> None:
    async with feed_service() as feed:
        readers = [await feed.connect(f"?entity=user-{n}") for n in range(10)]
        assert len(feed.fan_out.clients) == 10
        readers[0].stall()
        feed.log.add("alerts", [alert(n) for n in range(10)])
        await feed.flush()
        for reader in readers:
            await reader.hang_up()
        assert not feed.fan_out.clients
        assert not feed.fan_out._groups


async def test_no_more_clients_than_allowed() -> None:
    async with feed_service(clients=1) as feed:
        first = await feed.connect()
        second = await feed.connect()
        assert (second.status, second.headers["retry-after"]) == (503, "5")
        await first.hang_up()
        assert (await feed.connect()).status == 200


async def test_stop_tells_everyone_where_to_go_on() -> None:
    log = MemoryServiceLog()
    async with feed_service(log) as feed:
        reader = await feed.connect()
        log.add("alerts", [alert(1)])
        await feed.flush()
        await feed.feed.stop()
        assert (await feed.connect()).status == 503
    assert [event.type for event in reader.events] == ["alert", "drain"]
    assert reader.task.done()
    async with feed_service(log) as feed:
        assert (await feed.connect(last_event_id=reader.last_id)).records == []


async def test_an_end_while_a_client_is_behind_names_the_place_after_what_is_being_sent() -> None:
    log = MemoryServiceLog()
    for n in range(600):
        log.add("alerts", [alert(n)], partition=n % 2)
    async with feed_service(log) as feed:
        reader = await feed.connect("?since=2000-01-01T00:00:00Z")
        reader.stall()
        await turns()
        stopping = asyncio.ensure_future(feed.feed.stop())
        await turns()
        reader.go_on()
        await stopping
    assert 0 < len(reader.records) < 600
    assert reader.events[-1].type == "drain"
    async with feed_service(log) as feed:
        resumed = await feed.connect(last_event_id=reader.last_id)
        await turns(most=3000)
    assert ids(reader.records + resumed.records) == [f"user-{n}" for n in range(600)]
