"""Runs that are fed by a thread: where it has ended, waiting for what the workers make of it ends with its words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from benchmarks.torture.feeder import Feeder as TortureFeeder
from benchmarks.torture.good import GoodTraffic
from benchmarks.torture.hostile import HostileTraffic
from benchmarks.torture.settled import started
from benchmarks.torture.supervisor import Supervisor
from tests.integration.chaos.feeder import Feeder as ChaosFeeder
from tests.integration.chaos.feeder import StreamPlan


class Nobody:
    """A worker that does nothing, for ever."""

    pid, returncode = 1 << 30, None

    def poll(self) -> None:
        return None

    def wait(self, timeout: float | None = None) -> int:
        del timeout
        return 0

    def send_signal(self, sig: int) -> None:
        del sig

    def kill(self) -> None:
        """It holds nothing."""


class Silent:
    """A deployment without predictions."""

    async def ends_now(self, *_: str) -> dict[tuple[str, int], int]:
        return {}


class Checked(Protocol):
    """What the two feeders have in common."""

    def check(self) -> None:
        """Raise what ended the sending."""


def of_torture() -> AbstractContextManager[Checked]:
    good = GoodTraffic(1)
    # It fails at its settings, before it looks for brokers.
    return TortureFeeder(cast(Any, None), good, HostileTraffic(1, good, 2), rate=10.0, share=0.1)


def of_chaos() -> AbstractContextManager[Checked]:
    return ChaosFeeder(cast(Any, None), str, StreamPlan(seed=1), 10.0)


@pytest.mark.parametrize("make", [of_torture, of_chaos])
def test_waiting_ends_with_the_words_of_a_feeder_that_has_ended(
    make: Callable[[], AbstractContextManager[Checked]], tmp_path: Path
) -> None:
    workers = Supervisor(lambda _: ["worker"], 1, tmp_path, start=lambda *_: Nobody())
    # One of the two says it once more at its end.
    with suppress(AssertionError), workers, make() as feeder:
        workers.needs(feeder.check)
        with pytest.raises(AssertionError) as told:
            started(cast(Any, Silent()), workers, timeout_s=30.0)
    assert str(told.value).startswith("the feeder could not deliver: ")
