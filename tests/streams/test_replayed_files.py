"""What ``weir replay`` and ``weir send`` read of files: their order, the topics of lines, and the pace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.replay.pace import Pace
from weir.streams.replay.replayed_files import LinesSource, TableSource, time_of

T0 = 1_700_000_000.0

DAY = 86_400.0
TASK = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "spent"
value = "amount"
ops = ["sum"]
windows = ["1d"]
[model]
kind = "logistic"
[source]
time = "when"
event_id = "id"
label = "bad"
label_delay = "1d"
columns = { user_id = "who", amount = "eur" }
constants = { type = "purchase" }
"""


def event(number: int, ts: float, user: str = "u1") -> bytes:
    return b'{"v":1,"event_id":"e%d","type":"view","user_id":"%s","ts":%.1f}' % (number, user.encode(), ts)


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_lines_are_sent_as_they_are_in_the_files_order(tmp_path: Path) -> None:
    lines = [event(1, T0 + 5), b"{broken", event(2, T0), b"\xff\x00", event(3, T0 + 9, "u2")]
    source = LinesSource([write(tmp_path / "user-events.jsonl", lines)], None)
    records = list(source)
    assert [r.value for r in records] == lines
    assert [r.key for r in records] == [b"u1", None, b"u1", None, b"u2"]
    assert [r.ts for r in records] == [T0 + 5, T0 + 5, T0 + 5, T0 + 5, T0 + 9]
    assert {r.topic for r in records} == {topics.USER_EVENTS}
    assert sum(r.units for r in records) == source.total


def test_files_are_merged_by_time_and_each_keeps_its_order(tmp_path: Path) -> None:
    a = write(tmp_path / "user-events.jsonl", [event(1, T0), event(2, T0 + 10), event(3, T0 + 20)])
    b = write(tmp_path / "more.jsonl", [event(4, T0 + 5), event(5, T0 + 4), event(6, T0 + 30)])
    source = LinesSource([a, b], topics.USER_EVENTS)
    assert [orjson.loads(r.value)["event_id"] for r in source] == ["e1", "e4", "e5", "e2", "e3", "e6"]


def test_a_lines_own_topic_routes_it_and_is_taken_out(tmp_path: Path) -> None:
    label = b'{"v":1,"label_id":"l1","task":"fraud","entity_id":"u1","ts":1700000000.0,"value":1}'
    named = [b'{"topic":"user-events",' + event(1, T0 + 60)[1:], b'{"topic":"labels",' + label[1:], b"broken"]
    path = write(tmp_path / "all.jsonl", named)
    source = LinesSource([path], None)
    records = list(source)
    assert [(r.topic, r.key, r.value) for r in records] == [
        (topics.USER_EVENTS, b"u1", event(1, T0 + 60)),
        (topics.LABELS, b"u1", label),
    ]
    assert records[1].ts == T0 + 60, "a label goes out when it stands in the stream, not at the time it speaks of"
    assert source.skipped == 1
    only = LinesSource([path], topics.LABELS)
    assert [r.topic for r in only] == [topics.LABELS, topics.LABELS]  # the broken line names none: --topic is its topic
    assert only.skipped == 1


def test_a_file_that_is_cut_while_it_is_sent_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "user-events.jsonl", [event(i, T0 + i) for i in range(9)])
    records = iter(LinesSource([path], None))
    next(records)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="became shorter while it was read"):
        list(records)


def test_a_missing_file_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        LinesSource([tmp_path / "none.jsonl"], None)


def test_a_table_becomes_events_and_each_label_waits_for_its_delay(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    rows = [
        ("a", 0.0, "u1", "5", "1"),
        ("b", 0.5, "u2", "-3", "0"),
        ("c", 1.2, "", "7", "1"),
        ("d", 9.0, "u1", "x", ""),
    ]
    path.write_text("id,when,who,eur,bad\n" + "".join(f"{i},{T0 + d * DAY},{u},{e},{b}\n" for i, d, u, e, b in rows))
    source = TableSource(TaskSpec.from_toml(TASK), [path], None, with_labels=True)
    records = list(source)
    ids = [(r.topic, orjson.loads(r.value).get("label_id") or orjson.loads(r.value)["event_id"]) for r in records]
    assert ids == [
        ("user-events", "a"), ("user-events", "b"), ("labels", "a/label"), ("user-events", "c"),
        ("labels", "b/label"), ("labels", "c/label"), ("user-events", "d"),
    ]  # fmt: skip
    assert orjson.loads(records[0].value) == {
        "v": 1, "event_id": "a", "type": "purchase", "user_id": "u1", "ts": T0, "amount": 5.0
    }  # fmt: skip
    assert orjson.loads(records[2].value)["value"] == 1
    assert [r.key for r in records] == [b"u1", b"u2", b"u1", None, b"u2", b"*", b"u1"]
    assert [r.ts for r in records] == sorted(r.ts for r in records if r.ts is not None)
    assert source.total == sum(r.units for r in records) == 4
    assert {r.topic for r in TableSource(TaskSpec.from_toml(TASK), [path], None, with_labels=False)} == {"user-events"}


def test_a_table_does_not_come_through_a_pipe() -> None:
    with pytest.raises(UsageError, match="-: with --task give files; rows of a table are sorted by time first"):
        TableSource(TaskSpec.from_toml(TASK), [Path("-")], None, with_labels=True)


def test_a_task_without_a_source_cannot_be_replayed(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK.split("[source]")[0])
    with pytest.raises(UsageError, match=r"no \[source\] table"):
        TableSource(task, [tmp_path / "p.csv"], None, with_labels=True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_document_has_a_time_or_none(document: Any) -> None:
    ts = time_of({"ts": document})
    assert ts is None or 9e8 < ts < 5e9


@given(
    times=st.lists(st.floats(0, 1e4), min_size=1, max_size=30).map(sorted),
    speed=st.floats(0.1, 1e3),
    late=st.floats(0, 50),
)
def test_a_replay_at_n_times_event_time_never_runs_ahead_and_catches_up(
    times: list[float], speed: float, late: float
) -> None:
    pace, now = Pace(100.0, speed=speed), 100.0
    for number, ts in enumerate(times):
        now += pace.wait_s(now, number, T0 + ts)
        due = 100.0 + (ts - times[0]) / speed
        assert now >= due - 1e-4
        if number == 0:
            now += late  # the broker was slow once
    assert now <= 100.0 + late + (times[-1] - times[0]) / speed + 1e-4


def test_a_rate_is_kept_over_the_whole_replay_and_flat_out_never_waits() -> None:
    pace = Pace(0.0, rate=10.0)
    assert [pace.wait_s(0.0, sent, None) for sent in (0, 10, 25)] == [0.0, 1.0, 2.5]
    assert pace.wait_s(9.0, 25, None) == 0.0
    assert Pace(0.0).wait_s(0.0, 10**6, T0) == 0.0
