"""The embedded service's engine: one batch for what waits, nothing seen before it is durable, faults that are told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.service.engine_runs import all_rows, calls, event, killed, log_in, opened, rows, service_in
from tests.streams.host_runs import CHURN, FRAUD, tasks
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.errors import LogFull, UsageError
from weir.streams.records import Record, RecordBatch
from weir.streams.service.embedded.embedded_service_log import EmbeddedServiceLog
from weir.streams.service.parts import OverloadError, Problem

pytestmark = pytest.mark.anyio
DAY = 86_400.0
FEW = [event(n, 1.7e9 + n, f"u{n}") for n in range(4)]
"""Of several users: one clock alone moves no time."""


class Gate:
    """A sync that waits to be let through."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._sync, self.reached, self.open = log.sync, threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(20)
        self._sync()


async def test_what_waits_becomes_one_batch_a_topic(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    label = Record(b"u1", b'{"v":1,"task":"fraud","entity_id":"u1","event_id":"e1","ts":1.7e9,"value":1}', 1.7e9)
    waiting = [
        asyncio.create_task(log.append(topic, [record]))
        for topic, record in [(topics.USER_EVENTS, event(n)) for n in (1, 2, 1)] + [(topics.LABELS, label)]
    ]
    await asyncio.sleep(0)  # each has queued its record
    await log.start()
    outcomes = await asyncio.gather(*waiting)
    assert [o.status for (o,) in outcomes] == ["accepted", "accepted", "repeat", "accepted"]
    batches = list(log.engine.inputs.read([topics.USER_EVENTS, topics.LABELS], 0))
    assert [(b.topic, len(b.records)) for b in batches] == [(topics.USER_EVENTS, 3), (topics.LABELS, 1)]
    await log.stop()


async def test_labels_that_act_between_rows_keep_their_place_among_events(tmp_path: Path) -> None:
    """Sent together, they are learned and scored as if each had waited for the answer to the one before."""
    (task,) = tasks(FRAUD)
    task = task.model_copy(update={"labels": task.labels.model_copy(update={"act": "between rows"})})
    sent = [(topics.USER_EVENTS, event(n, 1.7e9 + n)) for n in range(6)]
    for n, at in ((1, 2), (2, 4), (4, 7)):
        told = b'{"v":1,"task":"fraud","entity_id":"u1","event_id":"e%d","ts":1.7e9,"value":1}' % n
        sent.insert(at, (topics.LABELS, Record(b"u1", told, 1.7e9)))
    learned = []
    for name in ("together", "alone"):
        log, waiting = log_in(tmp_path / name, [task]), list[asyncio.Task[Any]]()
        if name == "alone":
            await log.start()
        for topic, record in sent:
            waiting.append(asyncio.create_task(log.append(topic, [record])))
            await (asyncio.sleep(0) if name == "together" else waiting[-1])
        if name == "together":
            await log.start()
        await asyncio.gather(*waiting)
        made = [orjson.loads(record.value) for _, record in await rows(log, topics.PREDICTIONS)]
        learned.append([(one["event_id"], one["score"], one["model_version"]) for one in made])
        await log.stop()
    assert learned[0] == learned[1]
    assert [version for *_, version in learned[0]] == [0, 0, 1, 2, 2, 3]


async def test_nothing_is_seen_before_it_is_durable(tmp_path: Path) -> None:
    log, seen = log_in(tmp_path), list[RecordBatch]()
    gate = Gate(log.engine.inputs)
    log.engine._commit._sync = gate
    log.subscribe([topics.USER_EVENTS, topics.PREDICTIONS], seen.append)
    await log.start()
    waiting = asyncio.create_task(log.append(topics.USER_EVENTS, [event(1)]))
    await asyncio.to_thread(gate.reached.wait, 20)
    predictions = await log.call(lambda: log.engine.outputs.end_offsets(topics.PREDICTIONS)[0])
    assert predictions == 1, "it is computed while the disk syncs"
    assert (waiting.done(), seen, await rows(log, topics.PREDICTIONS)) == (False, [], [])
    assert (await log.spans(topics.USER_EVENTS))[0].end == 0
    gate.open.set()
    assert [o.status for o in await waiting] == ["accepted"]
    assert [b.topic for b in seen] == [topics.USER_EVENTS, topics.PREDICTIONS]
    assert len(await rows(log, topics.PREDICTIONS)) == 1
    await log.stop()


async def test_a_disk_that_fails_ends_the_service_and_tells_everybody(tmp_path: Path) -> None:
    log, faults = log_in(tmp_path), list[str]()
    log.on_fault = faults.append

    def broken() -> None:
        raise OSError(5, "Input/output error")

    log.engine._commit._sync = broken
    await log.start()
    for n in range(2):
        with pytest.raises(Problem, match="Input/output error") as told:
            await log.append(topics.USER_EVENTS, [event(n)])
        assert told.value.status == 500
    assert faults == ["OSError: [Errno 5] Input/output error"]
    assert "Input/output error" in log.engine.troubles()[0]
    with pytest.raises(Problem):
        await log.call(lambda: None)
    await log.stop()


async def test_a_question_that_its_asker_gave_up_keeps_nobody_from_being_told_of_the_end(tmp_path: Path) -> None:
    log, faults, reached, go_on = log_in(tmp_path), list[str](), threading.Event(), threading.Event()
    log.on_fault = faults.append

    def broken(*_: object) -> None:
        reached.set()
        assert go_on.wait(20)
        raise OSError(5, "Input/output error")

    await log.start()
    log.engine._process = broken  # type: ignore[method-assign,assignment]
    waits = asyncio.create_task(log.append(topics.USER_EVENTS, [event(1)]))
    assert await asyncio.to_thread(reached.wait, 20)
    given_up, asked = (asyncio.create_task(log.call(lambda: None)) for _ in range(2))
    await asyncio.sleep(0)  # both have asked
    given_up.cancel()
    await asyncio.wait([given_up])
    go_on.set()
    for told in (waits, asked):
        with pytest.raises(Problem, match="Input/output error"):
            async with asyncio.timeout(30):
                await told
    assert len(faults) == 1
    await log.stop()


async def test_a_directory_that_is_gone_ends_the_service_and_tells_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    log, faults = log_in(tmp_path), list[str]()
    log.on_fault = faults.append
    await log.start()
    monkeypatch.setattr("weir.streams.service.embedded.data_directory.shutil.disk_usage", gone)
    # Also the one whose records were being appended: it would wait for ever.
    for n in range(2):
        with pytest.raises(Problem, match="No such file or directory"):
            async with asyncio.timeout(30):
                await log.append(topics.USER_EVENTS, [event(n)])
    assert len(faults) == 1
    monkeypatch.undo()
    await log.stop()


async def test_more_than_may_wait_is_refused_and_what_waits_is_not_lost(tmp_path: Path) -> None:
    log = log_in(tmp_path, intake={"waiting_records": 5})
    first = asyncio.create_task(log.append(topics.USER_EVENTS, [event(n) for n in range(8)]))
    await asyncio.sleep(0)
    with pytest.raises(OverloadError, match="8 records wait to be processed, at most 5 may"):
        await log.append(topics.USER_EVENTS, [event(9)])
    await log.start()
    assert len(await first) == 8, "an append that is larger than the limit is taken where nothing waits"
    assert (await log.append(topics.USER_EVENTS, [event(9)]))[0].status == "accepted"
    await log.stop()


async def test_a_full_disk_is_told_and_the_service_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.append(topics.USER_EVENTS, [event(0)])
        append, full = log.engine.inputs.append, [True]

        def appending(topic: str, records: Any) -> list[LoggedBatch]:
            if full[0] and topic == topics.USER_EVENTS:
                raise LogFull(f"{tmp_path}: no room")
            return append(topic, records)

        log.engine.inputs.append = appending  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(Problem, match="no room") as told:
                await log.append(topics.USER_EVENTS, [event(1), event(2)])
            assert told.value.status == 507
        full[0] = False
        assert [o.status for o in await log.append(topics.USER_EVENTS, [event(1), event(2)])] == ["accepted"] * 2
        assert [offset for offset, _ in await rows(log, topics.USER_EVENTS)] == [0, 1, 2]


async def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as log:
        monkeypatch.setattr("weir.streams.service.embedded.data_directory._ROOM", 1 << 62)
        with pytest.raises(Problem, match="have to stay so; make room"):
            await log.append(topics.USER_EVENTS, [event(1)])
        monkeypatch.undo()
        assert (await log.append(topics.USER_EVENTS, [event(1)]))[0].status == "accepted"


def crash_at(monkeypatch: pytest.MonkeyPatch, marker: bytes) -> None:
    """Tasks that raise at a record."""
    process = EmbeddedHost.process

    def crashing(self: EmbeddedHost, batch: LoggedBatch, decoded: Any = None) -> Any:
        if any(marker in record.value for record in batch.records):
            raise ZeroDivisionError("a fault in a task")
        return process(self, batch, decoded)

    monkeypatch.setattr(EmbeddedHost, "process", crashing)


async def test_an_input_that_crashes_twice_goes_to_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at(monkeypatch, b'"e13"')
    log, faults = log_in(tmp_path), list[str]()
    log.on_fault = faults.append
    await log.start()
    await log.append(topics.USER_EVENTS, [event(1)])
    with pytest.raises(Problem, match="ZeroDivisionError: a fault in a task") as told:
        await log.append(topics.USER_EVENTS, [event(13)])
    assert (told.value.status, faults) == (500, ["ZeroDivisionError: a fault in a task"])
    await log.stop()
    async with opened(tmp_path) as log:  # meets it again, and starts without it
        await log.append(topics.USER_EVENTS, [event(14)])
        ((_, letter),) = await rows(log, topics.DEAD_LETTERS)
        assert b"the tasks crashed at this batch twice" in letter.value
        before = await all_rows(log)
        left = await killed(log, tmp_path / "left")
    monkeypatch.undo()  # also where a later version would not crash: outputs that were read do not change
    async with opened(left) as log:
        assert await all_rows(log) == before
        assert len(before[topics.PREDICTIONS]) == 2


@pytest.mark.parametrize("checkpoint_every_s", [3600.0, 0.01])
async def test_a_kill_at_any_moment_changes_no_output(tmp_path: Path, checkpoint_every_s: float) -> None:
    left = []
    async with opened(tmp_path / "whole", checkpoint_every_s=checkpoint_every_s) as log:
        for number, (topic, records) in enumerate(calls()):
            await log.append(topic, records)
            if number % 7 == 3:
                left.append((await killed(log, tmp_path / f"left-{number}"), await all_rows(log)))
        whole = await all_rows(log)
    assert all(whole[topic] for topic in topics.OUTPUTS)
    for directory, before in left[:: max(1, len(left) // 3)]:
        async with opened(directory) as log:
            assert await all_rows(log) == before
    async with opened(tmp_path / "whole") as log:
        assert await all_rows(log) == whole


async def test_requests_by_hand_are_inputs_and_have_one_place(tmp_path: Path) -> None:
    """A topic of both kinds: offsets of what tasks ask and of what people ask are of one row."""
    request = Record(b"fraud", b'{"v":1,"task":"fraud"}', 1.7e9)
    async with opened(tmp_path) as log:
        for topic, records in calls():
            await log.append(topic, records)
            await log.append(topics.RETRAIN_REQUESTS, [request])
        found = await rows(log, topics.RETRAIN_REQUESTS)
        left = await killed(log, tmp_path / "left")
    assert [offset for offset, _ in found] == list(range(len(found)))
    assert {record == request for _, record in found} == {True, False}
    async with opened(left) as log:
        assert await rows(log, topics.RETRAIN_REQUESTS) == found


async def test_what_tasks_do_not_read_is_kept_and_handed_out(tmp_path: Path) -> None:
    heard: list[RecordBatch] = []
    async with opened(tmp_path) as log:
        log.subscribe([topics.CASE_EVENTS], heard.append)
        assert (await log.append(topics.CASE_EVENTS, [Record(b"a", b"{}", 1.7e9)]))[0].status == "accepted"
        assert [r.value for b in heard for r in b.records] == [b"{}"]


async def test_a_listener_that_fails_keeps_nobody_else_from_its_batches(tmp_path: Path) -> None:
    heard: list[RecordBatch] = []

    def failing(_: RecordBatch) -> None:
        raise KeyError("mine")

    async with opened(tmp_path) as log:
        log.subscribe([topics.PREDICTIONS], failing)
        log.subscribe([topics.PREDICTIONS], heard.append)
        await log.append(topics.USER_EVENTS, [event(1)])
        assert len(heard) == 1


def let_go(log: object) -> None:
    """As the end of a process does that never started its engine."""
    assert isinstance(log, EmbeddedServiceLog)
    for held in (log.engine.inputs, log.engine.outputs, log.engine.kept, log.engine.directory):
        held.close()


def test_a_directory_is_of_one_process(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    with pytest.raises(UsageError, match=r"is in use by process \d+; stop that one, or give another"):
        service_in(tmp_path)
    epoch = service.log.epoch
    let_go(service.log)
    again = service_in(tmp_path)
    assert again.log.epoch == epoch
    assert service_in(tmp_path / "other").log.epoch != epoch


OTHER_AGGREGATES = FRAUD.replace("windows = [", 'windows = ["3h", ', 1)

RENAMED = FRAUD.replace('name = "user"', 'name = "payer"', 1).replace('entity = "user"', 'entity = "payer"', 1)
RENAMED = RENAMED.replace("user.", "payer.")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((FRAUD, CHURN), []),
        ((FRAUD,), ["task churn: it is gone, and its state with it"]),
        ((FRAUD, CHURN, FRAUD.replace('"fraud"', '"theft"', 1)), ["task theft: it is new"]),
        ((OTHER_AGGREGATES, CHURN), ["table fraud.user: its rows begin anew", "task fraud: model begins anew"]),
        ((FRAUD, CHURN.replace('"1d", "7d"', '"1d"', 1)), ["table churn.user: its rows"]),
        (
            (RENAMED, CHURN),
            ["table fraud.user: it is gone, and its rows", "table fraud.payer: it is new, and has no rows yet"],
        ),
    ],
)
async def test_tasks_may_change_while_the_service_is_stopped(
    tmp_path: Path, files: tuple[str, ...], told: list[str]
) -> None:
    log = service_in(tmp_path).log
    assert isinstance(log, EmbeddedServiceLog)
    await log.start()
    await log.append(topics.USER_EVENTS, FEW)
    before = await rows(log, topics.PREDICTIONS)
    await log.stop()
    log = service_in(tmp_path, tasks(*files)).log
    assert isinstance(log, EmbeddedServiceLog)
    await log.start()
    try:
        anew = log.engine.host.anew
        assert all(any(words.startswith(each) for words in anew) for each in told), anew
        assert bool(anew) == bool(told)
        assert [o.status for o in await log.append(topics.USER_EVENTS, [event(0, user="u0"), event(9, 1.7e9 + 9)])] == [
            "repeat", "accepted",
        ]  # fmt: skip
        assert (await rows(log, topics.PREDICTIONS))[: len(before)] == before
    finally:
        await log.stop()


async def test_after_a_crash_the_tasks_of_then_come_first(tmp_path: Path) -> None:
    async with opened(tmp_path / "first") as log:
        await log.append(topics.USER_EVENTS, FEW)
        left = await killed(log, tmp_path / "left")
    changed = service_in(left, tasks(OTHER_AGGREGATES, CHURN)).log
    assert isinstance(changed, EmbeddedServiceLog)
    with pytest.raises(UsageError, match="did not stop cleanly, and since then fraud changed: start it once with the"):
        await changed.start()
    let_go(changed)
    async with opened(left):  # as they were
        pass
    changed = service_in(left, tasks(OTHER_AGGREGATES, CHURN)).log
    await changed.start()
    await changed.stop()
