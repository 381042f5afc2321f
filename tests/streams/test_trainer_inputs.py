"""What a trainer does where Kafka refuses it: it tells, waits, and asks again."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError

from weir.online.codec.wire import RetrainRequest
from weir.streams.trainer.inputs import RequestReader


class Refused:
    """A consumer that raises at once, as aiokafka's does when its coordinator has failed."""

    def assignment(self) -> set[str]:
        return {"requests-0"}

    async def getmany(self, **_: Any) -> Any:
        raise GroupAuthorizationFailedError("trainers")

    async def end_offsets(self, _: Any) -> Any:
        raise KafkaError("no brokers")


def reader(waits: list[float]) -> RequestReader:
    async def pause(seconds: float) -> None:
        waits.append(seconds)

    made = RequestReader({"bootstrap_servers": ["k:9092"]}, "retrain-requests", "trainers", pause)
    made._consumer = Refused()
    return made


async def never(_: RetrainRequest) -> None:
    pytest.fail("there was no request")


async def test_a_reader_that_is_refused_waits_before_it_tries_again() -> None:
    """Otherwise nothing else of the trainer would have its turn: neither heartbeat nor web."""
    waits: list[float] = []
    requests = reader(waits)
    assert [await requests.read(never) for _ in range(3)] == [0, 0, 0]
    assert waits == [0.5, 0.5, 0.5]
    assert "GroupAuthorizationFailedError" in requests.trouble


async def test_whether_requests_are_left_is_not_known_without_brokers() -> None:
    assert await reader([]).behind()
