"""``weir worker`` runs what line and settings name; what cannot run is said before anything starts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.streams.weir_commands import TASKS, weir
from weir.online.task.spec import TaskSpec
from weir.streams.checks.findings import Check
from weir.streams.checks.late_events import late_events
from weir.streams.cli.processes import process
from weir.streams.cli.processes import process as process_cli
from weir.streams.cli.processes.worker import banner
from weir.streams.config.settings import KafkaSettings, RedisSettings, SecretUrl, Settings, WorkerSettings
from weir.streams.errors import UsageError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Settings, list[str], str]]:
    """Catches what ``weir worker`` would run."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[Settings, list[str], str]] = []

    def fake(settings: Settings, tasks: list[TaskSpec], role: str) -> int:
        calls.append((settings, [task.name for task in tasks], role))
        return 0

    monkeypatch.setattr("weir.streams.worker.run.run_worker", fake)
    monkeypatch.setattr(process, "log_to_stderr", lambda *_: None)
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


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_labels_that_act_between_rows_are_refused(tmp_path: Path, check: list[str]) -> None:
    """Rather than served by other scores than those of the task's backtest."""
    path, text = tmp_path / "fraud.toml", (TASKS / "fraud.toml").read_text()
    head = "" if "\n[labels]\n" in text else "\n[labels]\n"
    act = 'act = "between rows"\n'
    path.write_text(text + head + act if head else text.replace("\n[labels]\n", "\n[labels]\n" + act))
    _, _, error = weir("worker", str(path), *check)
    assert isinstance(error, UsageError)
    assert 'task fraud: [labels] act = "between rows" needs labels and events in one order' in str(error)


def test_a_missing_package_says_what_to_install(run: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_cli, "_NEEDS", ("no-such-package",))
    _, _, error = weir("worker", str(TASKS))
    assert "needs no-such-package" in str(error)
    assert "pip install 'weir[kafka]'" in str(error)


@pytest.mark.parametrize(("status", "code"), [("OK", 0), ("WARN", 0), ("FAIL", 2)])
def test_a_check_runs_nothing_and_fails_when_something_is_missing(
    run: list[Any], monkeypatch: pytest.MonkeyPatch, status: Any, code: int
) -> None:
    monkeypatch.setattr("weir.streams.checks.kafka_checks.check_kafka", lambda *_: [Check("Kafka", "OK", "1 broker")])
    monkeypatch.setattr(
        "weir.streams.checks.redis_checks.check_redis", lambda *_: [Check("Redis", status, "hm", "mend it")]
    )
    for check in (
        "weir.streams.checks.state_checks.check_full",
        "weir.streams.worker.identity.identity_checks.check_identity",
    ):
        monkeypatch.setattr(check, lambda *_, **__: [])
    monkeypatch.setattr("weir.streams.checks.state_checks.check_state", lambda *_: [])
    found, output, _ = weir("worker", str(TASKS), "--check")
    assert found == code
    assert "mend it" in output
    assert ("ready, with a warning" in output) == (status == "WARN")
    assert not run


@pytest.mark.parametrize(
    ("ttl", "lateness", "fix"),
    [
        ("8d", "1d", None),
        ("2d", "6h", None),
        ("inf", "1d", None),
        ("7d", "1d", "Make ttl 8d or more, or [worker.intake] allowed_lateness 23h or less."),
        ("0s", "1h", "Make ttl 1d or more, or [worker.intake] allowed_lateness 0s or less."),
    ],
)
def test_rows_that_go_before_what_may_come_late_are_told(ttl: str, lateness: str, fix: str | None) -> None:
    document = tomllib.loads((TASKS / "fraud.toml").read_text())
    document["entities"][0]["ttl"] = float(ttl) if ttl == "inf" else ttl
    task = TaskSpec.model_validate(document)
    settings = Settings.model_validate({"worker": {"intake": {"allowed_lateness": lateness}}})
    found = late_events(settings, [task])
    assert [each.fix for each in found] == ([] if fix is None else [fix])
    if found:
        assert found[0].name == f"rows fraud.{task.entities[0].name}"
        assert f"(ttl {ttl}), and an event may come {lateness} late" in found[0].found


def test_the_banner_names_links_and_hides_secrets() -> None:
    settings = Settings(
        kafka=KafkaSettings.model_validate(
            {"security_protocol": "SASL_SSL", "username": "me", "password": "hush-1", "bootstrap": "k:1"}
        ),
        redis=RedisSettings(url=SecretUrl("rediss://weir:hush-2@cache:6379/0")),
        worker=WorkerSettings(web_host="::1"),
    )
    text = "\n".join(banner(settings, [TaskSpec.from_toml((TASKS / "fraud.toml").read_text())]))
    assert "hush" not in text
    for words in (
        "fraud on user-events",
        "k:1 (SASL_SSL as me)",
        "rediss://weir:***@cache:6379/0",
        "http://[::1]:8090",
    ):
        assert words in text
