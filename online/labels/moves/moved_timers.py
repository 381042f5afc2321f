"""What the timers of several lanes hold, divided anew by entity. It works on snapshots, between two lives of them.

An entity takes along what it is still to be asked and told, and what it was already. What time it is, a lane knows by
itself: a timer whose time that has passed fires with the lane's next event, as of its own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from weir.online.batch import IntVector
from weir.online.errors import stored
from weir.online.event_time import EventTime
from weir.online.labels.repeated_silence import DAY_S, OpenScore, StoredRepeated, WatchedEntity
from weir.online.labels.silence import SCORE, EntityTimer, SilencePolicy, SilenceStats, StoredTimers

Held = StoredTimers | StoredRepeated
Entity = EntityTimer | WatchedEntity


def divided(
    policy: SilencePolicy, snapshots: Sequence[bytes], owners_of: Callable[[Sequence[str]], IntVector], of: int
) -> list[bytes]:
    """Snapshots of the timers of ``of`` lanes: each holds what the lanes of before held of its entities, and no time.

    Parameters
    ----------
    policy : of all of them.
    snapshots : of the lanes of before; ``StateError`` where one is none.
    owners_of : the lanes of some entities, ``(n,)``.
    """
    kind: type[Held] = StoredTimers if policy.score == "first" else StoredRepeated
    held = [stored(snapshot, kind, "timers of silence", "replay the events instead") for snapshot in snapshots]
    came, days = _once(held), [_next_day(state) for state in held]
    labelled = [set(state.labelled) if isinstance(state, StoredTimers) else set[str]() for state in held]
    lanes = [_Lane() for _ in range(of)]
    numbers: list[dict[int, tuple[_Lane, int]]] = [{} for _ in held]
    for (entity, source, timer), owner in zip(came, owners_of([row[0] for row in came]).tolist(), strict=True):
        lane = lanes[owner]
        lane.entities[entity] = timer
        for numbered in _numbered(timer):
            # Numbers of two lanes may be the same.
            numbers[source][numbered.number] = lane, lane.made
            numbered.number, lane.made = lane.made, lane.made + 1
        if entity in labelled[source]:
            lane.labelled.append(entity)
        if isinstance(timer, WatchedEntity) and (day := days[source]) is not None:
            # The lane begins with the first day that is not told of all.
            timer.told, lane.day = max(timer.told, day - DAY_S), min(lane.day, day)
    for source, state in enumerate(held):
        for at, what, number, entity in state.timers:
            if number in numbers[source]:  # else it is the day's, or one that fires for nobody
                lane, number = numbers[source][number]
                lane.timers.append((at, what, number, entity))
    return [lane.snapshot(kind) for lane in lanes]


@dataclass(slots=True)
class _Lane:
    """The timers of a lane in the making."""

    entities: dict[str, Entity] = field(default_factory=dict)
    timers: list[tuple[float, int, int, str]] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)
    made: int = 0
    day: float = math.inf

    def snapshot(self, kind: type[Held]) -> bytes:
        """It as timers restore it."""
        if self.day < math.inf:
            self.timers.append((self.day, SCORE, -1, ""))
        self.timers.sort()  # a heap, too
        stats, entities = [self.made] + [0] * (len(SilenceStats.__slots__) - 1), dict[str, Any](self.entities)
        if kind is StoredTimers:
            return msgspec.msgpack.encode(StoredTimers(-math.inf, entities, self.timers, self.labelled, stats))
        time = EventTime().snapshot()
        return msgspec.msgpack.encode(StoredRepeated(-math.inf, entities, self.timers, self.made, stats, time))


def _once(held: Sequence[Held]) -> list[tuple[str, int, Entity]]:
    """Every entity and the lane that has it, in the order in which they came; of two lanes the one that saw it last."""
    found = dict[str, tuple[float, int, Entity]]()
    for source, state in enumerate(held):
        for entity, timer in state.entities.items():
            seen = timer.due_ts if isinstance(timer, EntityTimer) else timer.last_ts
            if entity not in found or seen > found[entity][0]:
                found[entity] = seen, source, timer
    return sorted(((entity, *row[1:]) for entity, row in found.items()), key=lambda row: row[2].first_ts)


def _numbered(timer: Entity) -> list[EntityTimer | WatchedEntity | OpenScore]:
    """What of an entity timers know by a number."""
    if isinstance(timer, EntityTimer):
        return [timer]
    numbered: list[EntityTimer | WatchedEntity | OpenScore] = [timer, *timer.open]
    return [each for each in numbered if each.number >= 0]


def _next_day(held: Held) -> float | None:
    """The day that is told next, where a lane tells of days."""
    return next((at for at, what, number, _ in held.timers if what == SCORE and number < 0), None)
