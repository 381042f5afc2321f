"""After a crash another version of Weir may compute outputs otherwise: what was published stays, and it is told."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.engine_runs import Rows, all_rows, calls, event, killed, opened
from weir.online.decisions.alerts import AlertBook
from weir.streams.config import topics
from weir.streams.embedded.ticks import tick_record
from weir.streams.outputs import records_of
from weir.streams.records import Record
from weir.streams.service.embedded import data_directory
from weir.streams.service.embedded.published_log import PublishedLog

pytestmark = pytest.mark.anyio

Change = Callable[[dict[str, list[Record]]], dict[str, list[Record]]]


def another_version(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """A version whose tasks make other records of the same inputs."""
    monkeypatch.setattr(
        "weir.streams.embedded.embedded_host.records_of", lambda *args, **options: change(records_of(*args, **options))
    )
    monkeypatch.setattr(data_directory, "version", lambda _: "9.9.9")


def rounded(made: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Scores that differ in their last digits."""

    def one(record: Record) -> Record:
        return record._replace(value=re.sub(rb'"score":(0\.\d{3})\d+', rb'"score":\1', record.value))

    return made | {t: [one(r) for r in made[t]] for t in (topics.PREDICTIONS, topics.ALERTS) if t in made}


def fewer_alerts(made: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Every alert is of another name: those that were published are not made, and others are."""
    renamed = [
        r._replace(value=r.value.replace(b'"alert_id":"', b'"alert_id":"x')) for r in made.get(topics.ALERTS, [])
    ]
    return made | ({topics.ALERTS: renamed} if renamed else {})


async def left_behind(tmp_path: Path) -> tuple[Path, dict[str, Rows]]:
    """What a kill leaves, with a checkpoint before the middle, and what had been published."""
    async with opened(tmp_path / "old", checkpoint_every_s=3600.0) as log:
        for number, (topic, records) in enumerate(calls()):
            await log.append(topic, records)
            if number == 5:
                await log.call(log.engine.host.checkpoint)
        return await killed(log, tmp_path / "left"), await all_rows(log)


def about(directory: Path) -> dict[str, Any]:
    return dict(msgspec.json.decode((directory / "service.json").read_bytes()))


async def test_the_same_outputs_are_told_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left, before = await left_behind(tmp_path)
    another_version(monkeypatch, lambda made: made)
    files = {f.name: f.read_bytes() for f in (left / "outputs").glob("*.log")}
    with caplog.at_level(logging.WARNING):
        async with opened(left) as log:
            assert await all_rows(log) == before
    assert {f.name: f.read_bytes() for f in (left / "outputs").glob("*.log")} == files, "not even written again"
    assert [r.getMessage() for r in caplog.records if "is computed again" in r.getMessage()], "who goes on is told"
    assert "computed otherwise" not in caplog.text
    assert (about(left)["version"], about(left)["differed"]) == ("9.9.9", [])


async def test_other_scores_change_nothing_that_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left, before = await left_behind(tmp_path)
    another_version(monkeypatch, rounded)
    with caplog.at_level(logging.WARNING):
        async with opened(left) as log:
            assert await all_rows(log) == before
            await log.append(topics.USER_EVENTS, [event(901, 1.8e9)])
            (offset, new), *rest = (await all_rows(log))[topics.PREDICTIONS][len(before[topics.PREDICTIONS]) :]
            assert b'"e901"' in new.value
            again = await killed(log, tmp_path / "again")
    told = about(left)["differed"]
    assert [line.partition(":")[0] for line in told] == [topics.PREDICTIONS, topics.ALERTS]
    assert re.search(
        r"predictions: [\d,]+ published otherwise; the first: \w+ \S+ at offset \d+: published .*score.*, now .*score",
        told[0],
    )
    assert told[0] in caplog.text
    caplog.clear()
    async with opened(again) as log:  # told once: a checkpoint is behind it
        assert (await all_rows(log))[topics.PREDICTIONS] == [*before[topics.PREDICTIONS], (offset, new), *rest]
    assert about(again)["differed"] == told
    assert "computed otherwise" not in caplog.text


async def test_what_is_made_only_now_comes_behind_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, before = await left_behind(tmp_path)
    another_version(monkeypatch, fewer_alerts)
    async with opened(left) as log:
        after = await all_rows(log)
    published = before[topics.ALERTS]
    assert after[topics.ALERTS][: len(published)] == published
    new = [record.value for _, record in after[topics.ALERTS][len(published) :]]
    assert new
    assert all(b'"alert_id":"x' in value for value in new)
    assert {t: r for t, r in after.items() if t != topics.ALERTS} == {
        t: r for t, r in before.items() if t != topics.ALERTS
    }
    (told,) = about(left)["differed"]
    assert told.startswith(
        f"alerts: {len(new):,} published only, {len(new):,} made only now, and appended; the first: "
    )


async def test_a_start_that_is_killed_leaves_what_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut before everything was computed: the one after it still finds the difference."""
    left, _ = await left_behind(tmp_path)
    files = {f.name: f.read_bytes() for f in (left / "outputs").glob("*.log")}
    another_version(monkeypatch, rounded)

    def killed_here(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(PublishedLog, "settle", killed_here)
        with pytest.raises(KeyboardInterrupt):
            async with opened(left):
                pass
    assert about(left)["version"] != "9.9.9"
    assert {f.name: f.read_bytes() for f in (left / "outputs").glob("*.log")} == files


async def test_another_version_may_read_a_task_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new field of tasks changes the digest of a file that nobody touched: that is no reason not to start."""
    left, before = await left_behind(tmp_path)
    another_version(monkeypatch, lambda made: made)
    monkeypatch.setattr(data_directory, "_digest", lambda task: f"of {task.name} with a field more")
    with caplog.at_level(logging.WARNING):
        async with opened(left) as log:
            assert await all_rows(log) == before
    assert "churn, fraud otherwise (changed, or read otherwise)" in caplog.text


async def test_alerts_that_only_the_version_before_opened_end_as_all_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, before = await left_behind(tmp_path)
    another_version(monkeypatch, lambda made: made)
    monkeypatch.setattr(AlertBook, "_take", lambda *_: None)  # it opens none
    open_then = still_open(before[topics.ALERTS])
    async with opened(left) as log:
        kept = {alert.alert_id for p in log.engine.host.pipelines.values() for alert in p.book.open_alerts()}
        assert open_then
        assert still_open((await all_rows(log))[topics.ALERTS]) == kept == open_then
        again = await killed(log, tmp_path / "again")
    async with opened(again) as log:  # it is in the checkpoint
        await log.append(topics.TICKS, [tick_record(1.9e9, 1.9e9, topics.USER_EVENTS)])  # all are quiet by then
        assert not still_open((await all_rows(log))[topics.ALERTS])


def still_open(alerts: Rows) -> set[str]:
    """The alerts whose newest record does not resolve them."""
    newest = {said["alert_id"]: said["status"] for said in (msgspec.json.decode(r.value) for _, r in alerts)}
    return {alert_id for alert_id, status in newest.items() if status != "resolved"}


# -- the log alone -----------------------------------------------------------------------------------------------------


def prediction(n: int, score: int = 0) -> Record:
    return Record(b"u", b'{"task":"t","event_id":"e%d","score":%d}' % (n, score), float(n))


def held(log: PublishedLog) -> list[Record]:
    return [record for batch in log.read([topics.PREDICTIONS], 0) for record in batch.records]


@given(st.data())
def test_what_was_published_stays_and_each_record_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever was published, is made now, and how either was cut into batches."""
    then, now = (
        {n: data.draw(st.integers(0, 1)) for n in sorted(data.draw(st.sets(st.integers(0, 6))))} for _ in range(2)
    )
    if data.draw(st.booleans(), "the same code"):
        now = then | dict.fromkeys(range(7, 7 + data.draw(st.integers(0, 2))), 0)
    with PublishedLog(tmp_path_factory.mktemp("log")) as log:
        log.append(topics.PREDICTIONS, [prediction(100)])
        for n, score in then.items():
            log.append(topics.PREDICTIONS, [prediction(n, score)])
        log.truncate(1)
        for n, score in now.items():
            log.append(topics.PREDICTIONS, [prediction(n, score)])
        found = log.settle(9.0)
        only_now = [prediction(n, score) for n, score in now.items() if n not in then]
        assert held(log) == [prediction(100), *(prediction(*one) for one in then.items()), *only_now]
    changed, gone = sum(now.get(n, score) != score for n, score in then.items()), len(then.keys() - now.keys())
    if changed or gone:
        (told,) = found
        assert (told.changed, told.only_then) == (changed, gone)
    else:
        assert len(found) <= 1


def test_outputs_of_inputs_that_a_power_cut_took_are_nobodys(tmp_path: Path) -> None:
    with PublishedLog(tmp_path) as log:
        for n in range(4):
            log.append(topics.PREDICTIONS, [prediction(n)])
        log.truncate(0)
        log.append(topics.PREDICTIONS, [prediction(0), prediction(1)])
        assert log.settle(1.0) == []
        assert held(log) == [prediction(0), prediction(1)]
        log.append(topics.PREDICTIONS, [prediction(9)])
        assert held(log)[2:] == [prediction(9)]
