"""Labels that wait for predictions. It knows labels and whom they speak of, not what was logged."""

from __future__ import annotations

from collections import deque
from itertools import compress, count

import msgspec


class WaitingLabel(msgspec.Struct, array_like=True):
    """A label that has not found its prediction yet, or (without ``event_id``) may still find more."""

    number: int
    event_id: str | None
    entity_id: str
    ts: float
    value: bool
    weight: float
    known_at: float
    matched: bool = False


class WaitingRoom:
    """Labels in arrival order, bounded by event time and by number.

    A label is *live* while its time is at or after a floor and it is among the last ``max_waiting`` that came to
    wait. Liveness is exact; memory follows it, so what a caller sees never depends on when labels are freed.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.next_number = 0
        self.unmatched = 0
        self._by_event: dict[str, list[WaitingLabel]] = {}
        self._by_entity: dict[str, list[WaitingLabel]] = {}
        self._arrivals: deque[WaitingLabel] = deque()

    def __len__(self) -> int:
        return len(self._arrivals)

    def concerned(self, event_ids: list[str], entity_ids: list[str]) -> list[int]:
        """Positions of those that a label may be waiting for, in order; for most batches none."""
        by_event, by_entity = self._by_event, self._by_entity
        if by_entity and not by_entity.keys().isdisjoint(entity_ids):
            pairs = enumerate(zip(event_ids, entity_ids, strict=True))
            return [i for i, (event_id, entity_id) in pairs if entity_id in by_entity or event_id in by_event]
        return list(compress(count(), map(by_event.__contains__, event_ids))) if by_event else []

    def add(self, label: WaitingLabel) -> None:
        """Let ``label`` wait for its event, or for events of its entity when it names none."""
        label.number = self.next_number
        self.next_number += 1
        self._arrivals.append(label)
        self._queue(label)

    def _queue(self, label: WaitingLabel) -> None:
        if label.event_id is None:
            self._by_entity.setdefault(label.entity_id, []).append(label)
        else:
            self._by_event.setdefault(label.event_id, []).append(label)

    def meet(self, event_id: str, entity_id: str, ts: float, floor: float, range_s: float) -> list[WaitingLabel]:
        """Return the live labels of an event in arrival order; those that name it stop waiting."""
        oldest = self.next_number - self.max_waiting
        found = [
            label
            for label in self._by_entity.get(entity_id, ())
            if label.ts - range_s <= ts <= label.ts and label.ts >= floor and label.number >= oldest
        ]
        if event_id in self._by_event:
            # Those no longer live stay in the arrivals, to be counted when they are freed.
            named = self._by_event.pop(event_id)
            found += [label for label in named if label.ts >= floor and label.number >= oldest]
            found.sort(key=lambda label: label.number)
        for label in found:
            label.matched = True
        return found

    def free(self, floor: float) -> None:
        """Forget labels from the front that are no longer live, counting those that never matched."""
        oldest = self.next_number - self.max_waiting
        while self._arrivals:
            label = self._arrivals[0]
            if label.number >= oldest and label.ts >= floor:
                return
            self._arrivals.popleft()
            self.unmatched += not label.matched
            if label.event_id is None:
                _drop_front(self._by_entity, label.entity_id, label)
            else:
                _drop_front(self._by_event, label.event_id, label)

    def snapshot(self) -> tuple[int, int, list[WaitingLabel]]:
        """Return the next number, the count of unmatched, and the labels."""
        return self.next_number, self.unmatched, list(self._arrivals)

    def restore(self, next_number: int, unmatched: int, labels: list[WaitingLabel]) -> None:
        """Replace the contents by a snapshot's."""
        self.next_number, self.unmatched = next_number, unmatched
        self._by_event.clear()
        self._by_entity.clear()
        self._arrivals = deque(labels)
        for label in labels:
            if label.event_id is None or not label.matched:
                self._queue(label)


def _drop_front(queues: dict[str, list[WaitingLabel]], key: str, label: WaitingLabel) -> None:
    queue = queues.get(key)
    if queue and queue[0] is label:
        del queue[0]
        if not queue:
            del queues[key]
