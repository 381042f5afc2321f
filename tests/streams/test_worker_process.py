"""How a worker process ends where it does not come up: within a time, and by the error that stopped it."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weir.streams.errors import UsageError
from weir.streams.worker import process
from weir.streams.worker.process import Process, run_process


class Clock:
    """In the place of a `Deadline`: says when it was begun."""

    begun = False

    def __init__(self, *_: object) -> None:
        """Nothing runs yet."""

    def begin(self) -> None:
        Clock.begun = True

    def cancel(self) -> None:
        Clock.begun = False


class Broken(Process):
    """A worker whose way up ends at its settings."""

    def __init__(self) -> None:
        self.app = cast(Any, SimpleNamespace(finalize=lambda: None, crash_reason=None))
        self._failed = None
        self.in_time = False

    async def before(self) -> None:
        raise UsageError("[worker] decisions is set, and there is no topic decisions")

    async def after(self) -> None:
        self.in_time = Clock.begun


def test_a_way_up_that_fails_is_taken_down_within_the_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "Deadline", Clock)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    worker = Broken()
    with pytest.raises(UsageError, match="no topic decisions"):
        asyncio.run(run_process(worker))
    assert worker.in_time
    assert not Clock.begun
