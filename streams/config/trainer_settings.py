"""The trainer: where it works, and how others know that it is alive."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from weir.streams.config.frozen_settings import Concern


class TrainerSettings(Concern):
    """``[trainer]`` of the settings.

    >>> TrainerSettings(heartbeat_s=2).lease_s
    30.0
    """

    work: Path = Path("weir-trainer")
    """A directory of this machine for data sets and checkpoints; what is in it can be made again."""
    archive: Path | None = None
    """The directory ``weir archive`` writes, for history that topics have forgotten."""
    group: str = Field(default="weir-trainer", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    """Consumer group of the trainers; a second one takes over where the first dies."""
    heartbeat_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two signs of life, and two looks at the schedule."""
    lease_s: float = Field(default=30.0, gt=0, le=3600)
    """After such a silence another trainer takes a job over. Clocks of machines may differ by half of it."""
    processes: int = Field(default=1, ge=1, le=64)
    """How many processes of this machine train one encoder together, by ``torchrun``: one a GPU, or on a CPU about one
    for each core that is free. The model is that of one process but for the last bits; trees train in one."""
    web_host: str = Field(default="127.0.0.1", min_length=1)
    """Where ``/health``, ``/ready`` and ``/metrics`` listen; ``0.0.0.0`` in a container."""
    web_port: Annotated[int, Field(ge=0, le=65_535)] | Literal["auto"] = 8091
    """0 turns them off; ``auto`` takes a free port and logs it."""
    stop_s: float = Field(default=20.0, gt=0, le=600)
    """How long a training may take to write its checkpoint when the trainer stops."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"lease_s = {self.lease_s:g} must be at least 3 times heartbeat_s = {self.heartbeat_s:g}")
        return self

    @staticmethod
    def name() -> str:
        """A name for one trainer process, unlike that of any other."""
        return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
