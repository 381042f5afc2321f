"""Event-time timers: score an entity some time after its first event, then label it by whether it fell silent.

It knows entities and times, not features, scores or a clock.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import msgspec
import numpy as np
from pydantic import Field, model_validator

from weir.online.batch import FloatVector, IntVector, LabelBatch
from weir.online.durations import Seconds, parse_duration
from weir.online.errors import stored
from weir.online.event_time import EventTime
from weir.online.frozen import FrozenModel

SCORE, LABEL, FORGET = 0, 1, 2
"""What a timer does when it fires; also the order among timers of one moment."""


_DAILY: Final = re.compile(r"daily ([01]\d|2[0-3]):([0-5]\d)")


class SilencePolicy(FrozenModel):
    """When an entity is scored and when its silence is known.

    An entity first seen at ``t`` is scored at ``due = t + observe_s``. Its label is 1 when it has no event in
    ``[due, due + horizon_s)``, 0 when it has one. With another ``score`` than ``first`` it is scored again and again,
    see ``weir.online.labels.repeated_silence``.
    """

    # What is left out of a dump gives task files of before the digest of before.
    score: str = Field(default="first", exclude_if=lambda value: value == "first")
    """``first``, ``each event``, ``after 3d`` (any duration) or ``daily 18:00`` (UTC)."""
    prior: float | None = Field(default=None, gt=0.0, lt=1.0, exclude_if=lambda value: value is None)
    """The score until the first label is learned; the model's own when left out."""
    observe_s: Seconds = Field(default=0.0, ge=0.0)
    """How long after its first event an entity is scored, where ``score`` is ``first``."""
    horizon_s: Seconds = Field(gt=0.0)
    """The label is 1 where no event follows in so long."""
    reveal: Literal["early", "at_horizon"] = "early"
    """``early``: a 0 is known at the event that breaks the silence; ``at_horizon``: all labels are known at the end."""
    lateness_s: Seconds = Field(default=0.0, ge=0.0)
    """How long after the horizon's end a silence waits for late events."""
    remember_s: Seconds = Field(default=math.inf, ge=0.0, allow_inf_nan=True)
    """How long an entity is remembered after its label, so that it is not taken for a new one."""
    max_entities: int = Field(default=2_000_000, ge=1)
    """Entities that are remembered at most."""

    @property
    def after_s(self) -> float | None:
        """The pause after which an entity is scored, where that is asked for."""
        return parse_duration(self.score.removeprefix("after ")) if self.score.startswith("after ") else None

    @property
    def daily_s(self) -> float | None:
        """The second of the day at which all are scored, where that is asked for."""
        found = _DAILY.fullmatch(self.score)
        return None if found is None else int(found[1]) * 3600.0 + int(found[2]) * 60.0

    @property
    def on_timers(self) -> bool:
        """Whether scores are of timers, not of events."""
        return self.score != "each event"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.score == "first":
            if self.observe_s <= 0.0:
                raise ValueError(f"observe_s = {self.observe_s:g}; give a duration greater than 0, such as '5d'")
            return self
        if self.on_timers and self.daily_s is None and (self.after_s or 0.0) <= 0.0:
            raise ValueError(f"score = {self.score!r}; give 'first', 'each event', 'after 3d' or 'daily 18:00'")
        if given := self.model_fields_set & {"observe_s", "reveal"} - ({"reveal"} if self.reveal != "early" else set()):
            raise ValueError(
                f"score = {self.score!r} has no {' and '.join(sorted(given))}; labels are told at the horizon"
            )
        return self


@dataclass(slots=True)
class SilenceStats:
    """What became of entities since the start."""

    started: int = 0
    scored: int = 0
    silent: int = 0
    returned: int = 0
    corrected: int = 0
    """Silences that an event later than ``lateness_s`` disproved: a second label with value 0 takes the 1 back."""
    too_late: int = 0
    """First events that arrived after their score would have been due; they start nothing."""
    evicted: int = 0
    """Labelled entities forgotten early to respect ``max_entities``."""
    refused: int = 0
    """First events of entities that were not observed, because ``max_entities`` others were."""


@dataclass(frozen=True, slots=True)
class TimerOutput:
    """Timers that fired, each before a row of the batch (``before_row == n``: only from ``flush``, after all rows)."""

    before_row: IntVector
    """``(s,) int64``: score before the state takes in this row."""
    entity_id: list[str]
    due_ts: FloatVector
    event_id: list[str]
    """``<entity>@<first ts>``: the same at every replay."""
    labels: LabelBatch
    """Their ``ts`` is the score's due time, their ``event_id`` the score's."""
    known_at: FloatVector
    """``(l,) float64``, event time at which each label became known; that of the row which reveals it, if one does."""


class EntityTimer(msgspec.Struct, array_like=True):
    """One entity under observation."""

    number: int
    """Position among all observations; timers carry it, so those of a forgotten observation fire for nobody."""
    first_ts: float
    due_ts: float
    returned: bool = False
    label: int | None = None
    scored: bool = False


class StoredTimers(msgspec.Struct, array_like=True):
    """A snapshot of `SilenceTimers`."""

    watermark: float
    entities: dict[str, EntityTimer]
    timers: list[tuple[float, int, int, str]]
    labelled: list[str]
    stats: list[int]
    time: bytes | None = None
    """Of `EventTime`; absent where the largest time so far was the watermark."""


ENTITY_BYTES: Final = 200
TIMER_BYTES: Final = 155
"""What an entity that is held, and a timer, take in memory, about: most of it are Python's own objects."""


@dataclass(slots=True)
class FiredRows:
    """Output in the making, as columns."""

    scores: list[tuple[int, str, float, str]] = field(default_factory=list)
    labels: list[tuple[str, str, str, float, bool, float]] = field(default_factory=list)

    def score(self, row: int, entity_id: str, timer: EntityTimer) -> None:
        """Add the score of an entity that is asked about once."""
        self.scores.append((row, entity_id, timer.due_ts, _event_id(entity_id, timer)))

    def label(self, entity_id: str, timer: EntityTimer, value: bool, known_at: float) -> None:
        """Add its label."""
        event_id = _event_id(entity_id, timer)
        # An id of its own: under that of the first label it would be taken for a repeat.
        kind = "late" if timer.label is not None else "silence"
        timer.label = int(value)
        self.labels.append((f"{event_id}/{kind}", entity_id, event_id, timer.due_ts, value, known_at))

    def output(self) -> TimerOutput:
        """All of it."""
        row, entity_id, due, event_id = _columns(self.scores, np.int64, None, np.float64, None)
        label_id, of, about, ts, value, known_at = _columns(
            self.labels, None, None, None, np.float64, np.bool_, np.float64
        )
        labels = LabelBatch(label_id, of, about, ts, value, np.ones(len(label_id)))
        return TimerOutput(row, entity_id, due, event_id, labels, known_at)


class SilenceTimers:
    """Fire scores and labels as events move the watermark (see `EventTime`).

    - A timer of time ``t`` fires before the first row whose watermark is at or after ``t``; timers fire in order of
      time. Every row is judged on its own, so results do not depend on batch cuts.
    - An entity's own event of a later time fires its score first, wherever the watermark is: no score sees what came
      after it.
    - The first event *seen* starts the observation. A late event never moves it back; an event whose score would
      already be overdue starts nothing and is counted.
    - A late event inside the horizon counts while the label is open (until the horizon's end plus ``lateness_s``) and
      corrects a silence already told as long as the entity is remembered.
    - One observation per entity: after its label it is remembered ``remember_s``, then the next event is a first one.
    - At most ``max_entities`` are held: beyond, the one labelled longest ago is forgotten, and when none is labelled
      the newcomer is not observed.

    Parameters
    ----------
    policy : when what is due.
    max_step : of the watermark; infinite for the largest event time so far.

    Examples
    --------
    >>> timers = SilenceTimers(SilencePolicy(observe_s=5, horizon_s=10))
    >>> out = timers.advance(["a", "b", "a", "c"], np.array([0.0, 1.0, 7.0, 30.0]))
    >>> list(zip(out.before_row.tolist(), out.event_id, out.due_ts.tolist()))
    [(2, 'a@0', 5.0), (2, 'b@1', 6.0)]
    >>> list(zip(out.labels.event_id, out.labels.value.tolist(), out.known_at.tolist()))
    [('a@0', False, 7.0), ('b@1', True, 16.0)]
    """

    def __init__(self, policy: SilencePolicy, max_step: float = math.inf) -> None:
        self.policy = policy
        self.watermark = -math.inf
        self._time = EventTime(max_step)
        self.stats = SilenceStats()
        self._entities: dict[str, EntityTimer] = {}
        self._timers: list[tuple[float, int, int, str]] = []
        self._labelled: deque[str] = deque()

    def __len__(self) -> int:
        """Entities held."""
        return len(self._entities)

    @property
    def nbytes(self) -> int:
        """Memory of what is held, about."""
        return ENTITY_BYTES * len(self._entities) + TIMER_BYTES * len(self._timers)

    def advance(self, entity_ids: list[str], ts: FloatVector) -> TimerOutput:
        """Take in events in order, ``ts (n,) float64``, and return what fired before each."""
        fired, entities, timers = FiredRows(), self._entities, self._timers
        watermark, end = self.watermark, self.policy.horizon_s
        marks = self._time.advance(ts, entity_ids).tolist()
        for row, (entity_id, at, mark) in enumerate(zip(entity_ids, ts.tolist(), marks, strict=True)):
            # The clock may step back; timers that have fired stay fired.
            if mark > watermark:
                watermark = mark
            if timers and timers[0][0] <= watermark:
                self._fire(row, watermark, fired)
            timer = entities.get(entity_id)
            if timer is None:
                self._start(entity_id, at, watermark)
                continue
            if not timer.scored and at >= timer.due_ts:
                self._score(row, entity_id, timer, fired)
            if not timer.returned and timer.due_ts <= at < timer.due_ts + end:
                self._return(entity_id, timer, watermark, fired)
        self.watermark = watermark
        return fired.output()

    def due(self, at: float) -> bool:
        """Whether a timer fires by event time ``at``, if no event comes."""
        return bool(self._timers) and self._timers[0][0] <= at

    def flush(self, at: float) -> TimerOutput:
        """Fire what is due by event time ``at``, at the end of a stream or when time passes without events.

        The watermark stays where it is: events that come after this all the same are as good as before.
        """
        fired = FiredRows()
        self._fire(0, max(self.watermark, at), fired)
        return fired.output()

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        stats = [getattr(self.stats, name) for name in SilenceStats.__slots__]
        return msgspec.msgpack.encode(
            StoredTimers(
                self.watermark, self._entities, self._timers, list(self._labelled), stats, self._time.snapshot()
            )
        )

    def restore(self, state: bytes, *, timed: bool = True) -> None:
        """Replace the state by a ``snapshot``, event time too where it is ``timed``; ``StateError`` when it is none."""
        held = stored(state, StoredTimers, "silence timers", "replay the events instead")
        self._entities, self._timers = held.entities, held.timers
        self._labelled, self.stats = deque(held.labelled), SilenceStats(*held.stats)
        waiting = {number for _, kind, number, _ in held.timers if kind == SCORE}
        for timer in self._entities.values():  # snapshots of 12015ac do not say
            timer.scored = timer.scored or timer.number not in waiting
        if not timed:
            return
        self.watermark = held.watermark
        if held.time is not None:
            self._time.restore(held.time)
        elif held.watermark > -math.inf:
            self._time.set_watermark(held.watermark)

    def _start(self, entity_id: str, at: float, watermark: float) -> None:
        due = at + self.policy.observe_s
        if due <= watermark:
            self.stats.too_late += 1
            return
        # Those with a label first: of the others a score or a label is still to come.
        if len(self._entities) >= self.policy.max_entities:
            if not self._labelled:
                self.stats.refused += 1
                return
            self.stats.evicted += 1
            del self._entities[self._labelled.popleft()]
        timer = self._entities[entity_id] = EntityTimer(self.stats.started, at, due)
        self.stats.started += 1
        self._push(due, SCORE, timer, entity_id)

    def _return(self, entity_id: str, timer: EntityTimer, watermark: float, fired: FiredRows) -> None:
        timer.returned = True
        if timer.label is not None:
            self.stats.corrected += 1
            fired.label(entity_id, timer, False, watermark)
        elif self.policy.reveal == "early":
            self.stats.returned += 1
            fired.label(entity_id, timer, False, watermark)

    def _push(self, at: float, kind: int, timer: EntityTimer, entity_id: str) -> None:
        heapq.heappush(self._timers, (at, kind, timer.number, entity_id))

    def _fire(self, row: int, watermark: float, fired: FiredRows) -> None:
        while self._timers and self._timers[0][0] <= watermark:
            at, kind, number, entity_id = heapq.heappop(self._timers)
            timer = self._entities.get(entity_id)
            # The entity was forgotten, or is observed anew: its old timers are left in the heap.
            if timer is None or timer.number != number:
                continue
            if kind == SCORE:
                if not timer.scored:
                    self._score(row, entity_id, timer, fired)
            elif kind == LABEL:
                self._close(entity_id, timer, at, fired)
            else:
                # Labels close in order of time, and all are remembered equally long: it is the first there, unless
                # entities came from a partition whose time was behind.
                self._labelled.remove(entity_id)
                del self._entities[entity_id]

    def _score(self, row: int, entity_id: str, timer: EntityTimer, fired: FiredRows) -> None:
        self.stats.scored += 1
        timer.scored = True
        fired.score(row, entity_id, timer)
        due = timer.due_ts + self.policy.horizon_s + self.policy.lateness_s
        self._push(due, LABEL, timer, entity_id)

    def _close(self, entity_id: str, timer: EntityTimer, at: float, fired: FiredRows) -> None:
        if timer.label is None:
            self.stats.returned += timer.returned
            self.stats.silent += not timer.returned
            fired.label(entity_id, timer, not timer.returned, at)
        self._labelled.append(entity_id)
        if math.isfinite(self.policy.remember_s):
            self._push(at + self.policy.remember_s, FORGET, timer, entity_id)


def _event_id(entity_id: str, timer: EntityTimer) -> str:
    return f"{entity_id}@{timer.first_ts:.0f}"


def _columns(rows: Sequence[tuple[Any, ...]], *kinds: Any) -> list[Any]:
    """Columns of ``rows``, each an array of its kind, or a list where that is ``None``."""
    columns = zip(*rows, strict=True) if rows else [()] * len(kinds)
    return [list(c) if kind is None else np.array(c, dtype=kind) for c, kind in zip(columns, kinds, strict=True)]
