"""Takes a task's job from the request to its candidate's shadow: one stage after the other, each noted when done.

Each stage can be repeated: what it made is a file in the work directory, or a version that is found again by the job's
name, and what it depends on was fixed when the job began. So a trainer that was killed anywhere, or another one in its
place, goes on where the journal is and ends as if nothing had happened. A stage that fails ends the job and says why;
the champion is not touched by anything before the shadow has proved itself (``weir.streams.trainer.job.promotion``).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Final, cast

import msgspec

from weir.models.errors import ModelError
from weir.models.types import Built, TrainingStoppedError
from weir.online.errors import WeirError
from weir.streams.errors import in_words
from weir.streams.trainer.job.job_files import BLEND, BUILT, JobFiles, JobWorkshop
from weir.streams.trainer.job.job_steps import (
    Judgement,
    JudgeWork,
    get,
)
from weir.streams.trainer.leased_state import Clock
from weir.streams.trainer.task_state import WORKING, Job, Stage, TaskState
from weir.streams.trainer.task_trainer import TaskTrainer
from weir.streams.trainer.trainer_errors import PASSING, LeaseLostError
from weir.streams.trainer.triggers import begin_shadow

log = logging.getLogger(__name__)


TRIES: Final = 3
"""How often a stage is begun that ends with the trainer."""
PATIENT_S: Final = 86_400.0
"""So long a job waits for brokers, storage or room on a disk; then each try counts, too."""


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

        A stage that failed for want of a link or of room is left for the next call, which should come later: returns
        whether there is one.

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
            words, waited_s = in_words(error), self._clock() - job.began_at
            tries = job.tries + (waited_s > PATIENT_S)
            self._task.desk.change(lambda state: state.with_job(reason=words, tries=tries))
            raise
        except Exception as error:  # whatever it is, the job ends and says so; the trainer goes on
            words = str(error)
            if not isinstance(error, WeirError):
                words = f"{in_words(error)} (behind stage {job.stage!r})"
                log.error("task %s: job %s", self._name, job.job_id, exc_info=error)
            self._end("failed", words)

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
        log.warning(
            "task %s: the training %s: %s", self._name, "was rejected" if stage == "rejected" else stage, reason
        )
        if job is not None:
            shutil.rmtree(self._files.folder(job), ignore_errors=True)


def _version(number: int) -> str:
    return f"version {number}" if number else "a constant"
