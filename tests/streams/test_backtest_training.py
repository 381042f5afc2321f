"""[full] in a backtest: the versions that the trainer makes of the same log, and what they do to the scores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from tests.streams.embedded_trainer import EmbeddedTrainer
from tests.streams.payment_runs import write
from weir.models.registry.registry import Registry
from weir.online.batch import EventBatch
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.run_result import BacktestResult
from weir.streams.backtest.runner import run_backtest
from weir.streams.cli.app import app
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import UsageError
from weir.streams.outputs import records_of
from weir.streams.records import Record
from weir.streams.trainer.history.log_sources import EmbeddedSource
from weir.streams.trainer.history.read_history import read_history
from weir.streams.trainer.job.job_runner import InlineRunner
from weir.streams.workbench.full_training import BacktestTrainer

DAY, T0, N = 86_400, 1_700_000_000, 1_500
TEXT = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean", "since_last"], windows = ["1d"] }]
[model]
kind = "logistic"
[full]
state = 0
history = 0
[full.training]
candidates = ["trees"]
schedule = "0 3 */5 * *"
validation = "2d"
min_labels = 100
min_positives = 10
shadow_examples = 40
[source]
columns = { user_id = "user", amount = "eur", merchant_id = "shop" }
constants = { type = "purchase" }
event_id = "id"
time = "at"
label = "bad"
label_delay = "1d"
batch_size = 128
"""
TASK = TaskSpec.from_toml(TEXT)
ONE = TASK.model_copy(update={"full": None})


def columns(seed: int = 3) -> dict[str, list[Any]]:
    """Twenty days, in which only trees see what is bad: amounts in the middle."""
    rng = np.random.default_rng(seed)
    eur = np.round(rng.lognormal(2, 1, N), 2)
    bad = rng.random(N) < np.where((eur > 5) & (eur < 9), 0.7, 0.05)
    return {
        "id": [f"e{i}" for i in range(N)], "at": (T0 + np.sort(rng.integers(0, 20 * DAY, N))).tolist(),
        "user": [f"u{u}" for u in rng.integers(0, 40, N)], "eur": eur.tolist(),
        "shop": [f"s{s}" for s in rng.integers(0, 9, N)], "bad": bad.astype(int).tolist(),
    }  # fmt: skip


class Recorded(BacktestTrainer):
    """Keeps the calls of the run."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[StepOutput | None, EventBatch | None, float]] = []

    def begin(self, pipeline: TaskPipeline) -> None:
        super().begin(pipeline)
        self.pipeline = pipeline

    def observe(self, out: StepOutput, batch: EventBatch | None, now: float) -> None:
        self.calls.append((out, batch, now))
        super().observe(out, batch, now)

    def step(self, now: float) -> None:
        self.calls.append((None, None, now))
        super().step(now)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[BacktestResult, Recorded, Path]:
    folder = tmp_path_factory.mktemp("full")
    path = write(folder / "x.csv", columns())
    with closing(Recorded(TASK, folder / "models", folder / "work")) as trainer:
        return run_backtest(TASK, [path], full=trainer, keep=Keep(outcomes=True, features=True)), trainer, folder


def versions(models: Path) -> list[tuple[Any, ...]]:
    """Everything of each version but where and when its files were written."""
    registry = Registry(str(models))
    return [
        (v, m.created_at, m.data, m.metrics, m.parent, {name: f.sha256 for name, f in m.files.items()})
        for v in registry.versions("fraud")
        for m in [registry.manifest("fraud", v)]
    ]


def test_the_trainer_makes_the_same_versions_of_the_same_log(run: tuple[BacktestResult, Recorded, Path]) -> None:
    """Predictions and examples go through their codecs into a log; the trainer reads what it needs from there."""
    result, recorded, folder = run
    log = EmbeddedLog()
    other = EmbeddedTrainer(
        [TASK], Registry(str(folder / "others")), log, folder / "others-work", background=False, runner=InlineRunner()
    )
    for out, _, now in recorded.calls:
        if out is None:
            other.poll(now)
            continue
        for topic, records in records_of(out, recorded.pipeline, now).items():
            log.append(topic, records)
        other.observe(recorded.pipeline, out)
    made = versions(folder / "models")
    assert len(made) >= 2
    assert made == versions(folder / "others")
    assert stages(folder / "models") == stages(folder / "others")
    assert "promoted" in {each["stage"] for each in result.trainings}


def test_a_training_reads_what_the_log_holds(tmp_path: Path) -> None:
    """Kinds, amounts and other parties of events, too, for candidates that look at them."""
    text = TEXT.replace('candidates = ["trees"]\nschedule = "0 3 */5 * *"\n', "")
    task, events, log = TaskSpec.from_toml(text), {row["event_id"]: row for row in wire_events()}, EmbeddedLog()
    with closing(Recorded(task, tmp_path / "models", tmp_path / "work")) as trainer:
        run_backtest(task, [write(tmp_path / "x.csv", columns())], full=trainer)
    for out, batch, now in trainer.calls:
        if batch is not None:
            log.append(topics.USER_EVENTS, [Record(b"", orjson.dumps(events[e]), now) for e in batch.event_id])
        for topic, records in records_of(out, trainer.pipeline, now).items() if out is not None else ():
            log.append(topic, records)
    source = EmbeddedSource(log.read((*topics.OUTPUTS, topics.USER_EVENTS), 0))
    wanted, found = asyncio.run(read_history(task, source=source)), trainer._log.read(0.0)
    assert wanted.history.types == found.history.types == ("purchase",)
    for name in ("event_id", "entity", "ts", "x", "score", "type", "amount", "item"):
        np.testing.assert_array_equal(getattr(wanted.history, name), getattr(found.history, name))
    for name in ("row", "y", "weight", "known_at"):
        np.testing.assert_array_equal(getattr(wanted.labels, name), getattr(found.labels, name))


def stages(models: Path) -> list[dict[str, Any]]:
    """Every move, but for the mark of who made it."""
    moves = [orjson.loads(path.read_bytes()) for path in sorted((models / "fraud" / "stages").glob("*.json"))]
    return [{name: value for name, value in move.items() if name != "by"} for move in moves]


def wire_events() -> list[dict[str, Any]]:
    rows = zip(*columns().values(), strict=True)
    return [
        {"v": 1, "event_id": e, "ts": at, "type": "purchase", "user_id": user, "amount": eur, "merchant_id": shop}
        for e, at, user, eur, shop, _ in rows
    ]


def test_what_is_trained_is_served_from_then_on(run: tuple[BacktestResult, Recorded, Path]) -> None:
    result, _, folder = run
    assert result.features is not None
    served = result.features["full.version"].to_numpy()
    first = int(np.flatnonzero(served)[0])
    assert 0 < first < N - 200
    assert set(served[first:]) <= set(Registry(str(folder / "models")).versions("fraud"))
    plain = run_backtest(ONE, [folder / "x.csv"], keep=Keep(outcomes=True)).outcomes
    kept = result.outcomes
    assert plain is not None
    assert kept is not None
    ap: Callable[..., float] = lambda rows: result_ap(rows.take(rows.labelled & (rows.ts >= kept.ts[first])))  # noqa: E731
    assert ap(kept) > ap(plain) + 0.1


def result_ap(rows: Any) -> float:
    from weir.streams.workbench.measures import average_precision

    return average_precision(rows.label > 0, rows.score)


def test_versions_of_two_runs_do_not_mix(run: tuple[BacktestResult, Recorded, Path]) -> None:
    _, _, folder = run
    with pytest.raises(UsageError, match=r"holds \d+ versions of task fraud already"):
        BacktestTrainer(TASK, folder / "models", folder / "work")


def test_a_surprise_is_trained_gated_served_and_bit_for_bit_the_same_again(tmp_path: Path) -> None:
    """From the first version on each event has one; before it, it is missing, and the online model learns with both."""
    text = TEXT.replace("state = 0\nhistory = 0\n", 'state = 9\nhistory = 4\nsurprise = ["amount", "*_mean_*"]\n')
    encoder = "encoder = { epochs = 4, length = 16, warmup = 4, batch = 8 }"
    text = text.replace('candidates = ["trees"]', f'candidates = ["encoder"]\n{encoder}').replace("*/5", "*/9")
    rows = columns()
    rows["bad"] = [int((eur > 9) != (i % 20 == 0)) for i, eur in enumerate(rows["eur"])]
    task, path, made = TaskSpec.from_toml(text), write(tmp_path / "x.csv", rows), []
    for name in ("one", "two"):
        with closing(BacktestTrainer(task, tmp_path / name, tmp_path / f"{name}-work")) as trainer:
            made.append(run_backtest(task, [path], full=trainer, keep=Keep(outcomes=True, features=True)))
    assert made[0].features is not None
    assert made[0].features == made[1].features
    said = made[0].features["full.surprise"].to_numpy()
    served = made[0].features["full.version"].to_numpy() > 0
    assert 200 < served.sum() < N
    assert np.signbit(said[~served]).all(), "missing"
    assert not np.signbit(said[served]).any()
    assert 0.3 < float(np.median(said[served])) < 0.7
    assert float(said.max()) <= 1.0
    manifest = Registry(str(tmp_path / "one")).manifest("fraud", 1)
    assert manifest.state == 9


def test_a_training_is_given_up_where_the_run_is_to_end(tmp_path: Path) -> None:
    asked = Event()

    def progress(*_: Any) -> None:
        """The training, which is short, goes on once it has been asked to stop."""
        asked.set()
        assert trainer._bench._stopping.wait(60)

    with closing(
        BacktestTrainer(TASK, tmp_path / "m", tmp_path / "w", stop=asked.is_set, progress=progress)
    ) as trainer:
        result = run_backtest(TASK, [write(tmp_path / "x.csv", columns())], full=trainer, stop=asked.is_set)
    assert result.stopped
    assert 0 < result.rows < N
    assert versions(tmp_path / "m") == []


def test_the_command_trains_and_keeps_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.toml").write_text(TEXT)
    write(tmp_path / "x.csv", columns())
    words = ["backtest", "task.toml", "--data", "x.csv", "--models", "models", "--report", "r.json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    trainings = orjson.loads((tmp_path / "r.json").read_bytes())["trainings"]
    assert f"{len(trainings)} trainings of the full model: " in result.output
    assert {each["version"] for each in trainings} - {0} == {*Registry("models").versions("fraud")} != set()
