from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
import typer
from typer.testing import CliRunner

from online.batch import EventBatch
from online.features import kernel
from online.task import TaskSpec
from online.taskshape import engine_of
from streams.cli import process as process_cli
from streams.cli import worker as worker_cli
from streams.cli.features import features_app, shown
from streams.cli.worker import banner
from streams.errors import UsageError
from streams.ops.checks import Check
from streams.ops.entityrows import TaskRows
from streams.ops.metrics import Metrics
from streams.ops.redis_checks import check_redis, findings
from streams.ops.signals import StopSignals
from streams.ops.watchdog import EXIT_STATUS, Watchdog, WatchdogPolicy, WatchdogState
from streams.ops.web import WebServer
from streams.settings import KafkaSettings, RedisSettings, SecretUrl, Settings, WorkerSettings
from streams.stores import MemoryFeatureStore
from streams.stores.rows import StoredRow, decode_row, encode_row

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "streams" / "demo" / "tasks"


class FakeStatus:
    """A worker that says what a test wants it to."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def ready(self) -> list[str]:
        return list(self.reasons)

    def describe(self) -> Mapping[str, object]:
        return {"lanes": ["user-events-0"], "models": {"fraud": np.int64(7)}}


# Web


def served(check: Callable[[str, FakeStatus, Metrics], Awaitable[None]]) -> None:
    """Run ``check`` against a server of its own."""

    async def run() -> None:
        status, metrics = FakeStatus(), Metrics()
        async with WebServer("127.0.0.1", 0, status, metrics, {"role": "score", "worker": "w-1"}) as server:
            await check(server.url, status, metrics)

    asyncio.run(run())


async def get(url: str) -> tuple[int, bytes, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.read(), answer.headers["Content-Type"]


def test_health_answers_whatever_the_worker_does() -> None:
    async def check(url: str, status: FakeStatus, _: Metrics) -> None:
        status.reasons = ["no partitions"]
        code, body, kind = await get(f"{url}/health")
        document = orjson.loads(body)
        assert (code, kind) == (200, "application/json")
        assert (document["status"], document["role"], document["worker"]) == ("alive", "score", "w-1")
        assert document["uptime_s"] >= 0
        assert document["version"]

    served(check)


def test_ready_is_200_only_while_nothing_speaks_against_it() -> None:
    async def check(url: str, status: FakeStatus, metrics: Metrics) -> None:
        code, body, _ = await get(f"{url}/ready")
        assert (code, orjson.loads(body)["models"]) == (200, {"fraud": 7})
        status.reasons = ["the model of task fraud is 40 examples behind"]
        code, body, _ = await get(f"{url}/ready")
        assert (code, orjson.loads(body)["reasons"]) == (503, status.reasons)
        assert metrics.gauge("weir_ready").value == 0

    served(check)


def test_metrics_are_prometheus_text_with_what_was_counted() -> None:
    async def check(url: str, _: FakeStatus, metrics: Metrics) -> None:
        metrics.inc("weir_batches_total", 3, topic="labels")
        code, body, kind = await get(f"{url}/metrics")
        assert (code, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b'weir_batches_total{topic="labels"} 3.0' in body
        assert b"weir_ready 1.0" in body
        assert b'role="score"' in body

    served(check)


def test_a_port_in_use_is_named_with_its_setting() -> None:
    async def check(url: str, status: FakeStatus, metrics: Metrics) -> None:
        port = int(url.rpartition(":")[2])
        second = WebServer("127.0.0.1", port, status, metrics)
        with pytest.raises(UsageError, match=rf"web_port = {port}: the port is in use"):
            await second.start()
        await second.stop()
        assert (await get(f"{url}/health"))[0] == 200, "the first goes on"

    served(check)


def test_an_address_of_another_machine_is_refused_with_a_hint() -> None:
    async def run() -> None:
        with pytest.raises(UsageError, match=r"web_host = '203\.0\.113\.9'.*0\.0\.0\.0"):
            await WebServer("203.0.113.9", 8090, FakeStatus(), Metrics()).start()

    asyncio.run(run())


# Watchdog


def state(limit_s: float = 10.0) -> WatchdogState:
    return WatchdogState(WatchdogPolicy(limit_s), now=0.0)


def test_a_worker_without_work_may_be_quiet_for_ever() -> None:
    dog = state()
    dog.answered(1e6)
    assert dog.verdict(1e6) is None


def test_work_that_does_not_move_is_found_and_work_that_does_is_not() -> None:
    dog = state()
    dog.started(100.0)
    for now in (105.0, 110.0):
        dog.answered(now)
        assert dog.verdict(now) is None
    dog.started(109.0)  # more work coming in is no progress
    dog.answered(111.0)
    assert "no batch was completed for 11.0 s with 2 in flight; the limit is watchdog_s = 10" in str(dog.verdict(111.0))
    dog.completed(111.0)
    dog.answered(120.0)
    assert dog.verdict(120.0) is None


def test_the_pause_before_work_came_in_does_not_count() -> None:
    dog = state()
    dog.started(0.0)
    dog.completed(1.0)
    dog.started(500.0)
    dog.answered(505.0)
    assert dog.verdict(505.0) is None


def test_batches_that_a_rebalance_dropped_are_not_waited_for() -> None:
    dog = state()
    dog.started(0.0, batches=3)
    dog.holding(5.0, 0)
    dog.answered(60.0)
    assert dog.verdict(60.0) is None
    dog.holding(60.0, 1)
    dog.answered(71.0)
    assert "with 1 in flight" in str(dog.verdict(71.0))


def test_a_loop_that_does_not_answer_is_found_without_work_too() -> None:
    dog = state()
    assert dog.verdict(10.0) is None
    assert "the event loop has not answered for 10.5 s" in str(dog.verdict(10.5))


def test_the_thread_ends_the_process_once_and_says_what_was_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[int] = []

    async def run() -> None:
        hung, loop = asyncio.Event(), asyncio.get_running_loop()

        def end(status: int) -> None:
            ended.append(status)
            loop.call_soon_threadsafe(hung.set)

        dog = Watchdog(
            WatchdogPolicy(0.05),
            lambda: ["user-events-3@17"],
            end,
        )
        dog.started()
        dog.start(loop)
        await asyncio.wait_for(hung.wait(), 10)
        dog.stop()

    asyncio.run(run())
    assert ended == [EXIT_STATUS]
    assert "user-events-3@17" in caplog.text


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("await asyncio.sleep(60)", "no batch was completed"),
        ("time.sleep(60)", "the event loop has not answered"),
    ],
)
def test_a_process_that_blocks_ends_with_its_stacks_shown(block: str, words: str) -> None:
    program = f"""
    import asyncio, logging, time
    from streams.ops.watchdog import Watchdog, WatchdogPolicy

    async def stuck_here():
        dog = Watchdog(WatchdogPolicy(0.3), lambda: "batch 42")
        dog.started()
        dog.start(asyncio.get_running_loop())
        {block}

    logging.basicConfig()
    asyncio.run(stuck_here())
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == EXIT_STATUS, done.stderr
    assert time.monotonic() - began < 40
    assert words in done.stderr
    assert "batch 42" in done.stderr
    assert "most recent call first" in done.stderr


def test_a_process_that_works_is_left_alone() -> None:
    async def run() -> list[int]:
        ended: list[int] = []
        dog = Watchdog(WatchdogPolicy(1.0), end=ended.append)
        dog.start(asyncio.get_running_loop())
        began = time.monotonic()
        while time.monotonic() < began + 1.3:  # longer than the limit
            dog.started()
            await asyncio.sleep(0.01)  # the work
            dog.completed()
        dog.stop()
        return ended

    assert asyncio.run(run()) == []


# Signals


def test_the_first_signal_stops_and_a_second_ctrl_c_does_not_wait() -> None:
    calls: list[Any] = []
    caught = StopSignals(lambda: calls.append("stop"), calls.append)
    caught(15)
    caught(15)
    assert (calls, caught.status) == (["stop"], 0)
    caught(2)
    assert calls == ["stop", 130]


def test_a_stop_by_ctrl_c_has_the_usual_status() -> None:
    caught = StopSignals(lambda: None)
    assert caught.status == 0
    caught(2)
    assert caught.status == 130


# Redis


GOOD = {"redis_version": "7.2.4", "aof_enabled": 1, "aof_last_write_status": "ok", "maxmemory": 0}


@pytest.mark.parametrize(
    ("change", "name", "status", "words"),
    [
        ({}, "", "OK", ""),
        ({"aof_enabled": 0}, "Redis persistence", "WARN", "appendonly yes"),
        ({"aof_last_write_status": "err"}, "Redis persistence", "FAIL", "disk full"),
        ({"loading": 1}, "Redis persistence", "WARN", "still loading"),
        ({"redis_version": "6.2.1"}, "Redis", "WARN", "upgrade"),
        ({"maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "Redis memory", "FAIL", "noeviction"),
        ({"maxmemory": 100, "used_memory": 95, "maxmemory_policy": "noeviction"}, "Redis memory", "WARN", "maxmemory"),
    ],
)
def test_what_endangers_features_in_redis_is_found(change: dict[str, Any], name: str, status: str, words: str) -> None:
    checks = findings(GOOD | change, "here")
    assert {c.name: c.status for c in checks if c.status != "OK"} == ({name: status} if name else {})
    assert any(words in f"{c.found} {c.fix}" for c in checks)


def test_a_redis_that_is_not_there_is_a_finding_without_its_password() -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = SecretUrl(f"redis://weir:hush@127.0.0.1:{taken.getsockname()[1]}/0")
        (found,) = check_redis(RedisSettings(url=url), timeout_s=2)
    assert (found.status, found.fix) == ("FAIL", "Start Redis, or correct url in [redis].")
    assert "hush" not in str(found)


# Rows of an entity

TASK = TaskSpec.from_toml("""
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "sum", "mean", "over_mean", "last", "since_last"]
windows = ["1h", "1d"]
[[entities.anomalies]]
name = "odd"
value = "amount"
[[entities]]
name = "merchant"
key = "merchant_id"
[[entities.aggregates]]
name = "seen"
ops = ["count"]
windows = ["1d"]
[[entities.labels]]
name = "risk"
ops = ["share"]
prior = 2.0
prior_share = 0.25
windows = ["7d"]
[model]
kind = "logistic"
""")
T0 = 1.7e9


def stored(store: MemoryFeatureStore, rows: TaskRows, table: str, entity: str, updated_at: float) -> StoredRow:
    """A row as Redis would give it back."""
    (held,) = [t for t in rows.tables if t.name == table]
    value = encode_row(held.schema, 41, updated_at, store.load(table, [entity])[0].tobytes())
    return decode_row(("user-events", 0), value)


def fed() -> tuple[MemoryFeatureStore, TaskRows]:
    """A store after three payments of u1 at m1, an hour apart."""
    store = MemoryFeatureStore()
    ts = np.array([T0, T0 + 3600.0, T0 + 7200.0])
    batch = EventBatch(
        ["a", "b", "c"], ts, ["purchase"] * 3, {"user_id": ["u1"] * 3, "merchant_id": ["m1"] * 3},
        {"amount": np.array([10.0, 20.0, 60.0])},
    )  # fmt: skip
    engine_of(TASK, store).process(batch, np.full(3, kernel.EVENT, dtype=np.uint8))
    return store, TaskRows(TASK)


def read(store: MemoryFeatureStore, rows: TaskRows, table: str, entity: str, at: float | None = None) -> Any:
    (held,) = [t for t in rows.tables if t.name == table]
    return rows.read(entity, held, stored(store, rows, table, entity, T0 + 7200.0), at)


def test_a_row_reads_as_the_features_it_makes() -> None:
    store, rows = fed()
    found = read(store, rows, "fraud.user", "u1")
    assert (found.fits, found.at, found.row.offset) == (True, T0 + 7200.0, 41)
    assert found.values == {
        "user.amount_count_1h": 1.0, "user.amount_count_1d": 3.0, "user.amount_sum_1h": 60.0,
        "user.amount_sum_1d": 90.0, "user.amount_mean_1h": 60.0, "user.amount_mean_1d": 30.0,
        "user.amount_last": 60.0, "user.amount_since_last": 0.0,
    }  # fmt: skip
    assert read(store, rows, "fraud.merchant", "m1").values == {"merchant.seen_count_1d": 3.0}


def test_reading_at_a_later_time_moves_the_windows_and_changes_nothing() -> None:
    store, rows = fed()
    before = store.snapshot()
    later = read(store, rows, "fraud.user", "u1", T0 + 86_400.0 + 5400.0).values
    assert (later["user.amount_count_1h"], later["user.amount_count_1d"]) == (0.0, 1.0)
    assert np.isnan(later["user.amount_mean_1h"])
    assert later["user.amount_since_last"] == 86_400.0 - 1800.0
    assert store.snapshot() == before
    assert read(store, rows, "fraud.user", "u1").values["user.amount_count_1d"] == 3.0


def test_tables_of_labels_and_detectors_are_there_too() -> None:
    store, rows = fed()
    assert [t.name for t in rows.tables] == ["fraud.user", "fraud.merchant", "fraud.merchant.labels", "fraud.user.odd"]
    assert [t.side for t in rows.tables] == [False, True, True, False]
    assert read(store, rows, "fraud.merchant.labels", "m1").values == {"merchant.risk_share_7d": 0.25}
    assert list(read(store, rows, "fraud.user.odd", "u1").values) == ["user.odd_expected"]


def test_a_row_of_another_declaration_is_shown_without_values() -> None:
    store, rows = fed()
    (table,) = [t for t in rows.tables if t.name == "fraud.user"]
    row = stored(store, rows, "fraud.user", "u1", T0)
    for other in (
        StoredRow(row.lane, row.schema ^ 1, row.offset, row.updated_at, row.row),
        StoredRow(row.lane, row.schema, row.offset, row.updated_at, row.row[8:]),
    ):
        found = rows.read("u1", table, other)
        assert (found.fits, found.values) == (False, {})


def test_ages_are_shown_as_durations() -> None:
    found = [shown("user.x_since_last", value) for value in (0.5, 90.0, 5400.0, 172_800.0, float("nan"))]
    assert found == ["0.5 s", "1.5 min", "1.5 h", "2 d", "missing"]


# The commands


def weir(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, Exception | None]:
    app = typer.Typer()
    app.command("worker")(worker_cli.worker_command)  # of the module that tests change
    app.add_typer(features_app, name="features")
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **(env or {})})
    error = result.exception if isinstance(result.exception, Exception) else None
    return result.exit_code, result.output, error


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Settings, list[str], str]]:
    """Catches what ``weir worker`` would run."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[Settings, list[str], str]] = []

    def fake(settings: Settings, tasks: list[TaskSpec], role: str) -> int:
        calls.append((settings, [task.name for task in tasks], role))
        return 0

    monkeypatch.setattr(worker_cli, "_runner", lambda: fake)
    monkeypatch.setattr(worker_cli, "log_to_stderr", lambda *_: None)
    return calls


def test_a_worker_runs_the_tasks_of_the_line_in_the_role_of_the_line(run: list[Any]) -> None:
    code, output, error = weir(
        "worker", str(TASKS / "fraud.toml"), "--role", "score", "--group", "shop", "--instance-id", "s-1",
        "--web", "0.0.0.0:9100", "-b", "kafka-1:9092",
    )  # fmt: skip
    assert (code, error) == (0, None), output
    ((settings, tasks, role),) = run
    w = settings.worker
    assert (tasks, role, w.group_id(), w.instance()) == (["fraud"], "score", "shop-score", "s-1")
    assert (w.web_host, w.web_port, settings.kafka.bootstrap) == ("0.0.0.0", 9100, ("kafka-1:9092",))
    assert "role score, group shop-score, instance s-1" in output


def test_tasks_of_the_settings_are_run_when_the_line_names_none(run: list[Any], tmp_path: Path) -> None:
    (tmp_path / "weir.toml").write_text(f'[worker]\ntasks = ["{TASKS}"]')
    assert weir("worker", "--web", "off")[0] == 0
    assert run[0][1] == ["churn", "device_failure", "fraud"]
    assert run[0][0].worker.web_port == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no task: name task files"),
        (["none.toml"], "no such task file: .*none.toml"),
        (["empty"], "no task file .* in this directory"),
        ([str(TASKS), "copy.toml"], "both hold a task 'fraud'"),
        ([str(TASKS), "--role", "both"], "worker.role"),
        ([str(TASKS), "--web", "host"], "give HOST:PORT, :PORT, auto or off"),
        ([str(TASKS), "--web", ":70000"], "--web ':70000': .* a port is at most 65535"),
    ],
)
def test_what_cannot_run_says_what_to_give(run: list[Any], tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "copy.toml").write_text((TASKS / "fraud.toml").read_text())
    _, _, error = weir("worker", *arguments)
    assert isinstance(error, UsageError)
    assert not run
    with pytest.raises(UsageError, match=words):
        raise error


def test_a_missing_package_says_what_to_install(run: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_cli, "_NEEDS", ("no-such-package",))
    _, _, error = weir("worker", str(TASKS))
    assert "needs no-such-package" in str(error)
    assert "pip install 'weir[kafka]'" in str(error)


@pytest.mark.parametrize(("status", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 2)])
def test_a_check_runs_nothing_and_fails_when_something_is_missing(
    run: list[Any], monkeypatch: pytest.MonkeyPatch, status: Any, code: int
) -> None:
    monkeypatch.setattr(process_cli, "check_kafka", lambda *_: [Check("Kafka", "OK", "1 broker")])
    monkeypatch.setattr(process_cli, "check_redis", lambda *_: [Check("Redis", status, "hm", "mend it")])
    monkeypatch.setattr("streams.full.checks.check_full", lambda *_, **__: [])
    found, output, _ = weir("worker", str(TASKS), "--check")
    assert found == code
    assert "mend it" in output
    assert not run


def test_the_banner_names_links_and_hides_secrets() -> None:
    settings = Settings(
        kafka=KafkaSettings.model_validate(
            {"security_protocol": "SASL_SSL", "username": "me", "password": "hush-1", "bootstrap": "k:1"}
        ),
        redis=RedisSettings(url=SecretUrl("rediss://weir:hush-2@cache:6379/0")),
        worker=WorkerSettings(web_host="::1"),
    )
    text = "\n".join(banner(settings, [TASK]))
    assert "hush" not in text
    for words in (
        "fraud on user-events",
        "k:1 (SASL_SSL as me)",
        "rediss://weir:***@cache:6379/0",
        "http://[::1]:8090",
    ):
        assert words in text


def test_a_rebuild_that_nobody_is_there_to_confirm_does_nothing() -> None:
    _, _, error = weir("features", "rebuild", "--task", str(TASKS))
    assert isinstance(error, UsageError)
    assert "give --yes" in str(error)


def test_features_of_a_table_that_no_task_has_are_refused_before_connecting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {"WEIR_REDIS__URL": f"redis://127.0.0.1:{taken.getsockname()[1]}/0", "WEIR_REDIS__TIMEOUT_S": "0.2"}
        fraud = str(TASKS / "fraud.toml")
        _, _, error = weir("features", "get", "u1", "--task", fraud, "--table", "fraud.users", env=env)
        assert "no such table" in str(error)
        assert "fraud.user," in str(error)
        _, _, error = weir("features", "get", "u1", "--task", fraud, "--at", "noon", env=env)
        assert "--at 'noon'" in str(error)
