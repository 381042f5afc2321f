"""A task over files with clocks that are wrong and streams that stand still: alerts obey their budget all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from tests.streams.purchase_tasks import purchases, source
from weir.online.batch import FloatVector
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest

DAY = 86_400.0
T0 = 1_767_571_200.0  # a Monday in 2026
ROWS, DAYS, PER_DAY = 1_500, 45, 2

BUDGET = """
[threshold]
kind = "budget"
alerts_per_day = 2
min_scores = 200
"""
TASK = TaskSpec.from_toml(purchases(BUDGET) + source("customer", 'label_delay = "3d"\norder = "arrival"\n'))


def run(folder: Path, at: FloatVector) -> BacktestResult:
    """Payments at these times, one in fifteen of them bad and large."""
    rng = np.random.default_rng(5)
    bad = rng.random(ROWS) < 1 / 15
    eur = np.round(np.exp(rng.normal(np.where(bad, 5.5, 3.0), 0.6)), 2)
    rows = {"id": [f"p{i}" for i in range(ROWS)], "at": at, "customer": [f"c{i % 300}" for i in range(ROWS)]}
    file = folder / "payments.csv"
    pa_csv.write_csv(pa.table({**rows, "eur": eur, "bad": bad.astype(np.int64)}), file)
    return run_backtest(TASK, [file], None)


def evenly() -> FloatVector:
    return np.array([T0 + i * (DAYS * DAY / ROWS) for i in range(ROWS)])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many alerts open where no clock is wrong and nothing stands still."""
    opened = run(tmp_path_factory.mktemp("usual"), evenly()).alerts["open"]
    assert 0.4 * PER_DAY * DAYS < opened <= 1.2 * PER_DAY * DAYS
    return opened


@pytest.mark.parametrize("row", [0, 750])
@pytest.mark.parametrize("clock", [946_684_804.0, T0 + 40 * 365 * DAY])
def test_one_clock_of_another_age_changes_nothing_much(tmp_path: Path, usual: int, row: int, clock: float) -> None:
    at = evenly()
    at[row] = clock
    result = run(tmp_path, at)
    assert result.alerts["open"] == pytest.approx(usual, rel=0.1)
    assert result.pipeline.scored == ROWS
    assert result.pipeline.labelled > 0.9 * ROWS - 100


@pytest.mark.parametrize("days", [10, 30, 70])
def test_a_pause_earns_no_alerts(tmp_path: Path, usual: int, days: int) -> None:
    at = evenly()
    at[900:] += days * DAY
    assert run(tmp_path, at).alerts["open"] == pytest.approx(usual, rel=0.1)
