"""``weir worker`` and ``weir features``, run in this process, and the task files that ship with weir."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer
from typer.testing import CliRunner

from weir.streams.cli.operate.features import features_app
from weir.streams.cli.processes import worker as worker_cli

TASKS = Path(__file__).resolve().parents[2] / "streams" / "demo" / "tasks"


def weir(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str, Exception | None]:
    app = typer.Typer()
    app.command("worker")(worker_cli.worker_command)  # of the module that tests change
    app.add_typer(features_app, name="features")
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **(env or {})})
    error = result.exception if isinstance(result.exception, Exception) else None
    return result.exit_code, result.output, error
