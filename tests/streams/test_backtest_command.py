"""``weir backtest`` through the command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import weir.streams.backtest.runner
from tests.streams.payment_runs import TASK, columns, write
from weir.online.batch import EventBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.cli.app import app
from weir.streams.cli.main import COMMANDS, run


def interrupted(at_call: int) -> type[TaskPipeline]:
    class Interrupted(TaskPipeline):
        calls = 0

        def events(self, batch: EventBatch) -> StepOutput:
            self.calls += 1
            if self.calls == at_call:
                signal.raise_signal(signal.SIGINT)  # as Ctrl-C does, in the middle of a batch
            return super().events(batch)

    return Interrupted


class TestCommand:
    """Through the command line."""

    @pytest.fixture
    def invoke(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        monkeypatch.chdir(tmp_path)
        # With threads that others left, an error would end this process at once, and with it the tests behind this one.
        monkeypatch.setattr(threading, "active_count", lambda: 1)
        (tmp_path / "task.toml").write_text(TASK)
        write(tmp_path / "x.csv", columns())
        runner = CliRunner()
        return lambda *args: runner.invoke(app, list(args), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})

    def test_it_writes_scores_and_report(self, invoke: Callable[..., Result], tmp_path: Path) -> None:
        result = invoke(
            "backtest", "task.toml", "--data", "x.csv", "--scores", "scores.parquet", "--report", "report.json"
        )
        assert result.exit_code == 0, result.output
        assert pq.read_table(tmp_path / "scores.parquet").num_rows == 400
        assert orjson.loads((tmp_path / "report.json").read_bytes())["scored"] == 400
        assert "roc_auc" in result.output
        assert "400 scored" in result.output

    def test_ctrl_c_leaves_a_whole_file_of_the_scores_so_far(
        self, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weir.streams.backtest.runner, "TaskPipeline", interrupted(4))
        files = ("--scores", "scores.parquet", "--alerts", "alerts.jsonl", "--report", "report.json")
        result = invoke("backtest", "task.toml", "--data", "x.csv", *files)
        assert result.exit_code == 130
        report = orjson.loads((tmp_path / "report.json").read_bytes())
        said = f"stopped after {report['rows']} rows; what was done so far is in scores.parquet, report.json, "
        assert said in result.output.replace("\n", " ")
        assert report["alerts"]["records"] == len((tmp_path / "alerts.jsonl").read_bytes().splitlines())
        scored = pq.read_table(tmp_path / "scores.parquet").column("event_id").to_pylist()
        assert 0 < len(scored) < len(columns()["id"])
        assert scored == columns()["id"][: len(scored)]

    def test_rejected_rows_are_shown_with_their_number(self, invoke: Callable[..., Result], tmp_path: Path) -> None:
        table = columns()
        table["eur"][7] = -1e13
        write(tmp_path / "x.csv", table)
        result = invoke("backtest", "task.toml", "--data", "x.csv")
        assert result.exit_code == 0
        assert "rejected row 8: out of range: amount is -1e+13, allowed 1e+12" in result.output

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["gone.toml", "--data", "x.csv"], "no such task file: gone.toml"),
            (["bad.toml", "--data", "x.csv"], "bad.toml: not TOML: "),
            (["wrong.toml", "--data", "x.csv"], "entity is missing; give a text"),
            (["binary.toml", "--data", "x.csv"], "binary.toml: not UTF-8 text"),
            (["bare.toml", "--data", "x.csv"], "must be wire-format JSONL"),
            (["task.toml", "--data", "gone.csv"], "no such file: gone.csv"),
            (["task.toml", "--data", "task.toml"], "task.toml: no column at, bad, eur, id, user; there are: name"),
            (["task.toml", "--data", "empty.csv"], "empty.csv: cannot be read: it is empty"),
            (["task.toml", "--data", "other.csv"], "no column at, bad, eur, id; there are: user. Correct [source] in"),
            (["task.toml", "--data", "x.csv", "--scores", "no/s.parquet"], "the folder no does not exist; create it"),
            (["task.toml", "--data", "x.csv", "--report", "no/r.json"], "the folder no does not exist; create it"),
            (["task.toml", "--data", "x.csv", "--scores", "."], ". is a directory; give the name of a file in it"),
            (["task.toml", "--data", "x.csv", "--label-delay", "soon"], "--label-delay: 'soon' is not a duration"),
        ],
    )  # fmt: skip
    def test_an_expected_error_is_one_line_and_exit_status_2(
        self, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], args: list[str], message: str,
    ) -> None:  # fmt: skip
        (tmp_path / "bad.toml").write_text("name = ")
        (tmp_path / "wrong.toml").write_text('name = "x"\n')
        (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
        (tmp_path / "bare.toml").write_text(TASK[: TASK.index("[source]")])
        (tmp_path / "empty.csv").write_text("")
        (tmp_path / "other.csv").write_text("user\n1\n")
        monkeypatch.setattr(sys, "argv", ["weir", "backtest", *args])
        with pytest.raises(SystemExit) as stopped:
            run()
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert f"error: {message}" in shown or (message in shown and "error: " in shown)
        assert "Traceback" not in shown

    def test_what_the_file_system_refuses_is_one_line_and_exit_status_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(threading, "active_count", lambda: 1)
        monkeypatch.setattr(sys, "argv", ["weir", "simulate", "--events", "10", "--out", "/proc/no/such"])
        with pytest.raises(SystemExit) as stopped:
            run()
        assert stopped.value.code == 2
        assert "error: /proc/no: No such file or directory; check the path" in capsys.readouterr().err

    @pytest.mark.parametrize("args", [["backtest"], ["backtest", "task.toml"], ["backtest", "--nothing"], ["nothing"]])
    def test_a_wrong_command_line_is_exit_status_2(self, invoke: Callable[..., Result], args: list[str]) -> None:
        assert invoke(*args).exit_code == 2

    def test_version(self, invoke: Callable[..., Result]) -> None:
        result = invoke("--version")
        assert result.exit_code == 0
        assert result.output.startswith("weir 0.")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_shows_examples(self, invoke: Callable[..., Result], command: str) -> None:
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "example" in result.output.lower()
        assert f"weir {command}" in result.output

    def test_the_commands(self, invoke: Callable[..., Result]) -> None:
        assert set(COMMANDS) >= {"demo", "backtest", "simulate", "doctor"}
        assert "backtest" in invoke("--help").output
