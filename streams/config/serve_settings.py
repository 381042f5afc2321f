"""``[serve]``: where the HTTP service listens, where it keeps its data, and what it takes from a caller."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from weir.online.durations import Seconds
from weir.streams.config.frozen_settings import Concern, SecretUrl


class RetentionSettings(Concern):
    """What the embedded log keeps; what is needed to resume is always kept."""

    age: Seconds = Field(default=7 * 86_400.0, ge=60.0)
    """Records older than this go."""
    bytes: int = Field(default=4 << 30, ge=64 << 20)
    """The oldest records go where the log is larger, of inputs and of outputs each."""


class IntakeSettings(Concern):
    """What ``POST /v1/events``, ``/v1/labels`` and ``/v1/decisions`` take."""

    body_bytes: int = Field(default=16 << 20, ge=1024, le=1 << 30)
    """The largest body, before and after decompression."""
    body_records: int = Field(default=10_000, ge=1, le=1_000_000)
    """Records of a body at most."""
    body_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that a body may take to arrive."""
    waiting_records: int = Field(default=50_000, ge=1)
    """Records that wait to be processed, of all callers; more are answered by 503."""
    deadline_ms: int = Field(default=250, ge=1, le=60_000)
    """How long a decision is waited for, where the caller does not say."""


class FeedSettings(Concern):
    """The live event feed."""

    ring_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """Newest records kept in memory, from which a client resumes without reading the log."""
    client_bytes: int = Field(default=1 << 20, ge=16_384)
    """What may wait for one client; one that is slower is told to resume."""
    heartbeat_s: float = Field(default=15.0, gt=0, le=300)
    """Seconds between two comments on a feed without news."""


class AccessSettings(Concern):
    """Who may use the service."""


class ServeSettings(Concern):
    """``[serve]`` of the settings."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Where the service listens; any address but this machine's own needs users."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """0 takes a free one."""
    directory: Path = Path("weir-data")
    """The log, checkpoints, alerts and models of the service without Kafka."""
    database: SecretUrl | None = None
    """SQLAlchemy URL of the alerts, such as ``postgresql+psycopg://weir:...@db/weir``; else SQLite in ``directory``."""
    fsync: bool = True
    """Whether an acknowledged record survives a power cut; without it, it survives the end of the process only."""
    checkpoint_every_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds between two checkpoints: so much is computed again after a crash."""
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    intake: IntakeSettings = Field(default_factory=IntakeSettings)
    feed: FeedSettings = Field(default_factory=FeedSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
