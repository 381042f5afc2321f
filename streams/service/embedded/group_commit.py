"""Syncs the log of inputs in a thread of its own while the engine computes, one fsync for all that came meanwhile.

A step is shown when its inputs are on the disk *and* its outputs are made, and steps are shown in their order: nobody
sees what a power cut could take back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from weir.streams.embedded.embedded_log import LoggedBatch
from weir.streams.service.embedded.appends import Append
from weir.streams.service.ports import Outcome


@dataclass(slots=True, eq=False)
class Step:
    """What the engine took at once: whom to answer, and which batches it made of that."""

    appends: list[Append]
    answers: list[tuple[Append, list[Outcome] | Exception]] = field(default_factory=list)
    batches: list[LoggedBatch] = field(default_factory=list)
    """Inputs and outputs, in the order of their partitions."""
    processed: bool = False
    durable: bool = False


class GroupCommit:
    """See the module.

    Parameters
    ----------
    sync : makes durable what was appended until it is called; ``None`` where a step need not be durable.
    show : called with steps, in their order, by one thread at a time; it must not block.
    fail : called, once, with the error that ends this.
    """

    def __init__(
        self, sync: Callable[[], object] | None, show: Callable[[list[Step]], None], fail: Callable[[Exception], None]
    ) -> None:
        self._sync, self._show, self._fail = sync, show, fail
        self._steps: deque[Step] = deque()
        """Not shown yet."""
        self._unsynced: list[Step] = []
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="weir-fsync", daemon=True)
        if sync is not None:
            self._thread.start()

    def appended(self, step: Step) -> None:
        """A step's inputs are in the log; they are synced from now on."""
        with self._wake:
            self._steps.append(step)
            if self._sync is None:
                step.durable = True
            else:
                self._unsynced.append(step)
                self._wake.notify()

    def processed(self, step: Step) -> None:
        """A step's outputs are made."""
        with self._wake:
            step.processed = True
            self._show_ready()

    def close(self) -> list[Step]:
        """Sync what is left, and end; returns the steps that can not be shown, after a failure."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._sync is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        return list(self._steps)

    def _run(self) -> None:
        while taken := self._take():
            try:
                assert self._sync is not None
                self._sync()
            except Exception as error:  # noqa: BLE001 - the engine ends with it
                # The pages that were not written may be gone, and a second fsync would not say so (fsyncgate).
                self._fail(error)
                return
            with self._wake:
                for step in taken:
                    step.durable = True
                self._show_ready()

    def _take(self) -> list[Step]:
        with self._wake:
            while not self._unsynced and not self._closing:
                self._wake.wait()
            taken, self._unsynced = self._unsynced, []
            return taken

    def _show_ready(self) -> None:
        ready = []
        while self._steps and self._steps[0].processed and self._steps[0].durable:
            ready.append(self._steps.popleft())
        if ready:
            # Within the lock, so that no later step is shown before an earlier one by the other thread.
            self._show(ready)
