"""One inference worker: full models on a GPU (or CPU) of its own, for the score lanes of many workers.

Its lanes are the partitions of ``inference-requests``; their states and positions are in Redis, written together as
everybody's are, so a worker that dies loses nothing and takes no event in twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from weir.online.task.spec import TaskSpec
from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.worker.context import Context
from weir.streams.worker.inference.inference_host import OWN, InferenceHost
from weir.streams.worker.process import Process, run_process
from weir.streams.worker.status import ProcessStatus


class InferenceWorker(Process):
    """One inference worker, not started.

    Parameters
    ----------
    settings, tasks : what to run.
    """

    def __init__(self, settings: Settings, tasks: Sequence[TaskSpec]) -> None:
        specs = {task.name: task.full for task in tasks if task.full is not None and task.full.remote}
        if not specs:
            names = ", ".join(task.name for task in tasks)
            raise UsageError(f"tasks {names}: none has [full] remote = true, so there is nothing to run here")
        # Requests that retention deleted are of decisions that were made long ago.
        super().__init__(settings, tasks, "inference", served=tasks, remote=True, when_deleted="skip")
        host = InferenceHost(self.ctx, self.ctx.full, specs)
        self._consume([OWN], host, InferenceStatus(self.ctx, host))


class InferenceStatus(ProcessStatus):
    """Answers the web endpoints and the watchdog of an inference worker.

    Parameters
    ----------
    ctx, host : the worker's parts.
    """

    def __init__(self, ctx: Context, host: InferenceHost) -> None:
        super().__init__(ctx)
        self._host = host

    def describe(self) -> Mapping[str, object]:
        """Describe the lanes and the models, for ``/ready``."""
        lanes = [lane.name for lane in self._host.lanes.values()]
        return {**super().describe(), "lanes": lanes, "full": self._ctx.full.outline()}

    def lanes(self) -> Mapping[str, int]:
        """See ``ProcessStatus``."""
        return {OWN: len(self._host.lanes)}


def run_inference(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    """Run an inference worker until it is told to stop; its exit status, 0 after a clean stop.

    Raises ``WeirError`` for what ended it and a person can mend.
    """
    return asyncio.run(_run(settings, tasks))


async def _run(settings: Settings, tasks: Sequence[TaskSpec]) -> int:
    return await run_process(InferenceWorker(settings, tasks))
