"""A seeded stream with repeats, stragglers, broken records and labels, sent at a rate; it remembers what it sent.

`StreamPlan` makes the records, `Feeder` sends them from a thread of its own, through brokers that come and go. What
arrives in which order is Kafka's to say: the checker reads the input topics, and asks the feeder whether all is there.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from weir.streams.config import topics
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import TransportSettings
from weir.streams.records import Record
from weir.streams.simulate.generator import BREAKAGES

START_TS = 1_577_836_800.0  # 2020-01-01: no record may look as if its clock were ahead
TASK = "fraud"
_CLIENT = logging.getLogger("aiokafka")


class Made(NamedTuple):
    """A record to send, and what is special about it."""

    topic: str
    key: bytes
    value: bytes
    kind: str
    """event, repeat, late, broken, label, again (a label twice), correction, early (before its event), stray."""


@dataclass(frozen=True)
class StreamPlan:
    """What a stream looks like; the same plan makes the same records.

    Shares are of events. Labels follow their events by ``label_delay`` events on average.
    """

    seed: int = 1
    users: int = 300
    merchants: int = 40
    step_s: float = 4.0
    """Event time between two events, on average."""
    repeats: float = 0.03
    late: float = 0.002
    broken: float = 0.005
    labels: float = 0.2
    label_delay: float = 800.0

    def records(self) -> Iterator[Made]:
        """The records in the order in which they are sent, without end."""
        return _Stream(self).run()


class _Stream:
    def __init__(self, plan: StreamPlan) -> None:
        self.plan, self.rng = plan, random.Random(plan.seed)
        self.ts, self.number = START_TS, 0
        self._recent: deque[Made] = deque(maxlen=3_000)
        self._due: list[tuple[int, int, Made]] = []

    def run(self) -> Iterator[Made]:
        plan, rng = self.plan, self.rng
        while True:
            while self._due and self._due[0][0] <= self.number:
                yield heapq.heappop(self._due)[2]
            draw = rng.random()
            if draw < plan.repeats and self._recent:
                yield rng.choice(self._recent)._replace(kind="repeat")
                continue
            yield from self._next(draw - plan.repeats)

    def _next(self, draw: float) -> Iterator[Made]:
        plan, rng = self.plan, self.rng
        self.number += 1
        self.ts += rng.expovariate(1.0) * plan.step_s
        kind, behind = "event", 0.0
        if draw < plan.late:
            kind, behind = "late", 2 * 86_400.0  # more than is allowed, once the stream is that old
        elif rng.random() < 0.05:
            behind = rng.uniform(0.0, 600.0)  # out of order, as is allowed
        event, user = self._event(self.ts - behind)
        value = json.dumps(event, separators=(",", ":")).encode()
        if plan.late <= draw < plan.late + plan.broken:
            yield Made(topics.USER_EVENTS, user.encode(), rng.choice(BREAKAGES)(value), "broken")
            return
        made = Made(topics.USER_EVENTS, user.encode(), value, kind)
        if rng.random() < plan.labels and kind == "event":
            yield from self._labels(event, user)
        if kind == "event":
            self._recent.append(made)
        yield made

    def _event(self, ts: float) -> tuple[dict[str, object], str]:
        rng, number = self.rng, self.number
        who = int(rng.random() ** 3 * self.plan.users)  # a few users have most of the events
        user = f"u{who}"
        event: dict[str, object] = {
            "v": 1,
            "event_id": f"e{self.plan.seed}-{number:07d}",
            "type": "view" if rng.random() < 0.1 else "purchase",
            "user_id": user,
            "ts": round(max(ts, START_TS), 3),
            "device_id": f"d{who}-{rng.randrange(3)}",
            "channel": rng.choice(("web", "app", "shop")),
        }
        if event["type"] == "purchase":
            event["amount"] = round(rng.lognormvariate(3.0, 1.0), 2)
        if rng.random() < 0.95:
            event["merchant_id"] = f"m{int(rng.random() ** 2 * self.plan.merchants)}"
        return event, user

    def _labels(self, event: dict[str, object], user: str) -> Iterator[Made]:
        """Labels of an event: some before it, most long after, some twice, some corrected; a few of no event at all."""
        rng = self.rng
        amount = event.get("amount", 0.0)
        value = int(isinstance(amount, float) and amount * rng.lognormvariate(0.0, 0.5) > 60.0)
        if rng.random() < 0.03:
            yield self._label(event, user, value, "early")
            return
        delay = int(rng.expovariate(1.0) * self.plan.label_delay)
        self._later(delay, self._label(event, user, value, "label"))
        fate = rng.random()
        if fate < 0.03:
            self._later(delay + 50, self._label(event, user, value, "again"))
        elif fate < 0.06:
            self._later(delay + 400, self._label(event, user, 1 - value, "correction"))
        elif fate < 0.08:
            yield self._label({**event, "event_id": f"never-{self.number}"}, user, value, "stray")
        elif fate < 0.10:
            label = self._label(event, user, value, "label")
            self._later(delay, label._replace(value=label.value[:-9], kind="broken"))

    def _later(self, delay: int, made: Made) -> None:
        heapq.heappush(self._due, (self.number + delay, len(self._due), made))

    def _label(self, event: dict[str, object], user: str, value: int, kind: str) -> Made:
        suffix = "c" if kind == "correction" else ""
        label = {
            "v": 1, "label_id": f"l-{event['event_id']}{suffix}", "task": TASK, "entity_id": user,
            "event_id": event["event_id"], "ts": event["ts"], "value": value,
        }  # fmt: skip
        return Made(topics.LABELS, user.encode(), json.dumps(label).encode(), kind)


class Feeder:
    """Sends a plan's records at a rate until told to stop; a context manager.

    Parameters
    ----------
    bootstrap : brokers.
    name : what Weir's topics are called there.
    plan : what to send.
    rate : records a second; what a broker's absence held up is made up for.
    limit : stop by itself after this many records.
    """

    def __init__(
        self, bootstrap: str, name: Callable[[str], str], plan: StreamPlan, rate: float, limit: int | None = None
    ) -> None:
        self._bootstrap, self._name = bootstrap, name
        self._plan, self._rate, self._limit = plan, rate, limit
        self.sent: list[Made] = []
        self._enough = threading.Event()
        self._failed: BaseException | None = None
        self._loud = _CLIENT.level
        self._thread = threading.Thread(target=self._run, name="feeder")

    def __enter__(self) -> Feeder:
        # The client has much to say about brokers that were taken away on purpose.
        self._loud = _CLIENT.level
        _CLIENT.setLevel(logging.CRITICAL)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop and wait until everything sent is acknowledged; raises what sending raised."""
        self._enough.set()
        self._thread.join()
        _CLIENT.setLevel(self._loud)
        self.check()

    def check(self) -> None:
        """Raise what ended the sending, if anything did; from any thread."""
        if self._failed is not None:
            raise AssertionError(f"the feeder could not deliver: {self._failed}") from self._failed

    def wait(self) -> None:
        """Until ``limit`` records are sent."""
        self._thread.join()
        self.stop()

    def kinds(self) -> Counter[str]:
        """How many records of each kind were sent."""
        return Counter(made.kind for made in self.sent)

    def _run(self) -> None:
        try:
            asyncio.run(self._feed())
        except BaseException as error:  # noqa: BLE001 - it is raised where the test waits
            self._failed = error

    async def _feed(self) -> None:
        producer = BatchProducer(TransportSettings(bootstrap=self._bootstrap, group="feeder"))
        await producer.start()
        records, started, acknowledged = self._plan.records(), time.monotonic(), deque[asyncio.Future[Any]]()
        while not self._enough.is_set() and (self._limit is None or len(self.sent) < self._limit):
            await asyncio.sleep(0.02)  # the pace of a source, not a wait for anything
            owed = int((time.monotonic() - started) * self._rate) - len(self.sent)
            if self._limit is not None:
                owed = min(owed, self._limit - len(self.sent))
            acknowledged.extend(await self._send(producer, [next(records) for _ in range(min(owed, 2_000))]))
            while acknowledged and (acknowledged[0].done() or len(acknowledged) > 200):
                await acknowledged.popleft()
        await asyncio.gather(*acknowledged)
        await producer.stop()

    async def _send(self, producer: BatchProducer, made: list[Made]) -> list[asyncio.Future[Any]]:
        now = time.time()
        batches = {
            topic: [Record(m.key, m.value, now) for m in made if m.topic == topic]
            for topic in (topics.USER_EVENTS, topics.LABELS)
        }
        self.sent += made
        return [await producer.send(self._name(topic), batch) for topic, batch in batches.items() if batch]
