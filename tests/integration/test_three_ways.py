"""The same events, spelled as careless producers spell them, by a table, dumps of topics and a worker on a real broker.

Features and scores are the same bit for bit, and ``weir doctor --live`` says what is odd of what the worker met.
"""

from __future__ import annotations

import csv
import json
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from tests.integration.chaos.deployment import Deployment
from tests.integration.chaos.replay import scored_of
from tests.integration.kafka_broker import Broker, free_ports
from tests.integration.redis_server import NamedRedis, RedisServer
from tests.integration.streamed import KeyValue, unique
from tests.integration.worker_process import Outcome, Watcher, Worker, run_weir
from tests.streams.host_runs import process_all
from weir.online.batch import PredictionBatch
from weir.online.codec.decision_blocks import Decision, decode_decisions
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.runner import run_backtest
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.kafka.partitioners import partitions_of_text
from weir.streams.records import Record

pytestmark = pytest.mark.integration

T0, SPACING_S = 1_767_571_200.0, 20.0
EACH, CHUNKS, PARTITIONS = 512, 3, 2
"""Events between labels, as many as a backtest takes at once; all within a day, so that none is late."""
TASK = """
name = "fraud"
entity = "user"
inputs = ["amount", "basket", "user.*"]
numbers = ["basket"]
[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean", "std", "max", "since_last", "ewmean"]
windows = ["1h", "7d"]
half_life = "1d"
[model]
kind = "logistic"
[threshold]
kind = "fixed"
value = 0.4
[alerts]
cooldown_s = 0
escalate_at = [2, 4, 6]
"""
SOURCE = f"""
[source]
columns = {{ user_id = "who", amount = "eur", basket = "basket" }}
constants = {{ type = "purchase" }}
event_id = "id"
time = "at"
label = "bad"
label_delay = "0s"
batch_size = {EACH}
"""
Row = dict[str, Any]
Made = dict[str, tuple[float, bytes]]
"""Score and the bits of the features by event."""


def rows() -> list[Row]:
    """Payments of 30 users, a third of them labelled; in chunk k only users whom partition ``k % 2`` owns are."""
    rng, found = np.random.default_rng(8), list[Row]()
    users = [f"{u:03d}" for u in range(30)]
    owner = dict(zip(users, partitions_of_text(users, PARTITIONS).tolist(), strict=True))
    for i in range(EACH * CHUNKS):
        who = users[int(rng.integers(30))]
        labelled = owner[who] == i // EACH % PARTITIONS and rng.random() < 0.6
        found.append(
            {
                "id": f"e{i:05d}",
                "at": T0 + i * SPACING_S,
                "who": who,
                "owner": owner[who],
                "eur": round(float(rng.lognormal(3, 1)), 2) * (-1 if i % 50 == 0 else 1),
                "basket": round(float(rng.normal(9, 3)), 3),
                "says": ["number", "text", "nothing", "text", "text"][i % 5],
                "bad": int(rng.random() < 0.3) if labelled else None,
                "told": ["number", "word"][i % 7 == 3],
            }
        )
    return found


def event(row: Row) -> Row:
    """A basket that is a text is no number: it is missing, and counted."""
    more = {"number": {"basket": row["basket"]}, "text": {"basket": f"{row['basket']}"}, "nothing": {}}[row["says"]]
    return {"v": 1, "event_id": row["id"], "type": "purchase", "user_id": row["who"], "ts": row["at"],
            "amount": row["eur"], "properties": more}  # fmt: skip


def label(row: Row) -> Row:
    """A label that is a word is refused."""
    value = row["bad"] if row["told"] == "number" else ["false", "true"][row["bad"]]
    return {"v": 1, "label_id": f"{row['id']}/label", "task": "fraud", "entity_id": row["who"],
            "event_id": row["id"], "ts": row["at"], "value": value}  # fmt: skip


def refused(row: Row) -> Row:
    return event(row) | {"event_id": f"{row['id']}-refused", "amount": f"{row['eur']}"}


def is_refused(i: int) -> bool:
    return i % 40 == 7


# -- by files ----------------------------------------------------------------------------------------------------------


def made_of(p: PredictionBatch) -> Made:
    bits = (x.tobytes() for x in p.features)
    return {e: (s, x) for e, s, x in zip(p.event_id, p.score.tolist(), bits, strict=True)}


def run_over(task: TaskSpec, folder: Path, data: Path, **given: Any) -> Made:
    """What a backtest writes of each score: the score, and the features as they were logged."""
    scores, features = folder / "scores.parquet", folder / "features.parquet"
    run_backtest(task, [data], scores, features=features, **given)
    score, x = pq.read_table(scores, columns=["event_id", "score"]).to_pydict(), pq.read_table(features)
    assert x["event_id"].to_pylist() == score["event_id"]
    rows = np.column_stack([x[name].to_numpy() for name in x.column_names[3:]])
    return {e: (s, row.tobytes()) for e, s, row in zip(score["event_id"], score["score"], rows, strict=True)}


def by_table(folder: Path) -> Made:
    file = folder / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out, delimiter=";")
        writer.writerow(["id", "at", "who", "eur", "basket", "bad"])
        for i, row in enumerate(rows()):
            basket = row["basket"] if row["says"] == "number" else ["NA", ""][i % 2]
            known = row["bad"] is not None and row["told"] == "number"
            line = [row["at"], row["who"], row["eur"], basket, ["No", "YES"][row["bad"]] if known else "n/a"]
            writer.writerow([row["id"], *line])
            if is_refused(i):
                writer.writerow([f"{row['id']}-refused", *line[:2], "a lot", basket, ""])
    return run_over(TaskSpec.from_toml(TASK + SOURCE), folder, file)


def by_dumps(folder: Path) -> Made:
    events, labels = folder / "events.jsonl", folder / "labels.jsonl"
    found = [json.dumps(each) for i, row in enumerate(rows()) for each in spelled(i, row)]
    events.write_text("\n".join(found) + "\n")
    labels.write_text("".join(json.dumps(label(row)) + "\n" for row in rows() if row["bad"] is not None))
    return run_over(TaskSpec.from_toml(TASK), folder, events, labels=[labels], label_delay_s=0.0)


def spelled(i: int, row: Row) -> list[Row]:
    return [event(row), *([refused(row)] if is_refused(i) else [])]


# -- by a broker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lived:
    """What a worker made of it."""

    made: Made
    versions: int
    doctor: Outcome
    letters: list[str]
    decisions: list[Decision]


@pytest.fixture(scope="module")
def lived(kafka: Broker, redis_server: RedisServer | NamedRedis, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Each chunk by another producer: a good one; one that hashes by CRC32 and stamps seconds; one without keys."""
    folder, (port,) = tmp_path_factory.mktemp("ways"), free_ports(1)
    (folder / "fraud.toml").write_text(TASK)
    deployment = Deployment.create(
        folder, kafka, redis_server.url, prefix=unique("ways"), partitions=PARTITIONS, tasks=(folder / "fraud.toml",),
        worker={"web_port": port, "decisions": True},
    )  # fmt: skip
    with Watcher(deployment) as watcher, Worker(deployment, folder / "worker.log") as worker:
        examples, every = 0, rows()
        for chunk in range(CHUNKS):
            part = every[chunk * EACH : (chunk + 1) * EACH]
            send_events(watcher, chunk, part)
            watcher.settle(worker)
            told = [row for row in part if row["bad"] is not None]
            send_labels(watcher, chunk, told)
            watcher.settle(worker)
            examples += sum(row["told"] == "number" for row in told)
            worker.until(partial(learned, worker, examples), f"it has learned {examples} examples")
        nowhere = [label(row | {"id": f"other-{i}", "bad": 0, "told": "number"}) for i, row in enumerate(every[:60])]
        watcher.send(topics.LABELS, [keyed(each) for each in nowhere])
        watcher.send(topics.LABELS, [keyed(nowhere[0] | {"task": "frod"})])
        watcher.send(topics.USER_EVENTS, [keyed(event(row)) for row in every[-90:]])  # again
        watcher.settle(worker)
        waiting = f'weir_waiting_labels{{task="fraud"}} {len(nowhere)}'
        worker.until(lambda: waiting in worker.get("/metrics")[1], "it says that labels wait")
        doctor = run_weir(deployment, "doctor", "--live", "--json")
        assert worker.end() == 0
    made: Made = {}
    for records in deployment.read(topics.PREDICTIONS).values():
        made |= made_of(scored_of(deployment.tasks, records)["fraud"].predictions)
    held = [s.record.value for records in deployment.read(topics.DEAD_LETTERS).values() for s in records]
    blocks = [s.record.value for records in deployment.read(topics.DECISIONS).values() for s in records]
    decisions = [row for block in blocks for row in decode_decisions(block).batch.rows()]
    return Lived(made, examples, doctor, [orjson.loads(value)["reason"] for value in held], decisions)


def learned(worker: Worker, examples: int) -> bool:
    return bool(orjson.loads(worker.get("/ready")[1])["models"]["fraud"] == examples)


def keyed(record: Row) -> KeyValue:
    return str(record.get("user_id") or record["entity_id"]).encode(), orjson.dumps(record)


def send_events(watcher: Watcher, chunk: int, part: list[Row]) -> None:
    by_partition: dict[int, list[KeyValue]] = {}
    for i, row in enumerate(part, chunk * EACH):
        at = [row["owner"], zlib.crc32(row["who"].encode()) % PARTITIONS, 1 - row["owner"]][chunk]
        made = [keyed(each) for each in spelled(i, row)]
        by_partition.setdefault(at, []).extend(made if chunk < 2 else [(b"", value) for _, value in made])
    for partition, records in by_partition.items():
        in_seconds = part[0]["at"] / 1_000  # taken for milliseconds: a day of January 1970
        watcher.send_to(topics.USER_EVENTS, partition, records, in_seconds if chunk == 1 else None)


def send_labels(watcher: Watcher, chunk: int, told: list[Row]) -> None:
    """With their keys, or all without and in the partition that does not own them."""
    owner = chunk % PARTITIONS
    records = [keyed(label(row)) for row in told]
    if chunk == 1:
        watcher.send_to(topics.LABELS, 1 - owner, [(b"", value) for _, value in records])
    else:
        watcher.send(topics.LABELS, records)


def test_a_table_gives_what_the_worker_gave(lived: Lived, tmp_path: Path) -> None:
    made = by_table(tmp_path)
    assert made.keys() == lived.made.keys()
    assert made == lived.made


def test_dumps_of_topics_give_what_the_worker_gave(lived: Lived, tmp_path: Path) -> None:
    made = by_dumps(tmp_path)
    assert made.keys() == lived.made.keys()
    assert made == lived.made


def test_an_embedded_host_decides_as_the_worker_did(lived: Lived) -> None:
    """Once for each event. Reasons depend on what is typical, of which each partition knows its own."""
    log = EmbeddedLog()
    host = EmbeddedHost([TaskSpec.from_toml(TASK)], log, decisions=True)
    for chunk in range(CHUNKS):
        part = rows()[chunk * EACH : (chunk + 1) * EACH]
        for topic, made in (
            (topics.USER_EVENTS, [event(row) for row in part]),
            (topics.LABELS, [label(row) for row in part if row["bad"] is not None and row["told"] == "number"]),
        ):
            log.append(topic, [Record(*keyed(each), each["ts"]) for each in made])
            process_all(host)
    records = [r.value for batch in log.read([topics.DECISIONS], 0) for r in batch.records]
    mine = [row for record in records for row in decode_decisions(record).batch.rows()]
    assert len(lived.decisions) == len(mine) == EACH * CHUNKS
    found, wanted = ({d.event_id: without_reasons(d) for d in made} for made in (lived.decisions, mine))
    assert found == wanted
    alerts = [row.alert for row in mine if row.alert is not None]
    assert {(a.status, a.severity) for a in alerts} >= {("open", "low"), ("escalated", "critical")}
    assert 100 < len(alerts) < len(mine) - 100


def without_reasons(d: Decision) -> Decision:
    return d if d.alert is None else d._replace(alert=msgspec.structs.replace(d.alert, reasons=()))


def test_it_learned_and_every_event_was_scored(lived: Lived) -> None:
    assert lived.made.keys() == {row["id"] for row in rows()}
    assert lived.versions > 100
    assert len({score for score, _ in lived.made.values()}) > 0.6 * EACH * CHUNKS


def test_doctor_says_what_was_odd(lived: Lived) -> None:
    said = {check["name"]: check["found"] for check in lived.doctor.document["checks"] if check["status"] != "OK"}
    assert said.keys() == {"dead letters", "repeats", "misplaced", "labels", "fraud: basket", "fraud: labels"}
    assert said["fraud: basket"].endswith(" events looked at have no value")
    assert said["labels"] == "1 are of tasks that no worker here runs"
    assert said["fraud: labels"].startswith("60 of ")


def test_a_dead_letter_names_field_value_and_remedy(lived: Lived) -> None:
    words = {reason.partition(":")[0] for reason in lived.letters}
    assert words == {"amount", "value"}
    assert any(reason == "value: got 'true'; give 0 or 1, here 1" for reason in lived.letters)
    assert all("without quotes, as " in reason for reason in lived.letters if reason.startswith("amount"))
