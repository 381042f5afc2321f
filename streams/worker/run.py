"""The scoring worker, put together: lanes, online models and what full models answer elsewhere.

How a process goes up and down is in ``weir.streams.worker.process``. Here, on the way up, kernels are compiled and
models restored and read to the end of ``examples`` before the consumer takes its first batch.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import platform
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from weir.online.task.spec import TaskSpec
from weir.streams.checks.kafka_checks import warn_of_retention
from weir.streams.checks.late_events import late_events
from weir.streams.config import topics
from weir.streams.config.settings import Role, Settings
from weir.streams.model_replicas.fold import ExampleFold
from weir.streams.model_replicas.follower import Follower, FollowPolicy
from weir.streams.model_replicas.model_snapshots import ModelSnapshots
from weir.streams.ops.signals import run_until_stopped
from weir.streams.worker.inference.remote_models import RemoteClient
from weir.streams.worker.partitions import LaneHost
from weir.streams.worker.process import Process, run_process
from weir.streams.worker.status import WorkerStatus
from weir.streams.worker.warmup import warm_up

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's ``mallopt``."""
TRIM_S: Final = 10.0
"""Pages that are needed again cost about a thousandth of a core at this pace."""


class Worker(Process):
    """One worker, not started."""

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> None:
        super().__init__(settings, tasks, role, served=tasks if role != "label" else ())
        self.follower = Follower(
            settings.kafka.client_options("models"),
            [ExampleFold.of(task) for task in tasks],
            snapshots=ModelSnapshots(self.link),
            topic=settings.topics.name(topics.EXAMPLES),
            policy=FollowPolicy(snapshot_interval_s=settings.worker.snapshot_every_s),
        )
        self.host = LaneHost(self.ctx, self.follower, role)
        self._remote: RemoteClient | None = None
        self._consume(self.host.topics, self.host, WorkerStatus(self.ctx, self.host, self.follower))

    async def before(self) -> None:
        """See ``Process``; then the way to full models that run elsewhere."""
        await super().before()
        if self.role != "label" and any(task.full is not None and task.full.remote for task in self.ctx.tasks):
            self.ctx.remote = self._remote = RemoteClient(self.ctx)
            await self._remote.start()

    async def prepare(self) -> None:
        """Kernels and models; and whether labels will find their predictions."""
        self.host.check_sizes()
        if self.role != "score":
            await asyncio.to_thread(warn_of_retention, self.settings, self.ctx.tasks)
        if self.role != "label":
            for found in late_events(self.settings, self.ctx.tasks):
                log.warning("%s: %s. %s", found.name, found.found, found.fix)
        for task in self.ctx.tasks:
            await asyncio.to_thread(warm_up, task)  # the endpoints answer meanwhile
        await self.ctx.topics.look([topics.EXAMPLES])
        await self.ctx.topics.check((topics.EXAMPLES, 0))
        await self.follower.catch_up()
        for task in self.ctx.tasks:
            log.info("task %s: model at version %d", task.name, self.follower.version(task.name))

    def started(self) -> None:
        """See ``Process``."""
        gc.collect()
        gc.freeze()  # what is here to stay is not looked at again
        super().started()

    def beside(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """See ``Process``."""
        return (self.follower.run, self.host.idle.run, _trim_memory, *super().beside())

    async def conclude(self) -> None:
        """Store what the models have learned, and let go."""
        await self.follower.stop()
        await self.host.close()
        if self._remote is not None:
            await self._remote.stop()


def run_worker(settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> int:
    """Run a worker until it is told to stop; its exit status, 0 after a clean stop.

    Raises ``WeirError`` for what ended it and a person can mend.
    """
    return run_until_stopped(_run(settings, tasks, role))


async def _run(settings: Settings, tasks: Sequence[TaskSpec], role: Role) -> int:
    _keep_heaps_small()
    return await run_process(Worker(settings, tasks, role))


def _glibc() -> ctypes.CDLL | None:
    # musl has neither `mallopt` nor `malloc_trim`.
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _keep_heaps_small() -> None:
    """Have large arrays leave the process when they are freed.

    By itself glibc takes arrays of up to 32 MB from its heaps, of which each thread has one, and keeps what lies
    between: a tenth to a fifth of a worker whose tables grow.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)  # the short-lived megabytes of each batch stay
        # Two, as one loop computes: each further arena keeps free pages of its own.
        libc.mallopt(M_ARENA_MAX, 2)


async def _trim_memory() -> None:
    """Give free pages within the heaps back to the system, now and then: glibc itself frees their ends only.

    A worker that has taken partitions over, or worked off a backlog, holds some 150 MB of such pages.
    """
    if (libc := _glibc()) is None:
        return
    while True:
        await asyncio.sleep(TRIM_S)
        # In a thread: ctypes lets go of the interpreter, so the loop goes on meanwhile.
        await asyncio.to_thread(libc.malloc_trim, 0)
