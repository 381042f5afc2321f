"""Time and retention of the embedded service's engine: streams that stand still, histories, what is kept."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.service.engine_runs import all_rows, calls, event, killed, opened, rows
from tests.service.test_engine import DAY, FEW
from weir.streams.config import topics
from weir.streams.config.serve_settings import RetentionSettings
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record, RecordBatch
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.parts import NoLongerKept

pytestmark = pytest.mark.anyio


async def test_retention_takes_what_no_start_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both logs; a place that is gone is told with the first that is kept, and offsets go on."""
    monkeypatch.setattr(EmbeddedLog.__init__, "__defaults__", (None, None, 2048, 9_000))  # bytes of a segment
    async with opened(tmp_path, checkpoint_every_s=0.001) as log:
        log.engine._retention = RetentionSettings.model_construct(age=DAY, bytes=30_000)
        for topic, records in calls():
            await log.append(topic, records)
        newest = int(max(record.ts for _, records in calls() for record in records))
        async with asyncio.timeout(60):
            while not all([(await log.spans(topic))[0].first for topic in (topics.USER_EVENTS, topics.PREDICTIONS)]):
                # So that a later checkpoint is due; new ones, as repeats would leave nothing of predictions in the log.
                newest += 1
                await log.append(topics.USER_EVENTS, [event(newest, newest, f"u{newest}")])
        log.engine._every_s = 1e9  # no further checkpoint, and so no deletion, while we look
        while (saving := await log.call(lambda: log.engine._saving)) is not None:
            await asyncio.wrap_future(saving)
        before = await all_rows(log)
        for topic in (topics.USER_EVENTS, topics.PREDICTIONS):
            first = (await log.spans(topic))[0].first
            assert 0 < first == before[topic][0][0]
            with pytest.raises(NoLongerKept, match=f"the first that is has offset {first}"):
                await log.read(topic, 0, first - 1)
        left = await killed(log, tmp_path / "left")
    async with opened(left) as log:
        assert await all_rows(log) == before


async def hear(log: EmbeddedServiceLog, topic: str) -> RecordBatch:
    """The next batch of a topic."""
    heard: asyncio.Queue[RecordBatch] = asyncio.Queue()
    end = log.subscribe([topic], heard.put_nowait)
    async with asyncio.timeout(20):
        batch = await heard.get()
    end()
    return batch


async def test_time_passes_where_a_live_stream_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quiet user is scored and labelled by a tick; the kill after it changes nothing."""
    monkeypatch.setattr("weir.streams.service.embedded.service_engine.IDLE_S", 0.01)
    now = [1.7e9]
    async with opened(tmp_path) as log:
        log.engine._clock = lambda: now[0]
        await log.append(topics.USER_EVENTS, FEW)
        now[0] += 4 * DAY
        tick = await hear(log, topics.TICKS)
        assert tick.records[0].key == b"user-events"
        made = await all_rows(log)
        assert made[topics.EXAMPLES], "labels from silence are learned"
        assert log.engine._waiting == 0, "a tick is nobody's, and makes no room for more records of callers"
        looked = threading.Event()
        ticks = log.engine._idle.ticks
        times = iter([now[0] + DAY, now[0] + 2 * DAY, now[0] + 3 * DAY])
        log.engine._idle.ticks = lambda _: ticks(next(times, None) or looked.set() or now[0])  # type: ignore
        assert await asyncio.to_thread(looked.wait, 20)
        assert [offset for offset, _ in await rows(log, topics.TICKS)] == [0], "nothing is due, so nothing is written"
        left = await killed(log, tmp_path / "left")
    async with opened(left) as log:
        assert await all_rows(log) == made
        assert await log.call(lambda: log.engine._idle._idle(topics.USER_EVENTS, now[0])), "it is live as before"


async def test_a_history_that_is_loaded_does_not_jump_to_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weir.streams.service.embedded.service_engine.IDLE_S", 0.01)
    async with opened(tmp_path) as log:
        log.engine._clock = lambda: 1.7e9 + 30 * DAY
        await log.append(topics.USER_EVENTS, [e._replace(ts=1.7e9 + 20 * DAY) for e in FEW])
        for _ in range(3):
            log.engine._idle._looked = 0.0
            await log.call(lambda: None)
        assert await rows(log, topics.TICKS) == []
        assert await log.call(lambda: log.engine._idle.ticks(1.7e9 + 40 * DAY)) == []
    async with opened(tmp_path) as log:  # nor does one of which the half was loaded before a restart
        assert await log.call(lambda: log.engine._idle.ticks(1.7e9 + 40 * DAY)) == []


async def test_what_people_did_is_kept_for_longer_than_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedLog.__init__, "__defaults__", (None, None, 2048, 1))  # each batch is a file of its own
    async with opened(tmp_path, retention={"age": 60.0}) as log:
        for n in range(4):
            await log.append(topics.USER_EVENTS, [event(n, 1.7e9 + n)])
            await log.append(topics.AUDIT, [Record(b"w", b"{%d}" % n, 1.7e9 + n)])
        log.engine._clock = lambda: 1.7e9 + DAY
        saving = await log.call(log.engine.host.begin_checkpoint)
        await asyncio.wrap_future(saving)
        log.engine._saved_seq = await log.call(lambda: log.engine.host.seq)
        await log.call(lambda: log.engine._saved(saving))
        assert (await log.spans(topics.USER_EVENTS))[0].first > 0
        assert [record.value for _, record in await rows(log, topics.AUDIT)] == [b"{%d}" % n for n in range(4)]
