"""What commands make of words and places that people give them, and of what stands in logs."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from tests.streams.logged_run import FRAUD
from weir.streams.checks.findings import Check
from weir.streams.cli.app import app
from weir.streams.cli.console import bar, confirmed, output, table, utc
from weir.streams.cli.models import tune as tune_full
from weir.streams.cli.operate import topics
from weir.streams.cli.operate.audit import _document, _row
from weir.streams.cli.operate.examples import parse_offsets
from weir.streams.cli.options import duration, moment
from weir.streams.cli.service.reached import bodies_of
from weir.streams.config.serve_settings import IntakeSettings
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.ops.command_user import caller
from weir.streams.task_files import load_task

CLI = Path(__file__).resolve().parents[2] / "streams" / "cli"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("text", ["", " ", "1,", "3-1", "-5"])
def test_no_offsets_are_not_all_offsets(text: str) -> None:
    assert parse_offsets(None) == ()
    with pytest.raises(UsageError, match="--offsets"):
        parse_offsets(text)


@pytest.mark.parametrize("text", ["-1d", "inf", "nan", "1e9d", "99999999999999999999999999d", "", "7"])
def test_a_duration_or_a_time_that_cannot_be_is_refused_with_the_option(text: str) -> None:
    if text != "7":  # seconds of 1970
        with pytest.raises(UsageError, match=r"--older-than: .*(is not a duration; write|is longer than 36500d; give)"):
            duration("--older-than", text)
    if "99" not in text and text != "7":
        with pytest.raises(UsageError, match=r"--since .*: give a time as"):
            moment("--since", text)


def test_no_moment_is_before_1970_or_after_2100() -> None:
    assert moment("--since", "99999999999999999999999999d") == 0.0
    with pytest.raises(UsageError, match=r"--since .*: give a time as"):
        moment("--since", "99999999999999")


@pytest.mark.parametrize("ts", [9e15, -1e18, float("nan"), float("inf"), -float("inf")])
def test_a_time_that_no_calendar_has_is_shown_as_it_is(ts: float) -> None:
    assert utc(ts) == f"{ts:g} s"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert caller().removeprefix("uid-").isdecimal()


def test_a_row_is_one_line_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    output().print(table("alert", "because", rows=[("fraud:u7:e1", "it is large " * 40), ("fraud:u8:e2", "new")]))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["alert", "fraud:u7:e1", "fraud:u8:e2"]


def test_names_with_brackets_are_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes [v2] for a style, and [/desk] for the end of one, which is an error where none began."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with monkeypatch.context() as patched:
        patched.setattr("weir.streams.cli.console.notes", lambda: terminal)
        with bar("import", before="model[v2].onnx ") as advance:
            advance("[/gathered]", 1, 2)
    assert isinstance(terminal.file, io.StringIO)
    assert "model[v2].onnx [/gathered]" in terminal.file.getvalue()
    made = json.loads(run("keys", "create", "[/desk]", "--role", "viewer", "--json", "--dir", str(tmp_path)).stdout)
    revoked = run("keys", "revoke", made["id"], "--dir", str(tmp_path))
    assert revoked.exception is None
    assert f"[/desk] ({made['id']}) is revoked" in revoked.stderr


@pytest.mark.parametrize("there", [True, False])
def test_only_where_nobody_is_there_to_answer_it_says_so(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: there)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(typer.Abort if there else UsageError):
        confirmed("Drop them?")


@pytest.mark.parametrize("value", [b"[]", b"5", b'{"who":"ana"}', b'{"at":"now"}', b"{", b"\xff", b'{"at":[]}'])
def test_a_record_that_is_none_of_the_audit_is_none(value: bytes) -> None:
    assert _document(value) is None


def test_a_record_of_the_audit_is_shown_whatever_is_missing() -> None:
    told = _document(b'{"at":1e300,"who":null,"action":7}')
    assert told is not None
    assert _row(told) == ("1e+300 s", "-", "-", "7", "", "-", "-")


def test_a_look_at_the_wrong_directory_leaves_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weir serve was here"):
        raise run("audit", "verify", "--dir", str(tmp_path)).exception or AssertionError("it found something")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://[::1", "nonsense", "http://127.0.0.1:1"])
@pytest.mark.parametrize("command", ["feed", "alerts"])
def test_a_url_that_leads_nowhere_is_named(url: str, command: str) -> None:
    words = [command, "--url", url] if command == "feed" else [command, "list", "--url", url]
    with pytest.raises(UsageError, match=re.escape(url)):
        raise run(*words).exception or AssertionError("it was answered")


def test_topics_are_not_ok_where_the_status_says_that_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Admin:
        def __enter__(self) -> Admin:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(topics, "admin_client", lambda _: Admin())
    monkeypatch.setattr(topics, "_wanted", lambda *_: [])
    monkeypatch.setattr(topics, "cluster", SimpleNamespace(read_topics=lambda *_: {}))
    monkeypatch.setattr(topics, "_identity", lambda _: [Check("stored state", "FAIL", "of another topic", "accept it")])
    checked = CliRunner().invoke(topics.topics_app, ["check", "--json"])
    assert (checked.exit_code, json.loads(checked.stdout)["ok"]) == (1, False)


@pytest.mark.parametrize("option", ["--scores", "--report", "--alerts", "--features", "--html"])
@pytest.mark.parametrize("name", ["rows.csv", "task.toml", "labels.jsonl"])
def test_a_backtest_writes_over_none_of_its_inputs(tmp_path: Path, option: str, name: str) -> None:
    for held in ("rows.csv", "labels.jsonl"):
        (tmp_path / held).write_text("mine")
    (tmp_path / "task.toml").write_text(FRAUD)
    asked = ["backtest", f"{tmp_path}/task.toml", "--data", f"{tmp_path}/rows.csv"]
    asked += ["--labels", f"{tmp_path}/labels.jsonl", "--label-delay", "1d"]
    asked += [option, f"{tmp_path}/../{tmp_path.name}/{name}"]
    with pytest.raises(UsageError, match=f"{name} is read by this run"):
        raise run(*asked).exception or AssertionError("it ran")


def test_init_writes_over_none_of_its_inputs(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("mine")
    with pytest.raises(UsageError, match="is read by this run"):
        raise run("init", str(table), "--yes", "--force", "--out", str(table)).exception or AssertionError("it ran")
    assert table.read_text() == "mine"


@pytest.mark.parametrize("fresh", [["--fresh"], []])
def test_a_demo_takes_no_folder_that_no_demo_made(tmp_path: Path, fresh: list[str]) -> None:
    """``--fresh`` removes ``models`` and the like, which other folders have too."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds models, which no demo made: give another --dir"):
        raise run("demo", "--dir", str(tmp_path), *fresh).exception or AssertionError("it ran")
    assert (tmp_path / "models" / "mine.txt").read_text() == "mine"


def test_a_log_is_read_by_the_limits_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []

    async def reads(*_: object, **given: Any) -> None:
        read.append(given.get("limits"))

    monkeypatch.setattr("weir.streams.trainer.history.read_history.read_history", reads)
    monkeypatch.setattr("weir.streams.trainer.history.log_sources.EmbeddedSource.of_directory", lambda _: None)
    (tmp_path / "fraud.toml").write_text(FRAUD)
    settings = Settings.model_validate({"limits": {"record_bytes": 32_768}})
    asyncio.run(tune_full._read(load_task(tmp_path / "fraud.toml"), None, tmp_path, settings))
    assert read == [settings.limits]


def test_large_records_are_sent_in_bodies_that_a_service_takes(tmp_path: Path) -> None:
    lines = [b"%0900000d\n" % n for n in range(40)]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    bodies = list(bodies_of(str(tmp_path / "events.jsonl"), 500))
    assert [line for body in bodies for line in body] == lines, "no blank ones"
    assert max(len(b"".join(body)) for body in bodies) <= IntakeSettings().body_bytes // 2
    assert [len(body) for body in bodies_of(str(tmp_path / "events.jsonl"), 3)][:3] == [3, 3, 3]


def test_files_for_people_are_written_in_utf_8_whatever_the_machine_writes_in() -> None:
    calls = [
        (path.name, node.lineno, {word.arg for word in node.keywords})
        for path in CLI.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "write_text"
    ]
    assert [call for call in calls if "encoding" not in call[2]] == []
