"""The whole loop in one process: events, labels, a request, real trees, the gate, the shadow, the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.streams.embedded_trainer import EmbeddedTrainer
from tests.streams.full_events import serving
from tests.streams.host_runs import process_all
from weir.models.registry.registry import Registry
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.offline_models.loading import full_models
from weir.streams.offline_models.model_updates import update_record
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate
from weir.streams.trainer.job.job_runner import InlineRunner

TASK = """
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "ewmean"], windows = ["1d", "7d"] }]
[model]
kind = "logistic"
[labels.join]
negative_after_s = "1d"
[drift]
reference_days = 0
sample_every = 1
[retrain]
on_drift = false
[full]
state = 0
[full.training]
candidates = ["trees"]
window = "60d"
validation = "8d"
min_labels = 200
min_positives = 20
shadow_examples = 150
"""


class Loop:
    """A host and its trainer on a simulated stream."""

    def __init__(self, tmp: Path, background: bool, text: str = TASK) -> None:
        task = TaskSpec.from_toml(text)
        self.log, self.registry = EmbeddedLog(), Registry(str(tmp / "registry"))
        self.trainer = EmbeddedTrainer(
            [task], self.registry, self.log, tmp / "work", background=background, runner=InlineRunner()
        )
        self.host = EmbeddedHost(
            [task],
            self.log,
            observe=self.trainer.observe,
            full=full_models([task], ModelSettings(provider="cpu", registry=self.registry.url)),
        )
        self.updates: list[ModelUpdate] = []
        self.ts = 0.0

    def run(self, events: int = 6_000, ask_at: float = 0.5) -> None:
        config = SimulationConfig(
            seed=4, events=events, days=30, users=60, devices=0, label_delay_days=0.5, review_share=0.8,
            fraud_share=0.15, drift_at=None, block_s=6 * 3600.0,
        )  # fmt: skip
        blocks = list(simulate(config))
        for k, block in enumerate(blocks):
            for topic, records in block.topics.items():
                self.log.append(topic, [Record(*r) for r in records])
                self.ts = max([self.ts, *(r[2] for r in records)])
            process_all(self.host)
            if k == int(len(blocks) * ask_at):
                self.trainer.request(
                    RetrainRequest(request_id="r1", task="fraud", cause="manual", requested_at=self.ts)
                )
            self.apply([*self.trainer.poll(self.ts), *self.trainer.wait()])

    def apply(self, updates: list[ModelUpdate]) -> None:
        for update in updates:
            self.log.append(topics.MODEL_UPDATES, [update_record(update, self.ts)])
        self.updates += updates
        process_all(self.host)


@pytest.mark.parametrize("background", [False, True])
def test_a_request_ends_in_a_champion_that_is_served(tmp_path: Path, background: bool) -> None:
    loop = Loop(tmp_path, background)
    loop.run()
    state = loop.trainer.states()["fraud"]
    assert [(u.action, u.version) for u in loop.updates] == [("shadow", "1"), ("promote", "1")]
    assert loop.registry.champion("fraud") == 1
    assert state.ended[-1].stage == "promoted"
    known = loop.registry.manifest("fraud", 1)
    assert known.data.labels >= 200
    assert known.metrics["gate_metric"] > known.metrics["gate_champion"]
    assert serving(loop.host.full) == (1, 0)
    assert loop.trainer.catch_up({"fraud": (1, 0)}) == []
    assert [(u.action, u.version) for u in loop.trainer.catch_up({"fraud": (0, 1)})] == [("promote", "1")]
    loop.trainer.close()


def test_alerts_name_what_the_served_trees_saw_and_do_so_again_on_a_replay(tmp_path: Path) -> None:
    text = TASK.replace("[full]\nstate = 0", '[threshold]\nkind = "fixed"\nvalue = 0.3\n[full]\nstate = 0\nreasons = 3')
    loop = Loop(tmp_path, background=False, text=text)
    loop.run()
    promoted = next(update.created_at for update in loop.updates if update.action == "promote")
    told = told_by(loop.log)
    late = [alert for alert in told if alert["opened_at"] > promoted and alert["status"] == "open"]
    named = [reason for alert in late for reason in alert["reasons"]]
    assert len(late) > 20
    explained = [p for p in records(loop.log, topics.PREDICTIONS) if p["features"]["full.why0"] > 0]
    assert 0.002 < len(explained) / len([p for p in records(loop.log, topics.PREDICTIONS) if p["ts"] > promoted]) < 0.2
    ids = {p["event_id"] for p in explained}
    behind = [alert["reasons"] for alert in late if alert["event_ids"][0] in ids]
    assert behind
    assert all(reasons[0]["feature"] != "full.logit" for reasons in behind)
    assert {reason["feature"] for reason in named} & {"amount", "ratio", "user.amount_mean_7d", "user.amount_ewmean"}

    # The same log once more: a host of its own, the models loaded again.
    log = EmbeddedLog()
    host = EmbeddedHost(
        [TaskSpec.from_toml(text)], log,
        full=full_models([TaskSpec.from_toml(text)], ModelSettings(provider="cpu", registry=loop.registry.url)),
    )  # fmt: skip
    for batch in loop.log.read([*topics.INPUTS, topics.MODEL_UPDATES], 0):
        log.append(batch.topic, batch.records)
        process_all(host)
    assert told_by(log) == told


def records(log: EmbeddedLog, topic: str) -> list[dict[str, Any]]:
    return [orjson.loads(r.value) for batch in log.read([topic], 0) for r in batch.records]


def told_by(log: EmbeddedLog) -> list[dict[str, Any]]:
    return records(log, topics.ALERTS)
