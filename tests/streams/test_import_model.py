"""A foreign model from the command to the champion: checked, gated, shadowed, promoted, explained."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner, Result

from tests.models.graphs import text_graph
from tests.streams.embedded_trainer import EmbeddedTrainer
from tests.streams.full_events import serving
from tests.streams.host_runs import process_all
from weir.models.errors import ModelError
from weir.models.onnx.foreign_output import FLOOR
from weir.models.registry.registry import Registry, open_files
from weir.online.codec.wire import RetrainRequest
from weir.online.errors import WeirError
from weir.online.task.spec import TaskSpec
from weir.streams.cli.models.models import models_app
from weir.streams.config import topics
from weir.streams.config.settings import ModelSettings
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import UsageError
from weir.streams.offline_models.loading import full_models
from weir.streams.offline_models.model_updates import update_record
from weir.streams.records import Record
from weir.streams.simulate import SimulationConfig, simulate
from weir.streams.trainer.job.job_runner import InlineRunner
from weir.streams.trainer.state_journal import FilesJournal

TASK = """
name = "fraud"
entity = "user"
types = ["purchase"]
[values]
ratio = "or_else(amount / user.amount_ewmean, 1)"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "ewmean"], windows = ["1d"] }]
[model]
kind = "logistic"
[threshold]
kind = "fixed"
value = 0.3
[labels.join]
negative_after_s = "1d"
[drift]
reference_days = 0
[retrain]
on_drift = false
[full]
state = 0
reasons = 2
[full.training]
candidates = []
window = "60d"
validation = "8d"
min_labels = 200
min_positives = 20
shadow_examples = 150
"""
# Of a library that counts in float64, knows no logged features, and says both classes.
MODEL = """g (double[n, 2] numbers, double[n, 1] mean) => (double[n, 2] probabilities) {
  known = IsNaN(mean)
  zero = Constant <value = double[1] {0}> ()
  usual = Where(known, zero, mean)
  all = Concat <axis = 1> (numbers, usual)
  w = Constant <value = double[3, 2] {-0.02, 0.02, -0.6, 0.6, 0.01, -0.01}> ()
  z = MatMul(all, w)
  probabilities = Softmax(z)
}"""
MAP = """
[inputs]
numbers = ["amount", "ratio"]
mean = { feature = "user.amount_mean_1d", missing = nan }
"""


class Desk:
    """A host with its trainer, and the files of the command beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.task = folder, TaskSpec.from_toml(TASK)
        (folder / "fraud.toml").write_text(TASK)
        (folder / "map.toml").write_text(MAP)
        self.model = folder / "model.onnx"
        self.model.write_bytes(text_graph(MODEL))
        self.log, self.registry = EmbeddedLog(directory=folder / "log"), Registry(str(folder / "registry"))
        self.trainer = EmbeddedTrainer(
            [self.task], self.registry, self.log, folder / "work", background=False, runner=InlineRunner(),
            journal=FilesJournal(open_files(self.registry.url)),
        )  # fmt: skip
        self.full = full_models([self.task], ModelSettings(provider="cpu", registry=self.registry.url))
        self.host = EmbeddedHost([self.task], self.log, observe=self.trainer.observe, full=self.full)
        self.told: list[tuple[str, str]] = []

    def run(self, halfway: Callable[[], None], *, on: bool = True) -> None:
        """Score a stream, do something halfway, and go ``on`` or not."""
        config = SimulationConfig(
            seed=4, events=4_000, days=30, users=60, devices=0, label_delay_days=0.5, review_share=0.8,
            fraud_share=0.15, drift_at=None, block_s=24 * 3600.0,
        )  # fmt: skip
        blocks = list(simulate(config))
        for k, block in enumerate(blocks):
            if k == len(blocks) // 2:
                self.log.sync()
                halfway()
                if not on:
                    return
            for topic, records in block.topics.items():
                self.log.append(topic, [Record(*r) for r in records])
            process_all(self.host)
            now = max(r[2] for records in block.topics.values() for r in records)
            for update in self.trainer.poll(now):
                self.told.append((update.action, update.version))
                self.log.append(topics.MODEL_UPDATES, [update_record(update, now)])

    def command(self, *more: str) -> Result:
        given = ["import", str(self.model), "--task", "fraud.toml", "--registry", self.registry.url, *more]
        return CliRunner().invoke(models_app, given)

    def records(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(r.value) for batch in self.log.read([topic], 0) for r in batch.records]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)


def test_an_imported_model_is_gated_shadowed_promoted_and_explained(desk: Desk) -> None:
    said: list[Result] = []
    desk.run(lambda: said.append(desk.command("--inputs", "map.toml", "--log", "log")))
    assert said[0].exit_code == 0, said[0].output
    assert said[0].stdout == "fraud v1\n"
    assert "better: average precision" in said[0].stderr
    assert desk.told == [("shadow", "1"), ("promote", "1")]
    assert serving(desk.full) == (1, 0)
    manifest = desk.registry.manifest("fraud", 1)
    assert (manifest.kind, manifest.inputs) == ("imported", ("amount", "ratio", "user.amount_mean_1d"))
    assert manifest.metrics["import_difference"] < 1e-6
    assert manifest.data.labels >= 200

    predictions = [p["features"] for p in desk.records(topics.PREDICTIONS)]
    by_it = [f for f in predictions if f["full.version"] == 1]
    assert len(by_it) > 300
    mean = [f["user.amount_mean_1d"] for f in by_it]
    wanted = [0.04 * f["amount"] + 1.2 * f["ratio"] - 0.02 * m for f, m in zip(by_it, mean, strict=True)]
    within = np.clip(wanted, np.log(FLOOR), -np.log(FLOOR))
    np.testing.assert_allclose([f["full.logit"] for f in by_it], within, atol=2e-3)
    assert {1.0, 2.0} & {f["full.why0"] for f in by_it}  # amount, ratio
    told = [alert["reasons"] for alert in desk.records(topics.ALERTS) if alert["reasons"]]
    assert any(reason["feature"] in ("amount", "ratio") for reasons in told for reason in reasons)

    # A second one is held against the first: the same is not worse, the opposite is.
    desk.log.sync()
    again = desk.command("--inputs", "map.toml", "--log", "log")
    assert (again.exit_code, again.stdout) == (0, "fraud v2\n"), again.output
    busy = desk.command("--inputs", "map.toml", "--log", "log")
    assert isinstance(busy.exception, UsageError)
    assert "(version 2, registered); one candidate is judged at a time" in str(busy.exception)
    assert desk.registry.versions("fraud") == [1, 2]


def test_a_model_that_is_worse_than_nothing_is_not_registered(desk: Desk) -> None:
    said: list[Result] = []
    desk.model.write_bytes(text_graph(MODEL.replace("{-0.02, 0.02, -0.6, 0.6,", "{0.02, -0.02, 0.6, -0.6,")))
    desk.run(lambda: said.append(desk.command("--inputs", "map.toml", "--log", "log")), on=False)
    assert said[0].exit_code == 2
    assert "did not pass the gate" in said[0].stderr
    assert desk.registry.versions("fraud") == []

    # Of its own accord the trainer makes nothing for such a task, and says why.
    desk.trainer.request(RetrainRequest(request_id="r1", task="fraud", cause="manual", requested_at=1.7e9))
    assert desk.trainer.poll(1.7e9) == []
    assert "candidates is empty: nothing is trained for this task" in desk.trainer.states()["fraud"].ended[-1].reason


def told(result: Result) -> str:
    assert isinstance(result.exception, WeirError), result.output
    return str(result.exception)


def test_without_a_map_it_prints_the_beginning_of_one(desk: Desk) -> None:
    said = desk.command()
    assert 'numbers" = ["FEATURE", "FEATURE"]    # double (n, 2)' in said.stdout
    assert "--inputs is missing" in told(said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[inputs\n", "map.toml: not TOML"),
        ("x = 1\n", "map.toml: 2 mistakes"),
        ('[inputs]\nnumbers = ["amount", "ratoi"]\nmean = "hour"\n', "numbers: 'ratoi' is none of .* mean 'ratio'"),
        ('output = "odds"\n[inputs]\nx = "amount"\n', "map.toml: output"),
    ],
)  # fmt: skip
def test_a_wrong_map_is_told_with_its_place(desk: Desk, text: str, words: str) -> None:
    (desk.folder / "map.toml").write_text(text)
    with pytest.raises(WeirError, match=words):
        raise_of(desk.command("--inputs", "map.toml", "--log", "log"))


def raise_of(result: Result) -> None:
    if result.exception is not None:
        raise result.exception


def test_a_task_without_a_full_model_is_told_what_to_add(desk: Desk) -> None:
    (desk.folder / "fraud.toml").write_text(TASK[: TASK.index("[full]")])
    with pytest.raises(ModelError, match=r"add \[full\] with state = 0"):
        raise_of(desk.command("--inputs", "map.toml", "--log", "log"))


def test_a_file_that_is_too_large_is_not_read(desk: Desk) -> None:
    os.truncate(desk.model, 2 << 30)  # two gigabytes of nothing, which take no room
    assert "has 2,147,483,648 bytes; the limit is 268,435,456" in told(desk.command("--inputs", "map.toml"))
