"""What follows from a decision on live labels: the document after it. Pure."""

from __future__ import annotations

import msgspec

from weir.online.errors import StateError
from weir.streams.trainer.job.promotion import PhaseOutcome, PhaseState
from weir.streams.trainer.task_state import Action, Effect, Stage, TaskState


def conclude(state: TaskState, decided: PhaseOutcome, now: float) -> TaskState:
    """A phase has ended.

    ===========  ==========================================================================================
    promote      the candidate serves; the champion before is scored beside it, and a watch begins
    retire       the candidate goes
    rollback     the champion before serves again; the one that was promoted goes
    settle       the champion before goes
    ===========  ==========================================================================================
    """
    phase, job = state.phase, state.phase_job
    if phase is None or job is None:
        raise StateError(f"task {state.task}: nothing is judged, so there is nothing to decide")
    after = msgspec.structs.replace(state, phase=None, phase_job=None)
    if decided.decision == "promote":
        after = after.finished(job, "promoted", decided.reason, now)
        if phase.serving:
            watch = PhaseState("watch", serving=phase.other, other=phase.serving, since=now)
            after = msgspec.structs.replace(after, phase=watch, phase_job=job)
        return _told(after, "promote", phase.other, decided, now)
    if decided.decision == "rollback":
        after = after.finished(job, "rolled back", decided.reason, now)
        return _told(after, "rollback", phase.other, decided, now)
    if decided.decision == "retire":
        after = after.finished(job, "retired", decided.reason, now)
    return _told(after, "retire", phase.other, decided, now)


def overtaken(state: TaskState, champion: int, now: float) -> TaskState:
    """Somebody made ``champion`` serve by hand while a phase was under way: their word counts, and the phase ends."""
    phase, job = state.phase, state.phase_job
    if phase is None or job is None or phase.serving == champion:
        return state
    reason = f"version {champion or 'none'} was made to serve by hand while {phase.other} was beside {phase.serving}"
    after = msgspec.structs.replace(state, phase=None, phase_job=None)
    if phase.kind == "watch":
        return after
    stage: Stage = "promoted" if champion == phase.other else "retired"
    after = after.finished(job, stage, reason, now)
    return (
        after
        if stage == "promoted"
        else _told(after, "retire", phase.other, PhaseOutcome("retire", reason, {}, 0), now)
    )


def begin_shadow(state: TaskState, champion: int, version: int, now: float, offset: int) -> TaskState:
    """The candidate of the present job is scored beside the champion from now on; a watch under way ends with that."""
    after = state.at_stage("shadowing")
    phase = PhaseState("shadow", serving=champion, other=version, since=now)
    after = msgspec.structs.replace(after, phase=phase, phase_job=after.job, offset=max(offset, state.offset))
    metrics = after.job.metrics if after.job is not None else {}
    return _told(after, "shadow", version, PhaseOutcome("settle", "", metrics, 0), now)


def _told(state: TaskState, action: Action, version: int, decided: PhaseOutcome, now: float) -> TaskState:
    effect = Effect(action, version, now, decided.metrics)
    return msgspec.structs.replace(state, effects=(*state.effects, effect))
