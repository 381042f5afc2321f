"""How a worker talks to Kafka: timeouts, sizes and bounds, with the values the tests measure."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weir.online.codec.limits import InputLimits


class TransportSettings(BaseModel):
    """Settings of one worker's link to Kafka.

    A killed worker's partitions stand still for ``session_timeout_s`` and the time of one rebalance; 6 s is the least
    that brokers accept by default (``group.min.session.timeout.ms``). With an ``instance_id`` (static membership) a
    worker that comes back within that time gets its partitions back without a rebalance of the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = Field("127.0.0.1:9092", min_length=1)
    """host:port, or several with commas."""
    client_id: str = Field("weir", min_length=1)
    """What the brokers' logs and quotas call us, before ``-consumer`` or ``-producer``."""
    group: str = Field(min_length=1)
    instance_id: str | None = Field(None, min_length=1)
    """Unique in the group and the same after each restart of this worker; ``None`` for an ordinary member."""
    leave_on_stop: bool = True
    """Leave the group on a graceful stop also as a static member; turn off for rolling restarts within the timeout."""
    start_at: str = Field("earliest", pattern="^(earliest|latest)$")
    """Where a group without committed offsets starts."""
    when_deleted: str = Field("stop", pattern="^(stop|skip)$")
    """What to do when Kafka deleted records that the group had not processed: they are lost, so stop and say so, or
    skip to the first that is left."""

    session_timeout_s: float = Field(6.0, gt=0)
    heartbeat_s: float = Field(1.0, gt=0)
    rebalance_timeout_s: float = Field(8.0, gt=0)
    request_timeout_s: float = Field(15.0, gt=0)
    drain_timeout_s: float = Field(2.0, ge=0)
    """How long a rebalance waits for batches in work; what is not complete by then is fetched again."""
    hook_timeout_s: float = Field(4.0, gt=0)
    """How long the app may take to say where new partitions start, or to let go of old ones; then the worker ends."""
    commit_interval_s: float = Field(0.5, gt=0)

    max_batch: int = Field(2048, ge=1)
    """Records of one batch at most."""
    max_batch_bytes: int = Field(2 << 20, ge=1024)
    """Bytes of one batch's keys and values at most; one larger record is a batch of its own."""
    max_in_flight: int = Field(3, ge=1)
    """Full batches, or as many records or bytes in smaller ones, of one partition that wait or are in work at most;
    then its fetching pauses. Of many partitions it is less, see `weir.streams.kafka.consume.consumer.AHEAD`."""
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

    max_record_bytes: int = Field(1_048_588, ge=1024)
    """The least ``max.message.bytes`` of the topics written to (1,048,588 is Kafka's default)."""
    larger: dict[str, int] = Field(default_factory=dict)
    """Topics that take larger records than that, and how large."""
    produce_batch_bytes: int = Field(1 << 18, ge=1024)
    delivery_timeout_s: float = Field(120.0, gt=0)
    """How long records wait for a broker that is away before the worker gives up."""
    compression: str | None = Field(None, pattern="^(gzip|snappy|lz4|zstd)$")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        checks = [
            (self.heartbeat_s * 3 <= self.session_timeout_s, "heartbeat_s", "a third of session_timeout_s"),
            (self.session_timeout_s < self.request_timeout_s, "session_timeout_s", "less than request_timeout_s"),
            (self.rebalance_timeout_s < self.request_timeout_s, "rebalance_timeout_s", "less than request_timeout_s"),
            (self.drain_timeout_s * 2 <= self.rebalance_timeout_s, "drain_timeout_s", "half of rebalance_timeout_s"),
            # No heartbeats are sent while the app says where its partitions start.
            (self.hook_timeout_s < self.session_timeout_s, "hook_timeout_s", "less than session_timeout_s"),
            (self.produce_batch_bytes <= self.max_record_bytes, "produce_batch_bytes", "at most max_record_bytes"),
        ]
        for holds, name, limit in checks:
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} must be {limit}")
        return self
