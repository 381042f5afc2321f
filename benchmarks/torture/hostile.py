"""Hostile records: what broken, careless and malicious producers send, one function a kind, all from one seed.

Each record says what has to become of it. None belongs to a good entity, but for repeats of good events and ids. What a
holder of the right to write internal topics can do beyond this is in docs/SECURITY.md.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchmarks.torture.good import TASK, GoodTraffic, Shot, encode
from weir.streams.config import topics

CODECS: Final = (None, "gzip", "snappy", "lz4", "zstd")
DAY_S: Final = 86_400.0
_NUMBERS: Final = ("NaN", "Infinity", "-Infinity", "1e309", "1.7e308", "-1.7e308", "1" + "0" * 400, "1e16", "-1e16")
"""Numbers that no field takes, as JSON text."""
_NO_DATA: Final = (b"1.7e308", b"-1.7e308")
"""Those that say "no data" in an amount or a property, which is missing then."""
_EXTREMES: Final = (1e15, -1e15, 1e12, -1e12, 5e-324, -5e-324)
"""Numbers that a property may hold."""
_BOMB_BYTES: Final = 48 << 20
_LARGE_BYTES: Final = 1_500_000


class HostileTraffic:
    """Draws hostile records.

    Parameters
    ----------
    seed : of every draw.
    good : whose ids are repeated.
    partitions : of the event and label topics.
    """

    def __init__(self, seed: int, good: GoodTraffic, partitions: int) -> None:
        self.rng, self.good, self.partitions = random.Random(seed), good, partitions
        self.number = 0
        self.now = 0.0

    def until(self, now: float, count: int) -> Iterator[Shot]:
        """Some ``count`` records of the time ``now``."""
        self.now, made = now, 0
        while made < count:
            kind = self.rng.choices(_KINDS, _WEIGHTS)[0]
            for shot in HOSTILE[kind][0](self):
                made += 1
                yield shot._replace(kind=kind, codec=shot.codec or self.rng.choice(CODECS))

    def event(self, **fields: Any) -> dict[str, Any]:
        """A payment of a hostile user that is valid but for ``fields``."""
        self.number += 1
        return {
            "v": 1, "event_id": f"h{self.number}", "type": "purchase", "user_id": f"bad-{self.rng.randrange(500)}",
            "ts": round(self.now, 3), "amount": 10.0, "merchant_id": f"bad-shop-{self.rng.randrange(9)}",
            "properties": {"risk": 0.5},
        } | fields  # fmt: skip

    def label(self, **fields: Any) -> dict[str, Any]:
        """A label of an event that never was, valid but for ``fields``."""
        self.number += 1
        return {
            "v": 1, "label_id": f"hl{self.number}", "task": TASK, "entity_id": f"bad-{self.rng.randrange(500)}",
            "event_id": f"never-{self.number}", "ts": round(self.now, 3), "value": self.rng.randrange(2),
        } | fields  # fmt: skip

    def shot(self, value: bytes, expect: str, topic: str = topics.USER_EVENTS, **fields: Any) -> Shot:
        """A record under a key that says who sent it."""
        self.number += 1
        return Shot("", topic, f"hostile-{self.number}".encode(), value, expect=expect, **fields)

    def keyed(self, event: dict[str, Any], expect: str, **fields: Any) -> Shot:
        """A record under its entity's key."""
        topic = topics.LABELS if "task" in event else topics.USER_EVENTS
        key = str(event.get("entity_id", event.get("user_id", ""))).encode()
        return Shot("", topic, key, encode(event), expect=expect, **fields)


Kind = Callable[[HostileTraffic], Iterator[Shot]]


def _garbage(h: HostileTraffic) -> Iterator[Shot]:
    """What is no JSON object at all."""
    good = encode(h.event())
    values = (
        b"", b"{broken", b"null", b"[]", good[: len(good) // 2], b"\xff\xfe" + good, good + b"," + good,
        b"[" + good + b"]",
        bytes(h.rng.randrange(256) for _ in range(200)), b"\x00\x00\x00\x00\x01" + good, b"[" * 50_000,
        good.replace(b'"v":1', b'"v":1,"v":1'), good.replace(b"purchase", b"pur\\u0000chase"),
    )  # fmt: skip
    topic = h.rng.choice((topics.USER_EVENTS, topics.USER_EVENTS, topics.LABELS))
    yield h.shot(h.rng.choice(values), "letter", topic)


def _numbers(h: HostileTraffic) -> Iterator[Shot]:
    """A number that no field takes, in each numeric field in turn."""
    text = h.rng.choice(_NUMBERS).encode()
    field = h.rng.choice(("amount", "ts", "risk", "weight", "value"))
    if field in ("weight", "value"):
        value = encode(h.label(**{field: 0.125}))
        yield h.shot(value.replace(b"0.125", text), "letter", topics.LABELS)
        return
    event = h.event(properties={"risk": 0.125}) if field == "risk" else h.event(**{field: 0.125})
    expect = "any" if field in ("amount", "risk") and text in _NO_DATA else "letter"
    yield h.shot(encode(event).replace(b"0.125", text), expect)


def _extremes(h: HostileTraffic) -> Iterator[Shot]:
    """Numbers that a field just takes, with a label that says the contrary of what the model thinks, at full weight."""
    event = h.event(amount=h.rng.choice((0.0, 1e12, 5e-324)), properties={"risk": h.rng.choice(_EXTREMES)})
    yield h.keyed(event, "scored")
    label = h.label(entity_id=event["user_id"], event_id=event["event_id"], weight=h.rng.choice((1.0, 1_000.0)))
    yield h.keyed(label, "any")


def _clocks(h: HostileTraffic) -> Iterator[Shot]:
    """Clocks that are off, by years both ways."""
    off = h.rng.choice((-40 * 365, -26 * 365, -400, -30, 2, 30, 400, 70 * 365)) * DAY_S
    # Before the stream has a time of its own, an old event is not late.
    yield h.keyed(h.event(ts=round(h.now + off, 3)), "letter" if off > 0 or h.good.events > 20_000 else "any")


def _future_labels(h: HostileTraffic) -> Iterator[Shot]:
    """Labels of a time to come."""
    yield h.keyed(h.label(ts=round(h.now + 400 * DAY_S, 3)), "letter")


def _misplaced(h: HostileTraffic) -> Iterator[Shot]:
    """Valid events by other partitioners (CRC32, as librdkafka's default) and without a key."""
    event = h.event(user_id=f"moved-{h.rng.randrange(200)}")
    key = str(event["user_id"]).encode()
    crc = zlib.crc32(key) % h.partitions
    shot = h.keyed(event, "scored", partition=crc)
    yield shot if h.rng.random() < 0.5 else shot._replace(key=b"", partition=h.rng.randrange(h.partitions))


def _repeats(h: HostileTraffic) -> Iterator[Shot]:
    """Good events again, and good ids reused by others, also before their own event comes."""
    if not h.good.recent:
        return
    way = h.rng.randrange(3)
    if way == 0:
        yield h.rng.choice(h.good.recent)._replace(expect="dropped")
        return
    number = h.good.events + h.rng.randrange(2_000) if way == 1 else h.rng.randrange(h.good.events)
    yield h.keyed(h.event(event_id=f"g{number:08d}", user_id=f"thief-{h.number}"), "any")


def _label_flood(h: HostileTraffic) -> Iterator[Shot]:
    """Labels of events that never were, and of other tasks."""
    for _ in range(20):
        yield h.keyed(h.label(task=h.rng.choice((TASK, TASK, "nobody"))), "any")


def _structures(h: HostileTraffic) -> Iterator[Shot]:
    """Shapes: deep, wide, long, odd keys."""
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    odd = (
        h.event(properties=deep), h.event(properties={f"p{i}": i for i in range(3_000)}), h.event(event_id="x" * 5_000),
        h.event(user_id=""), h.event(user_id=7), h.event(user_id="a\u202eb\nc"), h.event(properties={"x" * 200: 1}),
        h.event(v=2),
    )  # fmt: skip
    yield h.shot(encode(h.rng.choice(odd)), "letter")


def _oversized(h: HostileTraffic) -> Iterator[Shot]:
    """A record that is small on the wire and too large when it is unpacked."""
    yield h.shot(encode(h.event(padding="x" * _LARGE_BYTES)), "letter", codec=h.rng.choice(CODECS[1:]))


def _bombs(h: HostileTraffic) -> Iterator[Shot]:
    """A batch of some kilobytes that becomes tens of megabytes."""
    yield h.shot(encode(h.event(padding="x" * _BOMB_BYTES)), "letter", codec=h.rng.choice(("gzip", "zstd")))


def _forged(h: HostileTraffic) -> Iterator[Shot]:
    """Records in topics that only Weir writes."""
    forged = (
        (topics.PREDICTIONS, {"v": 1, "event_id": "never", "task": TASK, "score": 7}),
        (topics.PREDICTIONS, {"v": 1, "event_id": "never", "entity_id": "bad-1", "task": TASK, "ts": h.now,
                              "score": 0.5, "model_version": 10**15, "features": {"amount": 1e308},
                              "scored_at": h.now}),
        (topics.EXAMPLES, {"v": 1, "event_id": "never", "task": TASK, "ts": h.now, "features": {"amount": 1.0},
                           "score": 0.5, "value": 1, "weight": 1e12}),
        (topics.ENTITY_UPDATES, {"v": 1, "update_id": "never", "task": TASK, "table": "shop", "entity_id": "bad-shop-1",
                                 "ts": h.now, "values": [1.7e308]}),
        (topics.MODEL_UPDATES, {"v": 1, "task": TASK, "version": "v1", "action": "promote", "uri": "/etc/passwd",
                                "digest": "sha256:" + "0" * 64, "created_at": h.now}),
        (topics.RETRAIN_REQUESTS, {"v": 1, "request_id": "r", "task": TASK, "cause": "manual", "requested_at": h.now,
                                   "text": "\u001b[2J\nWARNING forged"}),
        (topics.EXAMPLES, "nonsense"),
        (topics.ENTITY_UPDATES, "nonsense"),
    )  # fmt: skip
    topic, document = h.rng.choice(forged)
    yield h.shot(encode(document), "any", topic)


HOSTILE: Final[dict[str, tuple[Kind, float]]] = {
    "garbage": (_garbage, 20),
    "numbers": (_numbers, 20),
    "extremes": (_extremes, 10),
    "clocks": (_clocks, 15),
    "future labels": (_future_labels, 3),
    "misplaced": (_misplaced, 20),
    "repeats": (_repeats, 25),
    "label flood": (_label_flood, 2),
    "structures": (_structures, 6),
    "oversized": (_oversized, 0.5),
    "bombs": (_bombs, 0.03),
    "forged": (_forged, 5),
}
"""Each kind with its weight among the draws."""
_KINDS: Final = tuple(HOSTILE)
_WEIGHTS: Final = tuple(weight for _, weight in HOSTILE.values())
