"""``weir retrain``: asks the trainer for a new full model, and waits for it where told to."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from weir.streams.cli.console import output, say
from weir.streams.cli.models.model_common import RegistryOption
from weir.streams.cli.options import INTERRUPTED, BootstrapOption, ConfigOption, settings_of
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.clients import producer
from weir.streams.ops.stop_request import interruptible

if TYPE_CHECKING:
    from weir.online.codec.wire import LongText, RetrainRequest
    from weir.streams.config.settings import Settings
    from weir.streams.trainer.task_state import Job, TaskState

_LOOK_S: Final = 0.5
_TOO_SOON: Final = "refused, the last request is too recent (cooldown); give --force"
_NOBODY: Final = "waits for a trainer"
_TEXT: Final = {
    "accepted": "begun", "data": "data set gathered", "trained": "candidates trained", "gated": "passed the gate",
    "registered": "registered", "shadowing": "in the workers' shadow; labels decide now",
}  # fmt: skip


def retrain_command(
    task: Annotated[str, typer.Option("--task", "-t", help="Name of the task.")],
    reason: Annotated[
        str, typer.Option("--why", "--reason", help="Kept with the request and the job.")
    ] = "asked for by hand",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the candidate is in the shadow, or is not.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also within the cooldown of the task.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, max=31_536_000, help="Seconds to wait at most.")
    ] = None,
    registry: RegistryOption = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Ask for a new full model of a task.

    It needs a running weir trainer. Within the cooldown of the task, [retrain]
    cooldown, it is refused without --force; while a job is under way the
    request waits for its end.

    With --wait the exit status is 0 when the new model is in the shadow of
    the old one, and 2 when it was refused, the training failed, the model
    did not pass, or the time is over.

    For example:

        weir retrain --task fraud

        weir retrain --task fraud --why "new card product since Monday" --wait

        weir retrain --task fraud --wait --timeout 900
    """
    from weir.online.codec.encode import encode_model
    from weir.online.codec.wire import RetrainRequest

    settings = settings_of(config, bootstrap, {"models.registry": registry})
    request = RetrainRequest(
        request_id=f"manual-{secrets.token_hex(6)}", task=_task(task), cause="manual", requested_at=time.time(),
        text=_reason(reason), details={"force": True} if force else None,
    )  # fmt: skip
    with producer(settings.kafka, "retrain") as client:
        topic = settings.topics.name(topics.RETRAIN_REQUESTS)
        client.send(topic, key=task.encode(), value=encode_model(request)).get(settings.kafka.timeout_s)
    output().print(request.request_id, soft_wrap=True)
    if wait:
        _wait(settings, request, timeout)


def _task(name: str) -> str:
    if not 1 <= len(name) <= 64:
        raise UsageError(f"--task {name!r}: give the name of a task, as in its file")
    return name


def _reason(text: str) -> LongText:
    if len(text) > 2_000:
        raise UsageError(f"--reason has {len(text)} characters; give at most 2000")
    return text


def _wait(settings: Settings, request: RetrainRequest, timeout: float | None) -> None:
    """Follow the job in the trainer's journal, saying each stage once."""
    from weir.models.registry.registry import open_files
    from weir.streams.trainer.state_journal import FilesJournal
    from weir.streams.trainer.task_state import decode

    journal, said = FilesJournal(open_files(settings.models.registry)), ""
    deadline = None if timeout is None else time.monotonic() + timeout

    def find() -> tuple[Job | None, TaskState | None]:
        entry = journal.newest(request.task)
        state = decode(entry[1], f"journal of task {request.task}") if entry is not None else None
        jobs = [] if state is None else [*state.ended, *([state.job] if state.job is not None else [])]
        return next((job for job in jobs if job.asked.request_id == request.request_id), None), state

    with interruptible() as stop:
        while not stop.is_set():
            job, state = find()
            words = _said(job, state, request)
            if words != said:
                say(words)
                said = words
            if job is not None and _over(job):
                return
            if words.endswith(_TOO_SOON):
                raise typer.Exit(2)
            if deadline is not None and time.monotonic() > deadline:
                raise UsageError(f"not done within {timeout:g} s: {words}; it goes on without us")
            # The journal is files: nothing tells when it grew.
            stop.wait(_LOOK_S)
    raise typer.Exit(INTERRUPTED)


def _said(job: Job | None, state: TaskState | None, request: RetrainRequest) -> str:
    if job is not None:
        more = f": {job.reason or job.verdict}" if job.reason or job.verdict else ""
        return f"{request.task}: {_TEXT.get(job.stage, job.stage)}{more}"
    if state is not None and state.pending is not None and state.pending.request_id == request.request_id:
        return f"{request.task}: waits for the job under way"
    return f"{request.task}: {_TOO_SOON if state is not None and request.request_id in state.seen else _NOBODY}"


def _over(job: Job) -> bool:
    """Whether there is nothing left to wait for; raises ``Exit(2)`` when it did not go well."""
    if job.stage in ("failed", "rejected", "retired", "rolled back"):
        raise typer.Exit(2)
    return job.stage in ("shadowing", "promoted")
