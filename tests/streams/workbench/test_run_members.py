"""``benchmarks.run_members``: a replay of what one backtest recorded is the backtest of any learner, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.recorded import Recording, record
from benchmarks.run_members import Rows, judge
from tests.streams.purchase_tasks import BAD, source
from weir.online.learners.factory import LearnerSpec
from weir.online.task.spec import TaskSpec

RISK = 'labels = [{ name = "bad", ops = ["positives"], windows = ["7d"] }]\n'
TASK = f'{BAD}{RISK}[model]\nkind = "logistic"\n' + source("user", "batch_size = 32")
LATER = TASK.replace('label = "bad"', 'label = "bad"\nlabel_delay = "2h"')
LEARNERS = (
    LearnerSpec(kind="logistic", params={"lr": 0.2}),
    LearnerSpec(
        kind="auto", members=(LearnerSpec(kind="bayesian_logistic"), LearnerSpec(kind="boosted", params={"every": 20}))
    ),
)


def data(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    n = 600
    bad = rng.random(n) < 0.3
    columns = {
        "id": [f"e{i}" for i in range(n)],
        "at": (1_700_000_000.0 + np.cumsum(rng.integers(0, 900, n))).tolist(),
        "user": [f"{u:03d}" for u in rng.integers(0, 9, n)],
        "eur": rng.lognormal(2, 1, n) * (1 + 2 * bad),
        "bad": bad.astype(np.int64),
    }
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("text", [TASK, LATER, LATER + '\n[labels]\nact = "between rows"\nmaturity = "6h"\n'])
def test_a_replay_gives_the_scores_of_a_backtest_with_that_learner(tmp_path: Path, text: str) -> None:
    task, path = TaskSpec.from_toml(text), data(tmp_path)
    recorded = record(task, path)
    recorded.save(tmp_path / "recorded.npz")
    kept = Recording.load(tmp_path / "recorded.npz")
    for spec in LEARNERS:
        own = record(task.model_copy(update={"model": spec}), path)
        assert np.array_equal(kept.replay(spec), own.score)
        assert np.unique(own.score).size > 100


def test_rank_measures_are_means_over_folds_and_a_rarer_0_is_what_is_to_be_found() -> None:
    rng = np.random.default_rng(2)
    y = rng.random(400) < 0.3
    good, weak = (1 / (1 + np.exp(-(2.0 * y + rng.normal(0, noise, 400)))) for noise in (0.5, 3.0))
    at, fold, unit = np.arange(400), np.repeat([0, 1], 200), np.arange(400) // 4
    found, drawn = judge(Rows(at, y, fold, unit), [weak, good])
    halves = [judge(Rows(at[of], y[of], fold[of], unit[of]), [good])[0][0] for of in (slice(200), slice(200, 400))]
    assert found[1]["ap"] == pytest.approx((halves[0]["ap"] + halves[1]["ap"]) / 2)
    assert found[1]["ap"] > found[0]["ap"]
    assert (drawn["ap"][1] > drawn["ap"][0]).all()
    turned, _ = judge(Rows(at, y, fold, unit, turned=True), [1.0 - weak, 1.0 - good])
    assert turned[0]["auc"] == pytest.approx(found[0]["auc"])
    assert turned[1]["ece"] == pytest.approx(found[1]["ece"], abs=1e-9)
