"""Event-time timers that ask again and again whether an entity falls silent: at each event, after a pause, every day.

It knows entities and times, not features, scores or a clock. One question an entity: ``weir.online.labels.silence``.
"""

from __future__ import annotations

import heapq
import math
from typing import Final

import msgspec

from weir.online.batch import FloatVector
from weir.online.errors import stored
from weir.online.event_time import EventTime
from weir.online.labels.silence import (
    ENTITY_BYTES,
    LABEL,
    SCORE,
    TIMER_BYTES,
    FiredRows,
    SilencePolicy,
    SilenceStats,
    SilenceTimers,
    TimerOutput,
)

DAY_S = 86_400.0
EVENT_MARK = "\n"
"""Between entity and event where each event is scored: no id holds a control character."""


_OPEN_BYTES: Final = 215
"""Of a score that waits, with the id of its event, about."""
_QUIET_BYTES: Final = 60


class OpenScore(msgspec.Struct, array_like=True):
    """A score that waits for its horizon."""

    number: int
    due_ts: float
    event_id: str
    returned: bool


class WatchedEntity(msgspec.Struct, array_like=True):
    """One entity."""

    first_ts: float
    last_ts: float
    number: int
    """Of the timer behind its last event; -1 for none."""
    open: list[OpenScore]
    told: float = -math.inf
    """Up to this day all its ``daily`` scores are told: it came from a partition whose time was ahead of this one."""


class StoredRepeated(msgspec.Struct, array_like=True):
    """A snapshot of `RepeatedSilence`."""

    watermark: float
    entities: dict[str, WatchedEntity]
    timers: list[tuple[float, int, int, str]]
    made: int
    stats: list[int]
    time: bytes


class RepeatedSilence:
    """Fire scores and labels as events move the watermark (see `EventTime`), for one entity as often as it is due.

    - ``each event``: an event is scored by the stage itself, as any event is; only its label is made here.
    - ``after 3d``: a score 3 days after each event of an entity that none of its own followed in that time.
    - ``daily 18:00``: a score of every entity seen before that time, UTC, of every day; for as long as its last event
      is at most ``remember_s`` old.

    The label of a score at ``t`` is 1 when the entity has no event in ``[t, t + horizon_s)`` (an event that is scored
    itself and those of its very second do not count); all are known ``lateness_s`` after the horizon's end. What comes
    later than that changes nothing. Timers fire before the first row whose watermark is at or after theirs, in order
    of time; after an own event beyond the pause the score comes before it, wherever the watermark is. Every row is
    judged on its own, so results do not depend on batch cuts.

    At most ``max_entities`` are held; newcomers beyond are not watched, and counted as refused. An entity of which
    nothing is open is forgotten, but for those of ``daily``.

    Examples
    --------
    >>> import numpy as np
    >>> timers = RepeatedSilence(SilencePolicy(score="after 3s", horizon_s=10))
    >>> out = timers.advance(["a", "a", "b", "a"], np.array([0.0, 1.0, 5.0, 30.0]))
    >>> list(zip(out.before_row.tolist(), out.event_id, out.due_ts.tolist()))
    [(2, 'a@4', 4.0), (3, 'b@8', 8.0)]
    >>> list(zip(out.labels.event_id, out.labels.value.tolist(), out.known_at.tolist()))
    [('a@4', True, 14.0), ('b@8', True, 18.0)]
    """

    def __init__(self, policy: SilencePolicy, max_step: float = math.inf) -> None:
        self.policy, self.watermark, self.stats = policy, -math.inf, SilenceStats()
        self._time = EventTime(max_step)
        self._entities: dict[str, WatchedEntity] = {}
        self._timers: list[tuple[float, int, int, str]] = []
        self._made = self._open = 0
        # Of each entity the open scores that no event has come after yet: of thousands of a busy one the last few.
        self._quiet: dict[str, list[OpenScore]] = {}

    def __len__(self) -> int:
        """Entities held."""
        return len(self._entities)

    @property
    def nbytes(self) -> int:
        """Memory of what is held, about."""
        held = ENTITY_BYTES * len(self._entities) + TIMER_BYTES * len(self._timers)
        return held + _OPEN_BYTES * self._open + _QUIET_BYTES * len(self._quiet)

    def advance(self, entity_ids: list[str], ts: FloatVector) -> TimerOutput:
        """Take in events in order, ``ts (n,) float64``, and return what fired before each.

        Where each event is scored, an entity is followed by `EVENT_MARK` and the id of its event.
        """
        names = [of.partition(EVENT_MARK) for of in entity_ids]
        fired, marks = FiredRows(), self._time.advance(ts, [entity for entity, _, _ in names]).tolist()
        for row, ((entity_id, _, event_id), at, mark) in enumerate(zip(names, ts.tolist(), marks, strict=True)):
            self.watermark = max(self.watermark, mark)
            self._fire(row, self.watermark, fired)
            # The first day's timer waits for a time: until then nobody knows which day it is.
            if self.policy.daily_s is not None and not self._timers and self.watermark > -math.inf:
                day = math.floor((self.watermark - self.policy.daily_s) / DAY_S) + 1
                self._push(day * DAY_S + self.policy.daily_s, SCORE, -1, "")
            watched = self._watch(entity_id, at)
            if watched is not None:
                self._take(row, entity_id, watched, at, event_id, fired)
        return fired.output()

    def due(self, at: float) -> bool:
        """Whether a timer fires by event time ``at``, if no event comes."""
        return bool(self._timers) and self._timers[0][0] <= at

    def flush(self, at: float) -> TimerOutput:
        """Fire what is due by event time ``at``; as `SilenceTimers.flush`."""
        fired = FiredRows()
        self._fire(0, max(self.watermark, at), fired)
        return fired.output()

    def _watch(self, entity_id: str, at: float) -> WatchedEntity | None:
        """The entity, a new one where there is room."""
        watched = self._entities.get(entity_id)
        if watched is None:
            if len(self._entities) >= self.policy.max_entities:
                self.stats.refused += 1
                return None
            self.stats.started += 1
            watched = self._entities[entity_id] = WatchedEntity(at, -math.inf, -1, [])
        return watched

    def _take(
        self, row: int, entity_id: str, watched: WatchedEntity, at: float, event_id: str, fired: FiredRows
    ) -> None:
        policy, end = self.policy, self.policy.horizon_s
        pause, each = policy.after_s, policy.score == "each event"
        if pause is not None and watched.number >= 0 and at >= watched.last_ts + pause:
            self._score(row, entity_id, watched, watched.last_ts + pause, fired)
        if quiet := self._quiet.pop(entity_id, None):
            for score in quiet:
                after = at > score.due_ts if each else at >= score.due_ts
                score.returned = after and at < score.due_ts + end
            if quiet := [score for score in quiet if not score.returned]:
                self._quiet[entity_id] = quiet
        if each:
            # A late event: one that is scored already may have come after it, and breaks its silence.
            returned = at < watched.last_ts and any(at < score.due_ts < at + end for score in watched.open)
            self._wait(entity_id, watched, OpenScore(self._number(), at, event_id, returned))
        # A late event starts no pause: the newest one's is still running.
        elif pause is not None and at > watched.last_ts:
            watched.number = self._number() if at + pause > self.watermark else -1
            self.stats.too_late += watched.number < 0
            if watched.number >= 0:
                self._push(at + pause, SCORE, watched.number, entity_id)
        watched.first_ts, watched.last_ts = min(watched.first_ts, at), max(watched.last_ts, at)
        self._let_go(entity_id, watched)

    def _number(self) -> int:
        self._made += 1
        return self._made - 1

    def _push(self, at: float, kind: int, number: int, entity_id: str) -> None:
        heapq.heappush(self._timers, (at, kind, number, entity_id))

    def _fire(self, row: int, watermark: float, fired: FiredRows) -> None:
        while self._timers and self._timers[0][0] <= watermark:
            at, kind, number, entity_id = heapq.heappop(self._timers)
            if kind == SCORE and number < 0:
                self._every_one(row, at, fired)
                continue
            watched = self._entities.get(entity_id)
            if watched is None:
                continue
            if kind == LABEL:
                self._close(entity_id, watched, number, at, fired)
            elif watched.number == number:
                self._score(row, entity_id, watched, at, fired)

    def _every_one(self, row: int, at: float, fired: FiredRows) -> None:
        """The scores of a day, of entities in the order in which they came, and the timer of the next."""
        # A list: entities that are forgotten leave the dict on the way.
        for entity_id, watched in list(self._entities.items()):
            if at <= watched.told:
                continue
            if at - watched.last_ts > self.policy.remember_s:
                if not watched.open:
                    del self._entities[entity_id]
            elif watched.first_ts < at:
                self._score(row, entity_id, watched, at, fired)
        self._push(at + DAY_S, SCORE, -1, "")

    def _score(self, row: int, entity_id: str, watched: WatchedEntity, due: float, fired: FiredRows) -> None:
        watched.number, event_id = -1, f"{entity_id}@{due:.15g}"
        fired.scores.append((row, entity_id, due, event_id))
        self._wait(entity_id, watched, OpenScore(self._number(), due, event_id, returned=False))

    def _wait(self, entity_id: str, watched: WatchedEntity, score: OpenScore) -> None:
        """Let a score wait for its label, unless its horizon is over already: an event that came too late."""
        self.stats.scored += 1
        end = score.due_ts + self.policy.horizon_s + self.policy.lateness_s
        if self.policy.score == "each event" and end <= self.watermark:
            self.stats.too_late += 1
            return
        watched.open.append(score)
        self._open += 1
        if not score.returned:
            self._quiet.setdefault(entity_id, []).append(score)
        self._push(end, LABEL, score.number, entity_id)

    def _close(self, entity_id: str, watched: WatchedEntity, number: int, at: float, fired: FiredRows) -> None:
        score = next(score for score in watched.open if score.number == number)
        watched.open.remove(score)
        self._open -= 1
        if not score.returned:
            self._quiet[entity_id] = [each for each in self._quiet[entity_id] if each is not score]
        self.stats.returned += score.returned
        self.stats.silent += not score.returned
        label_id = f"{score.event_id}/silence"
        fired.labels.append((label_id, entity_id, score.event_id, score.due_ts, not score.returned, at))
        self._let_go(entity_id, watched)

    def _let_go(self, entity_id: str, watched: WatchedEntity) -> None:
        if not watched.open:
            self._quiet.pop(entity_id, None)
            if watched.number < 0 and self.policy.daily_s is None:
                del self._entities[entity_id]

    def snapshot(self) -> bytes:
        """Return the whole state as MessagePack."""
        stats = [getattr(self.stats, name) for name in SilenceStats.__slots__]
        return msgspec.msgpack.encode(
            StoredRepeated(self.watermark, self._entities, self._timers, self._made, stats, self._time.snapshot())
        )

    def restore(self, state: bytes, *, timed: bool = True) -> None:
        """Replace the state by a ``snapshot``; as `SilenceTimers.restore`."""
        held = stored(state, StoredRepeated, "timers of repeated silence", "replay the events instead")
        self._entities, self._timers = held.entities, held.timers
        self._made, self.stats = held.made, SilenceStats(*held.stats)
        self._open = sum(len(watched.open) for watched in held.entities.values())
        quiet = {of: [score for score in watched.open if not score.returned] for of, watched in held.entities.items()}
        self._quiet = {of: scores for of, scores in quiet.items() if scores}
        if timed:
            self.watermark = held.watermark
            self._time.restore(held.time)


AnyTimers = SilenceTimers | RepeatedSilence


def timers_of(policy: SilencePolicy, max_step: float = math.inf) -> AnyTimers:
    """The timers of a policy."""
    return SilenceTimers(policy, max_step) if policy.score == "first" else RepeatedSilence(policy, max_step)
