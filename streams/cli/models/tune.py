"""``weir tune``: search for a better task over files; with ``--full`` the settings of a task's encoder.

It knows arguments, bars and tables; the search is in ``weir.streams.workbench.tuning``, that of the encoder in
``weir.models.training.search``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import orjson
import typer

from weir.streams.cli import options
from weir.streams.cli.console import bar, bar_of_each, bars, output, say, table
from weir.streams.cli.offline.backtest import check_target
from weir.streams.errors import UsageError
from weir.streams.whole_files import write_whole

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from weir.models.training.search import TrialResult, Tuner
    from weir.models.training.training_settings import EncoderSettings
    from weir.models.types import TrainingSet
    from weir.online.task.full_spec import FullSpec
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings
    from weir.streams.trainer.history.history_builder import LoggedHistory
    from weir.streams.workbench.measures import Interval
    from weir.streams.workbench.tuning.findings import Row
    from weir.streams.workbench.tuning.study import Search

_TRIALS, _MOST_TRIALS = 20, 1_000
_METRICS = ("average_precision", "roc_auc", "log_loss", "brier")


def tune_command(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="The task file (TOML).")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="CSV, Parquet, Arrow or JSON; repeat to merge files by time.")
    ] = None,
    labels: options.LabelsOption = None,
    label_delay: Annotated[str | None, typer.Option(help="How late labels of --labels become known, as 7d.")] = None,
    minutes: Annotated[float, typer.Option(min=0.01, max=525_600, help="How long to search and judge, about.")] = 20.0,
    trials: Annotated[
        int | None,
        typer.Option("--trials", "-n", min=1, max=10**6, help="Ended trials the study shall have; with --full 20."),
    ] = None,
    judge: Annotated[
        float, typer.Option(min=0.02, max=0.8, help="Share of the rows, the last, judged at the end.")
    ] = 0.2,
    metric: Annotated[str, typer.Option(help=f"What is searched for: {', '.join(_METRICS)}.")] = _METRICS[0],
    processes: Annotated[int, typer.Option(min=1, max=64, help="That run trials.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the search.")] = 1,
    study: Annotated[Path, typer.Option("--study", help="File of the study; one that is there goes on.")] = Path(
        "weir-tune.journal"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the task it recommends (with --full: the settings, JSON).")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Search the settings of the task's encoder instead.")] = False,
    archive: options.ArchiveOption = None,
    log: options.LogOption = None,
    folds: Annotated[
        int, typer.Option(min=1, max=8, help="With --full: validation periods, one before the other.")
    ] = 1,
    delay: Annotated[
        float | None,
        typer.Option("--label-delay-days", min=0, max=3_650, help="With --full: days until labels are known."),
    ] = None,
    config: options.ConfigOption = None,
    bootstrap: options.BootstrapOption = None,
) -> None:
    """Search for a better task over files, or for the settings of a task's encoder.

    Learners and their parameters, windows, operations, label features,
    categories and maturity are varied. The last rows (--judge) are cut off
    first: no trial reads them. At the end the task as it is and the best one
    are judged on them, once. --out keeps the comments of the task file.

    With --full it trains the encoder again and again on what was logged (an
    archive, an embedded log, or Kafka), validated on newer events.

    Ctrl-C exits with status 130 and loses nothing: the same command goes on.

    For example:

        weir tune fraud.toml --data payments.parquet --minutes 20 --out tuned.toml

        weir tune fraud.toml --data payments.parquet --processes 2 --study fraud.journal

        weir tune fraud.toml --data user-events.jsonl --labels labels.jsonl --label-delay 4d

        weir tune fraud.toml --full --archive /data/weir-archive --trials 30 --study fraud.journal
    """
    _check_files(study, out, (task, *(data or ()), *(labels or ())))
    if full or (not data and (archive is not None or log is not None)):
        settings = options.settings_of(config, bootstrap)
        tune_full(
            task, archive, log, settings, trials=trials or _TRIALS, study=study, folds=folds, delay=delay, out=out
        )
        return
    if not data:
        raise UsageError("give --data FILE to search over, or --full to search the encoder's settings")
    if metric not in _METRICS:
        raise UsageError(f"--metric {metric!r}: give {', '.join(_METRICS)}")
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("optuna is not installed: pip install 'weir[train]'")
    if labels and label_delay is None:
        raise UsageError("labels become known late: say how late with --label-delay, such as 7d (0s for at once)")
    delay_s = None if label_delay is None else options.duration("--label-delay", label_delay)
    told, ends = _Told(data, labels or [], delay_s), time.monotonic() + minutes * 60
    try:
        _tune(task, told, ends, trials or _MOST_TRIALS, judge, metric, processes, seed, study, out)
    except KeyboardInterrupt:
        say(f"interrupted: the same command goes on with {study}")
        raise typer.Exit(options.INTERRUPTED) from None


def _check_files(study: Path, out: Path | None, inputs: Sequence[Path]) -> None:
    """What is written must be possible before a search begins, and be none of what it reads."""
    if study.is_dir() or study.resolve() in {each.resolve() for each in inputs}:
        raise UsageError(f"--study {study}: a folder, or a file that is read by this run; give another name")
    if out is not None:
        check_target(out, (*inputs[1:], study))  # the task file itself may be written over: it is what is wanted better


class _Told(NamedTuple):
    """What is searched over."""

    data: list[Path]
    labels: list[Path]
    label_delay_s: float | None


def _tune(
    task: Path, told: _Told, ends: float, trials: int, judge: float, metric: str, processes: int, seed: int,
    study: Path, out: Path | None,
) -> None:  # fmt: skip
    from weir.streams.config.text_files import read_text
    from weir.streams.task_files import load_task
    from weir.streams.workbench.tuning.study import Search, work_folder
    from weir.streams.workbench.tuning.time_cut import cut

    spec, text = load_task(task), read_text(task, "task file", "correct the path")
    data, labels, delay_s = told
    made = cut(spec, data, judge, work_folder(study), labels, delay_s or 0.0)
    search = Search(text, made, study, metric, seed, delay_s)
    c = search.cut
    say(f"{c.rows:,} rows to tune on; the last {c.judged:,} are judged at the end and not read before")
    with bars() as shown:
        row = shown.add_task(f"{spec.name}: as it is", total=None)
        _, reference = search.prepare(lambda done, of: shown.update(row, completed=done, total=of))
        # The end runs the task and the best trial over all rows, which the reference did over a share of 1 - judge.
        held_back = min(3 * reference.seconds / (1 - judge), (ends - time.monotonic()) / 2)
        until = ends - max(held_back, 0.0)
        shown.update(row, description=spec.name, completed=0, total=max(until - time.monotonic(), 0.01))
        began = time.monotonic()
        search.run_all(
            until, trials, processes, lambda t: shown.console.print(_told(t, metric), markup=False, soft_wrap=True),
            lambda: shown.update(row, completed=time.monotonic() - began),
        )  # fmt: skip
    _finish(search, told, out)


def _told(trial: FrozenTrial, metric: str) -> str:
    from weir.streams.workbench.tuning.reference import BLOCKS
    from weir.streams.workbench.tuning.study import changes

    value = "-" if trial.value is None else f"{abs(trial.value):.4f}"
    # The early blocks are others than all of them: their value compares with no other.
    early = f" over {trial.last_step} of {BLOCKS} blocks, then left" if trial.state.name == "PRUNED" else ""
    return f"trial {trial.number}: {metric} {value}{early}; {_said(changes(trial))}"


def _finish(search: Search, of: _Told, out: Path | None) -> None:
    """Show the best trials, judge the pick and the task as it is, and write what is recommended."""
    from rich.progress import TimeRemainingColumn

    from weir.streams.cli.offline.compare import show
    from weir.streams.workbench.tuning.findings import judge, leaderboard, lines, pick, recommended
    from weir.streams.workbench.tuning.reference import sign
    from weir.streams.workbench.tuning.study import changes, finished
    from weir.streams.workbench.tuning.task_text import rewritten

    study, reference = search.open(), search.reference()
    looked_at, board = finished(study), leaderboard(search, study, reference)
    _show_board(board, search.metric, looked_at)
    best = study.trials[pick(board, search.metric)]
    if changes(best).keys() == {"inputs"}:
        say(f"trial {best.number} is no worse with fewer inputs, which is reason enough to recommend it")
    told = [(f"{x.score:.4f}", f"{x.alerts_per_day:.2f}", f"{x.precision:.3f}", f"{x.recall:.3f}")
            for x in lines(search, reference, best.number)]  # fmt: skip
    names = ("score from>", "alerted rows a day>", "precision>", "recall>")
    output().print(table(*names, rows=told, title=f"lines on the scores of trial {best.number}"))
    document = recommended(search, reference, best)
    if looked_at == 1:
        say("nothing but the task as it is was tried: give more --minutes or --trials; the same command goes on")
    elif best.number == 0:
        say(f"none of {looked_at} configurations was clearly better than the task as it is: none is recommended")
    else:
        # Noted before the rows are looked at: a look that is broken off was one.
        looks = int(study.user_attrs.get("judged", 0)) + 1
        study.set_user_attr("judged", looks)
        with bar_of_each(TimeRemainingColumn()) as advance:
            sides = {"as it is": search.document, f"trial {best.number}": document}
            found = judge(sides, of.data, search.cut.at, advance, labels=of.labels, label_delay_s=of.label_delay_s)
        show(found, f"judged once: {found.rows:,} later rows with labels, {found.positives:,} positive")
        gains = [gain[search.metric] for gain in (found.differences[0].by_entity, found.differences[0].by_week)]
        if unsettled := _unsettled(gains, sign(search.metric)):
            say(unsettled)
        if looks > 1:
            say(f"look number {looks} of this study at these rows: what they say is no longer new")
    if out is not None:
        write_whole(out, rewritten(search.text, document).encode())
        of_trial = f"the task of trial {best.number}, the best of {looked_at} looked at"
        say(f"{out}: {of_trial if best.number else 'the task as it is'}")


def _unsettled(gains: Sequence[Interval], more_is_better: int) -> str:
    """What to do where the judged rows do not say that the pick is better, over entities or over weeks; else ""."""
    if gains[0].value * more_is_better < 0:
        return "on the judged rows the task as it is was better: keep it, or search on more data"
    told = [min(each.low * more_is_better, each.high * more_is_better) for each in gains if each.low == each.low]
    if told and min(told) > 0:
        return ""
    return "the judged rows do not settle which is better: compare both on newer data"


def _show_board(rows: list[Row], metric: str, looked_at: int) -> None:
    from weir.streams.cli.offline.compare import ends

    shown = [
        (r.number, f"{r.value:.4f}", f"{r.difference.value:+.4f}", ends(r.difference), f"{r.seconds:.0f}",
         _said(r.changes))
        for r in rows
    ]  # fmt: skip
    names = ("trial>", f"{metric}>", "pooled>", "95 %>", "seconds>", "changes")
    title = f"the best of {looked_at} configurations, on the later rows to tune on; pooled: less the task as it is"
    output().print(table(*names, rows=shown, title=title))


def _said(changed: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in changed.items()) or "as it is"


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
        write_whole(out, orjson.dumps(dict(best.settings), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


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
        raise typer.Exit(options.INTERRUPTED) from None


def _note(trial: TrialResult) -> None:
    value = "-" if trial.value is None else f"{trial.value:.4f}"
    say(f"trial {trial.number}: {trial.state}, {value}")
