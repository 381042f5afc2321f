"""``weir tune --full``: search the settings of a task's encoder on its logged history.

It knows arguments, a progress bar and a table; the search is in ``weir.models.training.search``.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import typer

from weir.streams.cli.console import bar, output, say, table
from weir.streams.cli.options import INTERRUPTED
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.models.training.search import TrialResult, Tuner
    from weir.models.training.training_settings import EncoderSettings
    from weir.models.types import TrainingSet
    from weir.online.task.full_spec import FullSpec
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings
    from weir.streams.trainer.history.history_builder import LoggedHistory


def tune_full(
    task: Path,
    archive: Path | None,
    log: Path | None,
    settings: Settings,
    *,
    trials: int,
    study: Path,
    folds: int,
    delay: float | None,
    out: Path | None,
) -> None:
    """Train the encoder again and again on what was logged, validated on newer events; print the best settings."""
    from weir.streams.task_files import load_task

    spec = load_task(task)
    if spec.full is None:
        raise UsageError(f"{task}: the task has no [full] table, so there is no full model to tune")
    for package in ("torch", "optuna"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is not installed: pip install 'weir[train]'")
    logged = asyncio.run(_read(spec, archive, log, settings))
    sets = _folds(logged, spec, spec.full, delay, folds)
    from weir.models.training.search import Tuner

    tuner = Tuner(sets, _base(spec.full), study, spec.full.training.seed)
    best = _search(tuner, trials)
    shown = [(name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in best.settings.items()]
    output().print(table("setting", "best>", rows=shown, title=f"trial {best.number}: {best.value:.4f}"))
    if out is not None:
        out.write_bytes(orjson.dumps(dict(best.settings), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


async def _read(spec: TaskSpec, archive: Path | None, log: Path | None, settings: Settings) -> LoggedHistory:
    from weir.streams.trainer.history.log_sources import EmbeddedSource, KafkaSource
    from weir.streams.trainer.history.read_history import read_history

    # With the limits of the settings: by the defaults, records that workers took would be left out as unreadable.
    if log is not None:
        return await read_history(
            spec, source=EmbeddedSource.of_directory(log), archive=archive, limits=settings.limits
        )
    if archive is not None:
        return await read_history(spec, archive=archive)
    async with KafkaSource(settings, "tune") as kafka:
        return await read_history(spec, source=kafka, limits=settings.limits)


def _folds(
    logged: LoggedHistory, spec: TaskSpec, full: FullSpec, delay_days: float | None, folds: int
) -> list[TrainingSet]:
    """The newest period to validate on, and those before it, each with the history as it was known then."""
    from weir.streams.trainer.job.real_steps import cut

    # By the events, not the clock: an archive may have ended long ago.
    newest, delay_s = float(logged.history.ts.max()), None if delay_days is None else delay_days * 86_400
    return [cut(logged, spec, newest - k * full.training.validation, delay_s) for k in range(folds)]


def _base(full: FullSpec) -> EncoderSettings:
    from weir.models.training.training_settings import EncoderSettings
    from weir.streams.trainer.job.real_steps import encoder_shape

    if full.state == 0:
        raise UsageError("[full] state is 0: the encoder carries at least 1 float for each entity")
    return EncoderSettings.of(encoder_shape(full))


def _search(tuner: Tuner, trials: int) -> TrialResult:
    try:
        with bar("trial", elapsed=True) as advance:
            return tuner.run(trials, advance, _note)
    except KeyboardInterrupt:
        say(f"interrupted: the same command goes on with {tuner.study}")
        raise typer.Exit(INTERRUPTED) from None


def _note(trial: TrialResult) -> None:
    value = "-" if trial.value is None else f"{trial.value:.4f}"
    say(f"trial {trial.number}: {trial.state}, {value}")
