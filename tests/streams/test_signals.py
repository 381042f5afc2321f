"""The first signal stops in order; a second Ctrl-C does not wait for that."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from weir.streams.ops.signals import EXIT_STATUS, StopSignals, end_tasks, run_until_stopped, waits


def test_the_first_signal_stops_and_a_second_ctrl_c_does_not_wait() -> None:
    calls: list[Any] = []
    caught = StopSignals(lambda: calls.append("stop"), calls.append)
    caught(15)
    caught(15)
    assert (calls, caught.status) == (["stop"], 0)
    caught(2)
    assert calls == ["stop", 130]


def test_a_stop_by_ctrl_c_has_the_usual_status() -> None:
    caught = StopSignals(lambda: None)
    assert caught.status == 0
    caught(2)
    assert caught.status == 130


def test_tasks_that_lose_a_cancellation_are_ended_too() -> None:
    lost: list[str] = []

    async def stubborn() -> None:
        while len(lost) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append("one")
        await asyncio.Event().wait()

    async def run() -> bool:
        task = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        await end_tasks()
        return task.cancelled()

    assert asyncio.run(run())
    assert len(lost) == 2


def test_a_process_that_does_not_end_says_where_it_waits() -> None:
    async def inner(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> list[str]:
        event = asyncio.Event()
        task = asyncio.create_task(inner(event))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        said = await asyncio.to_thread(lambda: list(waits(loop)))
        event.set()
        await task
        return said

    assert any(
        each.startswith("inner (test_signals.py:") and " > wait (locks.py:" in each for each in asyncio.run(main())
    )


_STUCK = """
import asyncio, logging, os, signal, sys
from weir.streams.worker import process
logging.basicConfig()
process.STOP_S = 0.3
async def nothing(): pass
async def at(place):
    if place == sys.argv[1]:
        await asyncio.Event().wait()
class App:
    def finalize(self): pass
    async def start(self): os.kill(os.getpid(), signal.SIGTERM)
    async def wait_until_stopped(self): await asyncio.Event().wait()
    async def stop(self): await at("app")  # drains, commits (`wait_empty`) and stops the producer (`records.stop`)
class Process:
    app, reason, before = App(), None, staticmethod(nothing)
    async def after(self): await at("after")  # stores what was learned (`Follower.stop`), and ends all links
sys.exit(asyncio.run(process.run_process(Process())))
"""


@pytest.mark.parametrize(("place", "status"), [("app", EXIT_STATUS), ("after", EXIT_STATUS), ("nowhere", 0)])
def test_a_worker_that_waits_for_ever_on_its_way_down_ends_by_its_deadline(place: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STUCK, place], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert ("> at (<string>:" in done.stderr) == (status != 0), done.stderr


_STARTS = """
import asyncio, os, signal, sys
from weir.streams.ops.signals import stop_signals
from weir.streams.ops.stop_request import ending_at_once
async def served():
    stopped = asyncio.Event()
    with stop_signals(asyncio.get_running_loop(), stopped.set):
        os.kill(os.getpid(), signal.SIGTERM)
        await stopped.wait()
with ending_at_once(0):
    if sys.argv[1] == "after":
        asyncio.run(served())
    os.kill(os.getpid(), int(sys.argv[2]))
    sys.exit(1)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_before_and_after_the_loop_listens_ends_it_in_a_line(when: str, number: int, status: int) -> None:
    command = [sys.executable, "-c", _STARTS, when, f"{int(number)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "stopped: nothing was in work\n")


_IMPORTS = """
import os, signal, sys
from weir.streams.cli.main import run
class Signalled:
    def find_spec(name, *_):
        if name == told:
            os.kill(os.getpid(), int(number))
told, number, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Signalled)
run()
"""


@pytest.mark.parametrize("module", ["typer", "weir.online.durations", "weir.streams.cli.processes.worker"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_midst_of_imports_ends_a_command_in_a_line(module: str, number: int, status: int) -> None:
    command = [sys.executable, "-c", _IMPORTS, module, f"{int(number)}", "worker", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "stopped: nothing was in work\n")


_COMPILES = """
import asyncio, sys, threading
from weir.streams.ops.signals import run_until_stopped
async def main():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    def compile():
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()
    compiling = asyncio.ensure_future(asyncio.to_thread(compile))
    await begun.wait()
    compiling.cancel()
    return 130
sys.exit(run_until_stopped(main()))
"""


def test_a_thread_at_work_does_not_keep_a_process_that_has_stopped() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILES], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_nor_one_that_failed_and_threads_that_rest_keep_nothing() -> None:
    released = threading.Event()

    async def main(fails: bool) -> int:
        await asyncio.to_thread(threading.get_ident)
        if fails:
            asyncio.get_running_loop().run_in_executor(None, released.wait)
            raise RuntimeError("a link")
        return 7

    with pytest.raises(RuntimeError, match="a link"):
        run_until_stopped(main(True))
    assert not released.is_set()
    released.set()
    assert run_until_stopped(main(False)) == 7
