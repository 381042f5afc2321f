"""How a worker talks to Kafka: timeouts, sizes and bounds, with the values the tests measure."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from weir.online.codec.limits import InputLimits
from weir.streams.config.worker_settings import LinkSettings


class TransportSettings(LinkSettings):
    """Settings of one worker's link to Kafka: what ``[worker]`` says of it, and what no operator has to.

    A killed worker's partitions stand still for ``session_timeout_s`` and the time of one rebalance; 6 s is the least
    that brokers accept by default (``group.min.session.timeout.ms``). With an ``instance_id`` (static membership) a
    worker that comes back within that time gets its partitions back without a rebalance of the others.
    """

    bootstrap: str = Field("127.0.0.1:9092", min_length=1)
    """host:port, or several with commas."""
    client_id: str = Field("weir", min_length=1)
    """What the brokers' logs and quotas call us, before ``-consumer`` or ``-producer``."""
    group: str = Field(min_length=1)
    start_at: str = Field("earliest", pattern="^(earliest|latest)$")
    """Where a group without committed offsets starts."""

    heartbeat_s: float = Field(1.0, gt=0)
    rebalance_timeout_s: float = Field(8.0, gt=0)
    request_timeout_s: float = Field(15.0, gt=0)
    hook_timeout_s: float = Field(4.0, gt=0)
    """How long the app may take to say where new partitions start, or to let go of old ones; then the worker ends."""

    max_batch_bytes: int = Field(2 << 20, ge=1024)
    """Bytes of one batch's keys and values at most; one larger record is a batch of its own."""
    limits: InputLimits = InputLimits()
    """What a record and a compressed batch may hold; more is refused as it is fetched."""
    special_limits: dict[str, InputLimits] = Field(default_factory=dict)
    """The same of topics that may hold more, or less."""
    max_partition_fetch_bytes: int = Field(1 << 20, ge=1024)
    fetch_interval_s: float = Field(0.008, ge=0, le=1)
    """The least time between two fetches from a busy broker. Each batch has a cost of its own, so at a steady rate
    smaller batches make latency worse, not better: at 5,000 events/s on two cores 5 to 9 ms was best (ADR 17)."""
    fetch_wait_ms: int = Field(50, ge=0)
    """How long the broker may hold an empty fetch. A partition with news waits for the request in flight of the same
    broker, so this bounds the delay that an idle partition causes to a busy one (Faust: 1500)."""

    larger: dict[str, int] = Field(default_factory=dict)
    """Topics that take larger records than that, and how large."""
    produce_batch_bytes: int = Field(1 << 18, ge=1024)
    compression: str | None = Field(None, pattern="^(gzip|snappy|lz4|zstd)$")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        checks = [
            (self.heartbeat_s * 3 <= self.session_timeout_s, "heartbeat_s", "a third of session_timeout_s"),
            (self.session_timeout_s < self.request_timeout_s, "session_timeout_s", "less than request_timeout_s"),
            (self.rebalance_timeout_s < self.request_timeout_s, "rebalance_timeout_s", "less than request_timeout_s"),
            (self.drain_s * 2 <= self.rebalance_timeout_s, "drain_s", "half of rebalance_timeout_s"),
            # No heartbeats are sent while the app says where its partitions start.
            (self.hook_timeout_s < self.session_timeout_s, "hook_timeout_s", "less than session_timeout_s"),
            (self.produce_batch_bytes <= self.max_record_bytes, "produce_batch_bytes", "at most max_record_bytes"),
        ]
        for holds, name, limit in checks:
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} must be {limit}")
        return self
