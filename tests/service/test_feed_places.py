"""Places in the live feed: a client goes on where it was, after a restart, retention, or at another process."""

from __future__ import annotations

import json
import time

import pytest

from tests.service.feed_reader import turns
from tests.service.feed_service import alert, feed_service, ids
from tests.service.memory_log import MemoryServiceLog
from tests.service.test_feed import record

pytestmark = pytest.mark.anyio


async def test_a_browser_resumes_by_itself_and_is_told_how_long_to_wait() -> None:
    async with feed_service() as feed:
        reader = await feed.connect()
        assert reader.retry_ms is not None
        assert 1_000 <= reader.retry_ms <= 5_000
        assert reader.last_id, "a place before the first event"
        feed.log.add("alerts", [alert(1)])
        await feed.flush()
        await reader.hang_up()
        feed.log.add("alerts", [alert(2), alert(3)])
        await feed.flush()
        # The page's URL is as it was: the header counts.
        resumed = await feed.connect("?since=1h&last_event_id=" + "0" * 8, last_event_id=reader.last_id)
        await turns()
        assert ids(resumed.records) == ["user-2", "user-3"]
        assert feed.log.reads == 0, "from the ring"
        await resumed.hang_up()
        by_query = await feed.connect(f"?last_event_id={resumed.events[0].id}")
        await turns()
        assert ids(by_query.records) == ["user-3"]


async def test_resume_after_a_restart_reads_the_log_and_joins_the_live_feed() -> None:
    log = MemoryServiceLog()
    async with feed_service(log) as feed:
        reader = await feed.connect("?type=alert&type=model-update")
        log.add("alerts", [alert(0)])
        await feed.flush()
    assert reader.events[-1].type == "drain"
    for n in range(1, 1200):
        log.add("alerts", [alert(n)], partition=n % 3, gap=n % 2)
    log.add("model-updates", [record(task="fraud", action="promote")])
    async with feed_service(log) as feed:
        resumed = await feed.connect("?type=alert&type=model-update", last_event_id=reader.last_id)
        await turns(most=3000)
        log.add("alerts", [alert(1200)])
        await feed.flush()
        alerts = [r for r in resumed.records if r["type"] == "alert"]
        assert ids(alerts) == [f"user-{n}" for n in range(1, 1201)], "merged by time"
        assert len(resumed.records) == 1201


async def test_since_a_time() -> None:
    log = MemoryServiceLog()
    now = time.time()
    for n in range(5):
        log.add("alerts", [alert(n, ts=now - 500 + 100 * n)], partition=n % 2)
    async with feed_service(log) as feed:
        for since, expected in {
            "250s": {3, 4},
            f"{now - 250}": {3, 4},
            "2000-01-01T00:00:00Z": {0, 1, 2, 3, 4},
            "1s": set(),
        }.items():
            reader = await feed.connect(f"?since={since}")
            await turns()
            assert set(ids(reader.records)) == {f"user-{n}" for n in expected}, since
        assert (await feed.connect("?since=yesterday")).status == 422


@pytest.mark.parametrize(
    "place", ["x", "0000000", "../..", "00000000.z", "00000000.a-1", "a" * 200_000, "00000000.a\x00"]
)
async def test_what_is_no_place_is_refused(place: str) -> None:
    async with feed_service() as feed:
        reader = await feed.connect(last_event_id=place)
        assert reader.status == 422
        assert json.loads(reader.body)["title"] == "No place of the feed"


async def test_a_place_of_another_log_or_before_retention_is_gone() -> None:
    log = MemoryServiceLog()
    for n in range(4):
        log.add("alerts", [alert(n)])
    async with feed_service(log) as feed:
        start = await feed.connect("?since=1d&type=alert")
        log.forget("alerts", 0, 2)
        here = feed.fan_out.ring.end.text()
        before = await feed.connect(last_event_id=here.replace(".a4", ".a1"))
        assert before.status == 410
        problem = json.loads(before.body)
        assert problem["links"] == {"alerts": "/v1/alerts", "feed": f"/v1/feed?since={1.7e9 + 2}"}
        oldest = await feed.connect(problem["links"]["feed"].removeprefix("/v1/feed"))
        await turns()
        assert ids(oldest.records) == ["user-2", "user-3"]
        assert (await feed.connect(last_event_id=here.replace(".a4", ".a9"))).status == 410, "the log was cut"
        await start.hang_up()
    async with feed_service(MemoryServiceLog("another")) as feed:
        other = await feed.connect(last_event_id=here)
        assert other.status == 410
        assert json.loads(other.body)["title"] == "Another log"


async def test_retention_that_is_faster_than_a_client_is_told() -> None:
    log = MemoryServiceLog()
    for n in range(4000):
        log.add("alerts", [alert(n)])
    async with feed_service(log) as feed:
        reader = await feed.connect("?since=2000-01-01T00:00:00Z")
        reader.stall()
        await turns()
        log.forget("alerts", 0, 3000)
        reader.go_on()
        await turns(reader.task.done, most=5000)
        seen = len(reader.records)
        assert 0 < seen < 3000
        assert reader.events[-1].type == "resync"
        assert (await feed.connect(last_event_id=reader.last_id)).status == 410


async def test_a_client_that_was_at_a_faster_process_waits_for_this_one() -> None:
    log = MemoryServiceLog()
    log.add("alerts", [alert(0)])
    async with feed_service(log) as feed:
        ahead = (await feed.connect()).last_id.replace(".a1", ".a3")
        log.write("alerts", [alert(1), alert(2), alert(3)])
        reader = await feed.connect(last_event_id=ahead)
        assert (reader.status, reader.records) == (200, [])
        log.hand_out()
        await feed.flush()
        log.add("alerts", [alert(4)])
        await feed.flush()
        assert ids(reader.records) == ["user-3", "user-4"]


async def test_once_gives_what_there_is_and_where_to_go_on() -> None:
    log = MemoryServiceLog()
    log.add("alerts", [alert(n) for n in range(3)])
    async with feed_service(log) as feed:
        nothing = await feed.connect("?once=1", path="/v1/feed.ndjson")
        assert [*json.loads(nothing.body)] == ["next"]
        answer = await feed.connect("?once=1&since=2000-01-01T00:00:00Z", path="/v1/feed.ndjson")
        *lines, last = [json.loads(line) for line in answer.body.splitlines()]
        assert ids(lines) == ["user-0", "user-1", "user-2"]
        log.add("alerts", [alert(3)])
        await feed.flush()
        later = await feed.connect("?once=1", last_event_id=last["next"], path="/v1/feed.ndjson")
        assert ids([json.loads(line) for line in later.body.splitlines()[:-1]]) == ["user-3"]
        assert (await feed.connect("?since=1h", path="/v1/feed.ndjson")).status == 422
