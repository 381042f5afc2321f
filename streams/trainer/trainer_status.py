"""What a trainer says of itself to those who look after it: whether it does its work, and what that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from weir.streams.trainer.task_state import TaskState
from weir.streams.trainer.task_supervisor import TaskSupervisor


class TrainerStatus:
    """Answers the web endpoints.

    Parameters
    ----------
    benches : the tasks.
    requests : why requests are not read now; empty when they are.
    silence_s : the longest time between two beats that is no trouble.
    clock : monotonic seconds.

    A trainer that waits while another holds the tasks is ready: it would take over at once.
    """

    def __init__(
        self,
        benches: Sequence[TaskSupervisor],
        requests: Callable[[], str],
        silence_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._benches, self._requests, self._silence_s, self._clock = benches, requests, silence_s, clock
        self._beat_at: float | None = None

    def beaten(self) -> None:
        """Every task was looked at."""
        self._beat_at = self._clock()

    def ready(self) -> list[str]:
        """Why the trainer does not do its work, a sentence each."""
        if self._beat_at is None:
            return ["no task was looked at yet: the trainer is starting"]
        reasons = [f"task {bench.name}: {bench.trouble}" for bench in self._benches if bench.trouble]
        if trouble := self._requests():
            reasons.append(f"requests are not read: {trouble}")
        if (silent := self._clock() - self._beat_at) > self._silence_s:
            reasons.append(f"no task was looked at for {silent:.0f} s: does the storage of the registry hang?")
        return reasons

    def describe(self) -> Mapping[str, object]:
        """What each task is at."""
        return {"tasks": {bench.name: _told(bench.state, bench.held) for bench in self._benches}}


def _told(state: TaskState, held: bool) -> Mapping[str, object]:
    job, phase = state.job, state.phase
    return {
        "held": held,
        "owner": state.owner or None,
        "waits": None if state.pending is None else state.pending.request_id,
        "job": None if job is None else {"id": job.job_id, "stage": job.stage, "tries": job.tries, "why": job.reason},
        "judged": None
        if phase is None
        else {"kind": phase.kind, "serving": phase.serving, "other": phase.other, "labels": len(phase.y)},
    }
