"""``weir demo`` as a person runs it: to the end, stopped, killed, and run again."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from rich.console import Console

from tests.e2e.demo_process import FULL_SPEED, DemoProcess, checkpoint_newer_than, records
from weir.streams.cli.offline import demo
from weir.streams.demo.demo_loop import Demo
from weir.streams.demo.demo_warmup import planned_events
from weir.streams.demo.scenario import Scenario, demo_tasks
from weir.streams.errors import UsageError

SIZE = ("--days", "3", "--events", "6000", "--seed", "11")
PACED = ("--seconds", "20", "--checkpoint-every", "0.2")
OUTPUTS = ("predictions", "alerts", "examples", "dead-letters", "retrain-requests")
INPUTS = ("labels", "user-events", "device-events")


def start(directory: Path, *options: str) -> DemoProcess:
    return DemoProcess(directory, *SIZE, *options)


def summary(directory: Path) -> dict[str, Any]:
    held: dict[str, Any] = orjson.loads((directory / "summary.json").read_bytes())
    return held


def rows(directory: Path, name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (directory / name).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run from the start to the end without a console, and what it printed."""
    directory = tmp_path_factory.mktemp("whole")
    code, output = start(directory, *FULL_SPEED).finish()
    assert code == 0, output
    return directory, output


def test_a_run_ends_with_a_summary_and_files(whole: tuple[Path, str]) -> None:
    directory, output = whole
    assert "events=" in output
    assert "done" in output
    assert "\x1b" not in output, "plain text for a pipe"
    held = summary(directory)
    assert held["at_end"]
    assert held["blocks"] == 3 * 8
    assert rows(directory, "predictions-sample.jsonl")
    assert len(rows(directory, "dead-letters.jsonl")) == held["totals"]["dead_letters"]
    alerts = rows(directory, "alerts.jsonl")
    assert len(alerts) == sum(task["alerts"]["opened"] for task in held["tasks"].values()) > 0
    assert all(isinstance(reason, str) for alert in alerts for reason in alert["reasons"])


def test_every_valid_event_is_scored_once_by_each_task_it_belongs_to(whole: tuple[Path, str]) -> None:
    directory, _ = whole
    letters = [orjson.loads(r.value) for _, _, r in records(directory, "dead-letters")]
    refused = {(letter["topic"], letter["partition"], letter["offset"]) for letter in letters}
    wanted: dict[str, set[str]] = {"fraud": set(), "device_failure": set()}
    distinct = set()
    for topic in ("user-events", "device-events"):
        for partition, offset, record in records(directory, topic):
            if (topic, partition, offset) in refused:
                continue
            event = orjson.loads(record.value)
            distinct.add(event["event_id"])
            if topic == "device-events":
                wanted["device_failure"].add(event["event_id"])
            elif event["type"] == "purchase":
                wanted["fraud"].add(event["event_id"])
    scored: dict[str, Counter[str]] = {"fraud": Counter(), "device_failure": Counter(), "churn": Counter()}
    for _, _, record in records(directory, "predictions"):
        prediction = orjson.loads(record.value)
        scored[prediction["task"]][prediction["event_id"]] += 1
    assert all(count == 1 for task in scored.values() for count in task.values())
    assert {task: set(scored[task]) for task in wanted} == wanted
    held = summary(directory)
    assert held["totals"]["events"] == len(distinct)
    assert {task: len(ids) for task, ids in scored.items()} == {t: v["scored"] for t, v in held["tasks"].items()}
    assert held["totals"]["predictions"] == sum(len(ids) for ids in scored.values())


def test_stopped_then_killed_then_finished_is_the_same_as_never_stopped(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    first = start(tmp_path, *PACED)
    first.until(checkpoint_newer_than(tmp_path, 0.0))
    assert first.end(signal.SIGINT) == 130, first.output
    assert "Stopped" in first.output
    stopped_at = summary(tmp_path)["blocks"]
    assert 0 < stopped_at < 24

    second = start(tmp_path, *PACED, "--port", "0")  # with a console, that nobody uses
    second.until(checkpoint_newer_than(tmp_path, (tmp_path / "state" / "checkpoint.bin").stat().st_mtime))
    assert second.end(signal.SIGKILL) == -signal.SIGKILL

    code, output = start(tmp_path, *FULL_SPEED).finish()
    assert code == 0, output
    assert "Going on after day" in output
    assert summary(tmp_path)["resumed_from_block"] > stopped_at
    for topic in (*INPUTS, *OUTPUTS):
        assert records(tmp_path, topic) == records(whole[0], topic), topic
    for name in ("alerts.jsonl", "drift.jsonl", "dead-letters.jsonl"):
        assert rows(tmp_path, name) == rows(whole[0], name)


def test_another_scenario_in_the_same_directory_is_refused(whole: tuple[Path, str]) -> None:
    code, output = start(whole[0], "--seed", "12", *FULL_SPEED).finish()
    assert code == 2
    assert "--fresh" in output


def test_without_the_packages_of_the_console_it_runs_and_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_CONSOLE", ("json", "no_such_package"))
    with demo._served(cast(Demo, None), None, Console(width=200)):
        said = capsys.readouterr().out
    assert said == "No console in the browser: it needs no_such_package; pip install 'weir[serve]' gets them.\n"


def test_the_task_files_fit_the_simulated_streams() -> None:
    assert [task.name for task in demo_tasks()] == ["fraud", "churn", "device_failure"]


def test_a_scenario_keeps_its_content_in_its_directory(tmp_path: Path) -> None:
    assert Scenario.read(tmp_path) is None
    Scenario(seed=3, events=500, days=2).write(tmp_path)
    assert Scenario.read(tmp_path) == Scenario(seed=3, events=500, days=2)
    (tmp_path / "scenario.json").write_text('{"seed": "x"}')
    with pytest.raises((UsageError, ValueError), match="--fresh"):
        Scenario.read(tmp_path)


def test_a_faster_machine_shows_more_up_to_a_limit() -> None:
    sizes = [planned_events(rate, 60.0) for rate in (10.0, 12_000.0, 20_000.0, 1e9)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2
