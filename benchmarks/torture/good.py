"""Good traffic: a seeded, endless stream of payments as of now, with late labels of a problem that can be learned.

Nothing here knows Kafka. The same seed makes the same records but for their times, which are the caller's.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from weir.streams.config import topics

TASK: Final = "torture"
_USERS: Final = 2_000
_LABELLED: Final = 0.25
"""Share of the payments."""
_DELAY_S: Final = 6.0
"""Mean time from a payment to its label."""
GOOD: Final = "good-"
"""What good entities' ids begin with; nobody else's do."""


class Shot(NamedTuple):
    """One record to send."""

    kind: str
    topic: str
    """Weir's own name of it."""
    key: bytes
    value: bytes
    partition: int | None = None
    """Where it goes; the partition of its key without one."""
    codec: str | None = None
    """Compression of its batch."""
    expect: str = "scored"
    """What has to become of it: ``scored``, ``letter``, ``dropped`` (a repeat), or ``any``."""


def encode(document: object) -> bytes:
    """A record as JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


class GoodTraffic:
    """Payments, a share of them with a label that comes seconds later; ``seed`` is that of every draw."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._due: list[tuple[float, int, Shot]] = []
        self.events = 0
        """Payments made."""
        self.labels: dict[str, bool] = {}
        """The truth about each payment that has a label, by event id."""
        self.recent: list[Shot] = []
        """The newest payments, for who wants to repeat them."""

    def until(self, now: float, count: int) -> Iterator[Shot]:
        """``count`` payments of the time ``now``, epoch seconds, and every label that is due by then."""
        for _ in range(count):
            yield self._payment(now)
        yield from self.due(now)

    def due(self, now: float) -> Iterator[Shot]:
        """The labels that are due at ``now``; infinity for all that are left."""
        while self._due and self._due[0][0] <= now:
            yield heapq.heappop(self._due)[2]

    def event(self, number: int, user: str, now: float) -> tuple[dict[str, object], bool]:
        """A payment and whether it is bad: large amounts from risky places are."""
        rng = self._rng
        amount, risk = round(rng.lognormvariate(3.0, 1.0), 2), round(rng.random(), 3)
        event: dict[str, object] = {
            "v": 1, "event_id": f"g{number:08d}", "type": "purchase", "user_id": user, "ts": round(now, 3),
            "amount": amount, "merchant_id": f"{GOOD}shop-{rng.randrange(50)}", "properties": {"risk": risk},
        }  # fmt: skip
        odds = 1.2 * (math.log(amount) - 3.0) + 4.0 * (risk - 0.5) - 1.0
        return event, rng.random() < 1.0 / (1.0 + math.exp(-odds))

    def _payment(self, now: float) -> Shot:
        user = f"{GOOD}{int(self._rng.random() ** 2 * _USERS):05d}"
        event, bad = self.event(self.events, user, now)
        self.events += 1
        made = Shot("good", topics.USER_EVENTS, user.encode(), encode(event))
        if self._rng.random() < _LABELLED:
            self._label(event, user, bad, now)
        self.recent.append(made)
        if len(self.recent) > 4_000:
            del self.recent[:2_000]
        return made

    def _label(self, event: dict[str, object], user: str, bad: bool, now: float) -> None:
        event_id = str(event["event_id"])
        self.labels[event_id] = bad
        label = {
            "v": 1, "label_id": f"l-{event_id}", "task": TASK, "entity_id": user, "event_id": event_id,
            "ts": event["ts"], "value": int(bad),
        }  # fmt: skip
        at = now + self._rng.expovariate(1.0 / _DELAY_S)
        heapq.heappush(self._due, (at, len(self.labels), Shot("label", topics.LABELS, user.encode(), encode(label))))
