"""Labels that act between the rows of a batch: every cut into batches gives what batches of one give, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.purchase_tasks import BAD, source
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.embedded.memory_store import MemoryFeatureStore

T0 = 1_700_000_000.0
PLAIN = BAD + '[model]\nkind = "logistic"\nparams = { lr = 0.2 }\n[metrics]\nevery = "12h"\n' + source("user")
ALERTS = PLAIN.replace("alerting = false\n", "") + '[threshold]\nkind = "precision"\nprecision = 0.4\nmin_labels = 20\n'
RISK = PLAIN.replace("aggregates =", 'labels = [{ name = "bad", ops = ["positives"], windows = ["7d"] }]\naggregates =')
TASKS = {
    "plain": PLAIN,
    "alerts": ALERTS,
    "risk": RISK,
    "drift": PLAIN
    + "[drift]\nblock_events = 8\nreference_blocks = 8\nreference_days = 0\ncooldown_s = 600\n"
    + 'adwin_delta = 0.9\npage_hinkley_threshold = 1.0\n[retrain]\ncooldown = "10m"\n',
    "mature": PLAIN + '[labels]\nmaturity = "6h"\n',
    "sampled": PLAIN + "[labels]\nnegative_rate = 0.5\n",
    "negatives": PLAIN + '[labels.join]\nnegative_after_s = "8h"\n',
}


def table(seed: int, n: int = 160) -> dict[str, list[Any]]:
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.3
    at = T0 + np.cumsum(rng.integers(0, 900, n) * (rng.random(n) < 0.8))
    rows = np.arange(n)
    event = np.where(rng.random(n) < 0.05, np.maximum(rows - 1, 0), rows)
    missing = rng.random(n) < 0.1
    # Where the first repeat begins a batch, its label is told with the next event, in batches of one always.
    missing[(event < rows) | np.isin(rows, event[event < rows])] = True
    return {
        "id": [f"e{i}" for i in event],
        "at": (at - rng.integers(0, 2_000, n) * (rng.random(n) < 0.1)).tolist(),
        "user": [f"{u:03d}" for u in rng.integers(0, 5, n)],
        "eur": np.round(rng.lognormal(2, 1, n) * (1 + 2 * bad) * (1 + 9 * (rows > 100)), 2).tolist(),
        "bad": [None if none else int(b) for b, none in zip(bad, missing, strict=True)],
        "known": (np.floor((at + rng.choice([0, 600, 9_000, 90_000], n)) / 600) * 600).tolist(),
    }


def ran(path: Path, text: str, act: str, **source: Any) -> BacktestResult:
    task = TaskSpec.from_toml(text)
    assert task.source is not None
    labels = task.labels.model_copy(update={"act": act})
    task = task.model_copy(update={"source": task.source.model_copy(update=source), "labels": labels})
    return run_backtest(task, [path], keep=Keep(outcomes=True, alerts=True, features=True, reasons=True))


def said(result: BacktestResult) -> bytes:
    """All that a run tells, but how long it took."""
    report = {name: each for name, each in result.report().items() if name not in ("seconds", "rows_per_s")}
    assert result.outcomes is not None
    assert result.features is not None
    assert result.alert_log is not None
    tables = (result.outcomes.table(), result.features, result.alert_log.table())
    state = result.pipeline.model.snapshot().digest
    return orjson.dumps(
        [report, [each.to_pydict() for each in tables], state], default=str, option=orjson.OPT_SORT_KEYS
    )


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1 << 30), data=st.data())
def test_cuts_change_nothing_where_labels_act_between_rows(
    name: str, tmp_path_factory: pytest.TempPathFactory, seed: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.parquet"
    pq.write_table(pa.table(table(seed)), path)
    source: dict[str, Any] = {"order": data.draw(st.sampled_from(["time", "arrival"]))}
    if data.draw(st.booleans()):
        source["label_known"] = "known"
    else:
        source["label_delay"] = data.draw(st.sampled_from([0.0, 1.0, 700.0, 30_000.0]))
    alone = ran(path, TASKS[name], "between batches", batch_size=1, **source)
    assert alone.pipeline.labelled > 10
    for size in (1, data.draw(st.integers(2, 40)), 512):
        assert said(ran(path, TASKS[name], "between rows", batch_size=size, **source)) == said(alone)


@pytest.mark.parametrize("alerting", ["false", "true"])
def test_drift_in_rows_and_in_labels_is_found_where_it_is_row_by_row(tmp_path: Path, alerting: str) -> None:
    text = TASKS["drift"].replace("alerting = false", f"alerting = {alerting}")
    rng, n = np.random.default_rng(1), 900
    rows, late = np.arange(n), np.repeat(rng.integers(0, 2_000, n // 9), 9)
    odd = (rows % 300 > 180) * 1.0
    made = {
        "id": [f"e{i}" for i in rows],
        "at": (T0 + 100.0 * rows).tolist(),
        "user": ["u"] * n,
        "eur": np.round(rng.normal(20, 1, n) + 20 * odd, 2).tolist(),
        "bad": (rng.random(n) < 0.2 + 0.7 * (rows % 250 > 130)).astype(int).tolist(),
        "known": (T0 + 100.0 * rows + late).tolist(),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(made), path)
    alone = ran(path, text, "between batches", batch_size=1, label_known="known")
    assert {found["what"].partition(":")[0] for found in alone.detections} >= {"amount", "label_rate"}
    assert alone.requests > 2
    for size in (37, 512):
        assert said(ran(path, text, "between rows", batch_size=size, label_known="known")) == said(alone)


def test_tasks_whose_labels_decide_nothing_else_go_in_one_call() -> None:
    """The property above holds for both ways: a batch in one call, and one that is cut where labels become known."""
    made = {name: TaskPipeline(TaskSpec.from_toml(text), MemoryFeatureStore()) for name, text in TASKS.items()}
    assert {name for name, pipeline in made.items() if pipeline.learns_between} == {"plain", "sampled", "drift"}


def test_batches_alone_lose_what_is_learned_within_them(tmp_path: Path) -> None:
    """The property above is not empty."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table(3)), path)
    one, other = (said(ran(path, PLAIN, "between batches", batch_size=size, label_delay=0.0)) for size in (1, 60))
    assert one != other
