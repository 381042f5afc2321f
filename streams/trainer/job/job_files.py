"""What a job makes on its way, each in a file: data set, candidates, their blend.

What is there is not made again. Of another code's files nothing is used.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from weir.models.durable import write_durably
from weir.models.errors import ModelError, RegistryError
from weir.models.manifest import code_version
from weir.models.types import Built, Progress, TrainingStoppedError
from weir.streams.errors import in_words
from weir.streams.trainer.job.job_runner import InlineRunner, Runner
from weir.streams.trainer.job.job_steps import (
    AddVariants,
    Blend,
    BlendWork,
    BuildWork,
    Data,
    GatherWork,
    JobSteps,
    MakeBuilder,
    Score,
    put,
)
from weir.streams.trainer.task_state import Job
from weir.streams.trainer.task_trainer import TaskTrainer, full_of
from weir.streams.trainer.trainer_errors import WorkDiedError

log = logging.getLogger(__name__)


BUILT: Final = "built"
BLEND: Final = "blend"
_TOLD: Final = ("events", "labels", "positives")


@dataclass(frozen=True)
class JobWorkshop:
    """What jobs are done with.

    Parameters
    ----------
    data : where data sets come from.
    builders : by kind of candidate.
    blend : makes a third candidate of two; ``None`` makes none.
    score : what a candidate would have said.
    runner : where training happens.
    gather : where data sets are gathered; in this process when not given, as it has the links and the secrets.
    variants : adds what passed in other precisions.
    work : a directory of this trainer's; what is in it can be made again.
    progress : told how far a stage is.
    """

    data: Data
    builders: Mapping[str, MakeBuilder]
    blend: Blend | None
    score: Score
    runner: Runner
    work: Path
    variants: AddVariants | None = None
    progress: Callable[[str, str, int, int], None] = lambda *_: None
    gather: Runner = field(default_factory=InlineRunner)


class JobFiles:
    """The files of one task's jobs, below the workshop's work directory.

    Parameters
    ----------
    task : the task's trainer.
    shop : what to make them with.
    stop : see ``JobRunner``.
    """

    def __init__(self, task: TaskTrainer, shop: JobWorkshop, stop: Callable[[], bool]) -> None:
        self._task, self._shop, self._stop = task, shop, stop
        self._name = task.spec.name

    def of_this_code(self, job: Job) -> None:
        """Remove what other code made of the job, before an upgrade: a candidate must not be of two codes."""
        mark, code = self.folder(job) / "code", code_version()
        if mark.parent.is_dir() and (not mark.is_file() or mark.read_text("utf-8") != code):
            log.warning("task %s: job %s: other code began it, so that all of it is made again", self._name, job.job_id)
            shutil.rmtree(mark.parent)
        if not mark.is_file():  # before anything else is there
            write_durably(mark, lambda file: file.write(code.encode()))

    def data(self, job: Job) -> Path:
        """The file of the data set, gathered unless it is there."""
        path = self.folder(job) / "data.pkl"
        counts = path.with_suffix(".counts")
        if not counts.is_file():
            work = GatherWork(self._shop.data, self._task.spec, job.cutoff, path)
            found = self.run(job, "data", work, self._shop.gather)
            log.info("task %s: job %s: %s", self._name, job.job_id, ", ".join(f"{found[k]:.0f} {k}" for k in _TOLD))
            put(counts, found)  # after the data set: where the counts are, it is whole
        return path

    def candidate(self, job: Job, kind: str) -> str:
        """``built``, or why not."""
        to = self.built(job, kind)
        if to.is_file():
            return BUILT
        if kind not in self._shop.builders:
            return "no builder of this kind here; run: pip install 'weir[train]', or weir models import again"
        make, spec = self._shop.builders[kind], full_of(self._task.spec)
        return self._made(
            job, kind, BuildWork(make, spec, self.data(job), spec.training.seed, self._warm_start(kind), to)
        )

    def blended(self, job: Job, made: Sequence[str]) -> str:
        """``built``, or why not."""
        to = self.built(job, BLEND)
        if self._shop.blend is None or to.is_file():
            return BUILT
        parts = tuple(self.built(job, kind) for kind in made)
        return self._made(job, BLEND, BlendWork(self._shop.blend, self.data(job), parts, to))

    def _made(self, job: Job, kind: str, work: JobSteps) -> str:
        """``built``, or why not: a candidate that cannot be made is no reason to go without the others."""
        try:
            self.run(job, kind, work)
        except (ModelError, WorkDiedError) as error:
            log.warning("task %s: job %s: no %s: %s", self._name, job.job_id, kind, in_words(error))
            return str(error)
        return BUILT

    def again(self, job: Job, kind: str) -> None:
        """Make a candidate once more where its file is gone: another machine went on, or a disk was cleared."""
        if self.built(job, kind).is_file():
            return
        parts = [part for part, said in job.built.items() if said == BUILT and part != BLEND]
        wanted = parts if kind == BLEND else [kind]
        said = {part: self.candidate(job, part) for part in wanted}
        if kind == BLEND and set(said.values()) == {BUILT}:
            said[BLEND] = self.blended(job, parts)
        if set(said.values()) != {BUILT}:
            raise ModelError("; ".join(f"{part}: {why}" for part, why in said.items() if why != BUILT))

    def _warm_start(self, kind: str) -> Mapping[str, bytes] | None:
        """Files of the champion, to go on training from; a blend holds those of its parts."""
        serving = self.serving(self._task.shelf.champion(self._name))
        return dict(serving.files) if serving is not None and serving.kind in (kind, BLEND) else None

    def serving(self, champion: int) -> Built | None:
        """The champion; ``None`` without one, or one that is not whole, which then serves nobody either."""
        if not champion:
            return None
        try:
            return self._task.shelf.built(self._name, champion)
        # Away is not broken: the stage is tried again.
        except RegistryError:
            raise
        except ModelError as error:
            log.warning(
                "task %s: champion %d cannot be used to compare with: %s", self._name, champion, in_words(error)
            )
            return None

    def run(self, job: Job, what: str, work: Any, runner: Runner | None = None) -> Any:
        """The result of a piece of work, by the workshop's runner if no other is given."""

        def progress(part: str, done: int, of: int) -> None:
            self._shop.progress(self._name, part, done, of)

        if self._stop():
            raise TrainingStoppedError(f"job {job.job_id}: asked to stop before {what}")
        return (runner or self._shop.runner).run(work, self.folder(job) / what, self._stop, cast(Progress, progress))

    def folder(self, job: Job) -> Path:
        """Where a job's files are."""
        return self._shop.work / self._name / job.job_id

    def clear(self, job: Job) -> None:
        """Remove what is left of other jobs of the task, such as one that another trainer went on with."""
        for folder in self.folder(job).parent.glob("*"):
            if folder.name != job.job_id:
                shutil.rmtree(folder, ignore_errors=True)

    def built(self, job: Job, kind: str) -> Path:
        """Where a candidate is kept."""
        return self.folder(job) / f"{kind}.built"
