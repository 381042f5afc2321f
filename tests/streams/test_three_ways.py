"""The same events by three ways, a table, dumps of topics and the embedded host, have the same scores, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from tests.streams.host_runs import process_all
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.runner import run_backtest
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.records import Record

# Batches of wire dumps have the default size.
DAY, T0, N, EACH = 86_400.0, 1_767_571_200.0, 2_048, 512
TASK = """
name = "fraud"
entity = "user"
inputs = ["amount", "basket", "user.*", "merchant.*"]
numbers = ["basket"]
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean", "std", "max"]
windows = ["1h", "7d"]
[[entities]]
name = "merchant"
key = "merchant_id"
aggregates = [{ name = "tx", ops = ["count"], windows = ["1d"], where = "channel == 'web'" }]
labels = [{ name = "bad", ops = ["positives"], windows = ["7d"] }]
[model]
kind = "logistic"
[threshold]
kind = "budget"
alerts_per_day = 5
min_scores = 100
"""
SOURCE = f"""
[source]
columns = {{ user_id = "who", merchant_id = "shop", amount = "eur", basket = "basket", channel = "via" }}
constants = {{ type = "purchase" }}
event_id = "id"
time = "at"
label = "bad"
label_delay = "0s"
batch_size = {EACH}
"""
Row = dict[str, Any]


def rows() -> list[Row]:
    """Payments; one in twenty without a basket, and ids that a reader may take for numbers."""
    rng = np.random.default_rng(8)
    return [
        {
            "id": f"{i:020d}",
            "at": T0 + i * 30 * DAY / N,
            "who": f"{rng.integers(0, 30):03d}",
            "shop": f"s{rng.integers(0, 5)}",
            "eur": round(float(rng.lognormal(3, 1)), 2),
            "basket": None if i % 20 == 0 else round(float(rng.normal(9, 3)), 3),
            "via": ["web", "shop"][i % 2],
            "bad": int(rng.random() < 0.1),
        }
        for i in range(N)
    ]


def event(row: Row) -> Row:
    more = {"basket": row["basket"]} if row["basket"] is not None else {}
    return {"v": 1, "event_id": row["id"], "type": "purchase", "user_id": row["who"], "ts": row["at"],
            "merchant_id": row["shop"], "amount": row["eur"], "channel": row["via"], "properties": more}  # fmt: skip


def label(row: Row) -> Row:
    return {"v": 1, "label_id": f"{row['id']}/label", "task": "fraud", "entity_id": row["who"],
            "event_id": row["id"], "ts": row["at"], "value": row["bad"]}  # fmt: skip


def scores_of_a_table(folder: Path, made: list[Row], kind: str) -> list[float]:
    table, file = pa.Table.from_pylist(made), folder / f"rows.{kind}"
    if kind == "csv":
        pa_csv.write_csv(table, file)
    elif kind == "parquet":
        pq.write_table(table, file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in made))
    run_backtest(TaskSpec.from_toml(TASK + SOURCE), [file], folder / "scores.parquet")
    return scores(folder)


def scores_of_dumps(folder: Path, made: list[Row]) -> list[float]:
    for name, of in (("events", event), ("labels", label)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(of(row)) + "\n" for row in made))
    task, labels = TaskSpec.from_toml(TASK), [folder / "labels.jsonl"]
    run_backtest(task, [folder / "events.jsonl"], folder / "scores.parquet", labels=labels, label_delay_s=0.0)
    return scores(folder)


def scores(folder: Path) -> list[float]:
    table = pq.read_table(folder / "scores.parquet")
    assert table.column("event_id").to_pylist() == [row["id"] for row in rows()]
    return [float(s) for s in table.column("score").to_pylist()]


def scores_of_a_host(made: list[Row]) -> list[float]:
    log = EmbeddedLog({topics.USER_EVENTS: 1})
    host = EmbeddedHost([TaskSpec.from_toml(TASK)], log)
    for at in range(0, N, EACH):
        part = made[at : at + EACH]
        for topic, of in ((topics.USER_EVENTS, event), (topics.LABELS, label)):
            log.append(topic, [Record(r["who"].encode(), orjson.dumps(of(r)), r["at"]) for r in part])
            process_all(host)
    by_event: dict[str, float] = {}
    for batch in log.read([topics.PREDICTIONS], 0):
        for record in batch.records:
            made_of = orjson.loads(record.value)
            by_event[made_of["event_id"]] = float(made_of["score"])
    return [by_event[row["id"].strip()] for row in made]


@pytest.fixture(scope="module")
def table_scores(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return scores_of_a_table(tmp_path_factory.mktemp("csv"), rows(), "csv")


def test_learning_changed_the_scores(table_scores: list[float]) -> None:
    assert len(set(table_scores)) > 0.7 * N


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_any_table(tmp_path: Path, table_scores: list[float], kind: str) -> None:
    assert scores_of_a_table(tmp_path, rows(), kind) == table_scores


@pytest.mark.parametrize("way", ["table", "dumps", "host"])
def test_blanks_around_ids_make_no_other_entity(tmp_path: Path, table_scores: list[float], way: str) -> None:
    padded = [row | {"id": f"{row['id']} ", "who": f" {row['who']}\u00a0" if i % 3 else row["who"]} | (
        {"shop": f"{row['shop']}  "} if i % 2 else {}) for i, row in enumerate(rows())]  # fmt: skip
    if way == "table":
        found = scores_of_a_table(tmp_path, padded, "jsonl")
    else:
        found = scores_of_dumps(tmp_path, padded) if way == "dumps" else scores_of_a_host(padded)
    assert found == table_scores


def test_dumps_of_topics(tmp_path: Path, table_scores: list[float]) -> None:
    assert scores_of_dumps(tmp_path, rows()) == table_scores


def test_the_embedded_host(table_scores: list[float]) -> None:
    assert scores_of_a_host(rows()) == table_scores
