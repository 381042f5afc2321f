"""What is said of outcomes: recomputed here row by row, the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from tests.streams.test_backtest import TASK, columns, write
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.main import app
from weir.streams.workbench.outcome_report import outcome_report

FIXED = 'kind = "fixed"\nvalue = 0.6'
COSTS = 'kind = "cost"\nfalse_positive = 2\nfalse_negative = 9\nreview = 1'
LANDS = ["at", "de", "", "fr"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Outcomes and their report, of a task with costs."""
    table = columns(600) | {"land": LANDS * 150}
    task = TaskSpec.from_toml(TASK.replace(FIXED, COSTS))
    path = write(tmp_path_factory.mktemp("x") / "x.csv", table)
    kept = run_backtest(task, [path], keep=Keep(outcomes=True, field="land")).outcomes
    assert kept is not None
    return kept, outcome_report(task, kept, "land")


def test_the_line_is_judged_row_by_row(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    known = kept.take(kept.labelled)
    rows = [*zip(known.label > 0, known.alerted, known.score >= known.threshold, strict=True)]
    hits, over, positives = sum(y and o for y, _, o in rows), sum(o for *_, o in rows), sum(y for y, *_ in rows)
    line = report["line"]
    assert line["kind"] == "the cost line in force at each row (false_positive = 2, false_negative = 9, review = 1)"
    assert (line["precision"], line["recall"]) == (hits / over, hits / positives)
    assert line["cost"] == sum((3 - 2 * y) if alerted else 9 * y for y, alerted, _ in rows)
    assert line["cost_without"] == 9 * positives
    opened = {alert for alert, alerted in zip(kept.alert_ids.to_pylist(), kept.alerted, strict=True) if alerted}
    assert line["alerts_per_day"] == pytest.approx(len(opened) / ((kept.ts[-1] - kept.ts[0]) / 86400))


def test_the_line_is_that_of_the_metrics_while_entities_cool_down(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(f'{TASK}\n[alerts]\nresolve_after_s = "1h"\ncooldown_s = "3d"\n')
    result = run_backtest(task, [write(tmp_path / "x.csv", columns(600))], keep=Keep(outcomes=True))
    assert result.outcomes is not None
    line, metrics = outcome_report(task, result.outcomes)["line"], result.pipeline.evaluation.get()["cumulative"]
    assert np.count_nonzero(result.outcomes.alerted) < line["alerts"]
    assert (line["precision"], line["recall"]) == pytest.approx((metrics["precision"], metrics["recall"]))


def test_gain_and_reliability_count_every_labelled_row(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    known = kept.take(kept.labelled)
    order = np.argsort(-known.score, kind="stable")
    for top in report["gain"]:
        best = known.label[order[: top["rows"]]]
        assert (top["hits"], top["precision"]) == (best.sum(), best.mean())
        assert top["recall"] == best.sum() / known.label.sum()
    assert [top["top"] for top in report["gain"]] == [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    assert sum(each["rows"] for each in report["reliability"]) == len(known)


def test_slices_are_the_rows_of_each_value(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    by = {each["value"]: each for each in report["slices"]["land"]}
    assert by.keys() == {"at", "de", "fr", None}
    for value, each in by.items():
        mine = np.array([land == value for land in kept.values.to_pylist()])
        rows = kept.take(mine & kept.labelled)
        assert (each["scored"], each["rows"]) == (mine.sum(), len(rows))
        assert each["average_precision"] == pytest.approx(average_precision_score(rows.label, rows.score))


def test_a_task_without_alerts_is_judged_by_its_line(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK.replace('entity = "user"', 'entity = "user"\nalerting = false', 1))
    kept = run_backtest(task, [write(tmp_path / "x.csv", columns(300))], keep=Keep(outcomes=True)).outcomes
    assert kept is not None
    line, known = outcome_report(task, kept)["line"], kept.take(kept.labelled)
    over = known.score >= known.threshold
    assert over.sum() > 5
    assert not kept.alerted.any()
    assert line["precision"] == known.label[over].mean()
    assert "alerts_per_day" not in line


def test_nothing_labelled_is_no_error(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK.replace('label = "bad"\nlabel_delay = "6h"\n', ""))
    kept = run_backtest(task, [write(tmp_path / "x.csv", columns(20))], keep=Keep(outcomes=True)).outcomes
    assert kept is not None
    for rows in (kept, kept.take(np.arange(0))):
        report = outcome_report(task, rows, "land")
        assert report["gain"] == report["reliability"] == []
        assert not {"precision", "recall"} & report["line"].keys()


class TestCommand:
    """Through the command line."""

    def test_one_score_is_explained_and_slices_are_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "task.toml").write_text(TASK)
        write(tmp_path / "x.csv", columns(300) | {"land": LANDS * 75})
        words = ["task.toml", "--data", "x.csv", "--explain", "e200", "--slice", "land", "--report", "r.json"]
        result = CliRunner().invoke(app, ["backtest", *words])
        assert result.exit_code == 0, result.output
        assert "equal bit for bit" in result.output
        report = orjson.loads((tmp_path / "r.json").read_bytes())
        assert {each["value"] for each in report["slices"]["land"]} == {"at", "de", "fr", None}
        assert f"recall {report['line']['recall']:.3f}" in " ".join(result.output.split())
        gone = CliRunner().invoke(app, ["backtest", "task.toml", "--data", "x.csv", "--explain", "e999"])
        assert "event 'e999' was not scored" in str(gone.exception)


def test_an_explained_score_is_made_by_the_model_of_then(tmp_path: Path) -> None:
    """In the middle of a batch in which labels fall due, too; what features added comes to the score."""
    task = TaskSpec.from_toml(TASK + '[labels.join]\nnegative_after_s = "1h"\n')
    path = write(tmp_path / "x.csv", columns(300))
    kept = run_backtest(task, [path], keep=Keep(outcomes=True)).outcomes
    assert kept is not None
    for row in (0, 150, 299):
        result = run_backtest(task, [path], explain=f"e{row}")
        (explained,) = result.explained
        assert explained.equal
        assert (explained.score, explained.version) == (kept.score[row], kept.version[row])
        assert len(explained.parts) == len(result.pipeline.features)
        assert bool(explained.reasons) == (row > 0)
