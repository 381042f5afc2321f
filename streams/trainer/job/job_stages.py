"""Takes a task's job from the request to its candidate's shadow: one stage after the other, each noted when done.

Each stage can be repeated: what it made is a file in the work directory, or a version that is found again by the job's
name, and what it depends on was fixed when the job began. So a trainer that was killed anywhere, or another one in its
place, goes on where the journal is and ends as if nothing had happened. A stage that fails ends the job and says why;
the champion is not touched by anything before the shadow has proved itself (``weir.streams.trainer.job.promotion``).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from weir.models.durable import write_durably
from weir.models.errors import ModelError, RegistryError
from weir.models.manifest import code_version
from weir.models.types import Built, Progress, TrainingStoppedError
from weir.online.errors import WeirError
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
    Judgement,
    JudgeWork,
    MakeBuilder,
    Score,
    get,
    put,
)
from weir.streams.trainer.leased_state import Clock
from weir.streams.trainer.task_state import WORKING, Job, Stage, TaskState
from weir.streams.trainer.task_trainer import TaskTrainer, full_of
from weir.streams.trainer.trainer_errors import PASSING, LeaseLostError, WorkDiedError
from weir.streams.trainer.triggers import begin_shadow

log = logging.getLogger(__name__)

# What a job makes on its way, each in a file: data set, candidates, their blend. What is there is not made again. Of
# another code's files nothing is used.

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


TRIES: Final = 3
"""How often a stage is begun that ends with the trainer, or for want of a link."""


class JobRunner:
    """Does the jobs of one task.

    Parameters
    ----------
    task : the task's trainer, which holds the lease.
    shop : what to do them with.
    clock : of the task's trainer.
    stop : asked often; when true, the stage under way stops after a checkpoint.
    """

    def __init__(self, task: TaskTrainer, shop: JobWorkshop, clock: Clock, stop: Callable[[], bool]) -> None:
        self._task, self._shop, self._clock, self._stop = task, shop, clock, stop
        self._name, self._files = task.spec.name, JobFiles(task, shop, stop)
        self._stages: dict[Stage, Callable[[Job], None]] = {
            "accepted": self._gather, "data": self._train, "trained": self._judge, "gated": self._register,
            "registered": self._shadow,
        }  # fmt: skip

    def work(self) -> bool:
        """Do everything there is to do now; returns when the job waits for labels, failed, or was asked to stop.

        A stage that failed for want of a link is left for the next call, which should come later: returns whether there
        is one.

        Raises
        ------
        LeaseLostError
            Another trainer goes on with it.
        """
        while not self._stop():
            try:
                self._task.tell()
                job = self._begun()
                if job is None or job.stage not in WORKING:
                    return False
                self._do(job)
            except (LeaseLostError, TrainingStoppedError):
                raise
            except PASSING as error:
                log.warning("task %s: %s; trying again in a while", self._name, in_words(error))
                return True
        return False

    def _begun(self) -> Job | None:
        """The job under way, or a new one for what was asked."""
        state = self._task.state
        # Looked at twice: here without writing, and below on the document as it is when the change is made.
        if state.pending is None or (state.job is not None and state.job.active):
            return state.job
        now, newest = self._clock(), self._task.newest_ts

        def change(state: TaskState) -> TaskState:
            asked = state.pending
            if asked is None or (state.job is not None and state.job.active):
                return state
            # Machines speak of event time; a request that waited is answered with what is known by now.
            cutoff = now if asked.cause in ("manual", "schedule") else max(asked.at, newest)
            job = Job(f"{state.task}-{state.jobs + 1}", asked, cutoff, now)
            return msgspec.structs.replace(state, pending=None, job=job, jobs=state.jobs + 1)

        job = self._task.desk.change(change).job
        if job is not None:
            log.info("task %s: job %s begins, asked for by %s", self._name, job.job_id, job.asked.cause)
        return job

    def _do(self, job: Job) -> None:
        """Carry out the stage that the job is at, and note how it ended."""
        if job.tries >= TRIES:
            self._end("failed", f"stage {job.stage} was begun {job.tries} times and never ended: {job.reason}")
            return
        # Noted before it begins: a stage that kills its process is counted, too.
        self._task.desk.change(lambda state: state.with_job(tries=job.tries + 1))
        try:
            self._files.of_this_code(job)
            with self._task.measures.timed(job.stage):
                self._stages[job.stage](job)
        except TrainingStoppedError:
            self._task.desk.change(lambda state: state.with_job(tries=job.tries))
            raise
        except LeaseLostError:
            raise
        except PASSING as error:
            words = str(error)
            self._task.desk.change(lambda state: state.with_job(reason=words))
            raise
        except Exception as error:  # whatever it is, the job ends and says so; the trainer goes on
            words = str(error)
            if not isinstance(error, WeirError):
                words = in_words(error)
                log.error("task %s: job %s", self._name, job.job_id, exc_info=error)
            self._end("failed", f"{job.stage}: {words}")

    # -- stages ----------------------------------------------------------------------------------------------------

    def _gather(self, job: Job) -> None:
        self._files.clear(job)
        self._files.data(job)
        self._task.desk.change(lambda state: state.at_stage("data"))

    def _train(self, job: Job) -> None:
        built: dict[str, str] = {kind: self._files.candidate(job, kind) for kind in self._task.training.candidates}
        made = [kind for kind, said in built.items() if said == BUILT]
        if not made:
            raise ModelError(
                "; ".join(f"{kind}: {said}" for kind, said in built.items())
                or "[full.training] candidates is empty: nothing is trained for this task, see weir models import"
            )
        if len(made) > 1 and self._shop.blend is not None:
            built[BLEND] = self._files.blended(job, made)
        self._task.desk.change(lambda state: state.with_job(built=built).at_stage("trained"))

    def _judge(self, job: Job) -> None:
        champion, t = self._task.shelf.champion(self._name), self._task.training
        # From the document, not from the disk: another machine may go on, and makes them again.
        kinds = [kind for kind, said in job.built.items() if said == BUILT]
        for kind in kinds:
            self._files.again(job, kind)
        work = JudgeWork(
            {kind: self._files.built(job, kind) for kind in kinds}, self._files.serving(champion),
            self._files.data(job), self._shop.score, t.metric, t.confidence, t.seed, self._shop.variants,
        )  # fmt: skip
        judged = cast(Judgement, self._files.run(job, "judge", work))
        v = judged.verdict
        log.info("task %s: job %s: %s, %s", self._name, job.job_id, judged.kind, v.reason)
        found = {"champion": champion, "chosen": judged.kind, "verdict": v.reason, "metrics": judged.metrics}
        if v.passed:
            self._task.desk.change(lambda state: state.with_job(**found).at_stage("gated"))
        else:
            words = f"{judged.kind} against {_version(champion)} on the newest labels: {v.reason}"
            self._end("rejected", words, **found)

    def _register(self, job: Job) -> None:
        if not self._files.built(job, job.chosen).is_file():
            # Another machine or other code goes on: what the gate saw, and added, is made again by the gate.
            self._task.desk.change(lambda state: state.at_stage("trained"))
            return
        counts = get(self._files.data(job).with_suffix(".counts"))
        built: Built = get(self._files.built(job, job.chosen))
        version = self._task.shelf.register(self._name, built, job, counts, self._clock())
        self._task.desk.change(lambda state: state.with_job(version=version).at_stage("registered"))

    def _shadow(self, job: Job) -> None:
        champion = self._task.shelf.champion(self._name)
        if champion != job.champion:  # it was judged against another
            self._task.desk.change(lambda state: state.at_stage("trained"))
            return
        now, offset = self._clock(), self._task.offset
        self._task.desk.change(lambda state: begin_shadow(state, champion, job.version, now, offset))
        shutil.rmtree(self._files.folder(job), ignore_errors=True)

    def _end(self, stage: Stage, reason: str, **found: object) -> None:
        now = self._clock()

        def change(state: TaskState) -> TaskState:
            state = state.with_job(**found)
            return state if state.job is None else state.finished(state.job, stage, reason, now)

        job = self._task.desk.change(change).job
        log.warning("task %s: the training ended %s: %s", self._name, stage, reason)
        if job is not None:
            shutil.rmtree(self._files.folder(job), ignore_errors=True)


def _version(number: int) -> str:
    return f"version {number}" if number else "a constant"
