"""What tail shows and dlq groups, without a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.pages.wire_examples import decision_block
from tests.work import calls_of
from weir.online.codec.wire import DeadLetter
from weir.streams.config import topics
from weir.streams.config.settings import KafkaSettings, TopicSettings
from weir.streams.errors import UsageError
from weir.streams.kafka.admin import dead_letters
from weir.streams.kafka.admin.clients import kafka_module, unreachable
from weir.streams.kafka.admin.dead_letters import (
    Done,
    Letter,
    Place,
    Selection,
    grouped,
    letter_of,
    read_done,
    send_back,
)
from weir.streams.kafka.admin.printed_records import Match, as_json, filters, key_of, line
from weir.streams.kafka.admin.reader import Start
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord
from weir.streams.text import printable

T0 = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("user_id=u1", True), ("user_id=u2", False), ("key=k1", True), ("key=k2", False),
        ("amount=5", True), ("amount=5.0", True), ("amount=x", False),
        ("properties.page=a=b", True), ("features.user.spent_sum_1d=3", True),
        ("event_ids=e2", True), ("event_ids=e9", False), ("reasons.feature=hour", True), ("degraded=true", True),
        ("status=null", True), ("absent=", False), ("properties=x", False),
    ],
)  # fmt: skip
def test_a_filter_finds_fields_wherever_they_are(text: str, accepted: bool) -> None:
    document = {
        "user_id": "u1", "amount": 5, "properties": {"page": "a=b"}, "features": {"user.spent_sum_1d": 3.0},
        "event_ids": ["e1", "e2"], "reasons": [{"feature": "hour"}], "degraded": True, "status": None,
    }  # fmt: skip
    assert Match.parse(text).accepts(b"k1", document) is accepted


def test_filters_narrow_and_a_wrong_one_says_how_to_write_it() -> None:
    accepts = filters(["a=1", "b=2"])
    assert accepts(None, {"a": 1, "b": 2})
    assert not accepts(None, {"a": 1, "b": 3})
    assert filters([])(None, None)
    for text in ("user_id", "=3", ""):
        with pytest.raises(UsageError, match="FIELD=VALUE"):
            Match.parse(text)


@given(st.sampled_from([*topics.ALL, "other"]), st.none() | st.binary(max_size=300))
def test_any_bytes_are_one_harmless_line_and_valid_json(topic: str, value: bytes | None) -> None:
    text = line(topic, value)
    assert "\n" not in text
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
    assert json.loads(as_json(topic, 0, 1, 2.0, value, value))["offset"] == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=8), c, max_size=4),
)


@given(st.sampled_from(topics.ALL), st.dictionaries(st.sampled_from(["reasons", "features", "type", "x", "v"]), JSON))
def test_any_object_is_one_line_and_its_json_holds_it_whole(topic: str, document: dict[str, Any]) -> None:
    value = json.dumps(document).encode()
    assert "\n" not in line(topic, value)
    if not any("\ud800" <= c <= "\udfff" for c in json.dumps(document, ensure_ascii=False)):
        assert json.loads(as_json(topic, 0, 1, 2.0, b"k", value))["value"] == document


def test_a_block_of_decisions_is_shown_row_by_row_and_found_by_what_a_row_says() -> None:
    block = decision_block()
    assert line(topics.DECISIONS, block).startswith(
        'made_at=1.7e+09 decisions=[{"event_id":"pay-1","entity_id":"user-7"'
    )
    shown = json.loads(as_json(topics.DECISIONS, 2, 7, T0, b"fraud", block))["value"]
    assert key_of(topics.DECISIONS, shown) == b"fraud"
    alerted, other = shown["decisions"]
    assert (alerted["score"], alerted["threshold"], alerted["severity"]) == (0.93, 0.81, "high")
    assert alerted["reasons"][0]["text"] == "17 events in 1 h (usually 2)"
    assert other == {"event_id": "pay-2", "entity_id": "user-9", "ts": T0, "score": 0.12, "threshold": 0.81,
                     "model_version": 41_200}  # fmt: skip
    accepts = filters(["decisions.event_id=pay-2", "task=fraud"])
    assert accepts(b"fraud", shown)
    assert not filters(["decisions.alert_id=fraud:user-9:pay-2"])(b"fraud", shown)


def test_lines_start_with_what_tells_most() -> None:
    alert = b'{"v":1,"alert_id":"a","task":"fraud","entity_id":"u1","status":"open","severity":"high","score":0.91,' \
            b'"threshold":0.8,"reasons":[{"feature":"hour","text":"at night"}],"event_ids":["e1"]}'  # fmt: skip
    assert line(topics.ALERTS, alert).startswith("fraud open high score=0.91  ")
    assert "at night" in line(topics.ALERTS, alert)
    assert "entity_id" not in line(topics.ALERTS, alert), "it is the key, which has a column of its own"
    assert printable("x" * 500, 160).endswith("...")
    assert len(printable("x" * 500, 160)) == 160


def test_starts() -> None:
    assert [Start.parse(t).back for t in ("earliest", "latest", "-1", "-500")] == [None, 0, 1, 500]
    for text in ("5", "-", "newest", "--5"):
        with pytest.raises(UsageError, match="earliest, latest, or -N"):
            Start.parse(text)


def letter(offset: int, reason: str, topic: str = topics.USER_EVENTS, done: Done | None = None) -> Letter:
    content = DeadLetter(topic=topic, partition=2, offset=offset, reason=reason, raw=b"x", failed_at=T0 + offset)
    return Letter(Place(topics.DEAD_LETTERS, 0, 100 + offset), content, done)


def test_letters_group_by_what_their_reasons_have_in_common() -> None:
    letters = [letter(i, f"amount: got {i * 100}; give a number from 0 to 5") for i in range(3)]
    letters += [letter(i, f"late: {wait} s behind the newest event, allowed 1d") for i, wait in ((7, 400), (9, 9.5))]
    letters += [letter(5, "late: 1 s behind the newest event, allowed 1d", topics.DEVICE_EVENTS)]
    groups = grouped(letters)
    assert [(g.topic, g.count) for g in groups] == [("user-events", 3), ("user-events", 2), ("device-events", 1)]
    assert groups[0].kind == "amount: got ...; give a number from 0 to 5"
    assert groups[1].newest is not None
    assert groups[1].newest.content.offset == 9


def test_a_selection_takes_ids_of_letters_and_of_records_but_only_open_ones() -> None:
    one, done = letter(4, "not JSON"), letter(5, "Not json at all", done=Done("replayed", T0))
    for text in ("0-104", "dead-letters-0-104", "user-events-2-4"):
        assert Selection(places=frozenset({Place.parse(text)})).accepts(one)
    assert not Selection(places=frozenset({Place.parse("user-events-2-5")})).accepts(one)
    assert not Selection().accepts(done)
    assert Selection(done=True, reason="JSON").accepts(done)
    assert not Selection(topic=topics.LABELS).accepts(one)
    assert not Selection(reason="amount").accepts(one)


@pytest.mark.parametrize("text", ["", "17", "user-events", "user-events-3", "0-x", "-1-2-"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no id"):
        Place.parse(text)


@pytest.mark.parametrize("key", [b"", b"u1", b"\xff\x00"])
def test_a_hosts_letter_keeps_the_key_of_its_record(key: bytes) -> None:
    refused = RefusedRecord(17, "not JSON", Record(key, b"\xff{", T0))
    record = dead_letter(topics.USER_EVENTS, 3, refused, T0, 1_000)
    found = letter_of(record.value, Place(topics.DEAD_LETTERS, 0, 3), T0)
    assert (found.key, found.raw, found.partition, found.offset) == (key, b"\xff{", 3, 17)
    old = orjson.loads(record.value)
    old.pop("key", None)  # as letters were written before they had one
    assert letter_of(orjson.dumps(old), Place(topics.DEAD_LETTERS, 0, 3), T0).key is None


@pytest.mark.parametrize("topic", sorted({*topics.ALL, "orders"} - {*topics.INPUTS}))
def test_a_letter_goes_back_to_topics_of_inputs_only(topic: str) -> None:
    """A forged letter would else be a record of ``model-updates`` or ``examples``; nothing at all is sent."""
    both = [letter(1, "not JSON"), letter(2, "not JSON", topic)]
    with pytest.raises(UsageError, match="letters go back to labels, user-events, device-events only"):
        next(send_back(None, both, {*topics.ALL, topic}, T0, TopicSettings()))


@given(st.binary(max_size=50))
def test_whatever_lies_in_the_topic_is_a_letter(value: bytes) -> None:
    found = letter_of(value, Place(topics.DEAD_LETTERS, 0, 3), T0)
    assert found.raw == value
    assert "not a dead letter" in found.reason


@pytest.mark.parametrize(
    ("topic", "document", "key"),
    [
        (topics.USER_EVENTS, {"user_id": "u1", "device_id": "d1"}, b"u1"),
        (topics.DEVICE_EVENTS, {"device_id": "d1"}, b"d1"),
        (topics.LABELS, {"entity_id": "ü"}, "ü".encode()),
        (topics.PREDICTIONS, {"entity_id": "x"}, b"x"),
        (topics.EXAMPLES, {"task": "fraud"}, b"fraud"),
        (topics.USER_EVENTS, {"user_id": ""}, None),
        (topics.USER_EVENTS, ["u1"], None),
        ("other", {"user_id": "u1"}, None),
    ],
)
def test_keys_are_the_entity_that_owns_the_partition(topic: str, document: Any, key: bytes | None) -> None:
    assert key_of(topic, document) == key


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([], "no answer"),
        (["Connection failed: KafkaConnectionError: 111 ECONNREFUSED"], "Nothing listens there"),
        (["Connection failed: KafkaConnectionError: DNS Resolution failure"], "host name is not known"),
        (["Broker version identified as 4.3", "Connection lost: socket disconnected"], "refused user 'weir'"),
        (["Connection failed: KafkaConnectionError: Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] x"], "ca_file"),
        (["Connection failed: KafkaConnectionError: Handshake failed: [SSL: EOF] x"], "does not speak TLS"),
    ],
)  # fmt: skip
def test_an_unreachable_broker_is_explained(seen: list[str], words: str) -> None:
    settings = KafkaSettings.model_validate(
        {
            "bootstrap": "kafka-1:9092",
            "security_protocol": "SASL_SSL",
            "username": "weir",
            "password": "hush",
            "timeout_s": 4,
        }
    )
    message = unreachable(settings, seen)
    assert message.startswith("no broker reachable at kafka-1:9092 within 4 s: ")
    assert words in message
    assert "hush" not in message


def test_a_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match=r"pip install 'weir\[kafka\]'"):
        kafka_module("kafka_that_is_not_installed")


def test_grouping_costs_each_letter_the_same_however_many_there_are() -> None:
    letters = [letter(i, f"amount: got {i}") for i in range(2_000)]
    assert grouped(letters)[0].count == 2_000
    assert calls_of(lambda: grouped(letters)) <= 2 * calls_of(lambda: grouped(letters[:1_000]))


def test_without_kafka_python_the_other_commands_work_and_these_say_what_to_install() -> None:
    program = (
        "import sys; sys.modules['kafka'] = None\n"
        "from weir.streams.cli import main\n"
        "for command in ('--version', 'topics check', 'tail alerts', 'dlq list'):\n"
        "    sys.argv[1:] = command.split()\n"
        "    try:\n"
        "        main.run()\n"
        "    except SystemExit as end:\n"
        "        print(command, 'ended with', end.code, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout.count("\n"), done.stdout.startswith("weir ")) == (1, True), done.stdout
    first, *others = done.stderr.splitlines()
    assert first == "--version ended with 0"
    refused = ("topics check", "tail alerts", "dlq list")
    for command, error, ended in zip(refused, others[::2], others[1::2], strict=True):
        assert error.startswith("error: this command needs kafka-python"), error
        assert "pip install 'weir[kafka]'" in error
        assert ended == f"{command} ended with 2"


def test_what_somebody_else_wrote_among_the_markers_marks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Marker:
        def __init__(self, key: bytes | None, value: bytes) -> None:
            self.key, self.value = key, value

    marker = orjson.dumps({"v": 1, "action": "dropped", "at": T0})
    there = [Marker(key, marker) for key in (b"0-17", b"\xff\xfe", b"hello", b"0-" + b"9" * 5_000, b"", None)]
    monkeypatch.setattr(dead_letters, "read_present", lambda *_: [*there, Marker(b"0-18", b"hello")])
    assert read_done(None, TopicSettings()) == {Place(topics.DEAD_LETTERS, 0, 17): Done("dropped", T0)}


@pytest.mark.parametrize("depth", [1, 16, 17, 250, 300, 1_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"k":', b"}")])
def test_a_record_of_many_levels_is_one_line_all_the_same(depth: int, opening: bytes, closing: bytes) -> None:
    value = b'{"event_id":"e1","k":' + opening * depth + b"1" + closing * depth + b"}"
    shown = line(topics.USER_EVENTS, value)
    assert shown.startswith("event_id=e1 k")
    assert len(shown) < 400
    assert as_json(topics.USER_EVENTS, 0, 0, T0, b"u1", value).endswith(value + b"}")
