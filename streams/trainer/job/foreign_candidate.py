"""Makes a candidate of a model that another library trained: held against its original, gated, registered, shadowed.

It is one of the trainer's jobs from its registration on: data set, gate and artefact are made here by the trainer's
own steps, and the journal then says that a job stands at ``registered``. Whichever trainer holds the task, or comes
next, begins the shadow with its own clock and position, promotes or retires, and watches, as with one of its own.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from weir.models.errors import ModelError
from weir.models.onnx.adopt import adopt, largest_difference
from weir.models.onnx.foreign import Foreign, read_foreign
from weir.models.onnx.input_map import InputMap
from weir.models.registry.registry import Registry, open_files
from weir.models.types import Built, Progress, TrainingSet
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.errors import UsageError
from weir.streams.trainer.job.job_files import BUILT
from weir.streams.trainer.job.job_steps import Data, GatherWork, Judgement, JudgeWork, get, put
from weir.streams.trainer.job.real_steps import score
from weir.streams.trainer.leased_state import LeasedTaskState
from weir.streams.trainer.registry_port import RegistryShelf
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_state import Job, RetrainAsk, TaskState
from weir.streams.trainer.task_trainer import training_of

KIND: Final = "imported"
SAMPLE: Final = 2_000
"""Logged rows on which what is served is held against the original."""


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A foreign graph, fitted to a task."""

    foreign: Foreign
    onnx: bytes
    """What is served."""
    files: Mapping[str, bytes]
    """Kept beside it: the original and its map."""

    @property
    def digest(self) -> str:
        """Of original and map."""
        return hashlib.sha256(b"\0".join(self.files[name] for name in sorted(self.files))).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """What became of it."""

    judged: Judgement
    counts: Mapping[str, float]
    """``GatherWork``: events, labels, positives."""
    champion: int
    version: int
    """0 where it did not pass the gate."""


def fit_model(onnx: bytes, mapping: InputMap, map_text: str, task: TaskSpec) -> ImportedModel:
    """Read a graph and make of it what can serve ``task``; raises ``ModelError``."""
    if task.full is None:
        raise ModelError(
            f"task {task.name} has no full model, which an imported one would be: add [full] with state = 0 to its "
            "file ([full.training] candidates = [] where nothing else is to be trained), and restart its workers"
        )
    mapping.check_features(shape_of(task).full_inputs)
    foreign = read_foreign(onnx, mapping)
    return ImportedModel(foreign, adopt(foreign), {"original.onnx": onnx, "map.toml": map_text.encode()})


def import_model(
    task: TaskSpec, model: ImportedModel, name: str, data: Data, registry: Registry, now: float, progress: Progress
) -> ImportOutcome:
    """Gate a model on the newest labels, and hand what passes to the trainer as a registered candidate.

    Parameters
    ----------
    name : of the file, for those who look at the job later.
    data : where the history is.
    now : epoch seconds; no label that became known later counts.

    Raises
    ------
    UsageError
        Another candidate is under way, or nothing was logged.
    ModelError
        The model is not what its original is, or cannot be judged.
    """
    # It never holds the lease: its one change is made without, as a request is noted.
    journal = LeasedTaskState(task.name, FilesJournal(open_files(registry.url)), KIND, 0.0, lambda: now)
    _check_free(journal.state)
    shelf = RegistryShelf(registry)
    champion = shelf.champion(task.name)
    with tempfile.TemporaryDirectory() as folder:
        counts, judged, built = _judged(task, model, data, shelf, now, Path(folder), progress)
    if not judged.verdict.passed:
        return ImportOutcome(judged, counts, champion, 0)
    asked = RetrainAsk(f"import-{model.digest}-{now:.0f}", "manual", now, f"import of {name}", forced=True)
    job = Job(
        asked.request_id, asked, now, now, stage="registered", built={KIND: BUILT}, chosen=KIND, champion=champion,
        verdict=judged.verdict.reason,
        metrics={**judged.metrics, training_of(task).metric: judged.verdict.candidate},
    )  # fmt: skip
    version = shelf.register(task.name, built, job, counts, now)
    # Registered before the journal knows of it: a version that nobody speaks of does no harm, a job without its version
    # would fail.
    job = msgspec.structs.replace(job, version=version)

    def begun(state: TaskState) -> TaskState:
        _check_free(state)  # a trainer may have begun one of its own meanwhile
        return msgspec.structs.replace(state, job=job, jobs=state.jobs + 1)

    journal.change(begun, free=True)
    return ImportOutcome(judged, counts, champion, version)


def _check_free(state: TaskState) -> None:
    if state.job is not None and state.job.active:
        raise UsageError(
            f"task {state.task}: job {state.job.job_id} is under way (version {state.job.version or '-'}, "
            f"{state.job.stage}); one candidate is judged at a time: import again when weir trainer is through with it"
        )


def _judged(
    task: TaskSpec, model: ImportedModel, data: Data, shelf: RegistryShelf, now: float, folder: Path, progress: Progress
) -> tuple[dict[str, float], Judgement, Built]:
    """Counts of the history, the verdict, and the candidate with what explains it."""

    def never() -> bool:
        return False

    t, champion = training_of(task), shelf.champion(task.name)
    progress("reading the history", 0, 3)
    counts = GatherWork(data, task, now, folder / "data")(folder, never, progress)
    progress("against the original", 1, 3)
    put(folder / KIND, _built(model, get(folder / "data")))
    progress("gate", 2, 3)
    judge = JudgeWork(
        {KIND: folder / KIND}, shelf.built(task.name, champion) if champion else None, folder / "data", score,
        t.metric, t.confidence, t.seed,
    )  # fmt: skip
    judged = judge(folder, never, progress)
    progress("done", 3, 3)
    return counts, judged, get(folder / KIND)


def _built(model: ImportedModel, data: TrainingSet) -> Built:
    """The candidate, held against its original on rows from all of the history."""
    inputs, known = model.foreign.map.features, data.history.inputs
    if absent := [name for name in inputs if name not in known]:
        raise ModelError(f"what was logged has no {', '.join(absent[:5])} yet: wait for new events, or map another")
    some = np.linspace(0, len(data.history) - 1, min(SAMPLE, len(data.history))).astype(np.int64)
    x = data.history.x[some][:, [known.index(name) for name in inputs]]
    gap = largest_difference(model.foreign, model.onnx, x)
    return Built(KIND, model.onnx, inputs, files=dict(model.files), metrics={"import_difference": gap})
