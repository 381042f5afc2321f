"""``weir compare``: run tasks over the same files and tell them apart, with intervals.

It knows arguments, a progress bar and tables; the comparison is in ``weir.streams.workbench.comparison``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weir.streams.cli.console import bar_of_each, output, say, table, to_json
from weir.streams.cli.offline.backtest import check_target
from weir.streams.cli.options import INTERRUPTED, ArchiveOption, DataOption, LabelsOption, LogOption, duration
from weir.streams.errors import UsageError
from weir.streams.whole_files import write_whole

if TYPE_CHECKING:
    from weir.online.decisions.threshold_policy import CostThreshold
    from weir.online.task.spec import TaskSpec
    from weir.streams.workbench.comparison import Comparison, Difference, Run
    from weir.streams.workbench.measures import Interval

SLICES_SHOWN = 8
_AT_LINE = {"precision": "precision at the line", "recall": "recall at the line", "alerts": "rows over the line"}
_FEW_UNITS = 30


def compare_command(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK...", help="Task files (TOML); the first is the base.")],
    data: DataOption,
    champion: Annotated[
        bool, typer.Option("--champion", help="Compare with what serves, by the predictions in --archive or --log.")
    ] = False,
    archive: ArchiveOption = None,
    log: LogOption = None,
    labels: LabelsOption = None,
    label_delay: Annotated[str | None, typer.Option(help="How late labels of --labels become known, as 7d.")] = None,
    field: Annotated[
        str | None,
        typer.Option("--slice", help="A field of the events; its values, or ranges, are slices, as country."),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(metavar="FP,FN[,REVIEW]", help="Costs of a false alarm and a miss; else of a cost threshold."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, max=10_000, help="Of each bootstrap.")] = 1_000,
    json: Annotated[Path | None, typer.Option("--report", "--json", help="Write everything to this JSON file.")] = None,
) -> None:
    """Compare task files over the same data: paired differences with intervals.

    Each task runs over the files once. Rows are paired by entity and event;
    those count that all scored and whose label is known, sooner or later,
    but those scored before any task had learned. Differences of
    average precision, ROC AUC, log loss, Brier score and cost to the first
    task have 95 % intervals, drawn by entity and by week: believe the wider.
    Then it says on which weeks, sizes of entities and values of --slice they
    differ most.

    For example:

        weir compare fraud.toml fraud-trees.toml --data payments.parquet

        weir compare fraud.toml --champion --archive archive --data payments.parquet

        weir compare a.toml b.toml --data rows.csv --slice country --cost 5,200 --report found.json
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from weir.streams.task_files import load_task
    from weir.streams.workbench.comparison import compared, costs_of, run_tasks
    from weir.streams.workbench.slices import is_id

    specs = {str(path): load_task(path) for path in tasks}
    if len(specs) + champion < 2:
        raise UsageError("one task has nothing to be compared with: name another task file, or give --champion")
    if champion and archive is None and log is None:
        raise UsageError("--champion: give --archive or --log, where the predictions of what serves are")
    if json is not None:
        check_target(json, (*tasks, *data, *(labels or ())))
    costs = _costs(cost) if cost is not None else costs_of(list(specs.values()))
    delay_s = None if label_delay is None else duration("--label-delay", label_delay)
    runs: list[Run] = []
    try:
        if champion:
            runs.append(asyncio.run(_champion(next(iter(specs.values())), archive, log)))
        with bar_of_each(MofNCompleteColumn(), TimeRemainingColumn()) as advance:
            made = run_tasks(specs, data, advance, labels=labels or (), label_delay_s=delay_s, kept_field=field)
            runs += made
        if champion:
            # Predictions are logged before any label: those of the first task are of the same events.
            runs[0] = runs[0].labelled_by(runs[1])
        ids = field is not None and any(is_id(spec, field) for spec in specs.values())
        found = compared(runs, costs=costs, resamples=resamples, kept_field=field, ids=ids)
    except KeyboardInterrupt:
        say(f"stopped after {len(runs)} of {len(specs) + champion} runs: nothing is compared")
        raise typer.Exit(INTERRUPTED) from None
    show(found)
    if json is not None:
        write_whole(json, f"{to_json(found.document())}\n".encode())


def _costs(text: str) -> CostThreshold:
    from pydantic import ValidationError

    from weir.online.decisions.threshold_policy import CostThreshold

    try:
        given = [float(part) for part in text.split(",")]
        names = ("false_positive", "false_negative", "review")
        # Two or three are given; strict for more, which are an error.
        return CostThreshold(**dict(zip(names, given, strict=len(given) > 3)))
    except (ValidationError, ValueError, TypeError):
        raise UsageError(f"--cost {text!r}: give two or three numbers of at least 0, as 5,200 or 5,200,1") from None


async def _champion(task: TaskSpec, archive: Path | None, log: Path | None) -> Run:
    """What serves, by the predictions it logged."""
    from weir.streams.trainer.history.log_sources import EmbeddedSource, monotonic
    from weir.streams.trainer.history.logged_tables import RecordReader
    from weir.streams.trainer.history.parquet_archive import read_archive
    from weir.streams.workbench.comparison import logged_run

    tables = [] if archive is None else read_archive(archive, task.name, "predictions")
    if log is not None:
        source, reader = EmbeddedSource.of_directory(log), RecordReader(task)
        topic = reader.topic("predictions")
        for partition, (start, stop) in (await source.spans(topic, None, None)).items():
            async for piece, written_at in monotonic(source.read(topic, partition, start, stop)):
                tables += reader.tables("predictions", piece.records, written_at)
    if not tables:
        raise UsageError(f"{archive or log}: no prediction of task {task.name}; is it the log of what serves?")
    return logged_run("champion", tables)


def show(found: Comparison, title: str = "") -> None:
    """Print a comparison."""
    base = found.names[0]
    title = title or f"{found.rows:,} rows with labels, {found.positives:,} positive; compared with {base}"
    say(f"counted, as in a backtest: {found.counted}")
    for k, difference in enumerate(found.differences, 1):
        name = found.names[k]
        rows: list[tuple[str, ...]] = [
            (m, f"{found.measures[0][m]:.4f}", f"{found.measures[k][m]:.4f}", f"{by.value:+.4f}", ends(by),
             ends(difference.by_week[m]))
            for m, by in difference.by_entity.items()
        ]  # fmt: skip
        for name_of, form in (("precision", ".4f"), ("recall", ".4f"), ("alerts", ",.0f")):
            rows.append((_AT_LINE[name_of], *(_number(found.measures[i][name_of], form) for i in (0, k)), "", "", ""))
        rows.append(("seconds", *(_number(found.seconds[i], ".1f") for i in (0, k)), "", "", ""))
        units = [next(iter(by.values())).units for by in (difference.by_entity, difference.by_week)]
        columns = (f"by {units[0]:,} entities>", f"by {units[1]:,} weeks>")
        output().print(table("", f"{base}>", f"{name}>", "difference>", *columns, rows=rows, title=title))
        _show_slices(difference)
    few = [kind for kind, n in zip(("entities", "weeks"), units, strict=True) if n < _FEW_UNITS]
    if few:
        say(f"few {' and '.join(few)}: intervals over fewer than {_FEW_UNITS} are too short")
    for name, left in found.unpaired.items():
        if left:
            say(f"{name}: {left:,} rows with a label were not scored by all and do not count")


def _show_slices(difference: Difference) -> None:
    shown = difference.slices[:SLICES_SHOWN]
    if shown:
        rows = [
            (s.kind, s.value, f"{s.rows:,}", f"{s.positives:,}", f"{s.difference.value:+.4f}", ends(s.difference))
            for s in shown
        ]
        title = f"where they differ most in average precision, {len(shown)} of {len(difference.slices)} slices"
        names = ("slice", "", "rows>", "positive>", "difference>", "95 %>")
        output().print(table(*names, rows=rows, title=title))


def ends(of: Interval) -> str:
    """An interval as people read it; nothing where there is none."""
    return "-" if of.low != of.low else f"[{of.low:+.4f}, {of.high:+.4f}]"


def _number(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)
