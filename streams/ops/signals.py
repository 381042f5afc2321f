"""How a process ends: the first Ctrl-C or SIGTERM asks for a clean stop, a second Ctrl-C, or a deadline, does not.

Before there is anything to stop a signal ends the process at once; behind a clean stop no thread is waited for.

What work of hours does with Ctrl-C is in `weir.streams.ops.stop_request`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from weir.streams.ops.stop_request import ENDING, INTERRUPTED

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.5
EXIT_STATUS: Final = 75
"""After a deadline; EX_TEMPFAIL of sysexits.h: start it again."""


class StopSignals:
    """Which signal asked for the end, if one did."""

    def __init__(self, stop: Callable[[], object], end: Callable[[int], object] = os._exit) -> None:
        self._stop, self._end = stop, end
        self.number: int | None = None

    @property
    def status(self) -> int:
        """Exit status after a clean stop: 0, as supervisors expect after SIGTERM, or 130 after Ctrl-C."""
        return INTERRUPTED if self.number == signal.SIGINT else 0

    def __call__(self, number: int) -> None:
        """A signal arrived."""
        # SIGTERM may come again from a supervisor that is impatient; only a person's second Ctrl-C ends at once.
        if self.number is None:
            self.number = number
            log.info("%s: finishing the batches in work; Ctrl-C again stops at once", signal.Signals(number).name)
            self._stop()
        elif number == signal.SIGINT:
            log.warning("stopping at once: batches in work will be done again")
            self._end(INTERRUPTED)


@contextmanager
def stop_signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], object], end: Callable[[int], object] = os._exit
) -> Iterator[StopSignals]:
    """Call ``stop`` in ``loop`` on the first SIGINT or SIGTERM, ``end`` on a Ctrl-C after it; see `StopSignals`."""
    caught = StopSignals(stop, end)
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        loop.add_signal_handler(number, caught, number)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which leaves that of Python
            signal.signal(number, handler)


class _Threads(ThreadPoolExecutor):
    """The threads of a loop, which know whether any is at work."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._begun = set[Future[Any]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``Executor``."""
        future = super().submit(fn, *args, **kwargs)
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    @property
    def at_work(self) -> bool:
        """Whether a call has not come back."""
        return bool(self._begun)


def run_until_stopped(main: Coroutine[Any, Any, int]) -> int:
    """Run a process that ends by a signal, as ``asyncio.run`` does, but wait for no thread once it is down.

    A thread cannot be told to end: where kernels are compiled, or a model is loaded, a stop would take as long as that,
    minutes on the first start. Where one is at work the process ends here. Returns, or ends with, the status that
    ``main`` returns.
    """
    threads = _Threads()
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(threads)
        try:
            status = runner.run(main)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            # The runner waits for the threads that the loop has when it closes.
            runner.get_loop().set_default_executor(ThreadPoolExecutor(1))
    if threads.at_work:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class Deadline:
    """Once begun, the process ends after ``limit_s``, stopped or not; nothing is lost, batches in work are repeated.

    A process may not manage to stop: after a crash of a library's thread, say, or while brokers are away.

    Parameters
    ----------
    limit_s : seconds.
    why : why it ends at all, if there is a reason: the last line says that.
    """

    def __init__(self, limit_s: float, why: Callable[[], object] = lambda: None) -> None:
        self._limit_s, self._why = limit_s, why
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Start the clock, unless it runs; called from the loop of the process."""
        if self._timer is None:
            self._timer = threading.Timer(self._limit_s, self._end, (asyncio.get_running_loop(),))
            # A process that stops in time is not kept until the deadline.
            self._timer.daemon = True
            self._timer.start()

    def cancel(self) -> None:
        """The process has stopped by itself."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        why = self._why()
        after = "" if why is None else f" after {type(why).__name__}: {why}"
        log.critical("stopping took longer than %g s; ending with status %d%s", self._limit_s, EXIT_STATUS, after)
        try:
            log.critical("it waits in %s", "; ".join(sorted(waits(loop))) or "no task: the loop itself is busy")
        except RuntimeError as exc:  # tasks begin and end while they are read: the loop is another thread's
            log.critical("what it waits in could not be read: %s", exc)
        # Not sys.exit, which ends this thread only; what hangs would go on.
        os._exit(EXIT_STATUS)


def waits(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Where each task of a loop waits: ``function (file:line)``, from its own to the innermost.

    For a person who reads why a process did not end; another thread may ask.
    """
    for task in asyncio.all_tasks(loop):
        step: Any = task.get_coro()
        way: list[str] = []
        while (frame := getattr(step, "cr_frame", None)) is not None:
            code = frame.f_code
            way.append(f"{code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})")  # noqa: PTH119
            step = getattr(step, "cr_await", None)
        yield " > ".join(way) or task.get_name()


async def end_tasks() -> None:
    """Cancel all other tasks of this loop until they have ended.

    ``asyncio.run`` cancels them once and then waits for ever, and a cancellation may be lost in what a task waits for,
    where a link could not be stopped before.
    """
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)


async def until_one_ends(*works: Coroutine[Any, Any, object]) -> None:
    """Run all until the first ends, end the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # All have ended before anything is raised: a caller may close what they use.
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
