"""What ``weir backtest`` shows of a run: metrics, slices, one score explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from weir.streams.cli.console import output, table, utc

if TYPE_CHECKING:
    from rich.table import Table

    from weir.streams.backtest.explained_score import ExplainedScore
    from weir.streams.backtest.outcomes import Outcomes

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


def show_explained(e: ExplainedScore, outcomes: Outcomes | None) -> None:
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
    rows = [(name, f"{value + 0.0:.6g}", f"{part:+.4f}") for name, value, part in e.parts[:_FEATURES]]
    out.print(table("feature", "value>", "log-odds>", rows=rows))
    if left := e.parts[_FEATURES:]:
        out.print(f"{len(left)} more add {sum(part for *_, part in left):+.4f} together")
