"""``weir replay`` and ``weir tail`` against a real broker: what is in a file arrives once, what is there is shown."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import orjson
import pytest

from tests.integration.kafka_commands import T0, Weir, event, lines_of
from weir.streams.config import topics
from weir.streams.kafka.admin.clients import consumer
from weir.streams.kafka.admin.reader import Start, read_present

pytestmark = pytest.mark.integration


# Replay


def test_every_line_arrives_once_under_its_entitys_key_in_its_order(weir: Weir, tmp_path: Path) -> None:
    topic = weir.make("replayed")
    values = [event(i, T0 + i, f"u{i % 17}") for i in range(3_000)]
    values[5:5] = [b"{broken", b"\xff\xfe"]
    done = weir("replay", lines_of(tmp_path / "a.jsonl", values), "--topic", topic)
    assert (done.status, "sent 3,002 to replayed" in done.err) == (0, True)
    found = weir.read(topic)
    assert sorted(r.value for r in found) == sorted(values)
    good = [(r.key, orjson.loads(r.value), r.partition) for r in found if r.value.endswith(b"}")]
    assert {key for key, _, _ in good} == {None}, "no topic of Weir's: nobody knows its key"
    done = weir("replay", lines_of(tmp_path / "user-events.jsonl", values))
    assert "sent 3,002 to user-events" in done.err
    by_key: dict[bytes, list[tuple[int, int]]] = {}
    for r in weir.read(topics.USER_EVENTS):
        if r.value.endswith(b"}"):
            assert r.key == orjson.loads(r.value)["user_id"].encode()
            by_key.setdefault(r.key, []).append((r.partition, int(orjson.loads(r.value)["event_id"][1:])))
    assert len(by_key) == 17
    for places in by_key.values():
        assert len({partition for partition, _ in places}) == 1
        assert [number for _, number in places] == sorted(number for _, number in places)


def test_lines_on_stdin_go_to_the_topics_they_name(weir: Weir) -> None:
    before = {topic: len(weir.read(topic)) for topic in (topics.DEVICE_EVENTS, topics.LABELS)}
    label = {"v": 1, "label_id": "l1", "task": "fraud", "entity_id": "u1", "ts": T0, "value": 1}
    reading = {"v": 1, "event_id": "m1", "device_id": "d1", "ts": T0, "metrics": {"t": 1.0}}
    lines = [{"topic": "labels", **label}, {"topic": "device-events", **reading}]
    stdin = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    done = weir("replay", "-", stdin=stdin)
    assert done.status == 0, done.err
    newest = {topic: weir.read(topic)[before[topic] :] for topic in before}
    assert [(r.key, r.value) for r in newest[topics.LABELS]] == [(b"u1", orjson.dumps(label))]
    assert [(r.key, r.value) for r in newest[topics.DEVICE_EVENTS]] == [(b"d1", orjson.dumps(reading))]


def test_a_table_goes_through_a_tasks_source_with_labels_behind_their_delay(weir: Weir, tmp_path: Path) -> None:
    task = tmp_path / "task.toml"
    task.write_text(
        'name = "late"\nentity = "user"\n[[entities]]\nname = "user"\nkey = "user_id"\n[[entities.aggregates]]\n'
        'name = "n"\nops = ["count"]\nwindows = ["1d"]\n[model]\nkind = "logistic"\n'
        '[source]\ntime = "when"\nlabel = "bad"\n'
        'label_delay = "1d"\ncolumns = { user_id = "who", amount = "eur" }\nconstants = { type = "purchase" }\n'
    )
    data = tmp_path / "data.csv"
    data.write_text("when,who,eur,bad\n" + "".join(f"{T0 + i * 43_200},c{i % 3},{i},{i % 2}\n" for i in range(10)))
    done = weir("replay", str(data), "--task", str(task), "--stamp", "now")
    assert (done.status, "sent 10 to labels, 10 to user-events" in done.err) == (0, True), done.err
    labels = [orjson.loads(r.value) for r in weir.read(topics.LABELS) if b'"late"' in r.value]
    assert sorted((label["event_id"], label["value"], label["ts"]) for label in labels) == [
        (f"row-{i}", i % 2, T0 + i * 43_200) for i in range(10)
    ]


def test_a_topic_that_is_not_there_is_said_before_anything_is_sent(weir: Weir, tmp_path: Path) -> None:
    found = weir("replay", lines_of(tmp_path / "user-events.jsonl", [event(1)]), "--topic", "user-event")
    assert found.status == 2
    assert "no topic user-event; there are:" in found.err
    assert "weir topics create" in found.err


def test_a_record_over_the_limit_is_counted_and_the_rest_arrives(weir: Weir, tmp_path: Path) -> None:
    topic = weir.make("large", 1)
    values = [b"1", b'"' + b"x" * 1_500_000 + b'"', b"2", b'"' + b"y" * 3_000_000 + b'"', b"3"]
    done = weir("replay", lines_of(tmp_path / "a.jsonl", values), "--topic", topic)
    assert (done.status, "2 records left out" in done.err) == (1, True), done.err
    assert [r.value for r in weir.read(topic)] == [b"1", b"2", b"3"]


def test_ctrl_c_ends_a_slow_replay_with_everything_acknowledged(weir: Weir, tmp_path: Path) -> None:
    topic = weir.make("interrupted", 1)
    path = lines_of(tmp_path / "a.jsonl", [event(i, T0 + i) for i in range(10_000)])
    with weir.spawn("replay", path, "--topic", topic, "--speed", "20") as process:
        with consumer(weir.settings, "test") as client:
            for _ in iter(lambda: len(list(read_present(client, topic, Start(None)))) >= 5, True):
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    sent = re.search(rb"Interrupted: sent ([\d,]+) to interrupted", err)
    assert sent is not None, err
    count = int(sent[1].replace(b",", b""))
    assert 5 <= count < 10_000
    assert [orjson.loads(r.value)["event_id"] for r in weir.read(topic)] == [f"e{i}" for i in range(count)]


# Tail


def test_tail_shows_the_last_records_of_all_partitions_and_filters(weir: Weir) -> None:
    topic = weir.make("tailed")
    weir.write(topic, [(b"u%d" % i, event(i, user=f"u{i}", properties={"page": "ab"[i % 2]})) for i in range(30)])
    newest = weir("tail", topic, "--from", "-4", "--no-follow", "--json").lines
    assert len(newest) == 4
    assert [r["ts"] for r in newest] == sorted(r["ts"] for r in newest)
    found = weir("tail", topic, "--from", "earliest", "--no-follow", "--json", "--filter", "properties.page=b").lines
    assert sorted(r["value"]["event_id"] for r in found) == sorted(f"e{i}" for i in range(1, 30, 2))
    assert (
        weir("tail", topic, "--from", "earliest", "--no-follow", "--json", "--filter", "key=u7").lines[0]["key"] == "u7"
    )
    assert len(weir("tail", topic, "--from", "earliest", "--no-follow", "-n", "3").out.splitlines()) == 3
    shown = weir("tail", topic, "--from", "earliest", "--no-follow", "--filter", "event_id=e9").out
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8}  [0-2]@\d+  u9  event_id=e9 purchase .*properties\.page=b\n", shown)


def test_tail_follows_until_ctrl_c(weir: Weir) -> None:
    topic = weir.make("followed", 2)
    weir.write(topic, [(b"old", b'{"n":0}')])
    with weir.spawn("tail", topic, "--from", "-1", "--json") as process:
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["key"] == "old"
        weir.write(topic, [(b"k%d" % i, b'{"n":%d}' % i) for i in range(1, 20)])
        numbers = {orjson.loads(process.stdout.readline())["value"]["n"] for _ in range(19)}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert numbers == set(range(1, 20))


def test_tail_refuses_what_it_cannot_do(weir: Weir) -> None:
    for arguments, words in (
        (["nothing"], "no topic nothing that you may read"),
        (["alerts", "--from", "12"], "--from '12'"),
        (["alerts", "--filter", "x"], "--filter 'x'"),
    ):
        found = weir("tail", *arguments, "--no-follow")
        assert (found.status, words in found.err) == (2, True), found.err
