"""``weir backtest`` of a task of ``kind = "next"``: what is told next, beside lists that need no learner."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import typer

from weir.streams.cli.console import bars, notes, say, table
from weir.streams.cli.options import INTERRUPTED
from weir.streams.ops.stop_request import StopRequest, interruptible

if TYPE_CHECKING:
    from rich.table import Table

    from weir.online.task.next_spec import NextTask
    from weir.streams.backtest.next_runner import NextResult

NOTHING_TOLD = 3
"""Exit status where no row was told anything."""


def backtest_next(task: NextTask, data: list[Path], scores: Path | None, report: Path | None, *, strict: bool) -> None:
    """Run ``task`` over ``data`` and print its metrics; ``scores`` and ``report`` are written where they are given."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    from weir.streams.backtest.next_runner import run_next

    console, asked = notes(), StopRequest()
    with ExitStack() as stack:
        bar = stack.enter_context(bars(MofNCompleteColumn(), TimeRemainingColumn()))
        row = bar.add_task(task.name, total=None)

        def started(decided: Sequence[str]) -> None:
            # From here on Ctrl-C ends the run between two batches, so that the files are whole.
            stack.enter_context(interruptible(asked))
            if decided:
                bar.console.print("\n".join(decided), markup=False, soft_wrap=True)

        try:
            result = run_next(
                task, data, scores, lambda done, total: bar.update(row, completed=done, total=total),
                started=started, stop=asked.is_set,
            )  # fmt: skip
        except KeyboardInterrupt:
            say("stopped before the files were read")
            raise typer.Exit(INTERRUPTED) from None
    if report is not None:
        report.write_bytes(orjson.dumps(result.report(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    console.print(_summary(result))
    for odd in result.notes:
        say(f"warning: {odd}")
    if result.stopped:
        say(f"stopped after {result.rows:,} rows; what was done so far is in the files")
        raise typer.Exit(INTERRUPTED)
    if not result.pipeline.told:
        raise typer.Exit(NOTHING_TOLD)
    if strict and result.notes:
        raise typer.Exit(1)


def _summary(result: NextResult) -> Table:
    """Each list with its metrics, of all judged baskets and of the recent ones."""
    from weir.online.ranking.ranking_metrics import LISTS, METRICS

    r, k = result.report(), result.task.k
    names = [f"{metric}@{k}" for metric in METRICS]
    rows = []
    for of in LISTS:
        keys = [name if of == LISTS[0] else f"{name} {of}" for name in names]
        means = [f"{r['metrics'][part][key]:.4f}" for part in r["metrics"] for key in keys]
        rows.append([of.replace("_", " "), *means])
    headers = [f"{part}: {name}>" for part in r["metrics"] for name in names]
    made = table("list", *headers, rows=rows)
    made.title = f"{r['task']}: {r['rows']:,} rows in {r['seconds']:.1f} s"
    made.caption = (
        f"{r['told']:,} rows told, {r['baskets_judged']:,} baskets judged by the next one, {r['entities']:,} entities, "
        f"{r['items']:,} items, {r['rejected']:,} rejected, {r['repeats']:,} repeated"
    )
    return made
