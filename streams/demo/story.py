"""Tells what becomes of a full model, as findings for the feed and as one line for the screen."""

from __future__ import annotations

import threading
from typing import Final

from weir.online.codec.wire import ModelUpdate
from weir.streams.demo.retraining import Retraining
from weir.streams.demo.screen.number_words import event_time
from weir.streams.demo.screen.snapshot import Finding, FullRow
from weir.streams.trainer.task_state import Job, TaskState
from weir.streams.trainer.task_trainer import training_of

_NAMES: Final = {"average_precision": "AP", "roc_auc": "AUC"}


class Story:
    """A task's trainer, and the words for what it does."""

    def __init__(self, retraining: Retraining) -> None:
        self.retraining = retraining
        self._task, self._training = retraining.task.name, training_of(retraining.task)
        self._told = self._stages()

    def step(self, event_ts: float, stop: threading.Event) -> tuple[list[ModelUpdate], list[Finding]]:
        """See ``Retraining.step``; with what there is to tell of it."""
        began = self.retraining.training_since
        updates = self.retraining.step(event_ts, stop)
        after = self.retraining.state
        words: list[str] = []
        if began is not None and self.retraining.training_since != began and after.job is not None:
            words.append(self._candidate(after.job))
        words += [self._ending(job) for job in after.ended if self._told.get(job.job_id) != job.stage and _live(job)]
        self._told = self._stages()
        # Behind what ended: one step may end a training and begin the next.
        if self.retraining.training_since not in (None, began):
            words.append(f"a training begins, on {len(self.retraining.memory):,} labelled events")
        if words:
            self.retraining.show()
        return updates, [Finding("full", event_ts, self._task, text) for text in words]

    def row(self) -> FullRow:
        """The line on the screen."""
        state, since = self.retraining.state, self.retraining.training_since
        serving, shadow = self.retraining.versions
        busy = since is not None or state.phase is not None
        name, history = _NAMES[self._training.metric], tuple(self.retraining.live.history)
        return FullRow(self._task, serving, shadow, self._now(state, since), busy, name, history)

    def _now(self, state: TaskState, since: float | None) -> str:
        if since is not None:
            return f"training since {event_time(since, '%d %b %Y %H:%M')} ..."
        if state.phase is not None:
            seen, of = len(state.phase.y), self._training.shadow_examples
            of *= max(-(-seen // of), 1)  # where there are too few positives it goes on for as many again
            return f"{'judged' if state.phase.kind == 'shadow' else 'watched'}: {seen:,}/{of:,} labels"
        asked = self.retraining.asked
        if asked is not None:
            return (
                f"asked for; training begins {event_time(asked.begins, '%d %b %Y')}, when labels of the new days are in"
            )
        return self._ending(state.ended[-1]) if state.ended else "too few labels so far"

    def restore(self, data: bytes) -> None:
        """See ``Retraining.restore``; what happened before was told."""
        self.retraining.restore(data)
        self._told = self._stages()

    def _stages(self) -> dict[str, str]:
        return {job.job_id: job.stage for job in self.retraining.state.ended}

    def _candidate(self, job: Job) -> str:
        if job.stage == "failed":
            return f"no model: {job.reason}"
        m = job.metrics
        if "gate_low" not in m:
            return f"the gate refuses a candidate: {job.verdict or job.reason}"
        name = _NAMES[self._training.metric]
        against = f"v{job.champion}" if job.champion else "a constant"
        words = f"{name} {m['gate_metric']:.2f} against {m['gate_champion']:.2f} of {against}"
        share = f"{self._training.confidence:.0%} sure of {m['gate_low']:+.2f} or more"
        if job.stage == "rejected":
            return f"the gate refuses a candidate: {words} ({share})"
        return f"v{job.version} passes the gate: {words} ({share}); it is scored in the shadow"

    def _ending(self, job: Job) -> str:
        live = job.reason.split(": ", 1)[-1].split(", difference")[0]
        if job.stage == "promoted":
            return f"v{job.version} serves: {live}"
        if job.stage == "retired":
            return f"v{job.version} is not promoted: {live}"
        if job.stage == "rolled back":
            return f"v{job.version} is rolled back: {live}"
        return self._candidate(job)


def _live(job: Job) -> bool:
    """Whether it was decided on live labels; what the gate decided is told with the candidate."""
    return job.stage in ("promoted", "retired", "rolled back")
