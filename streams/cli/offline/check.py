"""``weir check``: what is odd of a task and its data, before an hour is spent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from weir.streams.cli.options import DataOption, JsonOption, LabelsOption


def check_command(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="The task file (TOML).")],
    data: DataOption,
    labels: LabelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a task and its data for what is odd, before an hour is spent.

    A sample of at most 40 MB, or 200,000 rows of Parquet, is read as a backtest reads it. Every line that
    is not OK says value, limit and remedy. The exit status is 1 when something fails; warnings do not count.

    For example:

        weir check fraud.toml --data payments.parquet

        weir check churn.toml --data plays-2025.csv.gz --data plays-2026.csv.gz --json | jq '.checks[].found'
    """
    from rich.console import Console

    from weir.streams.checks.findings import checks_table
    from weir.streams.cli.console import notes
    from weir.streams.task_files import load_task
    from weir.streams.workbench.profile.doubts import doubts_of

    spec = load_task(task)
    with notes().status("looking at a sample"):
        checks = doubts_of(spec, data, labels or ())
    failed = sum(check.status == "FAIL" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        Console().print(checks_table(checks))
    if failed:
        raise typer.Exit(1)
