"""Where full models are kept, what runs them, and where and how a trainer makes them."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from weir.streams.config.frozen_settings import Concern

_SCHEMES = ("file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


class ModelSettings(Concern):
    """``[models]``: the registry, and how graphs are run.

    >>> ModelSettings(registry="s3://bucket/models").provider
    'auto'
    """

    registry: str = Field(default="weir-models", min_length=1)
    """A directory that all workers and the trainer share, or the URL of an object store such as ``s3://bucket/models``.
    Credentials come from the store's own environment variables and files, never from here."""
    trusted: tuple[str, ...] = ()
    """Further registries, as directories or URLs, whose versions may serve where a record of ``model-updates`` names
    them, such as the address of a registry before it was moved. What is below one of them is trusted, too. All other
    addresses are refused."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where it is there; asking for ``cuda`` where it is not is an error."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one model."""
    precision: Literal["float32", "float16", "int8"] = "float32"
    """Which graph of a version serves; a version without it (trees have no other) serves in float32, and the log says
    so. ``int8`` makes an encoder a little faster on a CPU, but a row's logit then depends a little on the other rows of
    its batch, so that a replay need not give the same bits. ``float16`` is made for GPUs. Measured: docs/LOG.md."""

    @field_validator("trusted")
    @classmethod
    def _known_schemes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # "/" and "." too: what is below a trusted address is trusted.
        if not all(address.strip("/.") for address in value):
            raise ValueError("an empty address would trust every place; give directories or URLs of registries")
        return tuple(cls._known_scheme(address) for address in value)

    @field_validator("registry")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme, found, rest = value.partition("://")
        if found and (scheme not in _SCHEMES or not rest):
            raise ValueError(f"give a directory or a URL that starts with one of {', '.join(_SCHEMES)} and ://")
        # Azure writes container@account there.
        if found and "@" in rest.partition("/")[0] and scheme not in ("abfs", "abfss"):
            raise ValueError("leave credentials out of the URL; the store's own environment variables hold them")
        return value


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
        # Two heartbeats may be lost before a job is taken from a trainer that lives.
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"lease_s = {self.lease_s:g} must be at least 3 times heartbeat_s = {self.heartbeat_s:g}")
        return self

    @staticmethod
    def name() -> str:
        """A name for one trainer process, unlike that of any other."""
        return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
