"""Fakes of what the trainer is made of: models that are a number, a registry in memory, a stream with known quality.

A fake model is a *skill*: its logit is ``skill * truth + noise``. Its "graph" is that number as text.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weir.models.errors import ModelError
from weir.models.types import (
    Builder,
    Built,
    Float32Vector,
    History,
    IntVector,
    Labels,
    Progress,
    TrainingSet,
    TrainingStoppedError,
)
from weir.online.codec.wire import ModelUpdate, RetrainRequest
from weir.online.task.full_spec import FullSpec
from weir.online.task.spec import TaskSpec
from weir.streams.trainer.job.job_files import JobWorkshop
from weir.streams.trainer.job.job_runner import InlineRunner, Runner
from weir.streams.trainer.job.job_stages import JobRunner
from weir.streams.trainer.job.live_examples import LiveRows
from weir.streams.trainer.leased_state import LeasedTaskState
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import Journal, MemoryJournal
from weir.streams.trainer.task_state import Effect, Job, RetrainAsk
from weir.streams.trainer.task_trainer import TaskTrainer

DAY = 86_400.0
NOW = 1_700_000_000.0
SPEC = """
name = "fraud"
entity = "user"
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count"], windows = ["1d"] }]
[model]
kind = "logistic"
[retrain]
cooldown = "1h"
[full]
state = 0
[full.training]
candidates = ["trees"]
shadow_examples = 200
min_labels = 100
min_positives = 20
"""


def spec(extra: str = "") -> TaskSpec:
    return TaskSpec.from_toml(SPEC + extra)


def training_data(task: TaskSpec, cutoff: float, n: int = 600) -> TrainingSet:
    """One column, which is the truth; the newest third is validation."""
    rng = np.random.default_rng(int(cutoff) % 1000)
    y = rng.random(n) < 0.2
    ts = np.linspace(cutoff - 30 * DAY, cutoff, n)
    none = np.full(n, -1, np.int64)
    history = History(
        ("truth",), [f"e{k}" for k in range(n)], np.arange(n) % 400, ts, y[:, None].astype(np.float32),
        np.zeros(n), none, (), np.full(n, np.nan), none,
    )  # fmt: skip
    labels = Labels(np.arange(n), y, np.ones(n), ts + 60.0)
    return TrainingSet(history, labels, cutoff, cutoff - 10 * DAY)


def fake_score(built: Built, data: TrainingSet, rows: IntVector) -> Float32Vector:
    noise = np.random.default_rng(len(rows)).normal(0, 1, len(rows))  # the same for all: comparisons are paired
    said: Float32Vector = (float(built.onnx) * data.history.x[rows, 0] + noise).astype(np.float32)
    return said


def fake_blend(parts: Sequence[Built], data: TrainingSet) -> Built:
    best = max(float(part.onnx) for part in parts) + 0.1
    return Built("blend", f"{best}".encode(), parts[0].inputs)


@dataclass
class SkillBuilder:
    """Builds a model of some skill; ``mood`` says how the training goes."""

    skill: float
    kind: str = "trees"
    mood: str = "well"

    def __call__(self, spec: FullSpec) -> Builder:
        del spec
        return self

    def build(
        self,
        data: TrainingSet,
        work: Path,
        seed: int,
        *,
        warm_start: Mapping[str, bytes] | None = None,
        progress: Progress | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Built:
        if self.mood == "badly":
            raise ModelError("the labels are all alike")
        if self.mood == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work / "checkpoint"))
        if self.mood == "bug":
            raise ZeroDivisionError("by zero")
        if self.mood == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mood == "forever":
            (work / "began").touch()
            while not stop():
                (work / "alive").touch()
            (work / "checkpoint").touch()
            raise TrainingStoppedError("stopped at a checkpoint")
        if progress is not None:
            progress(self.kind, 1, 1)
        return Built(self.kind, str(self.skill).encode(), data.history.inputs, seed=seed)


@dataclass
class FakeShelf(RegistryShelf):
    """A registry in memory. ``told`` is every effect in order, repeats too."""

    models: list[tuple[str, Built]] = field(default_factory=list)
    serves: int = 0
    shadows: int = 0
    told: list[tuple[str, int]] = field(default_factory=list)

    def champion(self, task: str) -> int:
        return self.serves

    def built(self, task: str, version: int) -> Built:
        return self.models[version - 1][1]

    def register(self, task: str, built: Built, job: Job, counts: Mapping[str, float], now: float) -> int:
        names = [name for name, _ in self.models]
        if job.job_id not in names:
            self.models.append((job.job_id, built))
        return [name for name, _ in self.models].index(job.job_id) + 1

    def tell(self, task: str, effect: Effect, why: str) -> ModelUpdate:
        self.told.append((effect.action, effect.version))
        if effect.action == "promote" and self.serves != effect.version:
            self.serves, self.shadows = effect.version, self.serves
        elif effect.action == "rollback":
            self.serves, self.shadows = effect.version, 0
        elif effect.action == "shadow":
            self.shadows = effect.version
        elif effect.action == "retire" and self.shadows == effect.version:
            self.shadows = 0
        return update_of(task, effect)

    def skill(self, version: int) -> float:
        return float(self.models[version - 1][1].onnx) if version else 0.0


def update_of(task: str, effect: Effect) -> ModelUpdate:
    return ModelUpdate(
        task=task, version=str(effect.version), action=effect.action, uri="memory://x", digest=f"sha256:{'0' * 64}",
        created_at=effect.at,
    )  # fmt: skip


def request(number: int, at: float = NOW, cause: str = "drift") -> RetrainRequest:
    return RetrainRequest.model_validate(
        {"request_id": f"r{number}", "task": "fraud", "cause": cause, "requested_at": at}
    )


def asked(number: int, at: float, cause: Any = "drift") -> RetrainAsk:
    return RetrainAsk(f"r{number}", cause, at)


class Clock:
    """Time as a test wants it."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """One task's trainer among fakes, and the stream that its models score."""

    tmp: Path
    task: TaskSpec = field(default_factory=spec)
    journal: Journal = field(default_factory=MemoryJournal)
    shelf: FakeShelf = field(default_factory=FakeShelf)
    clock: Clock = field(default_factory=Clock)
    builders: dict[str, SkillBuilder] = field(default_factory=lambda: {"trees": SkillBuilder(2.0)})
    runner: Runner = field(default_factory=InlineRunner)
    owner: str = "a"
    lease_s: float = 30.0
    updates: list[ModelUpdate] = field(default_factory=list)
    drop: dict[int, float] = field(default_factory=dict)
    """Versions whose live skill is another than their builder's."""
    events: int = 0

    def __post_init__(self) -> None:
        self.stop = False
        self.restart()

    def restart(self, owner: str | None = None) -> None:
        """A new trainer process: nothing but journal, registry and work directory is left."""
        self.owner = owner or self.owner
        desk = LeasedTaskState(self.task.name, self.journal, self.owner, self.lease_s, self.clock)
        self.trainer = TaskTrainer(self.task, desk, self.shelf, self.updates.append, self.clock)
        work = self.tmp / "work"
        shop = JobWorkshop(training_data, dict(self.builders), fake_blend, fake_score, self.runner, work)
        self.job = JobRunner(self.trainer, shop, self.clock, lambda: self.stop)
        if desk.claim():
            self.trainer.begin()

    def ask(self, number: int, at: float = NOW, cause: str = "drift") -> str:
        return self.trainer.ask(request(number, at, cause)).answer

    def rows(self, n: int, seed: int = 0, rate: float = 0.2) -> LiveRows:
        """The next n labelled events, scored by what serves and shadows now."""
        rng = np.random.default_rng((seed, self.events))
        y, first = rng.random(n) < rate, self.events
        self.events += n
        serves, shadows = self.shelf.serves, self.shelf.shadows
        noise = rng.normal(0, 1, n)
        logits = [
            self.drop.get(v, self.shelf.skill(v)) * y + noise + rng.normal(0, 0.1, n) if v else np.zeros(n)
            for v in (serves, shadows)
        ]
        return LiveRows(
            [f"live{k}" for k in range(first, first + n)], [f"u{k % 150}" for k in range(first, first + n)],
            np.full(n, self.clock.now), y, np.ones(n),
            logits[0], np.full(n, serves), logits[1], np.full(n, shadows),
        )  # fmt: skip

    def live(self, n: int, block: int = 20) -> None:
        """Let n labelled events come, in blocks."""
        for _ in range(n // block):
            self.clock.now += 60.0
            self.trainer.take(self.rows(block), self.events)

    def stages(self) -> list[str]:
        return [job.stage for job in self.trainer.state.ended]

    def promoted(self, skill: float) -> None:
        """Have a first champion of some skill, by the way every champion goes."""
        self.builders["trees"] = SkillBuilder(skill)
        self.restart()
        assert self.ask(1000 + len(self.shelf.models), self.clock.now) in ("accepted", "too soon")
        self.job.work()
        self.live(400)
        assert self.shelf.serves == len(self.shelf.models)
        self.clock.now += DAY
