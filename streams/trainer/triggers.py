"""Which requests lead to a job, when the schedule asks for one, and what follows from a decision on live labels. Pure.

A request is known by its id. Requests heed the task's cooldown, counted in their own time (``requested_at``, of
machines event time) so that a replay decides alike; the schedule, and a person who insists, are taken at their word.
While a job is under way the newest request waits, and is one job when its turn comes, however many there were.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple

import msgspec

from weir.online.codec.wire import RetrainRequest
from weir.online.durations import format_duration
from weir.online.errors import StateError, TaskError
from weir.streams.trainer.job.promotion import PhaseOutcome, PhaseState
from weir.streams.trainer.task_state import Action, Effect, RetrainAsk, Stage, TaskState

Answer = Literal["accepted", "waits", "repeat", "too soon"]
_COOLS: Final = ("drift", "volume", "manual")
"""Causes that the cooldown holds for; a schedule is what a person chose."""


class RequestOutcome(NamedTuple):
    """What becomes of a request."""

    answer: Answer
    state: TaskState
    words: str


def consider(state: TaskState, asked: RetrainAsk, cooldown: float) -> RequestOutcome:
    """Take in one request; ``cooldown`` in seconds.

    >>> first = consider(TaskState("fraud"), RetrainAsk("r1", "drift", 100.0), cooldown=60)
    >>> second = consider(first.state, RetrainAsk("r2", "drift", 130.0), cooldown=60)
    >>> first.answer, second.answer, consider(second.state, RetrainAsk("r1", "drift", 100.0), cooldown=60).answer
    ('accepted', 'too soon', 'repeat')
    """
    if asked.request_id in state.seen:
        return RequestOutcome("repeat", state, f"request {asked.request_id} is known")
    # Also one that is too soon: when it comes again it must not be accepted, or a replay would decide otherwise.
    state = state.noted(asked.request_id)
    cools = asked.cause in _COOLS and not asked.forced
    if cools and state.accepted_at is not None and asked.at < state.accepted_at + cooldown:
        since = format_duration(max(0.0, round(asked.at - state.accepted_at)))
        words = f"{asked.cause} asks {since} after the last request that was accepted; the cooldown is "
        return RequestOutcome("too soon", state, words + format_duration(cooldown))
    active = state.pending is not None or (state.job is not None and state.job.active)
    # Requests come in the order of the log, not of their times; the cooldown never goes back.
    accepted_at = max(asked.at, state.accepted_at if state.accepted_at is not None else asked.at)
    state = msgspec.structs.replace(state, pending=asked, accepted_at=accepted_at)
    if active:
        return RequestOutcome("waits", state, f"{asked.cause} asks; it waits for the job under way")
    return RequestOutcome("accepted", state, f"{asked.cause} asks{f': {asked.text}' if asked.text else ''}")


def check_schedule(schedule: str) -> None:
    """Raise ``TaskError`` for what is not a cron expression of five fields."""
    if len(schedule.split()) != 5 or not _croniter().is_valid(schedule):
        raise TaskError(
            f"full.training.schedule = {schedule!r} is no cron expression; give minute, hour, day, month and weekday, "
            "such as '0 3 * * 1' for Mondays at three (UTC)"
        )


def due(schedule: str, since: float, now: float) -> float | None:
    """The newest time of the schedule in ``(since, now]``, epoch seconds; ``None`` when there is none.

    After a long absence one training is enough, so the times before the newest are passed over.

    >>> due("0 3 * * *", since=1709254800.0, now=1709348400.0)  # 2024-03-01 01:00 to 2024-03-02 03:00
    1709348400.0
    >>> due("0 3 * * *", since=1709348400.0, now=1709348401.0) is None
    True
    """
    croniter = _croniter()
    at = datetime.fromtimestamp(now, UTC)
    # get_prev passes over a time that is right now.
    exactly = croniter.match(schedule, at) and now % 60 == 0
    newest = now if exactly else float(croniter(schedule, at).get_prev(float))
    return newest if newest > since else None


def scheduled(state: TaskState, schedule: str | None, now: float) -> tuple[TaskState, RetrainRequest | None]:
    """Look at the schedule; a task that is seen for the first time waits for its next turn.

    The id says which turn it is: two trainers that look at once ask once.
    """
    if schedule is None:
        return state, None
    if state.scheduled_at is None:
        # From now on: a new task is not trained for a turn of before it was there.
        return msgspec.structs.replace(state, scheduled_at=now), None
    at = due(schedule, state.scheduled_at, now)
    if at is None:
        return state, None
    asked = RetrainRequest(
        request_id=f"{state.task[:40]}-at-{at:.0f}", task=state.task, cause="schedule", requested_at=at,
        text=f"schedule {schedule}",
    )  # fmt: skip
    return msgspec.structs.replace(state, scheduled_at=at), asked


def _croniter() -> Any:
    """The package that reads cron expressions; it comes with the extra ``models``."""
    try:
        return import_module("croniter").croniter
    except ImportError as exc:
        raise TaskError("full.training.schedule needs croniter; run: pip install 'weir[models]'") from exc


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
        # Without a champion before there is nothing to roll back to.
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
    # Its job ended with the promotion, and is not counted again.
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
