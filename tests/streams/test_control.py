"""What becomes of an order about a partition that goes to another worker while it is obeyed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from weir.streams.redis.partition_orders import Order
from weir.streams.worker.control import Control

LANE = ("user-events", 3)


class Pauses:
    """Those of a worker that has one partition."""

    def __init__(self) -> None:
        self.paused: dict[tuple[str, int], Any] = {}
        self.held: object = None

    def by_hand(self, lane: tuple[str, int], *_: object) -> None:
        self.paused[lane] = SimpleNamespace(kind="hand", offsets={"a": 1})

    async def settled(self, _: object) -> None:
        """Nothing is to be waited for."""


async def test_a_partition_that_goes_while_it_is_moved_is_no_error_of_its_order() -> None:
    pauses = Pauses()

    async def seek(lane: tuple[str, int], *_: object) -> str:
        pauses.paused.pop(lane)
        return "stands at 7"

    context = SimpleNamespace(link=None, pauses=pauses)
    control = Control(cast("Any", context), cast("Any", SimpleNamespace(seek=seek)))
    done = await control._do("user-events-3", LANE, Order("seek", "ann", 0.0, 7.0))
    assert done == "stands at 7; it was not paused"
