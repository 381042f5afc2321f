"""The watchdog ends a process whose work or event loop stands still, says why, and leaves alone all that move."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from weir.streams.ops.watchdog import EXIT_STATUS, Watchdog, WatchdogPolicy, WatchdogState

ROOT = Path(__file__).resolve().parents[2]


def state(limit_s: float = 10.0) -> WatchdogState:
    return WatchdogState(WatchdogPolicy(limit_s), now=0.0)


def test_a_worker_without_work_may_be_quiet_for_ever() -> None:
    dog = state()
    dog.answered(1e6)
    assert dog.verdict(1e6) is None


def test_work_that_does_not_move_is_found_and_work_that_does_is_not() -> None:
    dog = state()
    dog.started(100.0)
    for now in (105.0, 110.0):
        dog.answered(now)
        assert dog.verdict(now) is None
    dog.started(109.0)  # more work coming in is no progress
    dog.answered(111.0)
    assert "no batch was completed for 11.0 s with 2 in flight; the limit is watchdog_s = 10" in str(dog.verdict(111.0))
    dog.completed(111.0)
    dog.answered(120.0)
    assert dog.verdict(120.0) is None


def test_the_pause_before_work_came_in_does_not_count() -> None:
    dog = state()
    dog.started(0.0)
    dog.completed(1.0)
    dog.started(500.0)
    dog.answered(505.0)
    assert dog.verdict(505.0) is None


def test_batches_that_a_rebalance_dropped_are_not_waited_for() -> None:
    dog = state()
    dog.started(0.0, batches=3)
    dog.holding(5.0, 0)
    dog.answered(60.0)
    assert dog.verdict(60.0) is None
    dog.holding(60.0, 1)
    dog.answered(71.0)
    assert "with 1 in flight" in str(dog.verdict(71.0))


def test_work_that_waits_for_a_link_does_not_hang_and_the_time_counts_from_when_it_is_back() -> None:
    dog = state()
    dog.started(0.0)
    for now in (5.0, 100.0):
        dog.waiting(now)
        dog.answered(now + 9.0)
        assert dog.verdict(now + 9.0) is None
    dog.answered(111.0)
    assert "no batch was completed for 11.0 s" in str(dog.verdict(111.0))


def test_a_loop_that_does_not_answer_is_found_without_work_too() -> None:
    dog = state()
    assert dog.verdict(10.0) is None
    assert "the event loop has not answered for 10.5 s" in str(dog.verdict(10.5))


async def test_the_thread_ends_the_process_once_and_says_what_was_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[int] = []

    hung, loop = asyncio.Event(), asyncio.get_running_loop()

    def end(status: int) -> None:
        ended.append(status)
        loop.call_soon_threadsafe(hung.set)

    dog = Watchdog(
        WatchdogPolicy(0.05),
        lambda: ["user-events-3@17"],
        end,
    )
    dog.started()
    dog.start(loop)
    await asyncio.wait_for(hung.wait(), 10)
    dog.stop()
    assert ended == [EXIT_STATUS]
    assert "user-events-3@17" in caplog.text


async def test_the_thread_asks_whether_work_waits_for_a_link() -> None:
    ended: list[int] = []
    away, over, asked = ["Redis is away"], asyncio.Event(), 0

    def waits() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 20:  # twice the limit
            away.clear()
        return away

    def end(status: int) -> None:
        ended.append(asked)
        loop.call_soon_threadsafe(over.set)
        assert status == EXIT_STATUS

    loop = asyncio.get_running_loop()
    dog = Watchdog(WatchdogPolicy(0.2), end=end, waits=waits)
    dog.started()
    dog.start(loop)
    await asyncio.wait_for(over.wait(), 10)
    dog.stop()
    assert ended[0] >= 20


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("await asyncio.sleep(60)", "no batch was completed"),
        ("time.sleep(60)", "the event loop has not answered"),
    ],
)
def test_a_process_that_blocks_ends_with_its_stacks_shown(block: str, words: str) -> None:
    program = f"""
    import asyncio, logging, time
    from weir.streams.ops.watchdog import Watchdog, WatchdogPolicy

    async def stuck_here():
        dog = Watchdog(WatchdogPolicy(0.3), lambda: "batch 42")
        dog.started()
        dog.start(asyncio.get_running_loop())
        {block}

    logging.basicConfig()
    asyncio.run(stuck_here())
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == EXIT_STATUS, done.stderr
    assert time.monotonic() - began < 40
    assert words in done.stderr
    assert "batch 42" in done.stderr
    assert "most recent call first" in done.stderr


async def test_a_process_that_works_is_left_alone() -> None:
    ended: list[int] = []
    dog = Watchdog(WatchdogPolicy(1.0), end=ended.append)
    dog.start(asyncio.get_running_loop())
    began = time.monotonic()
    while time.monotonic() < began + 1.3:  # longer than the limit
        dog.started()
        await asyncio.sleep(0.01)  # the work
        dog.completed()
    dog.stop()
    assert ended == []
