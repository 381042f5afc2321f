"""``weir tune --full`` on what a log holds; it refuses what it cannot do before it reads or trains anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.streams.logged_run import FRAUD, simulated
from weir.online.task.full_spec import FullSpec
from weir.streams.cli.models.tune import _base, tune_command
from weir.streams.cli.options import INTERRUPTED
from weir.streams.errors import UsageError

FULL = """
[full]
state = 3
[full.training]
min_labels = 20
min_positives = 5
validation = "2d"
"""


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(tune_command)
    return app


def test_a_search_on_a_log_tells_the_best_and_goes_on_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated(tmp_path / "log", 1500).log.close()
    (tmp_path / "fraud.toml").write_text(FRAUD + FULL)
    arguments = [str(tmp_path / "fraud.toml"), "--full", "--log", str(tmp_path / "log"), "--trials", "1"]
    arguments += ["--study", str(tmp_path / "study"), "--out", str(tmp_path / "best.json")]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("weir.streams.cli.models.tune._note", interrupted)
        broken = CliRunner().invoke(command(), arguments)
    assert broken.exit_code == INTERRUPTED
    assert "goes on with" in broken.output
    done = CliRunner().invoke(command(), arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "best.json").read_text())["length"] == 64
    assert "pretrain_rate" in done.output


def test_a_task_without_a_full_model_has_nothing_to_tune(tmp_path: Path) -> None:
    (tmp_path / "fraud.toml").write_text(FRAUD)
    with pytest.raises(UsageError, match=r"no \[full\] table"):
        tune_command(tmp_path / "fraud.toml", full=True)


def test_an_encoder_needs_a_state() -> None:
    with pytest.raises(UsageError, match="state is 0"):
        _base(FullSpec(state=0))
    assert _base(FullSpec(state=8, embedding=2)).hidden == 8


def test_a_search_writes_over_nothing_that_it_reads(tmp_path: Path) -> None:
    task, data = tmp_path / "fraud.toml", tmp_path / "rows.csv"
    task.write_text(FRAUD)
    data.write_text("user,eur\n1,2\n")
    for study in (data, task, tmp_path):
        with pytest.raises(UsageError, match=r"--study .*: a folder, or a file that is read by this run"):
            tune_command(task, data=[data], study=study)
    study = tmp_path / "study"
    for out in (data, study):
        with pytest.raises(UsageError, match="is read by this run, and would be written over"):
            tune_command(task, data=[data], study=study, out=out)
    with pytest.raises(UsageError, match="does not exist; create it first"):
        tune_command(task, data=[data], study=study, out=tmp_path / "none" / "out.toml")
