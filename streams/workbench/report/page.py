"""Makes the page of a run, and its charts as files: from a result and what was watched, to HTML and SVG.

What the page says stands in ``facts``, what it draws in ``charts``, how it looks in ``templates`` and in the console's
style sheet. It knows no pipeline. Every part says in a sentence why it is empty, where it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from weir.online.durations import format_duration
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.outcomes import Outcomes
from weir.streams.backtest.runner import BacktestResult
from weir.streams.errors import UsageError
from weir.streams.pages.values import percent
from weir.streams.workbench.measures import at_line
from weir.streams.workbench.report import charts, facts
from weir.streams.workbench.report.charts import Chart, Drift
from weir.streams.workbench.report.feature_parts import feature_parts
from weir.streams.workbench.report.run_sample import RunSample
from weir.streams.workbench.report.stage_clock import StageClock

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATES: Final = Path(__file__).parent / "templates"
_DAY_S: Final = 86_400.0
_MOST_DRIFTS, _MOST_COLUMNS, _MOST_SOURCE = 100, 14, 200_000
_PARTS: Final = (
    ("summary", "At a glance"), ("time", "Over time"), ("scores", "Scores"), ("alerts", "Alerts"),
    ("features", "Features"), ("data", "Data"), ("task", "Task file"),
)  # fmt: skip


class Watched:
    """What is kept of a run for its report; give it to ``run_backtest`` as ``watcher``."""

    def __init__(self) -> None:
        self.sample, self.clock = RunSample(), StageClock()
        self.columns: RunWatch | None = None

    def begin(self, pipeline: TaskPipeline, watch: RunWatch) -> None:
        """The run begins: time its stages, and keep what counts its columns."""
        self.clock.watch(pipeline)
        self.columns = watch

    def add(self, out: StepOutput) -> None:
        """Take in what a step made."""
        self.sample.add(out)


@dataclass(frozen=True, slots=True)
class _Run:
    """A result with what most parts of the page need."""

    result: BacktestResult
    watched: Watched
    outcomes: Outcomes
    labelled: Outcomes
    span: tuple[float, float]
    drifts: tuple[Drift, ...]

    @classmethod
    def of(cls, result: BacktestResult, watched: Watched) -> _Run:
        if (outcomes := result.outcomes) is None:
            raise UsageError("the run kept no outcomes: run it with keep=Keep(outcomes=True)")
        span = (float(outcomes.ts.min()), float(outcomes.ts.max())) if len(outcomes) else (0.0, 0.0)
        drifts = tuple(Drift(each["ts"], each["what"]) for each in result.detections)
        return cls(result, watched, outcomes, outcomes.take(outcomes.labelled), span, drifts)

    @property
    def known_until(self) -> float:
        """From when on hardly a label is known yet: the last hundredth of those that are."""
        return float(np.quantile(self.labelled.ts, 0.99)) if len(self.labelled) else self.span[1]

    @property
    def days(self) -> float:
        """Days of event time."""
        return (self.span[1] - self.span[0]) / _DAY_S


def write_report(
    result: BacktestResult, watched: Watched, source: str, page: Path | None, plots: Path | None = None
) -> None:
    """Write the page, and each chart as SVG into the folder ``plots``, which is made.

    Parameters
    ----------
    result : of a run with ``Keep(outcomes=True)``; raises ``UsageError`` for one without.
    watched : what watched it.
    source : the text of the task file.
    page, plots : where to; ``None`` for what is not wanted. What is there is replaced.
    """
    run = _Run.of(result, watched)
    drawn = _Drawn(run)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for chart in drawn.all():
            (plots / f"{chart.name}.svg").write_text(_alone(chart.svg), encoding="utf-8")
    if page is not None:
        page.write_text(_html(run, drawn, source), encoding="utf-8")


class _Drawn:
    """The charts of a run, by part of the page."""

    def __init__(self, run: _Run) -> None:
        self.over_time = [chart for chart in _over_time(run) if chart is not None] if len(run.outcomes) else []
        self.scores = [*_of_scores(run)]
        self.alerts: list[Chart] = []
        if run.watched.sample.opened:
            budget = facts.budget_of(run.result.task)
            per_day = None if budget is None else budget.alerts_per_day
            a_day = charts.alerts_a_day(run.watched.sample.opened, run.span, per_day)
            self.alerts = [a_day, charts.over_line(run.outcomes, run.span)]
        self.missing, self.stages = _missing(run), _stages(run)

    def all(self) -> Iterator[Chart]:
        """Every one of them."""
        yield from (*self.over_time, *self.scores, *self.alerts)
        yield from (chart for chart in (self.missing, self.stages) if chart is not None)


def _over_time(run: _Run) -> Iterator[Chart | None]:
    points, over = run.result.pipeline.evaluation.points(), run.result.task.labels.metrics_over
    task = run.result.task
    note = f"Over the last {task.metrics.rolling:,} of {over}, at the time when their labels were known."
    ranked = {"average_precision": "average precision", "roc_auc": "ROC AUC"}
    yield charts.over_time("ranking", "How well it ranks", points, ranked, run.drifts, run.span, run.known_until, note)
    note = "The same rows, at the line that was in force when each was scored."
    line = {"precision": "precision", "recall": "recall"}
    yield charts.over_time("line", "At the line", points, line, run.drifts, run.span, run.known_until, note)
    if len(run.labelled):
        wait = task.labels.maturity
        shown = format_duration(wait) if isinstance(wait, float) else wait
        said = f"Metrics wait until an event is mature ({shown})."
        said = "Metrics count a label as soon as it is known." if wait == "none" else said
        yield charts.labels_known(run.outcomes, run.span, said)


def _of_scores(run: _Run) -> Iterator[Chart]:
    y, score = run.labelled.label == 1.0, run.labelled.score
    if 0 < np.count_nonzero(y) < len(y):
        line = at_line(y, score, score >= run.labelled.threshold)
        words = (
            f"At the line in force {percent(line['precision'])} of the rows over it are positive, which are "
            f"{percent(line['recall'])} of all positives."
        )
        point = (line["recall"], line["precision"], words) if line["alerts"] else None
        yield charts.precision_recall_chart(y, score, point)
        yield charts.reliability_chart(y, score)
    if len(run.outcomes):
        shown = run.labelled if len(run.labelled) else run.outcomes
        yield charts.histogram(shown.label, shown.score, run.result.pipeline.threshold.threshold)


def _missing(run: _Run) -> Chart | None:
    """Raw columns by the share of events without a value, or with one that is none."""
    watch = run.watched.columns
    if watch is None or not watch.events:
        return None
    shares = {name: 1.0 - known.total() / watch.events for name, known in watch.known.items()}
    most = sorted(((name, share) for name, share in shares.items() if share > 0.0), key=lambda each: -each[1])
    parts = [(name, share, percent(share)) for name, share in most[:_MOST_COLUMNS]]
    return charts.horizontal("missing", "Missing values", parts, ("Column", "Missing")) if parts else None


def _stages(run: _Run) -> Chart | None:
    total_s = run.result.seconds
    if not run.watched.clock.seconds or not total_s:
        return None
    shares = [each for each in run.watched.clock.shares(total_s) if each[1] >= 1e-4 * total_s]
    parts = [(stage, s, f"{s:.3g} s, {percent(s / total_s)}") for stage, s in shares]
    return charts.horizontal("stages", f"Time by stage: {total_s:.3g} s", parts, ("Stage", "Time"))


def _html(run: _Run, drawn: _Drawn, source: str) -> str:
    """The whole page."""
    from markupsafe import Markup

    from weir.streams.pages.rendering import FOLDER, environment

    templates = environment(_TEMPLATES)
    templates.filters["svg"] = Markup
    known = _facts(run, source) | {name: getattr(drawn, name) for name in vars(drawn)}
    styles = f"{_colours_by_system(FOLDER)}\n{(_TEMPLATES / 'report.css').read_text('utf-8')}"
    return templates.get_template("report.html").render(
        known, style=Markup(styles), mark=_mark(FOLDER), parts=_PARTS, without=_without(run)
    )


def _facts(run: _Run, source: str) -> dict[str, Any]:
    """What the page says, by name in its template."""
    result, sample = run.result, run.watched.sample
    p = result.pipeline
    parts = feature_parts(p.features, p.model.learner, sample)
    top = facts.alert_outcomes(sample.top(), run.outcomes)
    added = [reason.contribution for each in top for reason in each.alert.reasons]
    return {
        "run": {
            "task": result.task.name, "rows": result.rows, "span": run.span if len(run.outcomes) else None,
            "files": [path.name for path, _ in result.sizes][:6], "entity": result.task.entity.capitalize(),
        },
        "figures": [*facts.head_numbers(result, run.labelled, run.days)],
        "line": facts.line_in_words(result.task, p.threshold.threshold),
        "notes": result.notes,
        "drifts": run.drifts[:_MOST_DRIFTS], "drifts_left_out": max(len(run.drifts) - _MOST_DRIFTS, 0),
        "ended": [*facts.ended_alerts(result, sample.ended)] if sample.opened else [],
        "top": top, "most_added": max([*added, 1e-9]),
        "features": parts, "most_cost": max([part.cost or 0.0 for part in parts.parts] + [1e-9]),
        "counts": [*facts.row_counts(result)], "rejects": facts.reject_words(result), "decisions": result.decisions,
        "source": source[:_MOST_SOURCE],
    }  # fmt: skip


def _without(run: _Run) -> dict[str, str]:
    """Why a part is empty."""
    task, labelled = run.result.task, len(run.labelled)
    if not len(run.outcomes):
        none = "No row was scored, so there is nothing to show here."
        return dict.fromkeys(("labels", "drifts", "curves", "alerts", "budget", "features", "missing"), none)
    line = run.result.pipeline.threshold.threshold
    classes = {*run.labelled.label.tolist()}
    curves = "No label is known, so ranking, reliability and classes cannot be shown: only how scores are spread."
    if labelled and len(classes) == 1:
        which = "positive" if 1.0 in classes else "negative"
        curves = f"All {labelled:,} labels are {which}, so there is no ranking and no reliability to show."
    why = "nothing was to alert yet" if line > 1.0 else f"no score reached the line, which is {line:.3g} at the end"
    why = why if task.alerting else "the task makes no alerts"
    drifts = "No drift was found." if task.drift is not None else "The task has no [drift], so none was looked for."
    budget = "" if facts.budget_of(task) else "The line follows no budget, so none is drawn."
    return {
        "labels": "No label is known by the end of the data, so there are no metrics over time.",
        "drifts": drifts, "curves": "" if len(classes) == 2 else curves,
        "alerts": f"No alert was opened: {why}.", "budget": budget,
        "features": "No feature adds anything to the score: the model has learned nothing yet.",
        "missing": "No value of a column that the task reads is missing.",
    }  # fmt: skip


def _colours_by_system(folder: Path) -> str:
    """The console's style sheet, dark where the system is: a page without script has no switch."""
    css = (folder / "assets" / "console.css").read_text("utf-8")
    dark = re.compile(r':root\[data-theme="dark"\] (\{.*?\n\})', re.DOTALL)
    return dark.sub(r"@media (prefers-color-scheme: dark) { :root \1 }", css, count=1)


def _mark(folder: Path) -> Markup:
    """The console's mark."""
    from markupsafe import Markup

    icon = (folder / "assets" / "icon.svg").read_text("utf-8")
    return Markup(icon.replace("<svg ", '<svg width="22" height="22" aria-hidden="true" ', 1))


def _alone(svg: str) -> str:
    """A chart as a file of its own: with its colours and letters, and a ground."""
    from weir.streams.pages.rendering import FOLDER

    css = _colours_by_system(FOLDER)
    roots: Sequence[str] = re.findall(r"(?:@media[^{]*\{ )?:root \{.*?\n\}(?: \})?", css, re.DOTALL)
    style = "".join(roots) + "text{fill:var(--soft);font:12px system-ui,sans-serif}.axis{font-weight:600}"
    head, _, rest = svg.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f'{head}><style>{style}</style><rect width="100%" height="100%" fill="var(--card)"/>{rest}'
