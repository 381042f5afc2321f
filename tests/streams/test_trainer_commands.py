"""``weir trainer`` and ``weir retrain`` explain themselves, and say what is wrong before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from tests.streams.trainer_fakes import SPEC, World, spec
from weir.online.errors import TaskError
from weir.streams.cli.models.retrain import retrain_command
from weir.streams.cli.processes.trainer import trainer_command
from weir.streams.config.model_settings import TrainerSettings
from weir.streams.errors import UsageError


@pytest.mark.parametrize("command", [trainer_command, retrain_command])
def test_commands_explain_themselves_with_examples(command: Any) -> None:
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "For example:" in shown.output


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "plain.toml").write_text(SPEC.partition("[full]")[0])
    app = typer.Typer()
    app.command()(trainer_command)
    wrong = CliRunner().invoke(app, [str(tmp_path / "plain.toml")])
    assert isinstance(wrong.exception, UsageError)
    assert "add a [full] table" in str(wrong.exception)
    with pytest.raises(TaskError, match="no cron expression"):
        World(tmp_path, task=spec('schedule = "sometimes"\n'))
    with pytest.raises(ValidationError, match="at least 3 times heartbeat_s"):
        TrainerSettings(heartbeat_s=20)
