"""The whole loop in one process: events, labels, a request, real trees, the gate, the shadow, the champion."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.registry import Registry
from online.task import TaskSpec
from online.wire import ModelUpdate, RetrainRequest
from streams import topics
from streams.full.loading import full_models
from streams.full.updates import update_record
from streams.host import EmbeddedHost
from streams.log import EmbeddedLog, Record
from streams.simulate import SimulationConfig, simulate
from streams.trainer.embedded import EmbeddedTrainer
from streams.trainer.runner import InlineRunner

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

    def __init__(self, tmp: Path, background: bool) -> None:
        task = TaskSpec.from_toml(TASK)
        self.log, self.registry = EmbeddedLog(), Registry(str(tmp / "registry"))
        self.trainer = EmbeddedTrainer(
            [task], self.registry, self.log, tmp / "work", background=background, runner=InlineRunner()
        )
        self.host = EmbeddedHost(
            [task], self.log, observe=self.trainer.observe, full=full_models([task], provider="cpu")
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
            self.host.run_pending()
            if k == int(len(blocks) * ask_at):
                self.trainer.request(
                    RetrainRequest(request_id="r1", task="fraud", cause="manual", requested_at=self.ts)
                )
            self.apply([*self.trainer.poll(self.ts), *self.trainer.wait()])

    def apply(self, updates: list[ModelUpdate]) -> None:
        for update in updates:
            self.log.append(topics.MODEL_UPDATES, [update_record(update, self.ts)])
        self.updates += updates
        self.host.run_pending()


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
    assert loop.host.full.versions("fraud") == (1, 0)
    assert loop.trainer.catch_up({"fraud": (1, 0)}) == []
    assert [(u.action, u.version) for u in loop.trainer.catch_up({"fraud": (0, 1)})] == [("promote", "1")]
    loop.trainer.close()
