"""The commands that talk to Kafka, against real brokers: one open, one that wants SASL over TLS."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from online.columns import ColumnRequest
from online.decode import decode_user_events
from online.errors import WeirError
from online.intake import Intake, IntakePolicy
from streams import topics
from streams.admin import letters as letters_module
from streams.admin.clients import admin_client, consumer, producer
from streams.admin.reading import Start, read_present
from streams.cli.main import app
from streams.host.outputs import dead_letter
from streams.settings import KafkaSettings
from tests.integration.kafka_broker import Broker, JavaBroker, NoKafka, find_jars, free_ports, unavailable
from tests.integration.kafka_secrets import Secrets

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
T0 = 1_700_000_000.0
NOW = 1_790_000_000.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Its output, one JSON object a line."""
        return [orjson.loads(text) for text in self.out.splitlines()]


class Weir:
    """Runs ``weir`` in this process, as ``streams.cli.main.run`` would."""

    def __init__(self, settings: KafkaSettings, environ: dict[str, str]) -> None:
        self.settings, self.environ = settings, environ

    def __call__(self, *arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(arguments), env=self.environ | (env or {}), input=stdin)
        if isinstance(result.exception, WeirError):
            return Outcome(2, result.stdout, f"{result.stderr}error: {result.exception}")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of its own, for signals."""
        command = [sys.executable, "-m", "streams.cli.main", *arguments]
        environ = os.environ | self.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self, topic: str) -> list[Any]:
        """Every record that is in a topic now."""
        with consumer(self.settings, "test") as client:
            return list(read_present(client, topic, Start(None)))

    def make(self, topic: str, partitions: int = 3) -> str:
        with admin_client(self.settings) as admin:
            admin.create_topics(
                {topic: {"num_partitions": partitions, "replication_factor": 1}}, wait_for_metadata=True
            )
        return topic

    def write(self, topic: str, records: list[tuple[bytes | None, bytes]]) -> list[tuple[int, int]]:
        """Append records; where each went."""
        with producer(self.settings, "test") as client:
            sent = [client.send(topic, value=value, key=key) for key, value in records]
            return [(found.partition, found.offset) for found in (future.get() for future in sent)]


@pytest.fixture(scope="module")
def weir(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weir]:
    """``weir`` on the brokers of the session, with Weir's topics made; on one of its own where they are the user's."""
    broker = kafka if kafka.can_restart else own_broker(tmp_path_factory.mktemp("kafka-cli") / "broker")
    settings = KafkaSettings(bootstrap=(broker.address,))
    found = Weir(settings, {"WEIR_KAFKA__BOOTSTRAP": broker.address})
    try:
        assert found("topics", "create").status == 0
        yield found
        with admin_client(settings) as admin:
            admin.delete_topics([topic for topic in admin.list_topics() if topic in topics.ALL])
    finally:
        if broker is not kafka:
            broker.stop()


def own_broker(directory: Path) -> Broker:
    try:
        broker = JavaBroker(find_jars(), directory)
    except NoKafka as reason:
        unavailable(str(reason))
    broker.start()
    return broker


@pytest.fixture
def failing_links() -> Iterator[None]:
    """Lets go of the sockets that kafka-python forgets when a connection is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def event(number: int, ts: float = T0, user: str = "u1", **more: Any) -> bytes:
    fields = {"v": 1, "event_id": f"e{number}", "type": "purchase", "user_id": user, "ts": ts, "amount": 5.0}
    return orjson.dumps(fields | more)


def lines_of(path: Path, values: list[bytes]) -> str:
    path.write_bytes(b"".join(value + b"\n" for value in values))
    return str(path)


# Topics


def test_create_may_be_run_again_and_check_agrees(weir: Weir) -> None:
    again = weir("topics", "create")
    assert again.status == 0
    assert again.out.count("exists") == len(topics.ALL)
    assert "0 created" in again.err
    checked = weir("topics", "check", "--json")
    assert (checked.status, orjson.loads(checked.out)) == (0, {"ok": True, "differences": []})


def test_check_finds_what_somebody_changed_and_create_alter_mends_it(weir: Weir) -> None:
    changed = {"WEIR_TOPICS__OVERRIDE__ALERTS__RETENTION": "3d"}
    found = weir("topics", "check", env=changed)
    assert found.status == 1
    assert re.search(r"alerts\s+retention\.ms\s+3d\s+30d\s+weir topics create --alter", found.out)
    assert "would be altered" in weir("topics", "create", "--alter", "--dry-run", env=changed).out
    assert weir("topics", "check", env=changed).status == 1, "a dry run changes nothing"
    assert "altered: retention.ms" in weir("topics", "create", "--alter", env=changed).out
    assert weir("topics", "check", env=changed).status == 0
    assert weir("topics", "create", "--alter").status == 0
    assert weir("topics", "check").status == 0


def test_partitions_that_differ_are_said_with_what_to_do(weir: Weir) -> None:
    found = weir("topics", "check", "--json", env={"WEIR_TOPICS__PARTITIONS": "4"})
    assert found.status == 1
    differences = orjson.loads(found.out)["differences"]
    assert {d["topic"] for d in differences} == {
        "user-events", "device-events", "labels", "predictions", "alerts", "entity-updates",
        "inference-requests", "inference-results",
    }  # fmt: skip
    assert all("partitions = 6" in d["fix"] for d in differences)


def test_more_copies_than_brokers_are_refused_before_anything_happens(weir: Weir) -> None:
    found = weir("topics", "create", env={"WEIR_TOPICS__REPLICATION": "3"})
    assert found.status == 2
    assert "replication = 3 needs as many brokers, there is 1" in found.err


def test_describe_shows_offsets_and_the_lag_of_groups(weir: Weir) -> None:
    from kafka import KafkaConsumer, TopicPartition
    from kafka.structs import OffsetAndMetadata

    topic = weir.make("described", 2)
    sent = weir.write(topic, [(b"k%d" % i, b"{}") for i in range(50)])
    ends = {p: sum(partition == p for partition, _ in sent) for p in (0, 1)}
    client = KafkaConsumer(bootstrap_servers=list(weir.settings.bootstrap), group_id="slow", enable_auto_commit=False)
    client.assign([TopicPartition(topic, 0)])
    client.commit({TopicPartition(topic, 0): OffsetAndMetadata(3, "", -1)})
    client.close()
    found = orjson.loads(weir("topics", "describe", topic, "--json").out)
    assert {p["partition"]: p["end"] for p in found["partitions"]} == ends
    assert all(p["leader"] == 1 and p["in_sync"] == [1] and p["size_bytes"] > 0 for p in found["partitions"])
    (group,) = found["groups"]
    assert (group["group"], group["lag"], group["uncommitted"]) == ("slow", 50 - 3, [1])
    worst = max((ends[0] - 3, 0), (ends[1], 1))
    assert (group["worst_lag"], group["worst"]) == worst
    shown = weir("topics", "describe", topic).out
    assert re.search(r"slow\s+empty\s+0\s+described\s+47", shown)


def test_describing_a_topic_that_is_not_there_says_what_is_near_or_which_are(weir: Weir) -> None:
    found = weir("topics", "describe", "user-event")
    assert found.status == 2
    assert "no topic user-event; did you mean user-events" in found.err
    assert re.search(r"no topic zzz; there are: .*\balerts, ", weir("topics", "describe", "zzz").err)


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


# Dead letters


def bury(weir: Weir, refused: list[tuple[str, int, int, str, bytes, bytes | None]]) -> list[str]:
    """Write dead letters as the hosts do; the ids of the letters."""
    records = [dead_letter(t, p, o, why, raw, NOW, key) for t, p, o, why, raw, key in refused]
    return [f"{p}-{o}" for p, o in weir.write(topics.DEAD_LETTERS, [(r.key, r.value) for r in records])]


@pytest.fixture
def clean(weir: Weir) -> Weir:
    """No open letters."""
    assert weir("dlq", "drop", "--all", "--yes").status == 0
    return weir


def test_letters_are_listed_by_topic_and_reason_and_shown_by_either_id(clean: Weir) -> None:
    raw = event(1, amount=-4)
    ids = bury(clean, [("user-events", 2, 70 + i, f"amount: too small, got {i}", raw, b"u1") for i in range(3)])
    bury(clean, [("device-events", 0, 5, "not JSON", b"\xff\x1b[2J", None)])
    groups = orjson.loads(clean("dlq", "list", "--json").out)
    assert [(g["topic"], g["reason"], g["count"]) for g in groups] == [
        ("user-events", "amount: too small", 3),
        ("device-events", "not JSON", 1),
    ]
    each = clean("dlq", "list", "--each", "--topic", "user-events", "--json").lines
    assert [e["origin"] for e in each] == ["user-events-2-70", "user-events-2-71", "user-events-2-72"]
    for letter_id in (ids[1], f"dead-letters-{ids[1]}", "user-events-2-71"):
        page = clean("dlq", "show", letter_id)
        assert page.status == 0
        assert "amount: too small, got 1" in page.out
        assert '"amount": -4' in page.out
        assert "u1" in page.out
    shown = clean("dlq", "show", "device-events-0-5").out
    assert "not JSON: \\xff\\x1b[2J" in shown
    assert "\x1b" not in shown
    missing = clean("dlq", "show", "user-events-9-9")
    assert (missing.status, "no dead letter user-events-9-9" in missing.err) == (2, True)


def test_a_replay_sends_the_same_bytes_under_the_same_key_once(clean: Weir) -> None:
    raws = [event(100 + i, user=f"w{i}") for i in range(20)]
    places = clean.write(topics.USER_EVENTS, [(b"w%d" % i, raw) for i, raw in enumerate(raws)])
    bury(clean, [("user-events", p, o, "unknown field", raws[i], b"w%d" % i) for i, (p, o) in enumerate(places)])
    (kept,) = bury(clean, [("labels", 4, 1, "no such task", b"junk without a key", None)])
    before = len(clean.read(topics.USER_EVENTS))
    dry = clean("dlq", "replay", "--topic", "user-events", "--dry-run")
    assert (dry.status, "nothing done (--dry-run)" in dry.err) == (0, True)
    assert len(clean.read(topics.USER_EVENTS)) == before
    done = clean("dlq", "replay", "--topic", "user-events", "--yes")
    assert (done.status, "replayed 20 dead letters" in done.err) == (0, True), done.err
    sent = {r.value: r for r in clean.read(topics.USER_EVENTS) if r.headers}
    assert set(sent) == set(raws)
    for i, raw in enumerate(raws):
        assert (sent[raw].key, sent[raw].partition) == (b"w%d" % i, places[i][0]), "the entity's partition again"
        assert sent[raw].headers[0][0] == letters_module.REPLAYED_FROM
    again = clean("dlq", "replay", "--topic", "user-events", "--yes")
    assert (again.status, "nothing done" in again.err) == (0, True)
    assert len(clean.read(topics.USER_EVENTS)) == before + 20
    assert [e["id"] for e in clean("dlq", "list", "--each", "--json").lines] == [f"dead-letters-{kept}"]
    assert {e["state"] for e in clean("dlq", "list", "--each", "--done", "--json", "--reason", "unknown").lines} >= {
        "replayed"
    }
    assert clean("dlq", "replay", "labels-4-1").status == 0
    (found,) = [r for r in clean.read(topics.LABELS) if r.value == b"junk without a key"]
    assert (found.key, found.partition) == (None, 4), "no key is known: the partition it was in"


def test_a_replay_that_dies_before_its_markers_sends_twice_and_the_intake_drops_the_repeat(
    clean: Weir, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(clean, [("user-events", 1, 999, "unknown field", event(777, user="twice"), b"twice")])

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(letters_module, "mark", die)
        assert clean("dlq", "replay", "user-events-1-999").status == 130
    assert clean("dlq", "replay", "user-events-1-999").status == 0
    sent = [r.value for r in clean.read(topics.USER_EVENTS) if r.key == b"twice"]
    assert len(sent) == 2
    decoded = decode_user_events(sent, ColumnRequest())
    admitted = Intake(IntakePolicy()).admit(decoded.batch, np.full(2, T0))
    assert (admitted.batch.event_id, admitted.duplicates) == (["e777"], 1)


def test_dropped_letters_stay_readable_and_are_not_replayed(clean: Weir) -> None:
    (letter_id,) = bury(clean, [("user-events", 0, 1, "not JSON", b"{", None)])
    assert "dropped 1 dead letters" in clean("dlq", "drop", letter_id).err
    assert "dropped at" in clean("dlq", "show", letter_id).out
    refused = clean("dlq", "replay", letter_id)
    assert (refused.status, f"no open dead letter dead-letters-{letter_id}" in refused.err) == (2, True)


def test_letters_that_cannot_go_back_stop_a_replay_before_its_chunk(clean: Weir) -> None:
    bury(clean, [("gone-topic", 0, 1, "not JSON", b"{", None)])
    refused = clean("dlq", "replay", "--all", "--yes")
    assert (refused.status, "its topic gone-topic does not exist" in refused.err) == (2, True)
    clean("dlq", "drop", "--all", "--yes")
    clean.write(topics.DEAD_LETTERS, [(None, b"what is this")])
    assert "this record is not a dead letter" in clean("dlq", "list").out
    assert clean("dlq", "replay", "--all", "--yes").status == 2


def test_dlq_wants_to_know_which_letters_and_whether_you_are_sure(clean: Weir) -> None:
    bury(clean, [("user-events", 0, 1, "not JSON", b"{", None)])
    for arguments in ((), ("--all", "--topic", "x")):
        refused = clean("dlq", "drop", *arguments)
        assert (refused.status, "say which letters" in refused.err) == (2, True)
    assert "nothing done" in clean("dlq", "drop", "--all", stdin=b"n\n").err
    unanswered = clean("dlq", "drop", "--all")
    assert (unanswered.status, "give --yes" in unanswered.err) == (2, True)
    assert "dropped 1" in clean("dlq", "drop", "--all", stdin=b"y\n").err


# Security and trouble


Secured = tuple[Broker, Secrets]


def config_of(path: Path, broker: Broker, secrets: Secrets, user: str, **changes: str) -> str:
    kafka = {
        "bootstrap": broker.address, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512",
        "username": user, "password": secrets.users[user], "ca_file": str(secrets.ca_file),
        "timeout_s": "15",
    } | changes  # fmt: skip
    path.write_text("[kafka]\n" + "".join(f'{key} = "{value}"\n' for key, value in kafka.items() if value))
    return str(path)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_everything_works_over_sasl_and_tls(secure_kafka: Secured, tmp_path: Path, mechanism: str) -> None:
    broker, secrets = secure_kafka
    weir = Weir(KafkaSettings(), {})
    config = ("--config", config_of(tmp_path / "weir.toml", broker, secrets, "admin", sasl_mechanism=mechanism))
    assert weir("topics", "create", *config).status == 0
    assert weir("topics", "check", *config).status == 0
    path = lines_of(tmp_path / "user-events.jsonl", [event(i, user=mechanism) for i in range(10)])
    assert weir("replay", path, *config).status == 0
    tailed = weir(
        "tail", "user-events", "--from", "earliest", "--no-follow", "--json", "--filter", f"key={mechanism}", *config
    )
    assert sorted(r["value"]["event_id"] for r in tailed.lines) == [f"e{i}" for i in range(10)]
    assert weir("dlq", "list", *config).status == 0


@pytest.mark.usefixtures("failing_links")
def test_links_that_fail_say_why_and_show_no_password(secure_kafka: Secured, tmp_path: Path) -> None:
    broker, secrets = secure_kafka
    weir, path = Weir(KafkaSettings(), {}), tmp_path / "weir.toml"
    wrong: list[tuple[dict[str, str], str]] = [
        ({"password": "hush-hush"}, "The broker refused user 'admin': check username, password"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, "sasl_mechanism = SCRAM-SHA-256"),
        ({"ca_file": ""}, "Set ca_file in [kafka]"),
        ({"security_protocol": "PLAINTEXT", "username": "", "password": "", "ca_file": ""}, "it may want TLS or SASL"),
    ]
    for changes, words in wrong:
        found = weir(
            "topics", "check", "--config", config_of(path, broker, secrets, "admin", timeout_s="1.5", **changes)
        )
        assert found.status == 2
        assert f"no broker reachable at {broker.address} within 1.5 s" in found.err
        assert words in found.err
        assert "hush" not in found.err


def test_a_user_without_rights_is_told_which_principal_needs_them(secure_kafka: Secured, tmp_path: Path) -> None:
    broker, secrets = secure_kafka
    weir = Weir(KafkaSettings(), {})
    config = config_of(tmp_path / "weir.toml", broker, secrets, "reader")
    created = weir("topics", "create", "--config", config)
    assert (created.status, "User:reader" in created.err) == (2, True), created.err
    hidden = weir("tail", "user-events", "--config", config, "--no-follow")
    assert (hidden.status, "no topic user-events that you may read" in hidden.err) == (2, True)


@pytest.mark.usefixtures("failing_links")
def test_a_broker_that_is_not_there_is_named_with_what_to_check(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    weir = Weir(KafkaSettings(), {"WEIR_KAFKA__BOOTSTRAP": address, "WEIR_KAFKA__TIMEOUT_S": "1.5"})
    for command in (
        ("topics", "check"),
        ("tail", "alerts"),
        ("dlq", "list"),
        ("replay", lines_of(tmp_path / "x", [b"1"])),
    ):
        found = weir(*command)
        assert found.status == 2
        assert f"no broker reachable at {address} within 1.5 s" in found.err
        assert "Nothing listens there" in found.err


def test_no_thread_is_left_behind(weir: Weir) -> None:
    before = threading.active_count()
    assert weir("topics", "check").status == 0
    assert weir("dlq", "list").status == 0
    assert threading.active_count() <= before
