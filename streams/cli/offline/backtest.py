"""``weir backtest``: run a task over files as it would have run live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from weir.streams.cli.console import bars, notes, output, say
from weir.streams.cli.offline.backtest_tables import backtest_next, show_explained, slices, summary
from weir.streams.cli.options import INTERRUPTED, DataOption, LabelsOption, duration
from weir.streams.errors import UsageError
from weir.streams.ops.stop_request import StopRequest, interruptible
from weir.streams.whole_files import write_whole

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from weir.online.task.spec import TaskSpec
    from weir.streams.backtest.run_result import BacktestResult
    from weir.streams.workbench.full_training import BacktestTrainer
    from weir.streams.workbench.report.page import RunWatcher

SHOWN, NOTHING_SCORED = 6, 3
"""Exit status where no row was scored."""


def backtest_command(
    task: Annotated[Path, typer.Argument(metavar="TASK", help="The task file (TOML).")],
    data: DataOption,
    scores: Annotated[Path | None, typer.Option("--scores", help="Write every score to this Parquet file.")] = None,
    labels: LabelsOption = None,
    label_delay: Annotated[
        str | None, typer.Option(help="How late a label becomes known, such as 7d; the task's own when left out.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write metrics, over time too, to this JSON file.")
    ] = None,
    alerts: Annotated[
        Path | None, typer.Option("--alerts", help="Write the alerts and their outcome to this JSONL or Parquet file.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="Write what each score was made from to this Parquet file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page that shows the whole run, for a browser.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Write the charts of that page as SVG into this folder.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--slice", metavar="FIELD", help="Metrics by the values or ranges of a field, such as country."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="EVENT_ID", help="Show why this event got its score.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option("--models", help="Keep the full models that [full] trains in this directory.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="Whether the full model of [full] is trained on the way.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Any warning ends with exit status 1.")] = False,
) -> None:
    """Replay files through a task: features, scores, late labels, learning, alerts.

    One pass in event time. A row's label is seen only after the delay that the task's [source] declares, and a
    score is always made before its row is learned. A task without [source] reads JSONL in wire format, such as
    `weir simulate` writes.

    Each file that is written is whole also when Ctrl-C ends the run. The full model of a task with [full] is trained
    on the way as `weir trainer` does it, on the task's schedule.

    What is odd in the data is said at the end and stands in the report, as `notes`. The exit status is 3 when no row
    was scored, 130 after Ctrl-C, and 1 with --strict when there is any warning.

    For example:

        weir backtest fraud.toml --data payments.parquet --scores scores.parquet --report report.json

        weir backtest fraud.toml --data payments.parquet --html report.html --plots charts

        weir backtest churn.toml --data plays-2025.csv.gz --data plays-2026.csv.gz --scores scores.parquet

        weir backtest fraud.toml --data user-events.jsonl --labels labels.jsonl --label-delay 4d

        weir backtest fraud.toml --data payments.parquet --alerts alerts.jsonl --features features.parquet

        weir backtest fraud.toml --data payments.parquet --slice country --explain e-17342

        weir backtest groceries.toml --data lines.parquet --scores told.parquet    # a task of kind = "next"
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from weir.online.task.next_spec import NextTask
    from weir.streams.backtest.outcomes import Keep
    from weir.streams.backtest.runner import run_backtest
    from weir.streams.task_files import load_any_task
    from weir.streams.workbench.outcome_report import outcome_report

    spec, console = load_any_task(task), notes()
    source = task.read_text("utf-8-sig")  # now: a file that is edited during the run is another task's
    delay_s = None if label_delay is None else duration("--label-delay", label_delay)
    written = [target for target in (scores, report, alerts, features, html) if target is not None]
    for target in written:
        check_target(target, (task, *data, *(labels or ())))
    # Resolved: ./a.parquet and a.parquet are one file.
    if len({target.resolve() for target in written}) < len(written):
        raise UsageError(f"two outputs have one name among {', '.join(map(str, written))}; give each its own")
    if isinstance(spec, NextTask):
        others = {"labels": labels, "label-delay": label_delay, "alerts": alerts, "features": features, "html": html,
                  "plots": plots, "slice": by, "explain": explain, "models": models}  # fmt: skip
        for name, given in others.items():
            if given:
                raise UsageError(f'{task} is of kind = "next": --{name} is for tasks that score; leave it out')
        backtest_next(spec, data, scores, report, strict=strict)
        return
    looking = watched(html, plots)
    asked = StopRequest()
    with ExitStack() as stack:
        bar = stack.enter_context(bars(MofNCompleteColumn(), TimeRemainingColumn()))
        row = bar.add_task(f"{spec.name}: files, then kernels (half a minute the first time)", total=None)

        trainer = None
        if spec.full is not None and full:
            trainer = stack.enter_context(_trainer(spec, models, asked, bar, row))

        def started(decided: Sequence[str]) -> None:
            # From here on Ctrl-C ends the run between two batches, so that every file is whole.
            stack.enter_context(interruptible(asked))
            if decided:
                bar.console.print("\n".join(decided), markup=False, soft_wrap=True)

        try:
            result = run_backtest(
                spec,
                data,
                scores,
                lambda done, total: bar.update(row, description=spec.name, completed=done, total=total),
                labels=labels or (),
                label_delay_s=delay_s,
                started=started,
                keep=Keep(outcomes=True, reasons=explain is not None, field=by, late_labels=True),
                explain=explain,
                alerts=alerts,
                features=features,
                stop=asked.is_set,
                full=trainer,
                watcher=looking,
            )
        except KeyboardInterrupt:
            say("stopped before the files were read")
            raise typer.Exit(INTERRUPTED) from None
    said = result.report()
    if result.judged is not None:
        said |= outcome_report(spec, result.judged, by)
    # First of all: where one of the files cannot be written, a long run was not for nothing.
    console.print(summary(said))
    if report is not None:
        write_whole(report, orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    if looking is not None:
        from weir.streams.workbench.report.page import write_report

        with console.status("the page"):
            write_report(result, looking, source, html, plots)
    if result.trainings:
        stages = Counter(each["stage"] for each in result.trainings)
        ended = ", ".join(f"{n:,} {stage}" for stage, n in stages.most_common())
        where = f"; the models are in {models}" if models is not None else "; --models DIR keeps the models"
        say(f"{len(result.trainings):,} trainings of the full model: {ended}{where}")
    if by is not None:
        output().print(slices(by, said["slices"][by]))
    if result.stopped:
        so_far = ", ".join(map(str, written)) or "no file, as none was asked for"
        say(f"stopped after {result.rows:,} rows; what was done so far is in {so_far}")
        raise typer.Exit(INTERRUPTED)
    if explain is not None:
        _explain(result, explain)
    _tell(result, strict)


def watched(html: Path | None, plots: Path | None = None) -> RunWatcher | None:
    """What watches a run for its page and charts; ``None`` where neither is wanted.

    Raises ``UsageError`` where they cannot be made.
    """
    if html is None and plots is None:
        return None
    from weir.streams.cli.processes.process import needed
    from weir.streams.workbench.report.page import RunWatcher

    if html is not None:
        needed(["jinja2"], "--html", "weir[serve]")
    if plots is not None and plots.exists() and not plots.is_dir():
        raise UsageError(f"--plots {plots} is a file; give the name of a folder")
    return RunWatcher()


def _trainer(
    spec: TaskSpec, models: Path | None, asked: StopRequest, bar: Progress, row: TaskID
) -> AbstractContextManager[BacktestTrainer]:
    """What trains the full model; without a directory of their own its versions go with the run."""
    from weir.streams.cli.processes.process import needed

    needed(["onnxruntime", "lightgbm"], "a task with [full] (or give --no-full)", "weir[cpu]")
    from weir.streams.workbench.full_training import training_of_run

    def progress(part: str, done: int, of: int) -> None:
        bar.update(row, description=f"{spec.name}: {part} {done:,} of {of:,}" if done < of else spec.name)

    return training_of_run(spec, models, asked.is_set, progress)


def _explain(result: BacktestResult, event_id: str) -> None:
    if not result.explained:
        raise UsageError(f"event {event_id!r} was not scored: it is not in the data, or is none of the task's events")
    for found in result.explained:
        show_explained(found, result.outcomes)
    if not all(found.equal for found in result.explained):
        raise typer.Exit(1)


def _tell(result: BacktestResult, strict: bool) -> None:
    """Say what is odd, and end with the status that it asks for."""
    for odd in result.notes[:SHOWN]:
        say(f"warning: {odd}")
    if (more := len(result.notes) - SHOWN) > 0:
        say(f"{more} more warnings are in the file of --report, under `notes`")
    for reject in result.rejects[:5]:
        say(f"rejected {result.told(reject)}")
    if not result.pipeline.scored:
        raise typer.Exit(NOTHING_SCORED)
    if strict and result.notes:
        kinds = ", ".join(dict.fromkeys(odd.kind for odd in result.notes))
        say(f"error: --strict, and there are warnings: {kinds}")
        raise typer.Exit(1)


def check_target(path: Path, inputs: Iterable[Path] = ()) -> None:
    """What is to be written at the end of a long run must be possible at its start, and be none of its ``inputs``."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory; give the name of a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.resolve() in {each.resolve() for each in inputs}:
        raise UsageError(f"{path} is read by this run, and would be written over; give another name")
