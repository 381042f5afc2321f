"""`weir.client` and the commands on it, over a real socket."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest
from typer.testing import CliRunner

from tests.integration.kafka_node import free_ports
from tests.service.running import EVENT, listening, make_service
from tests.service.store_records import alert
from weir.client import AsyncClient, Client, ServiceError
from weir.online.errors import WeirError
from weir.online.task.spec import TaskSpec
from weir.streams.cli.app import app
from weir.streams.cli.service.alerts import alerts_app
from weir.streams.cli.service.sent_bodies import bodies_of_lines, bodies_of_tables
from weir.streams.client import calls
from weir.streams.client import client as clients
from weir.streams.config import topics
from weir.streams.replay.replayed_files import TableSource
from weir.streams.service.feed import feed_client

pytestmark = pytest.mark.anyio
TABLE_TASK = """
name = "storno"
entity = "customer"
inputs = ["amount", "customer.*"]
model = { kind = "logistic" }
[[entities]]
name = "customer"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["mean"], windows = ["7d"] }]
[source]
columns = { user_id = "Kunde", amount = "Betrag" }
constants = { type = "purchase" }
time = "Zeit"
event_id = "Nr"
label = "Storno"
positive = ["ja"]
label_delay = "2d"
"""
BAD = {**EVENT, "event_id": "e2", "amount": "nine"}


async def test_records_are_sent_and_each_is_told(tmp_path: Path) -> None:
    async with listening(make_service(tmp_path)) as port, AsyncClient(f"http://127.0.0.1:{port}") as client:
        told = await client.send_events([EVENT, BAD, EVENT])
        assert (told.accepted, told.repeats, told.refused) == (1, 1, 1)
        assert [(one.index, one.status) for one in told.results] == [(1, "refused"), (2, "repeat")]
        assert told.results[0].reason.startswith("amount: got 'nine'")
        assert (await client.send_events([BAD])).refused == 1  # a problem of the API, and an answer here
        label = {"v": 1, "task": "fraud", "entity_id": "u1", "event_id": "e1", "ts": 1.7e9, "value": 1}
        assert (await client.send_labels([label])).accepted == 1


async def test_a_refusal_is_an_error_with_the_problem(tmp_path: Path) -> None:
    async with listening(make_service(tmp_path)) as port:
        with Client(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(ServiceError, match="no task 'fruad'") as refused:
                await asyncio.to_thread(client.get, "/v1/tasks/fruad")
            assert (refused.value.status, refused.value.problem["value"]) == (404, "fruad")


async def test_nobody_waits_after_the_last_try(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[float]()

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    def busy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"title": "Overloaded"}, headers={"Retry-After": "30"})

    transport, options = httpx.MockTransport(busy), calls.options
    monkeypatch.setattr(calls, "options", lambda *given: options(*given) | {"transport": transport})
    monkeypatch.setattr(clients, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(clients, "asyncio", SimpleNamespace(sleep=wait))
    with Client() as client, pytest.raises(ServiceError, match="Overloaded"):
        client.get("/v1/tasks")
    async with AsyncClient() as other:
        with pytest.raises(ServiceError, match="Overloaded"):
            await other.get("/v1/tasks")
    assert waited == [30.0] * 8, "five times each"


async def test_a_feed_that_had_begun_goes_on_when_a_proxy_finds_no_service_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = {"type": "alert", "topic": "alerts", "partition": 0, "ts": 1.0}
    events = [f"retry: 0\nid: 0.a{n}\ndata: {json.dumps(place | {'offset': n})}\n\n" for n in range(2)]
    answers = iter([httpx.Response(200, text=events[0]), httpx.Response(502), httpx.Response(200, text=events[1])])
    transport, options = httpx.MockTransport(lambda _: next(answers)), calls.options
    monkeypatch.setattr(calls, "options", lambda *given: options(*given) | {"transport": transport})
    with Client() as client:
        feed = client.feed()
        assert [next(feed).offset, next(feed).offset] == [0, 1]
    answers = iter([httpx.Response(502)])
    with Client() as client, pytest.raises(ServiceError, match="Bad Gateway"):
        next(client.feed())


class Ended(NamedTuple):
    status: int
    output: str
    errors: str


async def process(*arguments: str, stdin: bytes = b"") -> Ended:
    """``weir`` in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    words = [sys.executable, "-m", "weir.streams.cli.main", *arguments]
    started = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    output, errors = await started.communicate(stdin)
    assert started.returncode is not None
    return Ended(started.returncode, output.decode(), " ".join(errors.decode().split()))


async def command(*arguments: str) -> Ended:
    """``weir`` in this process: most of another one would be imports."""
    done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    status, errors = done.exit_code, done.stderr
    if isinstance(done.exception, WeirError):
        status, errors = 2, f"{errors} error: {done.exception}"
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ended(status, done.stdout, " ".join(errors.split()))


async def test_weir_send_says_what_became_of_the_lines(tmp_path: Path) -> None:
    lines, good = tmp_path / "events.jsonl", [{**EVENT, "event_id": f"e{n}"} for n in range(600)]
    lines.write_text("\n".join(map(json.dumps, [*good, BAD | {"event_id": "x"}, good[0]])))
    async with listening(make_service(tmp_path / "data")) as port:
        sent = await command("send", str(lines), "--url", f"http://127.0.0.1:{port}")
        assert sent.status == 1
        assert "600 accepted, 1 repeats, 1 refused" in sent.errors
        assert f"{lines}, record 601: amount: got 'nine'" in sent.errors
        piped = await process("send", "-", "--url", f"http://127.0.0.1:{port}", stdin=lines.read_bytes())
        assert "0 accepted, 601 repeats, 1 refused" in piped.errors
        # What broke off says how far it came.
        broken = await process("send", str(lines), str(tmp_path / "none"), "--url", f"http://127.0.0.1:{port}")
        assert broken.status == 2
        assert "0 accepted, 601 repeats, 1 refused" in broken.errors
        stranger = await command("send", str(lines), "--url", f"http://127.0.0.1:{port}", "--key", "wrong")
        assert f"0 accepted, 0 repeats, 0 refused; not acknowledged: {lines} from record 1" in stranger.errors


async def test_weir_send_takes_events_and_labels_of_one_stream(tmp_path: Path) -> None:
    """As ``weir simulate --out -`` writes them: of labels behind all events a model learns nothing in time."""
    start, lines = 1_767_571_200.0, list[dict[str, Any]]()
    for n in range(1_100):
        lines.append({"topic": "user-events", **EVENT, "event_id": f"e{n}", "ts": start + n})
        if n % 10 == 9:
            label = {"v": 1, "label_id": f"l{n}", "task": "fraud", "entity_id": EVENT["user_id"]}
            lines.append({"topic": "labels", **label, "event_id": f"e{n}", "ts": start + n, "value": n % 20 // 19})
    lines.append({"topic": "labels", "v": 1, "task": "other"})
    stream = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
    (tmp_path / "stream.jsonl").write_bytes(stream)
    sent = [body.labels for body in bodies_of_lines([str(tmp_path / "stream.jsonl")], labels=False)]
    assert sent == [False, True] * 3
    async with listening(make_service(tmp_path / "data")) as port:
        piped = await process("send", "-", "--url", f"http://127.0.0.1:{port}", stdin=stream)
        assert "1,210 accepted (110 of them labels), 0 repeats, 1 refused" in piped.errors
        assert "-, record 1211: " in piped.errors


async def test_weir_send_makes_events_and_labels_of_a_table(tmp_path: Path) -> None:
    start = datetime(2026, 1, 5)
    rows = [f"p{i};{start + timedelta(hours=i):%d.%m.%Y %H:%M};c{i % 7};{i},5;{'ja' if i % 9 == 0 else 'nein'}"
            for i in range(1_200)]  # fmt: skip
    table, file = tmp_path / "zahlungen.csv", tmp_path / "fraud.toml"
    table.write_text("\n".join(["Nr;Zeit;Kunde;Betrag;Storno", *rows, "p1200;;c1;1,5;nein"]))
    file.write_text(TABLE_TASK)
    printed = await command("send", str(table), "--task", str(file), "--print")
    events = [json.loads(line) for line in printed.output.splitlines()]
    assert len(events) == 1_201
    assert {e["event_id"] for e in events} == {f"p{i}" for i in range(1_201)}
    assert {"user_id": "c0", "amount": 0.5, "type": "purchase", "ts": 1767571200.0, "v": 1, "event_id": "p0"} in events
    async with listening(make_service(tmp_path / "data", TaskSpec.from_toml(TABLE_TASK))) as port:
        sent = await command("send", str(table), "--task", str(file), "--url", f"http://127.0.0.1:{port}")
        assert "event p1200: ts: " in sent.errors
        # A label for each event but the one without a time.
        assert "2,400 accepted (1,200 of them labels), 0 repeats, 1 refused" in sent.errors
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            (told,) = (await client.get("/v1/tasks"))["tasks"]
        assert told["metrics"]["cumulative"]["n"] == 1_200
        assert told["metrics"]["cumulative"]["positive_rate"] == pytest.approx(134 / 1_200)


def test_labels_of_a_table_go_out_behind_what_was_there_when_they_were_known(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("Nr;Zeit;Kunde;Betrag;Storno\n" + "".join(
        f"p{i};2026-01-{1 + i // 24:02d} {i % 24:02d}:00;c1;1,5;ja\n" for i in range(720)
    ))  # fmt: skip
    bodies = [*bodies_of_tables(TableSource(TaskSpec.from_toml(TABLE_TASK), [table], None, True), labels_alone=False)]
    newest = 0.0
    kinds = []
    for body in bodies:
        records = [json.loads(line) for line in body.lines]
        kinds.append(body.labels)
        if body.labels and body is not bodies[-1]:
            assert max(label["ts"] for label in records) + 2 * 86_400.0 <= newest
        elif not body.labels:
            newest = records[-1]["ts"]
    assert kinds == [False, True, False, True]
    assert sum(len(body.lines) for body in bodies if body.labels) == 720


def test_labels_of_a_table_go_out_before_their_events_would_be_taken_for_negatives(tmp_path: Path) -> None:
    table, horizon_s = tmp_path / "rows.csv", 3 * 86_400.0
    table.write_text("Nr;Zeit;Kunde;Betrag;Storno\n" + "".join(
        f"p{i};2026-01-{1 + i // 24:02d} {i % 24:02d}:00;c1;1,5;ja\n" for i in range(720)
    ))  # fmt: skip
    source = TableSource(TaskSpec.from_toml(TABLE_TASK), [table], None, True)  # labels come two days late
    told, newest, sizes = dict[str, float](), 0.0, list[int]()
    for body in bodies_of_tables(source, labels_alone=False, negative_after_s=horizon_s):
        records = [json.loads(line) for line in body.lines]
        if body.labels:
            told |= {label["event_id"]: label["ts"] for label in records}
            sizes.append(len(records))
            continue
        newest = records[-1]["ts"]
        due = {f"p{i}" for i in range(720) if 1767225600.0 + 3600 * i + horizon_s <= newest}
        assert due <= told.keys()
    assert len(told) == 720
    assert min(sizes[:-1]) >= 24, "no more bodies than it takes"


async def test_weir_send_of_a_table_warns_where_rows_have_no_ids_of_their_own(tmp_path: Path) -> None:
    table, file = tmp_path / "rows.csv", tmp_path / "fraud.toml"
    table.write_text("Zeit;Kunde;Betrag;Storno\n2026-01-05 00:00;c1;1,5;ja\n")
    file.write_text(TABLE_TASK.replace('event_id = "Nr"', ""))
    printed = await command("send", str(table), "--task", str(file), "--print", "--labels")
    assert [json.loads(line)["event_id"] for line in printed.output.splitlines()] == ["row-0"]
    assert "row-0 of another file would be a repeat" in printed.errors
    piped = await command("send", "-", "--task", str(file), "--print")
    assert piped.status == 2
    assert "with --task give files" in piped.errors


async def test_weir_send_names_a_row_without_an_id_by_its_time(tmp_path: Path) -> None:
    """As of a table of change events, where what was deleted holds nothing."""
    table = tmp_path / "rows.csv"
    table.write_text("Nr;Zeit;Kunde;Betrag;Storno\n;2026-01-05 00:00;c1;1,5;ja\n1;2026-01-05 00:01;c1;1,5;ja\n")
    source = TableSource(TaskSpec.from_toml(TABLE_TASK), [table], None, with_labels=True)
    events = next(bodies_of_tables(source, labels_alone=False))
    assert [events.named(0), events.named(1)] == ["event without event_id of 1767571200.0", "event 1"]


async def test_a_service_that_is_not_there_is_named() -> None:
    found = await process("alerts", "list", "--url", "http://127.0.0.1:9")
    assert found.status == 2
    assert "http://127.0.0.1:9: " in found.errors
    assert "start weir serve there, or give --url" in found.errors


async def test_the_feed_goes_on_where_it_was_when_the_service_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_client, "_RETRY_MS", (50, 100))  # else seconds, so that not all come at once
    (port,) = free_ports(1)
    seen: list[str] = []
    came = asyncio.Event()

    async def follow(client: AsyncClient) -> None:
        async for event in client.feed(type="prediction", since="1h"):
            seen.append(event.record["event_id"])
            came.set()

    async def until(count: int) -> None:
        async with asyncio.timeout(30):
            while len(seen) < count:
                came.clear()
                await came.wait()

    async with AsyncClient(f"http://127.0.0.1:{port}") as client:
        following = None
        for start in (0, 5, 10):
            async with listening(make_service(tmp_path), port):
                await client.send_events([{**EVENT, "event_id": f"e{n}"} for n in range(start, start + 5)])
                following = following or asyncio.create_task(follow(client))
                await until(start + 5)
        assert following is not None
        following.cancel()
    assert seen == [f"e{n}" for n in range(15)]


@pytest.mark.parametrize("since", [None, "1h"])
async def test_an_address_that_is_none_is_an_error_and_not_tried_for_ever(since: str | None) -> None:
    with Client("nonsense") as client, pytest.raises(httpx.UnsupportedProtocol):
        next(client.feed(since=since))
    async with AsyncClient("nonsense") as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await anext(aiter(client.feed(since=since)))


async def test_a_place_that_is_no_longer_known_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    async with listening(make_service(tmp_path)) as port, AsyncClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ServiceError) as refused:
            await anext(aiter(client.feed(last_id="00000000.p7")))
        assert refused.value.status == 410


async def test_weir_feed_prints_a_line_for_each_record(tmp_path: Path) -> None:
    async with listening(make_service(tmp_path)) as port, AsyncClient(f"http://127.0.0.1:{port}") as client:
        await client.send_events([EVENT])
        where = ("--url", f"http://127.0.0.1:{port}", "--type", "prediction", "--since", "1h", "--limit", "1")
        shown = await process("feed", *where)
        assert (shown.status, "prediction   task=fraud  entity_id=u1" in shown.output) == (0, True), shown
        (line,) = (await command("feed", *where, "--json")).output.splitlines()
        assert json.loads(line)["record"]["event_id"] == "e1"


async def test_the_queue_is_listed_without_what_is_on_hold(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    async with listening(service) as port, AsyncClient(f"http://127.0.0.1:{port}") as client:
        now = time.time()
        await service.log.append(topics.ALERTS, [alert(n, opened_at=now, updated_at=now) for n in (1, 2)])
        wrote = service.store.projector.wrote
        while not (claimed := (await client.post("/v1/alerts/next"))["alert"]):
            await wrote.wait()
            wrote = service.store.projector.wrote
        await client.post(f"/v1/alerts/{claimed['alert_id']}/hold", for_s="1h")
        where = ["list", "--queue", "--json", "--url", f"http://127.0.0.1:{port}"]
        shown = await asyncio.to_thread(CliRunner().invoke, alerts_app, where)
        held = [each["alert_id"] async for each in client.alerts(queue="true", held="only")]
        waits = [each["alert_id"] for each in json.loads(shown.stdout)]
        assert (held, len({*held, *waits})) == ([claimed["alert_id"]], 2)


async def test_a_verdict_without_a_reason_leaves_the_reason_out(tmp_path: Path) -> None:
    async with listening(make_service(tmp_path)) as port, AsyncClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ServiceError) as refused:
            await client.verdict("fraud:u1:e1", "confirmed")
        assert refused.value.status == 404  # and not 422: the request was as the service wants it
