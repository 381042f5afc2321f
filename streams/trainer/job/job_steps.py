"""The expensive parts of a job, as objects that can be sent to another process: reading data, training, judging.

What is large goes by file. They know arrays and artefacts, nothing of journals, registries or Kafka.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weir.models.durable import write_durably
from weir.models.evaluation.gate import Metric, Verdict, choose, compare
from weir.models.serving.occlusion import USUAL_FILE, Baseline
from weir.models.types import BoolVector, Builder, Built, Float32Vector, FloatVector, IntVector, Progress, TrainingSet
from weir.streams.errors import UsageError

if TYPE_CHECKING:
    from weir.online.task.full_spec import FullSpec
    from weir.online.task.spec import TaskSpec  # brings the kernels of the online model, which no training needs

MakeBuilder = Callable[["FullSpec"], Builder]
"""A function of a module: it is sent by name, so that only the process that trains imports what trains."""
Blend = Callable[[Sequence[Built], TrainingSet], Built]
"""Makes one candidate of several."""
AddVariants = Callable[[Built, TrainingSet, IntVector, BoolVector], Built]
"""The best candidate with its graph in other precisions, each measured on labelled rows of the history."""
Score = Callable[[Built, TrainingSet, IntVector], Float32Vector]
"""What a candidate would have said of some rows of the history, ``(k,)`` logits."""
Data = Callable[["TaskSpec", float], TrainingSet]
"""What a training of a task may see at a cutoff (epoch seconds)."""


class JobSteps(Protocol):
    """Something to be done, here or in a process of its own."""

    def __call__(self, folder: Path, stop: Callable[[], bool], progress: Progress) -> Any:
        """Do it; ``folder`` is for checkpoints, and is the same when it is repeated."""


@dataclass(frozen=True)
class GatherWork:
    """Reads the data set; returns what the registry is told of it."""

    data: Data
    task: TaskSpec
    cutoff: float
    to: Path

    def __call__(self, folder: Path, stop: Callable[[], bool], progress: Progress) -> dict[str, float]:
        """See ``JobSteps``."""
        del folder, stop, progress
        found = self.data(self.task, self.cutoff)
        put(self.to, found)
        ts, y = found.history.ts, found.labels.y
        counts = {"events": len(ts), "labels": len(y), "positives": int(np.count_nonzero(y))}
        start, end = (float(ts.min()), float(ts.max())) if len(ts) else (self.cutoff, self.cutoff)
        times = {"start": start, "end": end, "cutoff": found.cutoff, "label_delay": self._delay(found)}
        return {**{k: float(v) for k, v in counts.items()}, **times}

    def _delay(self, found: TrainingSet) -> float:
        """How late labels were taken to be, seconds: what lies between the validation rows and the cutoff."""
        validation = self.task.full.training.validation if self.task.full is not None else 0.0
        return max(found.cutoff - found.valid_from - validation, 0.0)


@dataclass(frozen=True)
class BuildWork:
    """Trains one candidate and keeps it in ``to``."""

    make: MakeBuilder
    spec: FullSpec
    data: Path
    seed: int
    warm_start: Mapping[str, bytes] | None
    to: Path

    def __call__(self, folder: Path, stop: Callable[[], bool], progress: Progress) -> None:
        """See ``JobSteps``."""
        data: TrainingSet = get(self.data)
        built = self.make(self.spec).build(
            data, folder, self.seed, warm_start=self.warm_start, progress=progress, stop=stop
        )  # fmt: skip
        put(self.to, built)


@dataclass(frozen=True)
class BlendWork:
    """Makes one candidate of several and keeps it in ``to``."""

    blend: Blend
    data: Path
    parts: tuple[Path, ...]
    to: Path

    def __call__(self, folder: Path, stop: Callable[[], bool], progress: Progress) -> None:
        """See ``JobSteps``."""
        del folder, stop, progress
        put(self.to, self.blend([get(part) for part in self.parts], get(self.data)))


@dataclass(frozen=True)
class Judgement:
    """Which candidate is the best, and whether it may take the champion's place."""

    kind: str
    verdict: Verdict
    metrics: dict[str, float]


@dataclass(frozen=True)
class JudgeWork:
    """Holds candidates, and the best against the champion, on the newest labelled window."""

    candidates: Mapping[str, Path]
    champion: Built | None
    data: Path
    score: Score
    metric: Metric
    confidence: float
    seed: int
    variants: AddVariants | None = None

    def __call__(self, folder: Path, stop: Callable[[], bool], progress: Progress) -> Judgement:
        """See ``JobSteps``."""
        del folder, stop, progress
        data: TrainingSet = get(self.data)
        # No candidate was fitted to these.
        kept = np.flatnonzero(data.history.ts[data.labels.row] >= data.valid_from)
        rows = data.labels.row[kept]
        y, weight, entity = data.labels.y[kept], data.labels.weight[kept], data.history.entity[rows]
        logits = {kind: self.score(get(path), data, rows) for kind, path in self.candidates.items()}
        ranked = choose(
            y, weight, logits, metric=self.metric, confidence=self.confidence, seed=self.seed, groups=entity
        )  # fmt: skip
        best = next(iter(ranked))  # by the lower bound: a candidate must not win by luck
        before = None if self.champion is None else self.score(self.champion, data, rows)
        verdict = compare(
            # Bonferroni: the best of several is the best by luck, too.
            y, weight, before, logits[best], metric=self.metric, seed=self.seed, groups=entity,
            confidence=1 - (1 - self.confidence) / len(logits),
        )  # fmt: skip
        metrics = {f"{kind}_{self.metric}": value for kind, (value, _) in ranked.items()}
        metrics |= {"gate_metric": verdict.candidate, "gate_champion": verdict.champion, "gate_low": verdict.low}
        if self.variants is not None and verdict.passed:
            put(self.candidates[best], self.variants(get(self.candidates[best]), data, rows, y))
        if verdict.passed:
            put(self.candidates[best], with_usual(get(self.candidates[best]), data, logits[best], weight))
        return Judgement(best, verdict, {name: float(v) for name, v in metrics.items() if np.isfinite(v)})


def with_usual(built: Built, data: TrainingSet, logit: Float32Vector, weight: FloatVector) -> Built:
    """The candidate with what its explanations start from (``weir.models.serving.occlusion``).

    ``logit (m,)`` is what it said of labelled events, each of which stands for ``weight``.
    """
    # What is usual is taken from what it learned; what it said is of the labelled rows that it did not.
    learned = data.history.x[data.history.ts < data.valid_from]
    columns = [data.history.inputs.index(name) for name in built.inputs]
    usual = Baseline.of(learned[:, columns], logit, weight)
    return replace(built, files={**built.files, USUAL_FILE: usual.encode()})


def put(path: Path, value: object) -> None:
    """Keep a value in a file, whole or not at all."""
    write_durably(path, lambda file: pickle.dump(value, file, protocol=5))


def own_directory(path: Path) -> Path:
    """Make a directory that only this user can enter, because what lies in it is believed.

    Raises ``UsageError`` where it belongs to somebody else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to another user, who could have the trainer run code; give a directory of yours"
        )
    path.chmod(0o700)  # also one that was there: what lies in it is unpickled
    return path


def get(path: Path) -> Any:
    """A value that was kept; the files are the trainer's own."""
    with path.open("rb") as file:
        return pickle.load(file)
