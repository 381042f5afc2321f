"""Tasks of ``kind = "next"`` over files and in the embedded host: what comes out, restarts, and what users meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from tests.online.test_next import BASKET, DAY, HEAD, Event, stream
from tests.streams.host_runs import PARTITIONS, Call, outputs, run
from weir.online.codec.wire import Prediction
from weir.online.errors import TaskError, WeirError
from weir.online.task.next_spec import NextTask
from weir.streams.backtest.next_runner import run_next
from weir.streams.cli.app import app
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import UsageError
from weir.streams.records import Record
from weir.streams.task_files import load_any_task, load_task

ONE = dict.fromkeys(PARTITIONS, 1)  # so that events are in the order of the file
SOURCE = """[source]
time = "at"
columns = { user_id = "who", product = "what", basket = "basket" }
constants = { type = "purchase" }
"""


def record(n: int, event: Event) -> Record:
    said = {"v": 1, "event_id": f"e{n}", "type": "purchase", "user_id": event.user, "ts": event.ts}
    said["properties"] = {"product": event.item, "basket": event.basket}
    return Record(event.user.encode(), json.dumps(said).encode(), event.ts)


def calls() -> tuple[Call, ...]:
    records = [record(n, event) for n, event in enumerate(stream(5))]
    return tuple((topics.USER_EVENTS, tuple(records[at : at + 10])) for at in range(0, len(records), 10))


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "next.toml").write_text(HEAD + BASKET + SOURCE)
    events = stream(5)
    columns = {"who": [e.user for e in events], "what": [e.item for e in events], "basket": [e.basket for e in events]}
    pq.write_table(pa.table({"at": [e.ts for e in events], **columns}), tmp_path / "rows.parquet")
    return tmp_path


def test_host_and_backtest_tell_the_same_and_restarts_leave_no_trace(files: Path) -> None:
    task, straight = NextTask.from_toml(HEAD + BASKET), EmbeddedLog(ONE)
    run(straight, EmbeddedHost([task], straight), calls())
    whole = [Prediction.model_validate_json(value) for _, value, _ in outputs(straight)[topics.PREDICTIONS]]
    with EmbeddedLog(ONE, files / "log") as log:
        host = EmbeddedHost([task], log, checkpoints=files / "checkpoints")
        run(log, host, calls()[:6])
        host.checkpoint()
    with EmbeddedLog(ONE, files / "log") as log:
        host = EmbeddedHost([task], log, checkpoints=files / "checkpoints")
        assert host.resume()
        run(log, host, calls()[6:])
        assert outputs(log) == outputs(straight)
    result = invoke(
        "backtest", files / "next.toml", "--data", files / "rows.parquet", "--scores", files / "told.parquet"
    )
    assert result.exit_code == 0, result.output
    rows = pq.read_table(files / "told.parquet").to_pylist()
    made = [(p.entity_id, p.ts, p.model_version, *zip(*(p.items or {}).items(), strict=True)) for p in whole]
    assert made == [(r["entity_id"], r["ts"], r["model_version"], tuple(r["items"]), tuple(r["scores"])) for r in rows]
    assert all(p.score == next(iter((p.items or {}).values())) for p in whole)


def test_the_table_and_the_report_have_every_list(files: Path) -> None:
    report = files / "report.json"
    result = invoke("backtest", files / "next.toml", "--data", files / "rows.parquet", "--report", report)
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(report.read_text())
    assert said["told"] == said["rows"] == 120
    assert f"{said['baskets_judged']:,} baskets judged" in result.output
    for name in ("model", "frequency", "popularity", "last basket"):
        assert name in result.output
    assert {"recall@3", "ndcg@3", "any_hit@3 last_basket"} <= set(said["metrics"]["all"])


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        (("", ""), ["--label-delay", "1d"], "--label-delay is for tasks that score"),
        (("", ""), ["--report", "nowhere/x.json"], "does not exist"),
        (('product = "what", ', ""), [], "feeds 'product'"),
        (('"what"', '"waht"'), [], "waht"),
        (("[source]", "[sauce]"), [], "sauce"),
    ],
)
def test_mistakes_are_told(files: Path, change: tuple[str, str], args: list[str], words: str) -> None:
    task = files / "next.toml"
    task.write_text(task.read_text().replace(*change))
    result = invoke("backtest", task, "--data", files / "rows.parquet", *args)
    assert isinstance(result.exception, WeirError)
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("change", "args", "words", "status"),
    [
        (("k = 3", 'types = ["view"]'), [], "no row has both", 3),
        ((BASKET, 'gap = "9999d"\n'), ["--strict"], "no entity has two baskets", 1),
        (("k = 3", "most_items = 2"), [], "raise most_items", 0),
    ],
)
def test_what_is_odd_is_told(files: Path, change: tuple[str, str], args: list[str], words: str, status: int) -> None:
    task = files / "next.toml"
    task.write_text(task.read_text().replace(*change, 1))
    result = invoke("backtest", task, "--data", files / "rows.parquet", *args)
    assert words in " ".join(result.output.split())
    assert result.exit_code == status


def test_who_scores_refuses_the_file(files: Path) -> None:
    with pytest.raises(TaskError, match=r"next\.toml.*workers"):
        load_task(files / "next.toml")


def test_a_row_that_is_told_twice_counts_once(files: Path) -> None:
    events = [record(n, Event("u", f"b{n}", "i", 1.7e9 + n * DAY)) for n in range(3)]
    lines = b"\n".join(r.value for r in (*events, events[1]))
    (files / "events.jsonl").write_bytes(lines)
    (files / "next.toml").write_text(HEAD + BASKET)
    result = invoke("backtest", files / "next.toml", "--data", files / "events.jsonl")
    assert result.exit_code == 0, result.output
    assert "3 rows told" in result.output
    assert "1 repeated" in result.output


def test_a_file_that_is_given_twice_is_refused_and_so_is_a_place_that_cannot_be_written(files: Path) -> None:
    rows = ["--data", files / "rows.parquet"]
    twice = invoke("backtest", files / "next.toml", *rows, *rows)
    assert isinstance(twice.exception, UsageError)
    assert "a file is given twice" in str(twice.exception)
    task = load_any_task(files / "next.toml")
    assert isinstance(task, NextTask)
    with pytest.raises(UsageError, match=r"items\.parquet cannot be written"):
        run_next(task, [files / "rows.parquet"], files / "rows.parquet" / "items.parquet")
