"""Decisions over HTTP: what each task decided on each event, repeats, refusals in place, and deadlines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from tests.service.memory_log import MemoryServiceLog
from tests.service.running import EVENT, READING, TASKS, running
from weir.online.codec.decision_blocks import DecisionBatch, decode_decisions, encode_decisions
from weir.online.decisions.threshold_policy import FixedThreshold
from weir.online.learners.factory import LearnerSpec
from weir.streams.config import topics
from weir.streams.records import Record, RecordBatch
from weir.streams.service.intake.recent_decisions import RecentDecisions, key_of
from weir.streams.service.ports import Decoded, Outcome, ServiceLog
from weir.streams.task_files import load_task

pytestmark = pytest.mark.anyio
PATIENT = "/v1/decisions?deadline_ms=60000"


def event(event_id: str, **fields: Any) -> dict[str, Any]:
    return {**EVENT, "event_id": event_id, **fields}


def block(task: str, *ids: str, score: float = 0.7, entities: Sequence[str] = ()) -> bytes:
    n = len(ids)
    ones = np.ones(n)
    batch = DecisionBatch(
        list(ids),
        list(entities) or ["u1"] * n,
        1.7e9 * ones,
        score * ones,
        0.8 * ones,
        np.ones(n, np.int64),
        ones < 0,
        [None] * n,
    )
    (one,) = encode_decisions(batch, task, 1.7e9)
    return one


async def test_each_task_that_sees_an_event_decides_on_it(tmp_path: Path) -> None:
    seen: list[RecordBatch] = []
    async with running(tmp_path, "fraud", "churn", "device_failure") as (service, client):
        service.log.subscribe([topics.DECISIONS], seen.append)
        body = [event("e1"), event("e2", type="page_view"), READING]
        results = (await client.post(PATIENT, json=body)).json()["results"]
    blocks = [decode_decisions(record.value) for batch in seen for record in batch.records]
    rows = {(block.task, row.event_id): row for block in blocks for row in block.batch.rows()}
    assert [r["event_id"] for r in results] == ["e1", "e2", "d1"]
    told = {(d["task"], r["event_id"]): d for r in results for d in r["decisions"]}
    assert told.keys() == rows.keys()
    assert {task for task, _ in told} == {"fraud", "device_failure"}  # churn scores on timers
    for key, decision in told.items():
        assert decision["score"] == rows[key].score
        assert decision["decision"] in ("alert", "pass")
        assert not decision["repeat"]


async def test_an_alert_is_told_with_its_id_severity_and_reasons(tmp_path: Path) -> None:
    task = load_task(TASKS / "fraud.toml").model_copy(update={"threshold": FixedThreshold(value=0.0)})
    task = task.model_copy(update={"model": LearnerSpec(kind="logistic")})  # which has reasons after a few labels
    known = [event(f"k{i}", user_id=f"k{i}", amount=10.0 * i) for i in range(40)]
    labels = [
        {"v": 1, "task": "fraud", "entity_id": e["user_id"], "event_id": e["event_id"], "ts": 1.7e9, "value": i // 20}
        for i, e in enumerate(known)
    ]
    alerts: list[RecordBatch] = []
    async with running(tmp_path, task) as (service, client):
        await client.post(PATIENT, json=known)
        await client.post("/v1/labels", json=labels)
        service.log.subscribe([topics.ALERTS], alerts.append)
        (result,) = (await client.post(PATIENT, json=event("e1"))).json()["results"]
        short = await client.post(f"{PATIENT}&explain=false", json=event("e2", user_id="u2"))
        (more,) = (await client.post(PATIENT, json=event("e3"))).json()["results"]
        verdict = {"v": 1, "task": "fraud", "entity_id": "u1", "ts": 1.7e9, "value": 0}
        await client.post("/v1/labels", json=[{**verdict, "event_id": each} for each in ("e1", "e3")])
        (after,) = (await client.post(PATIENT, json=event("e4"))).json()["results"]
    (decision,), alert = result["decisions"], json.loads(alerts[0].records[0].value)
    assert (decision["decision"], decision["alert_status"]) == ("alert", "open")
    assert {name: decision[name] for name in ("alert_id", "severity", "reasons")} == {
        name: alert[name] for name in ("alert_id", "severity", "reasons")
    }
    assert decision["reasons"][0].keys() == {"feature", "value", "contribution", "text"}
    assert "reasons" not in short.json()["results"][0]["decisions"][0]
    (more,), (after,) = more["decisions"], after["decisions"]
    assert (more["alert_id"], more["alert_status"], more["severity"]) == (alert["alert_id"], "open", alert["severity"])
    assert more["reasons"]
    # After people said that it was a false alarm: nothing of that alert speaks of this event.
    assert (after["decision"], after["alert_id"], after["alert_status"]) == ("alert", alert["alert_id"], "resolved")
    assert (after["severity"], after["reasons"]) == (None, [])


async def test_the_same_event_gets_its_first_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        first = (await client.post(PATIENT, json=event("e1"))).json()["results"][0]
        changed = (await client.post(PATIENT, json=[event("e1", amount=5e4), event("e2")])).json()["results"]
    async with running(tmp_path) as (_, client):  # after a restart too
        later = (await client.post(PATIENT, json=event("e1"))).json()["results"][0]
    assert first["status"] == "accepted"
    assert (changed[0]["status"], changed[1]["status"], later["status"]) == ("repeat", "accepted", "repeat")
    for again in (changed[0], later):
        assert again["decisions"] == [{**d, "repeat": True} for d in first["decisions"]]


async def test_an_event_twice_in_a_body_is_decided_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        results = (await client.post(PATIENT, json=[event("e1"), event("e1")])).json()["results"]
    assert [r["status"] for r in results] == ["accepted", "repeat"]
    assert results[1]["decisions"] == [{**d, "repeat": True} for d in results[0]["decisions"]]


async def test_the_same_event_asked_by_two_at_once_is_decided_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        answers = await asyncio.gather(*(client.post(PATIENT, json=event("e1")) for _ in range(4)))
    scores = {d["score"] for a in answers for r in a.json()["results"] for d in r["decisions"]}
    assert len(scores) == 1
    assert sorted(a.json()["results"][0]["status"] for a in answers) == ["accepted", *["repeat"] * 3]


async def test_a_repeat_that_memory_has_lost_says_so_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        await client.post("/v1/events", json=event("e1"))
        service.decisions.recent = RecentDecisions(1 << 20)
        (result,) = (await client.post(PATIENT, json=event("e1"))).json()["results"]
    assert result["status"] == "repeat"
    assert "no longer in memory" in result["reason"]
    (decision,) = result["decisions"]
    assert (decision["decision"], decision["score"], decision["repeat"]) == ("repeat", None, True)


async def test_ids_are_matched_without_the_blanks_around_them(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        (result,) = (await client.post(PATIENT, json=event("  e1 ", user_id=" u1\u3000"))).json()["results"]
    assert (result["event_id"], result["status"], len(result["decisions"])) == ("e1", "accepted", 1)


async def test_refused_events_are_answered_in_their_place(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        await client.post("/v1/events", json=[event(f"e{i}0") for i in range(5)])  # so many agree on the time
        body = [event("e1"), {"v": 1}, event("e2", ts=1.6e9)]
        results = (await client.post(PATIENT, json=body)).json()["results"]
        many = await client.post(PATIENT, json=[event(f"m{i}") for i in range(1_001)])
    assert [r["status"] for r in results] == ["accepted", "refused", "refused"]
    assert results[2]["reason"].startswith("late: ")
    assert "event_id: missing" in results[1]["reason"]
    assert (many.status_code, many.json()["limit"]) == (413, 1_000)


class Workers:
    """A log as Kafka's is: an append is acknowledged at once, and outputs come when workers have made them."""

    def __init__(self, log: Any) -> None:
        self._listeners: dict[str, Any] = {}
        self.records: list[Record] = []
        self.log = log

    def subscribe(self, names: Sequence[str], listener: Any) -> Any:
        self._listeners.update(dict.fromkeys(names, listener))
        return lambda: None

    async def append(self, topic: str, records: Sequence[Record], decoded: Decoded | None = None) -> list[Outcome]:
        self.records += records
        return [Outcome("accepted")] * len(records)

    def tell(self, topic: str, value: bytes) -> None:
        batch = type("Batch", (), {"topic": topic, "partition": 0, "records": [Record(b"", value, 0.0)]})()
        self._listeners[topic](batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


async def test_what_is_late_is_504_with_what_is_known_and_comes_with_the_next_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as (service, client):
        await service.decisions.stop()
        service.log = workers = Workers(service.log)
        await service.decisions.start()
        workers.tell(topics.DECISIONS, block("fraud", "e1"))
        answer = await client.post("/v1/decisions?deadline_ms=1", json=[event("e1"), event("e2")])
        workers.tell(topics.DECISIONS, block("fraud", "e2"))
        again = await client.post(PATIENT, json=[event("e1"), event("e2")])
        assert 'weir_decision_seconds_count{outcome="late"} 1.0' in (await client.get("/metrics")).text
    assert (answer.status_code, answer.json()["title"]) == (504, "Late")
    assert [r["status"] for r in answer.json()["results"]] == ["repeat", "late"]
    assert [r["status"] for r in again.json()["results"]] == ["repeat", "repeat"]
    assert [json.loads(r.value)["event_id"] for r in workers.records] == ["e2"]


async def test_a_worker_refuses_by_a_dead_letter(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        await service.decisions.stop()
        service.log = workers = Workers(service.log)
        await service.decisions.start()
        asked = asyncio.create_task(client.post(PATIENT, json=[event("e1")] * 2))  # of the second there is no letter
        while not workers.records:
            await asyncio.sleep(0)
        letter = {"topic": "user-events", "raw": workers.records[0].value, "reason": "late: 9 s behind"}
        workers.tell(topics.DEAD_LETTERS, msgspec.json.encode(letter))
        results = (await asked).json()["results"]
    assert [(result["status"], result["reason"]) for result in results] == [("refused", "late: 9 s behind")] * 2


async def test_what_is_asked_again_and_what_is_refused_is_counted_too(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        for body in (event("e1"), event("e1"), {"a": 1}, [event("e1"), event("e2"), {}]):
            await client.post(PATIENT, json=body)
        lines = (await client.get("/metrics")).text.splitlines()
    counted = [line for line in lines if line.startswith("weir_intake_records_total{")]
    assert counted == [
        f'weir_intake_records_total{{outcome="{outcome}",route="decisions"}} 2.0'
        for outcome in ("accepted", "refused", "repeat")
    ]


async def test_no_waiter_is_left_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, client):
        await client.post("/v1/decisions?deadline_ms=1", json=[event(f"e{i}") for i in range(50)])
        await client.post(PATIENT, json=[event(f"e{i}") for i in range(100)])
        await client.post(PATIENT, json=[event("e0", ts=1.6e9), {}, event("e101")])
        assert not service.decisions._waiting
        assert not service.decisions._requests


def test_memory_of_decisions_is_bounded_and_the_oldest_go_first() -> None:
    recent = RecentDecisions(1 << 20)
    for i in range(20_000):
        recent.add(block("fraud", f"e{i}"))
    assert key_of("fraud", "u1", "e19999") in recent
    assert key_of("fraud", "u1", "e0") not in recent
    assert 500 < len(recent) < (1 << 20) / 400
    recent.add(b"no block")  # said in the log, and passed over


async def test_a_start_remembers_the_newest_of_every_partition() -> None:
    log = MemoryServiceLog()
    for partition in range(3):
        many = [block("fraud", f"p{partition}-e{n}") for n in range(2_000)]
        log.add(topics.DECISIONS, [Record(b"u1", value, 1.7e9) for value in many], partition)
    recent = RecentDecisions(1 << 20)
    await recent.fill(cast(ServiceLog, log))
    held = [key_of("fraud", "u1", f"p{partition}-e1999") in recent for partition in range(3)]
    assert held == [True] * 3
    assert key_of("fraud", "u1", "p0-e0") not in recent


def test_an_older_block_does_not_replace_a_newer_answer() -> None:
    recent = RecentDecisions(1 << 20)
    recent.add(block("fraud", "e1", "e2", score=0.9))
    recent.add(block("fraud", "e0", "e1", score=0.1), older=True)
    scores = {event: recent[key_of("fraud", "u1", event)].score for event in ("e0", "e1", "e2")}
    assert scores == {"e0": 0.1, "e1": 0.9, "e2": 0.9}


def test_ids_of_events_are_an_entitys_own() -> None:
    recent = RecentDecisions(1 << 20)
    recent.add(block("fraud", "e1", "e1", entities=("u1", "u2")))
    assert [recent[key_of("fraud", entity, "e1")].entity_id for entity in ("u1", "u2")] == ["u1", "u2"]
