"""Makes the page of a run, and its charts as files: from a result and what was watched, to HTML and SVG.

What the page says stands in ``templates``, what it draws in ``charts``; it looks as the console does. Every part says
in a sentence why it is empty, where it is.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.decisions.alert_state import AlertState
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.streams.backtest.alert_log import AlertLog, Outcome
from weir.streams.backtest.notes import RunWatch
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.errors import UsageError
from weir.streams.pages.values import FOLDER, percent
from weir.streams.whole_files import write_whole
from weir.streams.workbench.measures import at_line, measure, reliability
from weir.streams.workbench.outcome_report import judged_rows, line_words, one_sided_of
from weir.streams.workbench.report import charts
from weir.streams.workbench.report.charts import Chart
from weir.streams.workbench.report.feature_parts import RunSample, feature_parts
from weir.streams.workbench.report.figure import HEIGHT, WIDTH

_TEMPLATES: Final = Path(__file__).parent / "templates"
_DAY_S: Final = 86_400.0
_MOST_DRIFTS: Final = 100


class RunWatcher:
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

    def missing(self) -> list[tuple[str, float]]:
        """Columns by the share of events without a value, or with one that is none; the emptiest first."""
        if self.columns is None or not self.columns.events:
            return []
        found = ((name, 1.0 - known.total() / self.columns.events) for name, known in self.columns.known.items())
        return sorted(((name, share) for name, share in found if share > 0.0), key=lambda each: -each[1])


def write_report(
    result: BacktestResult, watched: RunWatcher, source: str, page: Path | None, plots: Path | None = None
) -> None:
    """Write the page, and each chart as SVG into the folder ``plots``, which is made.

    Parameters
    ----------
    result : of a run with ``Keep(outcomes=True)``; raises ``UsageError`` for one without, and where Jinja2 is missing.
    watched : what watched it.
    source : the text of the task file.
    page, plots : where to; ``None`` for what is not wanted. What is there is replaced.
    """
    report = _Report(result, watched)
    drawn = {"over_time": [*report.over_time()], "scores": [*report.scores()], "alerts": [*report.alerts()]}
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for chart in (chart for part in drawn.values() for chart in part):
            write_whole(plots / f"{chart.name}.svg", _alone(chart.svg).encode())
    if page is not None:
        write_whole(page, _html(report.facts() | drawn | {"source": source}).encode())


class _Report:
    """A run as the page shows it."""

    def __init__(self, result: BacktestResult, watched: RunWatcher) -> None:
        if result.outcomes is None or result.judged is None:
            raise UsageError("the run kept no outcomes: run it with keep=Keep(outcomes=True)")
        self.result, self.watched, self.outcomes = result, watched, result.outcomes
        ts = self.outcomes.ts
        self.span = (float(ts.min()), float(ts.max())) if len(ts) else (0.0, 0.0)
        self.judged = judged_rows(result.judged, one_sided_of(result.task))
        self.labelled = result.judged.take(self.judged.counted)
        self.y = self.labelled.label == 1.0
        self.line = at_line(self.y, self.labelled.score, self.labelled.over_line)
        found = measure(self.y, self.labelled.score) | self.line
        found["ece"] = reliability(self.y, self.labelled.score).ece
        self.metrics = {name: value for name, value in found.items() if np.isfinite(value)}
        policy = result.task.threshold
        budget = policy if isinstance(policy, BudgetThreshold) else getattr(policy, "fallback", None)
        self.budget = None if budget is None else float(budget.most_a_day)

    def over_time(self) -> Iterator[Chart]:
        """How metrics went, and which labels are known."""
        if not len(self.labelled):
            return
        task, points = self.result.task, self.result.pipeline.evaluation.points()
        known_until = charts.known_until(self.outcomes, self.span)
        at = charts.Timeline(points, self.result.detections[:_MOST_DRIFTS], self.span, known_until)
        over = task.labels.metrics_over
        note = f"Over the last {task.metrics.rolling:,} of {over}, at the time when their labels were known."
        ranked = {"average_precision": "average precision", "roc_auc": "ROC AUC"}
        yield from charts.over_time("ranking", "How well it ranks", at, ranked, note)
        note = "The same rows, at the line that was in force when each was scored."
        yield from charts.over_time("line", "At the line", at, {"precision": "precision", "recall": "recall"}, note)
        yield charts.labels_known(self.outcomes, self.span, f"Metrics are over {over}.")

    def scores(self) -> Iterator[Chart]:
        """How scores tell the classes apart."""
        y, score, line = self.y, self.labelled.score, self.line
        if 0 < np.count_nonzero(y) < len(y):
            words = f"At the line in force {percent(line['precision'])} of the rows over it are positive, which are "
            words += f"{percent(line['recall'])} of all positives."
            point = (line["recall"], line["precision"], words) if line["alerts"] else None
            yield charts.precision_recall_chart(y, score, point, f"Over {self.judged.words()}.")
            yield charts.reliability_chart(y, score)
        shown = self.labelled if len(y) else self.outcomes
        if len(shown):
            yield charts.histogram(shown.label, shown.score, self.result.pipeline.threshold.threshold)

    def alerts(self) -> Iterator[Chart]:
        """When alerts opened, and what came of them."""
        if self.watched.sample.opened:
            yield charts.alerts_a_day(self.watched.sample.opened, self.span, self.budget)
            yield charts.over_line(self.outcomes, self.span)

    def facts(self) -> dict[str, Any]:
        """What the page says, by name in its template."""
        result, sample, p = self.result, self.watched.sample, self.result.pipeline
        rate = float(self.y.mean()) if len(self.y) else 0.0
        parts, top = feature_parts(p.features, p.model.learner, sample), sample.top()
        lately = p.evaluation.get()["rolling"]
        return {
            "result": result, "task": result.task, "p": p, "sample": sample, "span": self.span,
            "days": (self.span[1] - self.span[0]) / _DAY_S, "metrics": self.metrics,
            "lately": defaultdict(lambda: None, lately), "counted": self.judged.words(),
            "line": self.line, "line_words": line_words(result.task), "line_now": p.threshold.threshold,
            "budget": self.budget, "labels": int(self.outcomes.labelled.sum()), "labelled": len(self.y),
            "drifts": result.detections[:_MOST_DRIFTS], "positives": int(self.y.sum()), "rate": rate,
            # Log loss of who says the rate of positives of every row.
            "chance_loss": -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else 0.0,
            "top": top, "came": self._came_of(top),
            "most_added": max([reason.contribution for alert in top for reason in alert.reasons] + [1e-9]),
            "features": parts, "most_cost": max([part.cost or 0.0 for part in parts.parts] + [1e-9]),
            "missing": self.watched.missing(), "stages": self.watched.clock.shares(result.seconds),
        }  # fmt: skip

    def _came_of(self, alerts: Sequence[AlertState]) -> dict[str, Outcome]:
        """By alert what labels said of its events; those that labels leave open are left out."""
        wanted, log = pa.array([alert.alert_id for alert in alerts], pa.string()), AlertLog()
        log.settle(self.outcomes.take(np.asarray(pc.is_in(self.outcomes.alert_ids, value_set=wanted), np.bool_)))
        return log.outcomes


def _html(facts: dict[str, Any]) -> str:
    """The whole page."""
    try:
        from markupsafe import Markup

        from weir.streams.pages.environment import environment
    except ModuleNotFoundError as error:
        raise UsageError("the page needs jinja2, not installed here; run: pip install 'weir[serve]'") from error
    templates = environment(_TEMPLATES)
    # All else is escaped: names of columns, reasons and the task file are foreign text.
    templates.filters["svg"] = Markup
    style = f"{_colours_by_system()}\n{(_TEMPLATES / 'report.css').read_text('utf-8')}"
    icon = (FOLDER / "assets" / "icon.svg").read_text("utf-8")
    mark = icon.replace("<svg ", '<svg width="22" height="22" aria-hidden="true" ', 1)
    return templates.get_template("report.html").render(facts, style=Markup(style), mark=Markup(mark))


def _colours_by_system() -> str:
    """The console's style sheet, dark where the system is: a page without script has no switch."""
    css = (FOLDER / "assets" / "console.css").read_text("utf-8")
    dark = re.compile(r':root\[data-theme="dark"\] (\{.*?\n\})', re.DOTALL)
    return dark.sub(r"@media (prefers-color-scheme: dark) { :root \1 }", css, count=1)


def _alone(svg: str) -> str:
    """A chart as a file of its own: with its colours and letters, and a ground with a margin."""
    colours = re.findall(r"(?:@media[^{]*\{ )?:root \{.*?\n\}(?: \})?", _colours_by_system(), re.DOTALL)
    style = "".join(colours) + "text{fill:var(--soft);font:12px system-ui,sans-serif}.axis{font-weight:600}"
    margin, (width, height) = 14, (WIDTH + 28, HEIGHT + 28)
    inside = svg.partition(">")[2]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img"'
        f' viewBox="{-margin} {-margin} {width} {height}"><style>{style}</style><rect x="{-margin}" y="{-margin}"'
        f' width="{width}" height="{height}" fill="var(--card)"/>{inside}'
    )


_STAGES: Final = (
    ("features", "engine", "process"), ("features fed by labels", "engine", "apply"), ("scoring", "model", "score"),
    ("learning", "model", "learn"), ("line, alerts and reasons", "book", "decide_by"),
    ("metrics", "evaluation", "update"), ("waiting for labels", "joiner", "log"),
    ("waiting for labels", "joiner", "label"),
    ("drift", "labelling.drift", "update"), ("drift", "labelling.rate_drift", "update"),
)  # fmt: skip


class StageClock:
    """Seconds of each stage; time in a stage within another one counts for the inner one alone.

    A pipeline reads no clock, so its parts are timed from outside.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, pipeline: TaskPipeline) -> None:
        """Time the parts of this pipeline from now on."""
        for stage, part, method in _STAGES:
            # A task need not watch for drift.
            if (owner := attrgetter(part)(pipeline)) is not None:
                setattr(owner, method, self._timed(stage, getattr(owner, method)))

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self.seconds[stage] += took - self._inner.pop()
                self._inner[-1] += took

        return timed

    def shares(self, total_s: float) -> list[tuple[str, float]]:
        """Stages with their seconds, the longest first; the last is the rest, such as reading the files."""
        longest = sorted(self.seconds.items(), key=lambda each: -each[1])
        return [*longest, ("reading rows, and the rest", max(total_s - sum(self.seconds.values()), 0.0))]
