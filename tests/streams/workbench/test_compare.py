"""``weir compare``: rows are paired, the better task is told apart, and what serves takes part by what it logged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from weir.streams.backtest.outcomes import Outcomes
from weir.streams.cli.app import app as main
from weir.streams.cli.offline.compare import compare_command
from weir.streams.errors import UsageError
from weir.streams.workbench.comparison import Run, compared, logged_run

N, DAY = 600, 86_400.0
TASK = """
name = "bad"
entity = "user"
numbers = ["x", "z"]
inputs = [INPUT]
[[entities]]
name = "user"
key = "user_id"
[model]
kind = "logistic"
params = { lr = 0.3, intercept_lr = 0.3 }
[threshold]
kind = "cost"
false_positive = 1
false_negative = 4
[source]
columns = { user_id = "user", x = "x", z = "z", country = "country" }
constants = { type = "row" }
event_id = "id"
time = "ts"
time_format = "unix"
label = "bad"
label_delay = "6h"
"""


def table(seed: int = 1) -> pa.Table:
    """Rows of 40 users over 60 days; ``x`` tells the label, ``z`` does not."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=N)
    return pa.table({
        "id": [f"e{i}" for i in range(N)], "user": [f"u{k}" for k in rng.integers(40, size=N)],
        "ts": 1.7e9 + np.arange(N) * DAY / 10, "x": x, "z": rng.normal(size=N),
        "country": [("DE", "FR")[k] for k in rng.integers(2, size=N)],
        "bad": (x + rng.normal(size=N) > 1.0).astype(int),
    })  # fmt: skip


def weir(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(compare_command)
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit | UsageError), done.exception
    return done.exit_code, done.output + str(done.exception or "")


def files(folder: Path) -> tuple[str, str, str]:
    pq.write_table(table(), folder / "rows.parquet")
    for name in ("x", "z"):
        (folder / f"{name}.toml").write_text(TASK.replace("INPUT", f'"{name}"'))
    return str(folder / "z.toml"), str(folder / "x.toml"), str(folder / "rows.parquet")


def test_the_better_task_is_told_apart_with_intervals_slices_and_costs(tmp_path: Path) -> None:
    worse, better, rows = files(tmp_path)
    status, said = weir(worse, better, "--data", rows, "--slice", "country", "--json", str(tmp_path / "found.json"))
    assert status == 0, said
    assert "by 40 entities" in said
    found = json.loads((tmp_path / "found.json").read_text())
    # Those of the last 6 hours too: their labels are known after the last row. The first were scored by nobody's model.
    assert found["rows"] == N - 3
    assert found["counted"] == (
        "597 rows with a label, 3 of which became known after the last row, "
        "without 3 scored before anything was learned"
    )
    [difference] = found["differences"]
    for by in ("by_entity", "by_week"):
        assert difference[by]["average_precision"]["low"] > 0.1
        assert difference[by]["cost"]["high"] < 0
    assert {s["kind"] for s in difference["slices"]} == {"week", "entity size", "country"}


def test_a_task_compared_with_itself_has_the_numbers_of_its_backtest(tmp_path: Path) -> None:
    """One definition of what counts, also while entities cool down, labels are late, and the first rows are scored."""
    _, better, rows = files(tmp_path)
    cooling = '[alerts]\nresolve_after_s = "1h"\ncooldown_s = "3d"\n'
    for name, more in (("plain", ""), ("cooling", cooling), ("mature", '[labels]\nmaturity = "5d"\n')):
        task = tmp_path / f"{name}.toml"
        task.write_text(Path(better).read_text() + more)
        again = tmp_path / f"{name}-again.toml"
        again.write_text(task.read_text())
        status, said = weir(
            str(task), str(again), "--data", rows, "--slice", "x", "--resamples", "100", "--json", str(tmp_path / "c")
        )
        assert status == 0, said
        found, told = json.loads((tmp_path / "c").read_text()), tmp_path / "r.json"
        arguments = ["backtest", str(task), "--data", rows, "--slice", "x", "--report", str(told)]
        assert CliRunner().invoke(main, arguments).exit_code == 0
        report = json.loads(told.read_text())
        for side in found["measures"]:
            assert {name: side[name] for name in ("precision", "recall", "alerts")} == {
                name: report["line"][name] for name in ("precision", "recall", "alerts")
            }
            assert side["cost"] * found["rows"] == pytest.approx(report["line"]["cost"])
            for measured in ("average_precision", "roc_auc", "log_loss", "brier"):
                assert side[measured] == report["judged"][measured]
        assert (found["rows"], found["counted"]) == (report["judged"]["rows"], report["judged"]["what"])
        assert (report["judged"]["not_mature"] > 0) == (name == "mature")
        slices = {each["value"]: each["rows"] for each in report["slices"]["x"]}
        of = {each["value"]: each["rows"] for each in found["differences"][0]["slices"] if each["kind"] == "x"}
        assert of
        assert of.items() <= slices.items()


def outcomes(score: np.ndarray, ids: np.ndarray, label: np.ndarray) -> Outcomes:
    n = len(ids)
    text = pa.chunked_array([pa.array([f"e{i}" for i in ids])])
    who = pa.chunked_array([pa.array([f"u{i % 9}" for i in ids])])
    none, missing = pa.chunked_array([pa.nulls(n, pa.string())]), np.full(n, np.nan)
    return Outcomes(text, who, none, none, none, ids * 1e4, score, np.full(n, 0.5), score > 0.5, label,
                    missing, np.zeros(n, np.int64), missing, ids * 1e4)  # fmt: skip


def test_rows_are_paired_by_event_whatever_their_order_and_number() -> None:
    rng = np.random.default_rng(3)
    ids, label = np.arange(200), (rng.random(200) < 0.4).astype(float)
    label[150:160] = np.nan
    score = rng.random(200)
    mixed = rng.permutation(200)[:170]  # the other scored fewer, in another order
    both = compared([
        Run("a", outcomes(score, ids, label)), Run("b", outcomes(score[mixed], ids[mixed], label[mixed])),
    ], resamples=100)  # fmt: skip
    assert both.rows == int((~np.isnan(label[mixed])).sum())
    assert both.unpaired == {"a": 190 - both.rows, "b": 0}
    assert all(each.value == 0.0 for each in both.differences[0].by_entity.values())
    late = compared([Run(n, outcomes(score, ids, label)) for n in "ab"], since=1e6, resamples=100)
    assert late.rows == 90


def test_the_newest_events_are_left_out_that_can_have_one_label_alone() -> None:
    """A search judges by the newest rows; the newest of all would be 1, for what has no label is a 0 only later."""
    n, ids = 400, np.arange(400)
    label = np.where(ids % 3 == 0, 1.0, 0.0)
    young = ids >= n - 50
    label[young & (label == 0)] = np.nan
    kept = outcomes(np.random.default_rng(3).random(n), ids, label)
    runs = [Run(name, kept, one_sided_s=float(kept.ts[-1] - kept.ts[n - 51])) for name in "ab"]
    assert compared(runs, since=float(kept.ts[n - 150]), resamples=100).rows == 100
    label[n - 51 : n - 40] = [0.0, *[1.0, 0.0] * 5]  # all that there is since then is so new, but for one row
    kept = outcomes(kept.score, ids, label)
    runs = [Run(name, kept, one_sided_s=run.one_sided_s) for name, run in zip("ab", runs, strict=True)]
    since = float(kept.ts[n - 51])
    assert compared(runs, since=since, resamples=100).rows == np.count_nonzero(~np.isnan(label[n - 51 :]))


def test_nothing_to_compare_by_is_an_error() -> None:
    ids = np.arange(20)
    runs = [Run(n, outcomes(np.full(20, 0.5), ids, np.zeros(20))) for n in ("a.toml", "b.toml")]
    with pytest.raises(UsageError, match=r"a.toml, b.toml: all 20 labels are 0"):
        compared(runs)


def test_what_serves_takes_part_by_its_first_predictions(tmp_path: Path) -> None:
    _, better, rows = files(tmp_path)
    data = table()
    day = tmp_path / "archive" / "bad" / "predictions" / "day=2023-11-14"
    day.mkdir(parents=True)
    score = np.random.default_rng(1).random(N)
    logged = pa.table({
        "event_id": data["id"], "entity_id": data["user"], "ts": data["ts"], "written_at": data["ts"],
        "score": score, "model_version": pa.array([0] * N),
    })  # fmt: skip
    again = logged.slice(0, 5).set_column(4, "score", pa.array([1.0] * 5))  # a repeat, as after a restart
    pq.write_table(pa.concat_tables([logged, again]), day / "part.parquet")
    assert logged_run("champion", [logged, again]).outcomes.score.tolist() == score.tolist()
    status, said = weir(better, "--champion", "--archive", str(tmp_path / "archive"), "--data", rows, "--cost", "1,4")
    assert status == 0, said
    assert f"{N:,} rows with labels" in said
    assert "champion" in said
    assert "cost" not in said  # which rows alerted is not in its log


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cost", "5"), "--cost '5': give two or three numbers"),
        (("--champion",), "--champion: give --archive or --log"),
        ((), "nothing to be compared with"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    _, better, rows = files(tmp_path)
    more = [better.replace("x.toml", "z.toml")] if "--cost" in arguments else []
    status, said = weir(better, *more, "--data", rows, *arguments)
    assert status != 0
    assert told in said
