"""Every message a user can meet, word for word: input here, text in ``expected/``.

After a change of words: ``WEIR_UPDATE_MESSAGES=1 pytest tests/messages``, then read the diff as somebody who did not
write it.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.online.codec.why_invalid import explain, explain_row
from weir.online.codec.wire import MODELS, REASON_CHARS, DeviceEvent, Label, UserEvent, WireModel
from weir.online.errors import TaskError
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import load_settings
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.task_files import load_task

EXPECTED = Path(__file__).parent / "expected"
TASK = """name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean"]
windows = ["1d"]
[model]
kind = "logistic"
"""
TASK_FILES: dict[str, tuple[str, str] | str] = {
    "empty": "",
    "JSON": '{"name": "fraud"}',
    "YAML": "---\nname: fraud\n",
    "a YAML line": "name: fraud\n",
    "a text without quotes": "name = fraud\n",
    "typographic quotes": "name = \u201cfraud\u201d\n",
    "True": "alerting = True\n",
    "a duration without quotes": "utc_offset = 1h\n",
    "a decimal comma": "x = 0,5\n",
    "a backslash": 'name = "C:\\data"\n',
    "no value": "name =\n",
    "a list that is not closed": 'types = ["a",\n"b"\n',
    "a table twice": "[model]\n[model]\n",
    "an unknown key": ('entity = "user"', 'entity = "user"\nspeed = 3'),
    "a misspelt key": ("windows =", "window ="),
    "a key in the wrong table": ('kind = "logistic"', 'kind = "logistic"\nlabel_delay = "1d"'),
    "a top key behind a table": ('kind = "logistic"', 'kind = "logistic"\ntypes = ["a"]'),
    "a parameter beside kind": ('kind = "logistic"', 'kind = "logistic"\nlr = 1'),
    "an unknown op": ('"mean"', '"maen"'),
    "no ops": ('ops = ["count", "mean"]', "ops = []"),
    "a text for a list": ('ops = ["count", "mean"]', 'ops = "count"'),
    "ops without windows": ('windows = ["1d"]\n', ""),
    "ops without a value": ('value = "amount"\n', ""),
    "a window out of range": ('"1d"', '"9999d"'),
    "a window that is none": ('"1d"', '"a day"'),
    "a name in upper case": ('name = "amount"', 'name = "Amount"'),
    "another entity": ('entity = "user"', 'entity = "usr"'),
    "a table for a list of tables": ("[[entities.aggregates]]", "[entities.aggregates]"),
    "a threshold of no kind": ("[model]", '[threshold]\nkind = "bugdet"\n[model]'),
    "a threshold without its number": ("[model]", '[threshold]\nkind = "budget"\n[model]'),
    "a number as text": ("[model]", '[labels]\nnegative_rate = "0,5"\n[model]'),
    "a number out of range": ("[model]", "[labels]\nnegative_rate = 0\n[model]"),
    "two mistakes": ('key = "user_id"', 'kee = "user_id"\nttl = "soon"'),
    "an unknown learner": ('"logistic"', '"logistik"'),
    "an unknown parameter": ('kind = "logistic"', 'kind = "logistic"\nparams = { l3 = 1 }'),
    "a parameter as text": ('kind = "logistic"', 'kind = "logistic"\nparams = { lr = "fast" }'),
    "an unknown function": ('value = "amount"', 'value = "sqr(amount)"'),
    "no expression": ('value = "amount"', 'value = "amount >"'),
    "an input that matches nothing": ("[[entities]]", 'inputs = ["amuont"]\n[[entities]]'),
    "a text as input": ("[[entities]]", 'inputs = ["channel"]\n[[entities]]'),
    "a share in percent": ("[model]", '[threshold]\nkind = "fixed"\nvalue = 80\n[model]'),
    "a share with its sign": ("[model]", '[labels]\nnegative_rate = "10%"\n[model]'),
    "a precision of 100 %": ("[model]", '[threshold]\nkind = "precision"\nprecision = 1.0\n[model]'),
    "an offset that is none": ('entity = "user"', 'entity = "user"\nutc_offset = "99h"'),
    "a parameter below 0": ('kind = "logistic"', 'kind = "logistic"\nparams = { lr = -0.1 }'),
    "an expression of another language": ('value = "amount"', 'value = "amount > 2 && amount < 5"'),
    "a condition": ('value = "amount"', 'value = "if(amount > 2, 1, 0)"'),
    "a number that is too large": ('value = "amount"', f'value = "amount * 1{"0" * 400}"'),
    "a text as value": ('value = "amount"', 'value = "country"'),
    "the type as value": ('value = "amount"', 'value = "type"'),
    "a type without letters": ('entity = "user"', 'entity = "user"\ntypes = [""]'),
    "a parameter of a detector": (
        "[model]",
        '[[entities.anomalies]]\nname = "odd"\nvalue = "amount"\nparams = { treshold = 3 }\n[model]',
    ),
}
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "a misspelt key": ('[kafka]\nbootstrp = "a:1"', {}),
    "an unknown table": ("[kafak]\nx = 1", {}),
    "a value for a table": ("kafka = 3", {}),
    "out of range": ("[topics]\npartitions = 0", {}),
    "none of the words": ('[worker]\nrole = "both"', {}),
    "a number or a word": ("[worker]\nweb_port = 70000", {}),
    "a duration or a word": ('[topics.override.alerts]\nretention = "7 parsecs"', {}),
    "letters": ('[redis]\nprefix = "a:b"', {}),
    "a secret": ("[kafka]\npassword = 12345", {}),
    "an unknown variable": ("", {"WEIR_KAFKA__BOOTSTRP": "a:1"}),
    "a variable with one underscore": ("", {"WEIR_KAFKA_BOOTSTRAP": "a:1"}),
    "a wrong variable": ("", {"WEIR_WORKER__MAX_BATCH": "many"}),
    "file and variable": ("[topics]\npartitions = 0", {"WEIR_WORKER__MAX_BATCH": "0"}),
    "no TOML": ("[kafka\n", {}),
}
EVENT = {"v": 1, "event_id": "e1", "type": "purchase", "user_id": "u1", "ts": 1_700_000_000}
READING = {"v": 1, "event_id": "e1", "device_id": "d1", "ts": 1_700_000_000, "metrics": {"temp": 21.5}}
LABEL = {"v": 1, "task": "fraud", "entity_id": "u1", "event_id": "e1", "ts": 1_700_000_000, "value": 1}
GOOD = json.dumps(EVENT).encode()


def event(**changes: object) -> tuple[type[WireModel], bytes]:
    return UserEvent, json.dumps(EVENT | changes).encode()


def reading(**changes: object) -> tuple[type[WireModel], bytes]:
    return DeviceEvent, json.dumps(READING | changes).encode()


def label(**changes: object) -> tuple[type[WireModel], bytes]:
    return Label, json.dumps(LABEL | changes).encode()


def bytes_of(raw: bytes) -> tuple[type[WireModel], bytes]:
    return UserEvent, raw


def wrapped(document: object) -> tuple[type[WireModel], bytes]:
    return UserEvent, json.dumps(document).encode()


LETTERS: dict[str, tuple[type[WireModel], bytes]] = {
    "empty": bytes_of(b""),
    "null": bytes_of(b"null"),
    "a BOM": bytes_of(b"\xef\xbb\xbf" + GOOD),
    "UTF-16 with a BOM": bytes_of(GOOD.decode().encode("utf-16")),
    "UTF-16 without": bytes_of(GOOD.decode().encode("utf-16-le")),
    "Latin-1": bytes_of('{"v": 1, "user_id": "Zo\xeb"}'.encode("latin-1")),
    "gzip": bytes_of(gzip.compress(GOOD)),
    "schema registry, Avro": bytes_of(b"\0\0\0\0\x11\x02e1\x10"),
    "schema registry, JSON": bytes_of(b"\0\0\0\0\x11" + GOOD),
    "Connect with its schema": wrapped({"schema": {"type": "struct"}, "payload": EVENT}),
    "Debezium": wrapped({"before": None, "after": EVENT, "op": "c", "source": {}}),
    "Debezium in Connect": wrapped({"schema": {}, "payload": {"before": None, "after": EVENT, "op": "c"}}),
    "CloudEvents, id and time outside": wrapped(
        {
            "specversion": "1.0",
            "id": "1",
            "source": "/",
            "type": "x",
            "time": "2026-01-01T00:00:00Z",
            "data": {key: held for key, held in EVENT.items() if key not in ("event_id", "ts")},
        }
    ),
    "CloudEvents, no whole event": wrapped(
        {"specversion": "1.0", "id": "1", "source": "/", "type": "x", "subject": "u1", "data": {"amount": 5}}
    ),
    "CloudEvents": wrapped({"specversion": "1.0", "id": "1", "source": "/", "type": "x", "data": EVENT}),
    "Logstash": wrapped({"@timestamp": "2024-03-01T12:00:00Z", "@version": "1", "message": GOOD.decode()}),
    "Pub/Sub": wrapped({"message": {"data": base64.b64encode(GOOD).decode(), "messageId": "1"}}),
    "SNS": wrapped({"Type": "Notification", "TopicArn": "arn", "Message": GOOD.decode()}),
    "CloudEvents, base64": wrapped({"specversion": "1.0", "id": "1", "data_base64": base64.b64encode(GOOD).decode()}),
    "Maxwell": wrapped({"database": "shop", "table": "p", "type": "insert", "ts": 1, "data": EVENT}),
    "SQS": wrapped({"Records": [{"body": GOOD.decode()}]}),
    "Kinesis": wrapped({"Records": [{"kinesis": {"data": base64.b64encode(GOOD).decode()}}]}),
    "EventBridge": wrapped({"detail-type": "x", "source": "shop", "time": "2024-03-01T12:00:00Z", "detail": EVENT}),
    "Telegraf": wrapped({"name": "cpu", "tags": {"host": "d1"}, "fields": {"temp": 1}, "timestamp": 1_700_000_000}),
    "OpenTelemetry": wrapped({"resourceMetrics": []}),
    "Debezium of another table": wrapped({"before": None, "after": {"id": 5}, "op": "c", "ts_ms": 1}),
    "a list inside": wrapped({"_embedded": {"events": [EVENT]}}),
    "an unknown envelope": wrapped({"topic": "x", "value": EVENT}),
    "an array": wrapped([EVENT, EVENT]),
    "NDJSON": bytes_of(GOOD + b"\n" + GOOD),
    "encoded twice": wrapped(GOOD.decode()),
    "base64": bytes_of(base64.b64encode(GOOD)),
    "UTF-32": bytes_of(GOOD.decode().encode("utf-32-be")),
    "a pickle": bytes_of(b"\x80\x04\x95\x10\0\0\0"),
    "Java": bytes_of(b"\xac\xed\0\x05t\0\x02e1"),
    "an Avro file": bytes_of(b"Obj\x01\x04\x16avro.codec"),
    "Protobuf without a frame": bytes_of(b"\n\x02e1\x12\x08purchase"),
    "quotes escaped": bytes_of(GOOD.replace(b'"', b'\\"')),
    "YAML": bytes_of(b"v: 1\nevent_id: e1\n"),
    "a form": bytes_of(b"v=1&event_id=e1&user_id=u1"),
    "Graphite": bytes_of(b"servers.a.cpu 21.5 1700000000"),
    "a Python dict": bytes_of(str(EVENT).encode()),
    "a Java map": bytes_of(b"{user_id=u1, ts=1700000000}"),
    "keys without quotes": bytes_of(b"{v: 1}"),
    "a last comma": bytes_of(b'{"v": 1,}'),
    "cut off": bytes_of(GOOD[:-9]),
    "CSV": bytes_of(b"e1,purchase,u1,1700000000"),
    "line protocol": bytes_of(b"temp,host=a value=21.5 1700000000000000000"),
    "XML": bytes_of(b"<event/>"),
    "words": bytes_of(b"hello"),
    "NaN": bytes_of(GOOD[:-1] + b', "amount": NaN}'),
    "nan": bytes_of(GOOD[:-1] + b', "amount": nan}'),
    "a number with a plus": bytes_of(GOOD[:-1] + b', "amount": +5}'),
    "a number with zeros": bytes_of(GOOD[:-1] + b', "properties": {"n": 007}}'),
    "a decimal comma": bytes_of(GOOD[:-1] + b', "amount": 12,50}'),
    "two records": bytes_of(GOOD + GOOD),
    "cut off in a text": bytes_of(GOOD[:40]),
    "Avro without a frame": bytes_of(b"\x02\x04e1\x10purchase\x04u1\x00\x00\x00\x40\xfc\x54\xd9\x41"),
    "a key twice": bytes_of(GOOD[:-1] + b', "v": 1}'),
    "no version": wrapped({key: value for key, value in EVENT.items() if key != "v"}),
    "version 2": event(v=2),
    "version as text": event(v="1"),
    "other names": wrapped({"v": 1, "eventId": "e1", "type": "x", "userId": "u1", "timestamp": 1.7e9}),
    "other names of a label": (
        Label,
        json.dumps({"v": 1, "task": "fraud", "user_id": "u1", "created_at": 1.7e9, "is_fraud": 1}).encode(),
    ),
    "other names of a reading": (
        DeviceEvent,
        json.dumps({"v": 1, "id": "e1", "sensor_id": "d1", "eventTime": 1.7e9, "readings": {}}).encode(),
    ),
    "milliseconds": event(ts=1_700_000_000_000),
    "microseconds": event(ts=1_700_000_000_000_000),
    "nanoseconds": event(ts=1_700_000_000_000_000_000),
    "milliseconds as text": event(ts="1700000000000"),
    "seconds as text": event(ts="1700000000"),
    "an unset clock": event(ts=0),
    "a date of a spreadsheet": event(ts=45_352.5),
    "after 2100": event(ts="2150-01-01T00:00:00Z"),
    "before 2000": event(ts="1999-12-31T23:00:00Z"),
    "no offset": event(ts="2024-03-01 12:00:00"),
    "a German date": event(ts="01.03.2024"),
    "no time": event(ts=None),
    "an amount as text": event(amount="12,50"),
    "an amount that is missing": event(amount="N/A"),
    "an amount with a currency": event(amount="$1,234.50"),
    "an amount out of range": event(amount=-5e12),
    "an infinite amount": bytes_of(GOOD[:-1] + b', "amount": 1e999}'),
    "Avro's union": event(amount={"double": 12.5}),
    "MongoDB's number": event(user_id={"$numberLong": "17"}),
    "an id as a number": event(user_id=17),
    "an id of 20 digits as a number": event(user_id=89490200001234567890),
    "an id with what is not seen": event(user_id="u1\u200b"),
    "an id that turns the text": event(user_id="u\u202e1"),
    "an id that is a dash": event(user_id="-"),
    "an id that is nil": event(user_id="00000000-0000-0000-0000-000000000000"),
    "MongoDB's time": event(ts={"$date": "2023-11-14T22:13:20Z"}),
    "an id that is empty": event(user_id=""),
    "an id that is null": event(user_id=None),
    "an id that says null": event(user_id="null"),
    "an event id that says NaN": event(event_id="NaN"),
    "an id that is too long": event(user_id="x" * 100),
    "a control character": event(user_id="a\tb"),
    "a list as property": event(properties={"tags": ["a"]}),
    "a null property": event(properties={"a": None}),
    "a reading as text": reading(metrics={"temp": "12.5"}),
    "a reading as true": reading(metrics={"on": True}),
    "a reading with its unit": reading(metrics={"temp": {"value": 21.5, "unit": "C"}}),
    "readings as a list": reading(metrics=[{"name": "temp", "value": 21.5}]),
    "a reading out of range": reading(metrics={"temp": 1e16}),
    "no readings": reading(metrics=None),
    "a label true": label(value=True),
    "a label as text": label(value="1"),
    "a label as a word": label(value="fraud"),
    "a label that says yes": label(value="Yes"),
    "a label that says no": label(value="n"),
    "a label that is not known": label(value=None),
    "a label of -1": label(value=-1),
    "a label as a float": label(value=1.0),
    "a label of no weight": label(weight=0),
}
COMMANDS = (
    "backtest",
    "backtest none.toml --data x.csv",
    "backtest . --data x.csv",
    "backtest utf16.toml --data x.csv",
    "backtest gz.toml --data x.csv",
    "backtest inputs.toml --data x.csv",
    "replay .",
    "replay empty --task spare.toml",
    "simulate --users 0",
    "simulate --seed x",
    "wroker",
    "tail user-events --limit -5",
    "worker --processes 0 none.toml",
    "worker --config none.toml",
    "dlq show 17",
)


def test_task_files(tmp_path: Path) -> None:
    def message(case: tuple[str, str] | str) -> str:
        text = case if isinstance(case, str) else TASK.replace(*case, 1)
        assert text != TASK
        with pytest.raises(TaskError) as caught:
            TaskPipeline(TaskSpec.from_toml(text, "fraud.toml"), MemoryFeatureStore())
        return str(caught.value)

    compare("task_files", {name: message(case) for name, case in TASK_FILES.items()})
    (tmp_path / "fraud.toml").write_text("\ufeff" + TASK, encoding="utf-8")
    assert load_task(tmp_path / "fraud.toml").name == "fraud", "a byte order mark does no harm"


def test_settings(tmp_path: Path) -> None:
    def message(text: str, environ: dict[str, str]) -> str:
        (tmp_path / "weir.toml").write_text(text)
        with pytest.raises(UsageError) as caught:
            load_settings(tmp_path / "weir.toml", environ)
        return str(caught.value).replace(f"{tmp_path}/", "")

    compare("settings", {name: message(*case) for name, case in SETTINGS.items()})


def test_dead_letters() -> None:
    found = {name: explain(model, raw) for name, (model, raw) in LETTERS.items()}
    assert all(found.values()), [name for name, reason in found.items() if reason is None]
    compare("dead_letters", {name: str(reason) for name, reason in found.items()})


RUN_EACH = """
import contextlib, io, json, sys
from weir.streams.cli.main import run
found = {}
for command in json.load(sys.stdin):
    sys.argv = ["weir", *command.split()]
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            run()
        except SystemExit as stopped:
            assert stopped.code == 2, (command, stopped.code)
    found[f"weir {command}"] = told.getvalue().splitlines()[-1]
json.dump(found, sys.stdout)
"""


def test_command_lines(tmp_path: Path) -> None:
    """In a process of their own: a command may set signals, logging and deadlines of its process."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "utf16.toml").write_bytes(TASK.encode("utf-16"))
    (tmp_path / "inputs.toml").write_text('inputs = ["amoun"]\n' + TASK)
    (tmp_path / "spare.toml").write_text(
        TASK + '[source]\ncolumns = { user_id = "who", amount = "eur" }\ntime = "at"\n'
    )
    (tmp_path / "gz.toml").write_bytes(gzip.compress(TASK.encode(), mtime=0))

    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH], input=json.dumps(COMMANDS), cwd=tmp_path, env=environ,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    compare("commands", json.loads(done.stdout))


def compare(name: str, found: dict[str, str]) -> None:
    """Hold ``found`` to the file of that name, one line each."""
    path, text = EXPECTED / f"{name}.txt", "".join(f"{case}\n    {message}\n" for case, message in found.items())
    if os.environ.get("WEIR_UPDATE_MESSAGES"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


KEYS = st.sampled_from(sorted({name for model in MODELS for name in model.model_fields} | {"payload", "data", "after"}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=300) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=70), inner, max_size=6),
    max_leaves=12,
)


@given(st.sampled_from(MODELS), st.dictionaries(KEYS | st.text(), JSON, max_size=8) | JSON)
def test_whatever_comes_has_a_reason_of_one_line(model: type[WireModel], document: Any) -> None:
    raw = json.dumps(document, default=repr).encode()
    for reason in (explain(model, raw), explain_row(model, document), explain(model, raw[:-1])):
        assert reason is None or (0 < len(reason) <= REASON_CHARS and "\n" not in reason), reason


def test_a_time_of_any_size_is_told() -> None:
    for ts in (10**400, -(10**400), float("nan"), float("inf"), "9" * 400, "1e400"):
        assert (explain_row(UserEvent, EVENT | {"ts": ts}) or "").startswith("ts: got ")


@given(st.binary(max_size=300))
def test_whatever_bytes_come_are_told_in_one_line(raw: bytes) -> None:
    for framed in (raw, b"\0" + raw, b"{" + raw, b'{"' + raw, b'"' + raw + b'"', base64.b64encode(raw)):
        reason = explain(UserEvent, framed)
        assert reason is None or (reason and "\n" not in reason), reason
