"""Orders for partitions, as workers find them in the store."""

from __future__ import annotations

import logging
from typing import Any, cast

import msgspec
import pytest

from weir.streams.redis.partition_orders import Order, Orders


class Store:
    """A Redis that holds some values."""

    prefix = "w"

    def __init__(self, **held: bytes) -> None:
        self.held = {f"w:{{control}}:order:{place}": value for place, value in held.items()}

    async def execute(self, command: str, *keys: str) -> list[bytes | None]:
        assert command == "MGET"
        return [self.held.get(key) for key in keys]


@pytest.mark.parametrize("odd", [b'{"verb":"split","by":"ann","at":1.0}', b"pause", b"\xff", b"[]", b""])
async def test_an_order_that_cannot_be_read_stops_nobody_and_is_told_once(
    odd: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = Order("pause", "ann", 1.7e9)
    orders = Orders(cast(Any, Store(a=odd, b=msgspec.json.encode(good))))
    with caplog.at_level(logging.ERROR):
        assert await orders.waiting(["a", "b", "c"]) == {"b": good}
        assert await orders.waiting(["a", "b", "c"]) == {"b": good}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("a: what is left for it as 'w:{control}:order:a' cannot be read: ")
