"""What the trainer knows of one task: one small document, changed only as a whole. Pure: no files, no clock.

A job goes ``accepted -> data -> trained -> gated -> registered -> shadowing`` and ends ``promoted``, ``retired``,
``rejected`` or ``failed``; a promotion is then watched, and may end ``rolled back``. What the world must be told
(``effects``) is part of the document, so that a crash between deciding and telling loses neither.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from weir.online.codec.wire import RetrainRequest
from weir.online.errors import UNREADABLE, StateError
from weir.streams.text import printable
from weir.streams.trainer.job.promotion import PhaseState

Cause = Literal["drift", "schedule", "volume", "manual"]
Action = Literal["shadow", "promote", "rollback", "retire"]
Stage = Literal[
    "accepted", "data", "trained", "gated", "registered", "shadowing",
    "promoted", "retired", "rejected", "failed", "rolled back",
]  # fmt: skip
WORKING: Final = frozenset({"accepted", "data", "trained", "gated", "registered"})
"""Stages that the trainer itself works at; while shadowing it waits for labels."""
_FORMAT: Final = 1
_KEPT_IDS: Final = 256
_KEPT_JOBS: Final = 20


class RetrainAsk(msgspec.Struct, frozen=True):
    """One request, as far as it matters."""

    request_id: str
    cause: Cause
    at: float
    """``requested_at``."""
    text: str = ""
    """Printable."""
    forced: bool = False
    """Whether a person wants it within the cooldown."""

    @classmethod
    def of(cls, request: RetrainRequest) -> RetrainAsk:
        """The request of a record."""
        forced = request.cause == "manual" and (request.details or {}).get("force") is True
        return cls(request.request_id, request.cause, request.requested_at, printable(request.text or ""), forced)


class Job(msgspec.Struct, frozen=True):
    """One training, from its request to its end."""

    job_id: str
    asked: RetrainAsk
    cutoff: float
    """Nothing that became known later is learned from, epoch seconds; fixed here, so that a repeat sees the same."""
    began_at: float
    stage: Stage = "accepted"
    tries: int = 0
    """How often this stage was begun."""
    # msgspec gives each Job a copy of its own.
    built: dict[str, str] = {}
    """``built`` or why not, by kind of candidate."""
    chosen: str = ""
    champion: int = 0
    """Version it was gated against; 0 for none."""
    version: int = 0
    """Of the candidate, once registered."""
    verdict: str = ""
    reason: str = ""
    """Why it ended as it did."""
    metrics: dict[str, float] = {}
    ended_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether it is under way: at work, or shadowing."""
        return self.stage in WORKING or self.stage == "shadowing"


class Effect(msgspec.Struct, frozen=True):
    """Something to be told to the registry and to the workers; telling it twice is harmless."""

    action: Action
    version: int
    at: float
    """When it was decided, epoch seconds."""
    metrics: dict[str, float] = {}


class TaskState(msgspec.Struct, frozen=True):
    """All of it."""

    task: str
    v: int = _FORMAT
    owner: str = ""
    """The trainer that works on it."""
    lease_until: float = 0.0
    """When others may take over, epoch seconds."""
    jobs: int = 0
    """How many there were."""
    seen: tuple[str, ...] = ()
    """Newest request ids."""
    accepted_at: float | None = None
    """``requested_at`` of the newest request that led to a job."""
    scheduled_at: float | None = None
    """Up to when the schedule was looked at, epoch seconds."""
    pending: RetrainAsk | None = None
    """What begins when the present job is through."""
    job: Job | None = None
    """The newest, also after its end."""
    phase: PhaseState | None = None
    """What is judged live: a shadow, or a champion that was promoted."""
    phase_job: Job | None = None
    """The job whose candidate that is."""
    offset: int = 0
    """Of the next example to take in."""
    effects: tuple[Effect, ...] = ()
    ended: tuple[Job, ...] = ()
    """Newest jobs that came to an end."""

    @property
    def at_work(self) -> bool:
        """Whether there is a job that the trainer itself works at."""
        return self.job is not None and self.job.stage in WORKING

    @property
    def busy(self) -> bool:
        """Whether there is something to do or to watch, for which a trainer has to hold the lease."""
        return bool(self.effects or self.pending or self.phase or (self.job is not None and self.job.active))

    def noted(self, request_id: str) -> TaskState:
        """With one more request id remembered."""
        return msgspec.structs.replace(self, seen=(*self.seen, request_id)[-_KEPT_IDS:])

    def at_stage(self, stage: Stage) -> TaskState:
        """With the job one stage on."""
        return self.with_job(stage=stage, tries=0)

    def with_job(self, **changes: object) -> TaskState:
        """With changes to the job."""
        if self.job is None:
            raise StateError(f"task {self.task}: there is no job to change; the journal was edited by hand")
        return msgspec.structs.replace(self, job=msgspec.structs.replace(self.job, **changes))

    def finished(self, job: Job, stage: Stage, reason: str, now: float) -> TaskState:
        """With a job at its end."""
        done = msgspec.structs.replace(job, stage=stage, reason=reason, ended_at=now, tries=0)
        # A job that was promoted may end again, as rolled back.
        others = tuple(other for other in self.ended if other.job_id != job.job_id)
        # A phase may end while a newer job is at work: that one stays the newest.
        newest = done if self.job is not None and self.job.job_id == job.job_id else self.job
        return msgspec.structs.replace(self, job=newest, ended=(*others, done)[-_KEPT_JOBS:])


def encode(state: TaskState) -> bytes:
    """The document."""
    return msgspec.json.format(msgspec.json.encode(state), indent=1)


def decode(data: bytes, where: str) -> TaskState:
    """Read a document; raises ``StateError`` for one that is damaged or of another version."""
    try:
        state = msgspec.json.decode(data, type=TaskState)
    except UNREADABLE as exc:
        raise StateError(f"{where}: not a trainer's journal: {exc}; remove it to start without") from exc
    if state.v != _FORMAT:
        raise StateError(f"{where}: of format {state.v}, this trainer reads {_FORMAT}; use the version that wrote it")
    return state
