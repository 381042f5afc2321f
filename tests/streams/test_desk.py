"""``weir.Task`` at a desk: tables of any library, the same bits event by event, and what a notebook shows."""

from __future__ import annotations

import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import weir
from tests.streams.desk_script import alerts_of, scores_of
from tests.streams.example_tables import START, TABLES, card_fraud
from weir.streams.errors import TooManyRejects, UsageError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
TASK = """
name = "fraud"
entity = "user"
numbers = ["amount"]
inputs = ["amount", "user.*"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "since_last"], windows = ["1d"] }]
labels = [{ name = "bad", ops = ["share", "since_positive"], windows = ["7d"] }]
[model]
kind = "logistic"
params = { lr = 0.2 }
[threshold]
kind = "fixed"
value = 0.6
[source]
columns = { user_id = "user", amount = "eur" }
time = "at"
label = "bad"
"""
DELAYED, KNOWN = TASK + 'label_delay = "6h"\n', TASK + 'label_known = "known"\n'


def table(n: int = 120, seed: int = 2) -> pa.Table:
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.3
    at = 1.7e9 + np.arange(n) * 1_800.0
    known = np.where(rng.random(n) < 0.1, np.nan, at + rng.integers(0, 9, n) * 3_600.0)
    eur = np.where(rng.random(n) < 0.1, np.nan, rng.gamma(2.0, 20.0, n) * (1 + 4 * bad))
    user = [f"{k:03}" for k in rng.integers(0, 9, n)]
    return pa.table({"user": user, "eur": eur, "at": at, "bad": bad, "known": pa.array(known, from_pandas=True)})


@cache
def example(name: str) -> weir.Backtest:
    return weir.Task.load(EXAMPLES / f"{name}.toml").backtest(TABLES[name]())


def _codes(texts: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    found = texts.combine_chunks().dictionary_encode()
    return found.indices, found.dictionary.cast(pa.string_view())


class OnlyStream:
    """A table of a library that nobody has heard of: Arrow's C stream, with categories of views, as Polars has."""

    def __init__(self, held: pa.Table) -> None:
        ids = pa.DictionaryArray.from_arrays(*_codes(held["user"]))
        self._held = held.set_column(0, "user", ids)

    def __arrow_c_stream__(self, requested_schema: Any = None, /) -> object:
        return self._held.__arrow_c_stream__(requested_schema)


def test_metrics_that_are_not_defined_at_first_are_columns_too() -> None:
    """As long as all labels are alike there is no ROC AUC."""
    rows = [{"user": "u", "eur": 1.0 * n, "at": 1.7e9 + 600 * n, "bad": n > 200 and n % 2 == 1} for n in range(600)]
    run = weir.Task.from_toml(DELAYED).backtest(rows)
    found = run.metrics_over_time["roc_auc"].to_pylist()
    assert found[0] is None
    assert found[-1] == run.report["metrics_over_time"][-1]["metrics"]["roc_auc"]
    assert set(run.metrics.column_names) >= {name for each in run.report["metrics"].values() for name in each}


@pytest.mark.parametrize("text", [DELAYED, KNOWN], ids=["delayed", "known"])
def test_a_stream_has_the_scores_of_a_backtest_bit_for_bit(text: str) -> None:
    task = weir.Task.from_toml(text + "batch_size = 1\n")
    run, stream = task.backtest(table()), task.stream()
    found: list[weir.Decision] = []
    for each in task.simulate_qa(table()):
        if isinstance(each, weir.Answer):
            stream.learn_one(*each)
        else:
            found += stream.decide_all(each)
    assert [d.score for d in found] == run.scores["score"].to_pylist()
    assert [d.version for d in found] == run.scores["model_version"].to_pylist()
    assert [d.threshold for d in found] == run.scores["threshold"].to_pylist()
    assert [d.alert is not None for d in found] == run.scores["alerted"].to_pylist()
    assert len({d.version for d in found}) > 40
    features = run.features.drop_columns(["event_id", "entity_id", "ts"])
    assert np.array_equal([[*d.features.values()] for d in found], np.column_stack([*features.columns]))


def test_the_reasons_of_a_decision_are_those_of_its_alert() -> None:
    task = weir.Task.from_toml(DELAYED)
    stream, opened = task.stream(), 0
    for each in task.simulate_qa(table()):
        if isinstance(each, weir.Answer):
            stream.learn_one(*each)
        elif (decision := stream.decide_one(each)) is not None and decision.alert is not None:
            assert "ALERT" in str(decision)
            if decision.alert.events == 1:
                assert decision.alert.reasons == decision.reasons
                opened += 1
    assert opened > 3


@pytest.mark.parametrize("form", ["pandas", "rows", "records", "stream", "parquet", "two"])
def test_a_table_gives_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    made, task = table(), weir.Task.from_toml(DELAYED)
    pq.write_table(made, tmp_path / "t.parquet")
    forms: dict[str, Any] = {
        "pandas": made.to_pandas(),
        "rows": made.to_pylist(),
        "records": made.to_pandas().assign(at=lambda t: pd.to_datetime(t["at"], unit="s")).to_dict("records"),
        "stream": OnlyStream(made),
        "parquet": tmp_path / "t.parquet",
        "two": [made.slice(0, 60), made.slice(60).to_pandas()],
    }
    run = task.backtest(forms[form], features=False)
    assert run.scores.equals(task.backtest(made).scores)
    with pytest.raises(UsageError, match="features=True"):
        _ = run.features


def test_tables_go_on_to_pandas() -> None:
    run = example("card_fraud")
    scores = pd.DataFrame.from_arrow(run.scores)
    assert len(scores) == len(run.features) == 4_000
    assert scores.loc[scores["alerted"], "reasons"].map(len).max() >= 1
    assert {"open", "resolved"} <= {*run.alerts["status"].to_pylist()}
    assert run.metrics["over"].to_pylist() == ["cumulative", "rolling", "fading"]
    assert run.metrics_over_time["ts"].to_pylist() == sorted(run.metrics_over_time["ts"].to_pylist())
    assert run.report["rows"] == 4_000
    assert "Backtest of 'card_fraud': rows 4,000" in repr(run)
    assert "<caption>card_fraud</caption><tr><th>rows</th><td>4,000</td></tr>" in run._repr_html_()


def test_events_of_the_wire_and_their_labels_need_no_source() -> None:
    events = [{"event_id": f"e{n}", "user_id": "u", "ts": 1.7e9 + 60 * n, "amount": 5.0 + n % 2, "v": 1, "type": "pay"}
              for n in range(40)]  # fmt: skip
    labels = [{"entity_id": "u", "event_id": f"e{n}", "ts": 1.7e9 + 60 * n, "value": n % 2} for n in range(40)]
    task = weir.Task.from_toml(TASK.partition("[source]")[0])
    run = task.backtest(pa.Table.from_pylist(events), labels=labels, label_delay="10m")
    assert run.report["labelled"] == 29
    assert run.scores.equals(task.backtest(events, labels=pd.DataFrame(labels), label_delay=600).scores)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (7, "a int is no data; give a file, a table of pandas"),
        (pd.DataFrame({"user": ["a", 1, b"x"]}), "a DataFrame is no table for Arrow"),
        (table().drop_columns(["eur"]), "table.arrow: no column eur; there are: user, at, bad, known"),
        ([{"user": object()}], "cannot be written as JSON"),
        ([], "no data; give at least one"),
    ],
)
def test_what_is_no_data_is_said_in_a_line(data: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        weir.Task.from_toml(DELAYED).backtest(data)


def test_a_delay_is_asked_for_and_has_to_be_one() -> None:
    task, events = weir.Task.from_toml(TASK.partition("[source]")[0]), [{"event_id": "e"}]
    with pytest.raises(UsageError, match='say how late, as label_delay="7d"'):
        task.backtest(events, labels=[{"value": 1}])
    with pytest.raises(UsageError, match="label_delay: '3 weeks' is not a duration"):
        task.backtest(events, label_delay="3 weeks")


def test_a_table_that_does_not_fit_is_named_without_its_folder() -> None:
    bad = table().set_column(2, "at", pa.array([-1.0] * 120))
    with pytest.raises(TooManyRejects, match=r"^table.arrow: 120 of 120 rows were rejected"):
        weir.Task.from_toml(DELAYED).backtest(bad)


def test_a_stream_says_what_it_cannot_take() -> None:
    stream = weir.Task.from_toml(DELAYED).stream()
    event = {"event_id": "e", "user_id": "u", "ts": 1.7e9, "amount": 5.0}
    assert stream.score_one(event) == 0.5
    assert stream.score_one(event) is None, "a repeat"
    with pytest.raises(UsageError, match="event 'g': amount: "):
        stream.score_one({**event, "event_id": "g", "amount": "5"})
    with pytest.raises(UsageError, match="no scored event 'h' waits for a label; features are kept for 30 days"):
        stream.learn_one("h", True)
    for n in range(9):  # no single clock moves time
        stream.score_one({"event_id": "i", "user_id": f"u{n}", "ts": 1.7e9 + (31 + n) * 86_400, "amount": 1.0})
    with pytest.raises(UsageError, match="no scored event 'e'"):
        stream.learn_one("e", True)
    stream.learn_one("i", False)
    assert repr(stream) == "Stream('fraud': 10 scored, 1 labelled, 1 learned)"


def test_a_second_label_corrects_the_first() -> None:
    stream = weir.Task.from_toml(DELAYED).stream()
    stream.score_one({"event_id": "e", "user_id": "u", "ts": 1.7e9, "amount": 5.0})
    for label in (True, False, False):
        stream.learn_one("e", label)
    assert stream.pipeline.joiner.stats.corrections == 1


def test_timers_decide_between_events() -> None:
    stream = weir.Task.load(ROOT / "streams/demo/tasks/churn.toml").stream()
    first = {"event_id": "e", "user_id": "u", "ts": 1.7e9, "type": "view"}
    assert stream.score_one(first) is None
    (decision,) = stream.advance(1.7e9 + 30 * 86_400)
    assert (decision.entity_id, decision.ts > 1.7e9, math.isfinite(decision.score)) == ("u", True, True)


FLOORS = {"card_fraud": 0.65, "subscription_churn": 0.7, "bookings": 0.65, "drives": 0.75}


@pytest.mark.parametrize("name", TABLES)
def test_every_example_runs_without_a_word_and_learns(name: str) -> None:
    run = example(name)
    assert run.report["rejected"] == 0
    assert run.notes == []
    if name in FLOORS:
        assert run.report["metrics"]["rolling"]["roc_auc"] > FLOORS[name]


def test_the_detector_of_the_example_finds_the_broken_pump() -> None:
    run = example("telemetry")
    scores = run.scores.to_pandas()
    minute = (scores["ts"] - START) / 60
    broken = (scores["entity_id"] == "pump-1") & minute.between(805, 949)
    assert scores["alerted"][broken].mean() > 0.9
    assert scores["alerted"][~broken & ~minute.between(800, 1_000)].mean() < 0.02
    said = run.alerts.to_pandas().query("events > 50")["reasons"].iloc[0][0]["text"]
    assert "this machine's flow is" in said
    assert "below what pressure and current imply" in said


def test_ctrl_c_keeps_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    task = weir.Task.from_toml(DELAYED + "batch_size = 1\n")
    taken = weir.TaskPipeline.events

    def interrupted(pipeline: weir.TaskPipeline, batch: Any) -> Any:
        if pipeline.scored == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return taken(pipeline, batch)

    monkeypatch.setattr(weir.TaskPipeline, "events", interrupted)
    before = signal.getsignal(signal.SIGINT)  # a shell without jobs has its background processes ignore it
    run = task.backtest(table())
    assert (len(run.scores), len(run.features), run.result.stopped) == (51, 51, True)
    assert "rows 51 (stopped)" in repr(run)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_script_of_a_user_runs() -> None:
    task, frame = EXAMPLES / "card_fraud.toml", card_fraud(n=80).to_pandas()
    assert {*alerts_of(task, frame)} <= {str(each) for each in frame["CUSTOMER_ID"]}
    assert len([*scores_of(weir.Task.load(task), frame)]) == 80


def test_a_full_model_needs_what_trains_it_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task = weir.Task.from_toml(DELAYED + "[full]\nstate = 0\n")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UsageError, match=r"\[full\] needs lightgbm: pip install 'weir\[cpu\]', or give full=False"):
        task.backtest(table())
    assert task.backtest(table(), full=False).report["rows"] == 120


def test_a_run_in_another_thread_gets_no_signals_and_is_the_same() -> None:
    task = weir.Task.from_toml(DELAYED)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(task.backtest, table()).result().scores.equals(task.backtest(table()).scores)
