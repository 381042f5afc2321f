"""What ``weir backtest`` shows of a run: metrics, slices, one score explained; and a run of ``kind = "next"``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import typer

from weir.streams.cli.console import bars, notes, output, say, table, utc
from weir.streams.cli.options import INTERRUPTED
from weir.streams.ops.stop_request import StopRequest, interruptible
from weir.streams.whole_files import write_whole

if TYPE_CHECKING:
    from rich.table import Table

    from weir.online.task.next_spec import NextTask
    from weir.streams.backtest.next_runner import NextResult
    from weir.streams.backtest.outcomes import Outcomes
    from weir.streams.model_replicas.explanation import Explanation

_SHOWN: Final = ("roc_auc", "average_precision", "log_loss", "brier", "ece", "accuracy", "f1", "kappa")
_OF_SLICES: Final = ("scored", "rows", "positives", "average_precision", "roc_auc", "precision", "recall",
                     "alerts_per_day")  # fmt: skip
_FEATURES: Final = 15


def summary(report: Mapping[str, Any]) -> Table:
    """The metrics, and under them the line at which alerts were made."""
    from rich.table import Table

    r = report
    title = f"{r['task']}: {r['rows']:,} rows in {r['seconds']:.1f} s"
    made = Table(title=title, title_justify="left", caption_justify="left")
    over = {"judged": r["judged"], **r["metrics"]}
    made.add_column("metric")
    for slice_name in over:
        made.add_column(slice_name, justify="right")
    for name in _SHOWN:
        cells = [f"{m[name]:.4f}" if name in m else "" for m in over.values()]
        if any(cells):
            made.add_row(name, *cells)
    made.caption = "\n".join(_about(r))
    return made


def _about(r: Mapping[str, Any]) -> Iterator[str]:
    """What stands under the metrics, a sentence a line."""
    yield (
        f"{r['scored']:,} scored, {r['labelled']:,} labelled, {r['model_version']:,} learned, "
        f"{r['rejected']:,} rejected, {r['repeats']:,} repeated, {r['alerts']['open']:,} alerts opened, "
        f"{r['drifts']:,} drifts"
    )
    yield f"judged: {r['judged']['what']}; the other metrics: as live, over {r['metrics_over']}"
    if r["line"]["rows"]:
        yield _line(r["line"])
    if refused := r["alerts"]["refused"]:
        yield f"{refused:,} rows over the line opened no alert, as the budget had none left"


def _line(line: Mapping[str, Any]) -> str:
    """What the line did, in words."""
    shares = [f"{name} {line[name]:.3f}" for name in ("precision", "recall") if name in line]
    told = [*shares, *([f"{line['alerts_per_day']:,.3g} alerts a day"] if "alerts_per_day" in line else [])]
    if "cost" in line:
        told.append(f"cost {line['cost']:,.0f}, and {line['cost_without']:,.0f} without alerts")
    return f"at {line['kind']}: {', '.join(told)}"


def slices(field: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Metrics by the values of a field."""

    def cell(row: Mapping[str, Any], name: str) -> str:
        value = row.get(name, "")
        return f"{value:,.0f}" if name in _OF_SLICES[:3] else f"{value:.3f}" if value != "" else ""

    cells = [["(none)" if row["value"] is None else row["value"], *(cell(row, n) for n in _OF_SLICES)] for row in rows]
    names = ("scored", "labelled", *_OF_SLICES[2:])
    return table(field, *(f"{name.replace('_', ' ')}>" for name in names), rows=cells)


def show_explained(e: Explanation, outcomes: Outcomes | None) -> None:
    """Why an event got its score, and what became of it."""
    out, facts = output(), [
        ("event", f"{e.event_id} of {e.entity_id}, at {utc(e.ts)} UTC"),
        ("model", f"version {e.version:,}, sha256 {e.digest}"),
        ("score", repr(e.score)),
        ("score again", f"{e.again!r}, {'equal bit for bit' if e.equal else 'NOT EQUAL'}"),
    ]  # fmt: skip
    if outcomes is not None:
        at = outcomes.take(outcomes.row_of(e.entity_id, e.event_id))
        said = f"as of {utc(at.known_at[0])} UTC" if at.labelled.all() else "not known when the data ended"
        label = f"{at.label[0]:.0f}, {said}" if at.labelled.all() else said
        facts += [("line", f"{at.threshold[0]:.6g}, {'alerted' if at.alerted[0] else 'no alert'}"), ("label", label)]
    out.print(table("", "", rows=facts))
    out.print("\n".join(f"- {reason}" for reason in e.reasons))
    rows = [(c.feature, f"{c.value + 0.0:.6g}", f"{c.contribution:+.4f}") for c in e.contributions[:_FEATURES]]
    out.print(table("feature", "value>", "log-odds>", rows=rows))
    if left := e.contributions[_FEATURES:]:
        out.print(f"{len(left)} more add {sum(c.contribution for c in left):+.4f} together")


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
    console.print(_summary(result))
    if report is not None:
        write_whole(report, orjson.dumps(result.report(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
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
