"""What a worker does and how patiently: role, tasks, sizes, web address, watchdog."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from weir.online.durations import Seconds
from weir.online.intake_policy import IntakePolicy
from weir.streams.config.connections import split_commas
from weir.streams.config.frozen_settings import Concern
from weir.streams.reject_limit import RejectPolicy

Role = Literal["score", "label", "all"]
HIGHEST_PORT = 65_535
_INSTANCE = r"^[A-Za-z0-9._-]{1,200}$"


class LinkSettings(Concern):
    """How a worker reads from Kafka and writes to it: the part of ``[worker]`` that the transport goes by."""

    instance_id: str | None = Field(default=None, pattern=_INSTANCE)
    """Unique among the group's workers and the same after a restart: a worker that comes back within the session
    timeout takes its partitions up again without a rebalance. ``auto`` is this machine's host name."""
    max_batch: int = Field(default=2048, ge=1, le=65_536)
    """Records of one batch at most."""
    max_in_flight: int = Field(default=3, ge=1, le=1000)
    """Full batches, or as many records in smaller ones, of one partition that wait or are in work at most."""
    fetch_interval_s: float = Field(default=0.008, ge=0, le=1)
    """The least time between two fetches from a busy broker. Each batch has a cost of its own, so at a steady rate
    smaller batches make latency worse, not better: at 5,000 events/s on two cores 5 to 9 ms was best (ADR 17)."""
    max_record_bytes: int = Field(default=1_048_588, ge=16_384, le=1 << 30)
    """The largest record a worker may send; the topics' ``max.message.bytes`` must be no less."""
    session_timeout_s: float = Field(default=6.0, gt=0, le=600)
    """After a worker was killed its partitions stand still for so long; brokers accept no less than 6 by default."""
    drain_s: float = Field(default=2.0, ge=0, le=300)
    """How long a rebalance or a stop waits for batches in work; what is not complete by then is done again."""
    leave_on_stop: bool = True
    """Leave the group on a clean stop also with an ``instance_id``; turn off for rolling restarts."""
    commit_interval_s: float = Field(default=0.5, gt=0, le=60)
    """How often offsets are committed to Kafka, for tools that show lag; what a restart goes by is in Redis."""
    when_deleted: Literal["stop", "skip"] = "stop"
    """What to do when Kafka deleted records before they were processed."""
    delivery_timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """How long records wait for brokers that are away before the worker stops."""


class WorkerSettings(LinkSettings):
    """One worker process; the same file may serve all of them.

    >>> WorkerSettings(group="shop").group_id("score")
    'shop-score'
    """

    role: Role = "all"
    """``score`` reads events, ``label`` predictions and labels; ``all`` does both and hands predictions over inside."""
    tasks: Annotated[tuple[Path, ...], BeforeValidator(split_commas)] = ()
    """Task files, or directories whose ``*.toml`` are all task files."""
    group: str = Field(default="weir", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Consumer groups are called ``GROUP-score``, ``GROUP-label`` and ``GROUP-all``."""
    processes: int = Field(default=1, ge=1, le=64)
    """Of one ``weir worker``, which keeps them running: one computes on one core. Instance ids become ID-1, ID-2, ...,
    and web ports count up from ``web_port``."""

    web_host: str = Field(default="127.0.0.1", min_length=1)
    """Where ``/health``, ``/ready`` and ``/metrics`` listen; ``0.0.0.0`` in a container."""
    web_port: Annotated[int, Field(ge=0, le=HIGHEST_PORT)] | Literal["auto"] = 8090
    """0 turns them off; ``auto`` takes a free port and logs it."""
    watchdog_s: float = Field(default=60.0, ge=0, le=86_400)
    """End the process when batches were read, or a fetch has no answer, and none was completed for so long; 0 never."""

    cache_rows: int = Field(default=200_000, ge=0)
    """Rows kept in memory, shared by all lanes and tables of the worker; others are read from the store when needed."""
    dedupe_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Memory for the ids of events, shared by all partitions of the worker: 24 to 31 bytes an id. Where it is too small
    for ``intake.dedupe_window``, the oldest go first; ``weir_dedupe_window_seconds`` and a warning say so."""
    label_bytes: int = Field(default=512 << 20, ge=1 << 20)
    """Memory for predictions that wait for labels, shared by all tasks and partitions of the worker: some 75 bytes
    each, and in a quarter of it the newest ones with their features. Where it is too small for a task's ``keep_s`` the
    oldest stop waiting; ``weir_label_horizon_seconds`` and a warning say so."""

    decisions: bool = False
    """Whether what was decided on each prediction (threshold, alert, reasons) is written to the topic ``decisions``,
    for services that answer by it. ``weir topics create`` makes the topic, and the worker needs the right to write to
    it (``weir acl kafka``). The same in every worker that labels. Small batches are not gathered for long then, so that
    a decision takes some 10 ms instead of some 200, and its worker does more for each event."""

    store_patience_s: float = Field(default=60.0, gt=0, le=3600)
    """How long a batch waits for a store that fails before the worker stops."""
    pause_retry_s: float = Field(default=60.0, gt=0, le=3600)
    """How long a partition that cannot go on waits before it is tried again: most of its input is bad, say, or what is
    stored of it is damaged. Twice as long each time that it is met again, up to an hour; the others go on meanwhile."""
    snapshot_every_s: float = Field(default=30.0, gt=0, le=86_400)
    """Seconds between two snapshots of a label lane and of the models: so much is done again after a crash."""

    idle_after: Seconds = Field(default=10.0, ge=0.0, le=86_400.0)
    """A partition that was read to its end and gets nothing for so long takes its time from the stream's others, so
    that silence is found there; where all stand still, from the clock less ``allowed_lateness``. 0 never does."""

    intake: IntakePolicy = IntakePolicy()
    """Repeats, stragglers and broken clocks."""
    reject: RejectPolicy = RejectPolicy()
    """When a partition is paused, for ``pause_retry_s``."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.watchdog_s and self.watchdog_s <= self.drain_s:
            raise ValueError(f"watchdog_s = {self.watchdog_s:g} must exceed drain_s = {self.drain_s:g}, or be 0 (off)")
        if self.web_port != "auto" and self.web_port + self.processes - 1 > HIGHEST_PORT:
            raise ValueError(f"web_port = {self.web_port} leaves no port for each of processes = {self.processes}")
        return self

    def of_process(self, number: int) -> WorkerSettings:
        """The settings of process ``number`` of ``processes``, from 1: a single one, with a name and a port of its own.

        >>> WorkerSettings(processes=2, instance_id="w", web_port=8090).of_process(2).web_port
        8091
        """
        name, port = self.instance(), self.web_port
        return self.model_copy(
            update={
                "processes": 1,
                # Kafka throws out the older of two members with one id.
                "instance_id": name and f"{name}-{number}",
                "web_port": port + number - 1 if isinstance(port, int) and port else port,
            }
        )

    def group_id(self, role: Role | None = None) -> str:
        """The consumer group of a role; of this worker's without one."""
        return f"{self.group}-{role or self.role}"

    def instance(self) -> str | None:
        """The name of this worker in its group, ``auto`` resolved."""
        return socket.gethostname() if self.instance_id == "auto" else self.instance_id

    def name(self) -> str:
        """What to call this worker in logs and metrics: its instance id, else host and process."""
        return self.instance() or f"{socket.gethostname()}-{os.getpid()}"
