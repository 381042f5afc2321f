"""What is said of outcomes: recomputed here row by row, the plain way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from tests.streams.payment_runs import TASK, columns, write
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.app import app
from weir.streams.workbench.outcome_report import outcome_report
from weir.streams.workbench.slices import cut

FIXED = 'kind = "fixed"\nvalue = 0.6'
COSTS = 'kind = "cost"\nfalse_positive = 2\nfalse_negative = 9\nreview = 1'
LANDS = ["at", "de", "", "fr"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Outcomes and their report, of a task with costs."""
    table = columns(600) | {"land": LANDS * 150}
    task = TaskSpec.from_toml(TASK.replace(FIXED, COSTS))
    path = write(tmp_path_factory.mktemp("x") / "x.csv", table)
    kept = run_backtest(task, [path], keep=Keep(outcomes=True, field="land", late_labels=True)).judged
    assert kept is not None
    return kept, outcome_report(task, kept, "land")


def test_rows_before_anything_was_learned_are_told_and_left_out(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    last, judged = kept.ts.max(), report["judged"]
    assert judged["before_learning"] == np.count_nonzero(kept.labelled & (kept.version == 0)) > 10
    known = kept.take(kept.labelled & (kept.version > 0))
    assert (judged["rows"], judged["positives"]) == (len(known), known.label.sum())
    assert judged["late_labels"] == np.count_nonzero(known.known_at > last) > 10
    assert f"{judged['late_labels']} of which became known after the last row" in judged["what"]
    assert f"without {judged['before_learning']} scored before anything was learned" in judged["what"]
    assert judged["average_precision"] == pytest.approx(average_precision_score(known.label, known.score))
    assert judged["brier"] == pytest.approx(np.mean((known.score - known.label) ** 2))


@pytest.mark.parametrize(
    ("labels", "wait_h"),
    [
        ('[labels.join]\nnegative_after_s = "12h"\n', 12),
        ('[labels.silence]\nhorizon_s = "3h"\nobserve_s = "1h"\n', 3),
    ],
)
def test_of_the_newest_events_no_label_counts_that_only_one_value_can_have(
    tmp_path: Path, labels: str, wait_h: int
) -> None:
    """What came in the last hours is a 1 already, where it is one, and no 0 yet; or the other way round."""
    table = columns(600)
    table["bad"] = [1 if bad else "" for bad in table["bad"]]
    text = TASK if "join" in labels else TASK.replace('label = "bad"\nlabel_delay = "6h"\n', "")
    task, path = TaskSpec.from_toml(text + labels), write(tmp_path / "x.csv", table)
    kept = run_backtest(task, [path], keep=Keep(outcomes=True, late_labels=True)).judged
    assert kept is not None
    young = kept.ts > kept.ts.max() - wait_h * 3600.0
    assert (kept.labelled & young).any()
    assert len(set(kept.label[kept.labelled & young])) == 1
    report = outcome_report(task, kept)["judged"]
    assert report["rows"] == np.count_nonzero(kept.labelled & kept.learned & ~young)
    assert report["not_mature"] == np.count_nonzero(kept.labelled & young)


def test_late_labels_are_in_no_file_and_teach_nothing(tmp_path: Path) -> None:
    task, path = TaskSpec.from_toml(TASK), write(tmp_path / "x.csv", columns(300))
    plain, late = (
        run_backtest(task, [path], tmp_path / f"{late}.parquet", keep=Keep(outcomes=True, late_labels=late))
        for late in (False, True)
    )
    assert plain.outcomes is not None
    assert late.judged is not None
    assert plain.judged is plain.outcomes
    assert np.count_nonzero(late.judged.labelled) == 300 > np.count_nonzero(plain.outcomes.labelled)
    assert (tmp_path / "True.parquet").read_bytes() == (tmp_path / "False.parquet").read_bytes()
    told = [{k: v for k, v in r.report().items() if k not in ("seconds", "rows_per_s")} for r in (plain, late)]
    assert told[0] == told[1]


def test_the_line_is_judged_row_by_row(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    known = kept.take(kept.labelled & kept.learned)
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
    kept = replace(result.outcomes, version=result.outcomes.version + 1)  # metrics count the first scores, too
    line, metrics = outcome_report(task, kept)["line"], result.pipeline.evaluation.get()["cumulative"]
    assert np.count_nonzero(kept.alerted) < line["alerts"]
    assert (line["precision"], line["recall"]) == pytest.approx((metrics["precision"], metrics["recall"]))


def test_gain_and_reliability_count_every_labelled_row(found: tuple[Any, dict[str, Any]]) -> None:
    kept, report = found
    known = kept.take(kept.labelled & kept.learned)
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
        rows = kept.take(mine & kept.labelled & kept.learned)
        assert (each["scored"], each["rows"]) == (mine.sum(), len(rows))
        assert each["average_precision"] == pytest.approx(average_precision_score(rows.label, rows.score))


def test_numbers_are_cut_into_a_few_ranges_and_rare_values_come_together(tmp_path: Path) -> None:
    """A slice for each amount says nothing."""
    task = TaskSpec.from_toml(TASK)
    shops = [f"s{k}" if k < 25 else "big" for k in range(50)] * 12
    path = write(tmp_path / "x.csv", columns(600) | {"shop": shops})
    found = {}
    for field in ("amount", "shop", "user_id"):
        kept = run_backtest(task, [path], keep=Keep(outcomes=True, field=field, late_labels=True)).judged
        assert kept is not None
        found[field] = outcome_report(task, kept, field)["slices"][field]
        assert sum(each["scored"] for each in found[field]) == 600
    names = [each["value"] for each in found["amount"]]
    assert names[0].startswith("below ")
    assert names[-1].endswith(" or more")
    assert all(60 < each["scored"] < 140 for each in found["amount"])
    assert len(names) == 6
    assert (found["shop"][0]["value"], found["shop"][0]["scored"]) == ("big", 300)
    assert (found["shop"][-1]["value"], found["shop"][-1]["scored"]) == ("other (7 values)", 84)
    assert "001" in {each["value"] for each in found["user_id"]}  # ids are no amounts


def test_long_numbers_that_differ_in_their_last_digits_are_apart(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK)
    days = [20231101, 20231102, 20231103] * 100
    path = write(tmp_path / "x.csv", columns(300) | {"eur": days})
    kept = run_backtest(task, [path], keep=Keep(outcomes=True, field="amount")).outcomes
    assert kept is not None
    found = outcome_report(task, kept, "amount")["slices"]["amount"]
    assert {each["value"]: each["scored"] for each in found} == dict.fromkeys(map(str, days), 100)


@pytest.mark.parametrize(("usual", "names"), [(0, ["below 1", "1 or more"]), (30, ["below 30", "30 or more"])])
def test_a_value_that_most_rows_have_is_told_from_the_others(usual: int, names: list[str]) -> None:
    made = cut(pa.chunked_array([[str(n) for n in range(31)] + [str(usual)] * 900]))
    assert made.names == names


def test_few_numbers_stand_in_order_and_a_word_for_none_behind_them() -> None:
    assert cut(pa.chunked_array([["3", "?", "1", "2", None, "?"]])).names == ["1", "2", "3", "?", None]


@example([*map(float, range(20)), np.inf, -np.inf])
@given(
    st.lists(
        st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 999.0, np.inf, -np.inf]), min_size=1, max_size=80
    )
)
def test_a_range_holds_the_numbers_that_it_names(values: list[float | None]) -> None:
    made = cut(pa.chunked_array([[None if v is None else repr(v) for v in values]], pa.string()))
    assert len(set(made.names)) == len(made.names) > made.at.max()
    ranges = any(name is not None and name.endswith(" or more") for name in made.names)
    assert ranges == (len({v for v in values if v is not None}) > 12)
    for value, k in zip(values, made.at.tolist(), strict=True):
        name = made.names[k]
        if value is None or name is None:
            assert value is name
        elif ranges:
            ends = [float(word.replace(",", "")) for word in name.split() if word not in ("below", "to", "or", "more")]
            low, high = (-np.inf, *ends) if name.startswith("below") else (*ends, np.inf)[:2]
            assert low <= value < high or value == high == np.inf
        else:
            assert float(name) == value


def test_a_task_without_alerts_is_judged_by_its_line(tmp_path: Path) -> None:
    task = TaskSpec.from_toml(TASK.replace('entity = "user"', 'entity = "user"\nalerting = false', 1))
    kept = run_backtest(task, [write(tmp_path / "x.csv", columns(300))], keep=Keep(outcomes=True)).outcomes
    assert kept is not None
    line, known = outcome_report(task, kept)["line"], kept.take(kept.labelled & kept.learned)
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
        assert len(explained.contributions) == len(result.pipeline.features)
        assert bool(explained.reasons) == (row > 0)
