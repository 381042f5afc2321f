"""What people order of partitions, and what workers tell of them: how ``weir partitions`` reaches whoever owns one.

Keys: ``<prefix>:{control}:order:PLACE`` is an order that waits for the owner of a partition (the newest counts),
``:answer:ID`` what became of one, ``:held:PLACE`` a pause by hand, which outlives workers, and ``:told:PLACE`` what its
owner last told, gone soon after the owner is. A place is Weir's own name of a topic and a partition: ``labels-3``.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeVar

import msgspec

from weir.online.errors import UNREADABLE
from weir.streams.redis.client import RedisClient
from weir.streams.redis.resp import Script

log = logging.getLogger(__name__)

Verb = Literal["pause", "resume", "seek", "watermark"]
T = TypeVar("T")

TOLD_S: Final = 20
"""How long what a worker told is believed; it tells again well before."""
ANSWER_S: Final = 3600

# KEYS: order, answer. ARGV: the order as it was obeyed, the answer, its seconds. A newer order stays.
_DONE: Final = Script("""
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
""")


class Order(msgspec.Struct, frozen=True):
    """What somebody wants of a partition."""

    verb: Verb
    by: str
    at: float
    """Epoch seconds."""
    value: float | None = None
    """The offset of a ``seek``, the epoch seconds of a ``watermark``."""
    why: str = ""
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {self.value:.15g}"
        return f"{self.verb}{shown} by {self.by}{f' ({self.why})' if self.why else ''}"


class Answer(msgspec.Struct, frozen=True):
    """What became of an order."""

    done: bool
    text: str
    worker: str


class Told(msgspec.Struct, frozen=True):
    """A partition, as its owner sees it."""

    worker: str
    state: str
    """``served`` or ``paused``."""
    reason: str = ""
    since: float | None = None
    position: int | None = None
    lag: int | None = None
    watermark: float | None = None


class Orders:
    """Orders, answers and what is told, in the store.

    Parameters
    ----------
    link : a started link.
    """

    def __init__(self, link: RedisClient) -> None:
        self._link = link
        self._unreadable: set[bytes] = set()

    def _key(self, kind: str, name: str) -> str:
        return f"{self._link.prefix}:{{control}}:{kind}:{name}"

    async def _read(self, kind: str, places: Sequence[str], type_: type[T]) -> dict[str, T]:
        if not places:
            return {}
        found = await self._link.execute("MGET", *(self._key(kind, place) for place in places))
        read: dict[str, T] = {}
        for place, raw in zip(places, found, strict=True):
            if raw is not None and (known := self._decoded(kind, place, raw, type_)) is not None:
                read[place] = known
        return read

    def _decoded(self, kind: str, place: str, raw: bytes, type_: type[T]) -> T | None:
        """What a value says; nothing where that cannot be read: it must not end whoever has the partition."""
        try:
            return msgspec.json.decode(raw, type=type_)
        except UNREADABLE as error:
            if raw not in self._unreadable:  # it is looked at every second
                self._unreadable.add(raw)
                log.error("%s: what is left for it as %r cannot be read: %s", place, self._key(kind, place), error)
            return None

    # -- of people -----------------------------------------------------------------------------------------------

    async def give(self, place: str, order: Order) -> None:
        """Leave an order for whoever owns the partition; it takes the place of one that waits."""
        await self._link.execute("SET", self._key("order", place), msgspec.json.encode(order))

    async def answer(self, order: Order) -> Answer | None:
        """What became of an order, once it is known."""
        return (await self._read("answer", [order.id], Answer)).get(order.id)

    async def told(self, places: Sequence[str]) -> dict[str, Told]:
        """What owners told of these partitions; of one that nobody owns nothing."""
        return await self._read("told", places, Told)

    # -- of workers ----------------------------------------------------------------------------------------------

    async def waiting(self, places: Sequence[str]) -> dict[str, Order]:
        """Orders that wait for the owner of each of these."""
        return await self._read("order", places, Order)

    async def done(self, place: str, order: Order, answer: Answer) -> None:
        """Say what became of an order."""
        keys = [self._key("order", place), self._key("answer", order.id)]
        # By comparing its bytes: an order that came while this one was obeyed stays.
        await self._link.run(_DONE, keys, [msgspec.json.encode(order), msgspec.json.encode(answer), ANSWER_S])

    async def hold(self, place: str, order: Order) -> None:
        """Remember a pause by hand."""
        await self._link.execute("SET", self._key("held", place), msgspec.json.encode(order))

    async def release(self, place: str) -> None:
        """Forget a pause by hand."""
        await self._link.execute("DEL", self._key("held", place))

    async def held(self, places: Sequence[str]) -> dict[str, Order]:
        """Which of these people have paused."""
        return await self._read("held", places, Order)

    async def tell(self, told: Mapping[str, Told]) -> None:
        """Tell of partitions that are ours."""
        for place, about in told.items():
            # One by one, as MSET takes no time to live.
            await self._link.execute("SET", self._key("told", place), msgspec.json.encode(about), "EX", TOLD_S)

    async def untell(self, places: Sequence[str]) -> None:
        """These are not ours any more."""
        if places:
            await self._link.execute("DEL", *(self._key("told", place) for place in places))
