"""The report of a backtest: whatever came of the run, a page says so, needs no network and shows no foreign markup."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.streams.payment_runs import TASK, columns, write
from weir.online.batch import FloatMatrix
from weir.online.decisions.alert_state import SEVERITIES, AlertState
from weir.online.learners.logistic import ScaledLogistic
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.app import app
from weir.streams.errors import UsageError
from weir.streams.pages.values import FOLDER
from weir.streams.workbench.desk import Task
from weir.streams.workbench.outcome_report import outcome_report
from weir.streams.workbench.report.charts import histogram, known_until
from weir.streams.workbench.report.feature_parts import TOP_ALERTS, EveryNth, RunSample, feature_parts
from weir.streams.workbench.report.figure import MOST_POINTS, Axis, amounts, odds, shares, thinned, times
from weir.streams.workbench.report.page import RunWatcher, write_report

ALERTS_A_LOT = TASK.replace("value = 0.6", "value = 0.1") + '[alerts]\nresolve_after_s = "1h"\ncooldown_s = 0\n'
BUDGET = TASK.replace(
    'kind = "fixed"\nvalue = 0.6', 'kind = "budget"\nalerts_per_day = 4\nmin_scores = 20\nmin_days = 0.1'
)
UNLABELLED = TASK.replace('label = "bad"\nlabel_delay = "6h"\n', "")
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
_VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What stands on a page: its elements, its text by section, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self.open: list[str] = []
        self.unclosed: list[str] = []
        self._section = "head"
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.elements.append((tag, held))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = held.get("id") or "notes"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + data

    def loads(self) -> list[str]:
        """Addresses outside of the page."""
        found = [held.get(name) or "" for _, held in self.elements for name in ("src", "href", "action", "xlink:href")]
        return [each for each in found if each and not each.startswith(("#", "data:"))]

    def count(self, tag: str, within: str = "") -> int:
        return sum(1 for name, held in self.elements if name == tag and within in str(held))


def made(folder: Path, task: str, table: dict[str, list[Any]] | None = None) -> tuple[BacktestResult, RunWatcher, Page]:
    data = write(folder / "rows.csv", columns(300) if table is None else table)
    watched = RunWatcher()
    result = run_backtest(TaskSpec.from_toml(task), [data], keep=Keep(outcomes=True), watcher=watched)
    write_report(result, watched, task, folder / "report.html", folder / "plots")
    page = Page((folder / "report.html").read_text("utf-8"))
    assert not page.unclosed
    assert not page.open
    return result, watched, page


def numbers_of(page: Page, section: str) -> str:
    return re.sub(r"\s+", " ", page.sections[section])


def test_many_alerts_are_shown_by_the_gravest_with_reasons_and_outcome(tmp_path: Path) -> None:
    result, _, page = made(tmp_path, ALERTS_A_LOT)
    opened = result.alerts["open"]
    assert opened > 2 * TOP_ALERTS
    said = numbers_of(page, "alerts")
    assert f"opened{opened}" in said.replace(" ", "")
    assert f"The gravest {TOP_ALERTS}" in said
    assert said.count("false alarm") + said.count("confirmed") >= TOP_ALERTS // 2
    assert "amount is" in said
    assert "The line follows no budget" in said


def test_the_head_says_the_numbers_of_the_run_and_at_which_line(tmp_path: Path) -> None:
    result, _, page = made(tmp_path, ALERTS_A_LOT)
    assert result.judged is not None
    report, said = outcome_report(result.task, result.judged), numbers_of(page, "summary")
    found = report["judged"] | report["line"]
    for name in ("average_precision", "roc_auc", "log_loss"):
        assert f"{found[name]:.3g}" in said, name
    assert f"{found['recall'] * 100:.3g} %" in said
    assert "the fixed line in force at each row (value = 0.1). It is 0.1 at the end." in said
    assert result.outcomes is not None
    assert f"{np.count_nonzero(result.outcomes.labelled)} of {len(result.outcomes)}" in said


@pytest.mark.parametrize("maturity", ['"30h"', '"wait"\n[values]\nwait = "108000 + 0 * amount"'])
def test_what_is_counted_at_the_line_are_the_mature_rows_that_metrics_are_over(tmp_path: Path, maturity: str) -> None:
    """Those that are labelled sooner than they are mature would flatter one class."""
    result, _, page = made(tmp_path, ALERTS_A_LOT + f"[labels]\nmaturity = {maturity}\n")
    found = result.pipeline.evaluation.get()["cumulative"]
    assert result.outcomes is not None
    assert found["n"] < np.count_nonzero(result.outcomes.labelled)
    assert not result.outcomes.version[: int(found["n"])].any()  # so few rows that none has to be left out
    hits = found["recall"] * found["positive_rate"] * found["n"]
    assert f"{hits:.0f} of {found['positive_rate'] * found['n']:.0f} positives" in page.sections["summary"]
    assert "not mature" in page.sections["summary"]


def test_a_budget_is_drawn_and_said(tmp_path: Path) -> None:
    _, _, page = made(tmp_path, BUDGET)
    assert "budget: 4 a day" in page.sections["alerts"]
    assert "alerts_per_day = 4" in page.sections["summary"]
    assert "of 4 in the budget" in page.sections["summary"]


def test_one_alert(tmp_path: Path) -> None:
    table = columns(120)
    table["user"] = ["u"] * 120
    never = UNLABELLED.replace("value = 0.6", "value = 0.5") + '[alerts]\nresolve_after_s = "90d"\n'
    result, _, page = made(tmp_path, never, table)
    assert result.alerts["open"] == 1
    assert "The gravest 1" in numbers_of(page, "alerts")
    assert "open at the end1" in numbers_of(page, "alerts").replace(" 1", "1")
    assert "not known yet" in numbers_of(page, "alerts")


def test_without_labels_and_alerts_every_part_says_so(tmp_path: Path) -> None:
    _, _, page = made(tmp_path, UNLABELLED)
    assert "No label is known" in page.sections["time"]
    assert "No label is known" in page.sections["scores"]
    assert "No alert was opened: no score reached the line, which is 0.6" in page.sections["alerts"]
    assert "No feature adds anything" in page.sections["features"]
    assert "no labels" in page.sections["notes"]
    assert page.count("svg", "Scores of each class") == 1
    assert page.count("svg", "Reliability") == 0


def test_without_a_row_that_is_scored_there_is_a_page(tmp_path: Path) -> None:
    _, _, page = made(tmp_path, 'types = ["login"]' + TASK, columns(5))
    assert "No row was scored" in page.sections["alerts"]
    assert "No row was scored" in page.sections["features"]


def test_only_one_class_is_said(tmp_path: Path) -> None:
    _, _, page = made(tmp_path, TASK, columns(200) | {"bad": [0] * 200})
    assert "are negative, so there is no ranking" in page.sections["scores"]


def test_the_page_loads_nothing_runs_nothing_and_shows_foreign_text_as_text(tmp_path: Path) -> None:
    table = columns(300)
    table["user"] = [HOSTILE if user == "003" else user for user in table["user"]]
    result, _, page = made(tmp_path, ALERTS_A_LOT + f"# {HOSTILE}\n", table)
    assert page.loads() == []
    assert page.count("script") == page.count("img") == page.count("iframe") == 0
    assert not [held for _, held in page.elements if any(name.startswith("on") or name == "style" for name in held)]
    assert HOSTILE in page.sections["task"]
    policy = next(held for tag, held in page.elements if held.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    assert result.alerts["open"]


def test_charts_are_whole_drawings_of_few_points_in_colours_that_are_there(tmp_path: Path) -> None:
    made(tmp_path, ALERTS_A_LOT)
    files = sorted((tmp_path / "plots").iterdir())
    assert {"precision-recall.svg", "reliability.svg", "alerts.svg", "ranking.svg"} <= {file.name for file in files}
    for file in files:
        text = file.read_text("utf-8")
        drawing = ET.fromstring(text)
        left, top, width, height = map(float, drawing.attrib["viewBox"].split())
        for node in drawing.iter():
            points = [tuple(map(float, p.split(","))) for p in node.attrib.get("points", "").split()]
            assert len(points) <= MOST_POINTS
            assert all(left <= x <= left + width and top <= y <= top + height for x, y in points)
        named = set(re.findall(r"var\((--[\w-]+)\)", text))
        for half in text.split("@media"):
            assert named <= set(re.findall(r"(--[\w-]+):", half)), file.name


def test_every_score_is_in_the_histogram_also_the_surest() -> None:
    """Its ends are made from log-odds; rounding must not put the first one above the scores that are drawn there."""
    y = np.array([0.0] * 6 + [1.0] * 4)
    score = np.array([0.0, 1e-9, 1e-4, 0.5, 0.9, 1.0, 0.0, 0.3, 1.0 - 1e-5, 1.0])
    drawn = histogram(y, score, 0.5)
    for column in (1, 2):
        shares_of = [float(row[column].rstrip(" %")) for row in drawn.rows]
        assert sum(shares_of) == pytest.approx(100.0, abs=0.5)


def test_dark_is_the_colours_of_the_console(tmp_path: Path) -> None:
    made(tmp_path, TASK)
    text = (tmp_path / "report.html").read_text("utf-8")
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{ :root \{(.*?)\n\} \}", text, re.DOTALL)
    sheet = (FOLDER / "assets" / "console.css").read_text("utf-8")
    assert dark is not None
    assert dark[1] in sheet
    assert "--bg: #0e151a" in dark[1]


def test_a_run_without_outcomes_is_refused_in_words(tmp_path: Path) -> None:
    result = run_backtest(TaskSpec.from_toml(TASK), [write(tmp_path / "rows.csv", columns(30))])
    with pytest.raises(UsageError, match=r"keep=Keep\(outcomes=True\)"):
        write_report(result, RunWatcher(), TASK, tmp_path / "report.html")


def test_the_command_writes_the_page_and_the_plots(tmp_path: Path) -> None:
    (tmp_path / "fraud.toml").write_text(TASK)
    data = write(tmp_path / "rows.csv", columns(200))
    asked = ["--html", str(tmp_path / "r.html"), "--plots", str(tmp_path / "plots")]
    done = CliRunner().invoke(app, ["backtest", str(tmp_path / "fraud.toml"), "--data", str(data), *asked])
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "reading rows, and the rest" in page.sections["data"]
    assert "features" in page.sections["data"]
    assert (tmp_path / "plots" / "reliability.svg").is_file()


def test_one_command_makes_a_page_of_a_table(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", columns(300))
    asked = ["--yes", "--out", str(tmp_path / "t.toml"), "--html", str(tmp_path / "t.html")]
    done = CliRunner().invoke(app, ["init", str(data), *asked])
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "t.html").read_text("utf-8"))
    assert "of 300" in page.sections["summary"]
    assert (tmp_path / "t.toml").read_text().strip() in page.sections["task"]


def test_trainings_of_a_full_model_are_listed(tmp_path: Path) -> None:
    result, watched, before = made(tmp_path, TASK, columns(60))
    assert "trainings" not in before.sections
    job = {"job": "j", "cause": "schedule", "cutoff": 1.7e9, "stage": "promoted", "version": 3, "chosen": "trees"}
    result.trainings = [job | {"gate": "better by 0.1", "why": "", "metrics": {}}]
    write_report(result, watched, TASK, tmp_path / "report.html")
    said = Page((tmp_path / "report.html").read_text("utf-8")).sections["trainings"]
    assert "2023-11-14 22:13:20 UTC" in said
    assert re.search(r"schedule.*trees.*3.*promoted.*better by 0.1", said, re.DOTALL)


def test_each_budget_of_several_is_in_the_line_and_in_the_day(tmp_path: Path) -> None:
    more = '\nbudgets = [{ name = "large", input = "user.amount_mean_1d", at_least = 20, alerts_per_day = 3 }]'
    _, _, page = made(tmp_path, BUDGET.replace("alerts_per_day = 4", "alerts_per_day = 4" + more))
    assert "budgets = large" in page.sections["summary"]
    assert "of 7 in the budget" in page.sections["summary"]
    assert "budget: 7 a day" in page.sections["alerts"]


def test_a_run_at_a_desk_has_the_page_too(tmp_path: Path) -> None:
    run = Task.from_toml(TASK).backtest(write(tmp_path / "rows.csv", columns(100)))
    run.to_html(tmp_path / "r.html", tmp_path / "plots")
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "of 100" in page.sections["summary"]
    assert '"label_delay": 21600.0' in page.sections["task"]
    assert (tmp_path / "plots" / "scores.svg").is_file()


def alert(number: int, severity: int, score: float, status: str, events: int) -> AlertState:
    ended: Any = "quiet" if status == "resolved" else None
    held: Any = status
    return AlertState(
        f"t:{number}", "t", str(number), held, SEVERITIES[severity], score, 0.5, (), 86_400.0 * number, 0.0, ("e",),
        events, ended,
    )  # fmt: skip


def test_of_very_many_alerts_the_gravest_are_kept_and_all_are_counted() -> None:
    rng, sample, count = np.random.default_rng(1), RunSample(), 20_000
    alerts = [alert(i, int(rng.integers(4)), float(rng.random()), "open", 1) for i in range(count)]
    for start in range(0, count, 500):
        sample.add(StepOutput(alerts=alerts[start : start + 500]))
    sample.add(StepOutput(alerts=[alert(7, 3, 1.0, "resolved", 3)]))
    top = sorted(alerts, key=lambda a: (-SEVERITIES.index(a.severity), -a.score))
    assert sample.top()[0].alert_id == "t:7"
    assert [a.alert_id for a in sample.top()[1:]] == [a.alert_id for a in top if a.alert_id != "t:7"][: TOP_ALERTS - 1]
    assert sum(sample.opened.values()) == count
    assert dict(sample.ended) == {"quiet": 1}


@given(st.integers(1, 60), st.integers(2, 20), st.lists(st.integers(0, 60), max_size=6))
def test_the_rows_that_are_kept_do_not_depend_on_cuts(rows: int, most: int, cuts: list[int]) -> None:
    x = np.arange(float(rows))[:, None]
    whole, cut = EveryNth(most), EveryNth(most)
    whole.add(x)
    for part in np.split(x, sorted(min(c, rows) for c in cuts)):
        cut.add(part)
    assert cut.rows().tolist() == whole.rows().tolist()
    assert min(rows, most) >= len(whole.rows()) >= min(rows, (most + 1) // 2)
    assert (cut.step, cut.seen) == (whole.step, rows)


def test_what_decides_the_label_costs_most_to_remove() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2_000, 3))
    y = rng.random(2_000) < 1 / (1 + np.exp(-(4 * x[:, 1] - 4)))
    learner, sample = ScaledLogistic(("noise", "cause", "twin")), RunSample()
    learner.learn_many(x, y, np.ones(2_000))
    sample.scored.add(x)
    for label, held in enumerate(sample.learned):
        held.add(np.column_stack([x, np.ones(2_000)])[y == bool(label)])
    found = feature_parts(learner.features, learner, sample)
    assert found.parts[0].name == "cause"
    costs = {part.name: part.cost or 0.0 for part in found.parts}
    assert costs["cause"] > 0.3
    assert abs(costs["noise"]) < 0.05
    assert found.average_precision > 0.6


@pytest.mark.parametrize("usual", [1.0, 0.4])
def test_labels_are_to_come_from_where_fewer_are_known_than_usual(tmp_path: Path, usual: float) -> None:
    result, *_ = made(tmp_path, TASK, columns(60))
    assert result.outcomes is not None
    some = result.outcomes.take(np.zeros(6_000, np.int64))
    ts, rng = np.arange(6_000.0), np.random.default_rng(1)
    label = np.where((ts < 4_500.0) & (rng.random(6_000) < usual), 0.0, np.nan)
    assert known_until(replace(some, ts=ts, label=label), (0.0, 5_999.0)) == pytest.approx(4_500.0, abs=200.0)


class Slow(ScaledLogistic):
    """Scores each row once for every feature, as forests do."""

    def __init__(self, features: tuple[str, ...]) -> None:
        super().__init__(features)
        self.asked: list[int] = []

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        self.asked.append(len(x))
        return np.ones(x.shape)


def test_a_wide_and_slow_learner_is_asked_little() -> None:
    learner, sample = Slow(tuple(f"f{i}" for i in range(400))), RunSample()
    sample.scored.add(np.ones((5_000, 400)))
    found = feature_parts(learner.features, learner, sample)
    assert max(learner.asked) * 400 * 400 * 8 < 100e6  # bytes of every row without each feature
    assert 100 <= sum(learner.asked) <= 125
    assert found.features == 400


@settings(max_examples=200)
@given(st.floats(1e-9, 1e12), st.floats(0.0, 4e9), st.floats(0.0, 1e9))
def test_marks_of_axes_lie_on_them_and_apart(high: float, start: float, span: float) -> None:
    axes: list[Axis] = [shares("s"), amounts(high, "n"), times(start, start + span), odds(1e-4, 1 - 1e-4, "p")]
    assert axes[1].high >= high * (1 - 1e-9)
    for axis in axes:
        places = axis.places(np.array([value for value, _ in axis.ticks]))
        assert len(axis.ticks) <= 8
        assert np.all(np.diff(places) > 0.02)
        assert np.all((places >= 0) & (places <= 1))
        assert len({text for _, text in axis.ticks}) == len(axis.ticks)


@given(st.integers(1, 5_000), st.integers(2, 500))
def test_a_line_that_is_thinned_keeps_its_ends(count: int, most: int) -> None:
    at = thinned(count, most)
    assert at[0] == 0
    assert at[-1] == count - 1
    assert len(at) == min(count, most)
    assert np.all(np.diff(at) > 0)


def test_without_jinja_the_page_says_what_to_install_and_charts_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Task.from_toml(TASK).backtest(write(tmp_path / "rows.csv", columns(60)))
    for name in ("jinja2", "weir.streams.pages.environment"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"not installed here; run: pip install 'weir\[serve\]'"):
        run.to_html(tmp_path / "r.html", tmp_path / "plots")
    assert (tmp_path / "plots" / "scores.svg").is_file()
