"""A Faust app whose agents receive record batches.

    app = BatchApp(TransportSettings(group="weir-score", bootstrap="127.0.0.1:9092"))

    @app.agent(app.batch_topic("user-events"))
    async def score(stream):
        async for batch in stream:
            if app.batch_consumer.take(batch):  # else a rebalance or rewind took it away as it waited
                delivery = await app.records.send("predictions", compute(batch))
                await delivery
                app.batch_consumer.complete(batch)

An agent that raises stops the worker: its batch is not complete, so it comes again after the restart.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import faust
from faust.serializers.schemas import Schema
from faust.transport.drivers.aiokafka import Producer, Transport
from faust.types import TP, AppT, Message, TopicT
from mode.supervisors import CrashingSupervisor
from yarl import URL

from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.kafka.consume.consumer import BatchConsumer
from weir.streams.kafka.consume.fetched_batch import FetchedBatch
from weir.streams.kafka.kafka_errors import RebalanceHookError
from weir.streams.kafka.produce.producer import BatchProducer
from weir.streams.kafka.transport_settings import LinkSecurity, TransportSettings, link_security, transport_settings

T = TypeVar("T")


class NoProducer(Producer):
    """In the place of Faust's producer, which would connect although nothing goes through it."""

    async def on_start(self) -> None:
        """Connect nowhere."""

    def _ensure_producer(self) -> Any:
        raise UsageError("records go through BatchApp.records, not through Faust's topic.send or channels")


class BatchTransport(Transport):
    """Faust's aiokafka transport with `BatchConsumer`, and without a producer."""

    Consumer: ClassVar[Any] = BatchConsumer
    Producer: ClassVar[Any] = NoProducer


class BatchSchema(Schema[Any, FetchedBatch]):
    """Hands the batch through: decoding is the stage's work."""

    def compile(self, app: AppT, **kwargs: Any) -> Any:  # noqa: ARG002 - Faust's signature
        """A decoder that leaves the message's value as it is."""

        async def decode(message: Message, *, propagate: bool = False) -> Any:  # noqa: ARG001 - likewise
            return app.create_event(None, message.value, None, message)

        return decode


class BatchApp(faust.App):
    """A Faust app on the record-batch transport, with a producer of record batches.

    Parameters
    ----------
    settings : the link to Kafka.
    security : of the link to Kafka; plain text without it.
    kwargs : further Faust settings.
    """

    def __init__(self, settings: TransportSettings, security: LinkSecurity | None = None, **kwargs: Any) -> None:
        self.transport_settings = settings
        self.security = security or LinkSecurity()
        self.start_offsets: Callable[[set[TP]], Awaitable[dict[TP, int]]] | None = None
        """Asked where assigned partitions start, before anything of them is delivered. Asked for all of a worker's
        partitions after each rebalance, because each is read afresh then; those it leaves out start where the group
        committed. An error, or no answer within ``hook_timeout_s``, ends the worker."""
        self.on_revoked: Callable[[set[TP]], Awaitable[None]] | None = None
        """Told that partitions go, after the batches in work are done (or given up) and committed, and when the worker
        stops. The same bound and the same end."""
        self.on_failed: Callable[[TP, Exception], None] | None = None
        """Told that one assigned partition cannot be read and why, while the others can; without it the worker ends."""
        super().__init__(
            settings.group,
            broker=[URL(f"kafka://{address.strip()}") for address in settings.bootstrap.split(",")],
            consumer_group_instance_id=settings.instance_id,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.heartbeat_s,
            broker_rebalance_timeout=settings.rebalance_timeout_s,
            broker_request_timeout=settings.request_timeout_s,
            broker_commit_interval=settings.commit_interval_s,
            stream_wait_empty=True,  # calls BatchConsumer.wait_empty
            # Faust's own starts the agent again, behind the batch that it raised at.
            agent_supervisor=CrashingSupervisor,
            # `weir topics create` makes topics, with what a partition needs; Faust would make its own leader topic,
            # too.
            topic_allow_declare=False,
            topic_disable_leader=True,
            **{"web_enabled": False, "datadir": Path(tempfile.gettempdir()) / "weir-faust", **kwargs},
        )
        self.records = BatchProducer(settings, self.security)

    @classmethod
    def from_settings(cls, settings: Settings, group: str, instance_id: str | None = None, **transport: Any) -> Self:
        """An app on the brokers of ``[kafka]``, by their TLS and SASL; ``transport``: fields of `TransportSettings`."""
        return cls(transport_settings(settings, group, instance_id, **transport), link_security(settings.kafka))

    def _crash(self, reason: BaseException) -> None:
        """Remember the first reason: what follows from it, on the way down, is not one."""
        super()._crash(self.crash_reason or reason)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self, loop=self.loop)

    async def starts_of(self, assigned: set[TP]) -> dict[TP, int] | None:
        """Where to start, of partitions that do not start where the group committed; ``None`` when it failed."""
        if self.start_offsets is None or not assigned:
            return {}
        starts = await self._bounded("start_offsets", self.start_offsets(set(assigned)))
        wrong = {tp: offset for tp, offset in (starts or {}).items() if tp not in assigned or offset < 0}
        if wrong:
            await self.crash(UsageError(f"start_offsets gave {wrong}: give offsets from 0 of assigned partitions"))
            return None
        return starts

    async def tell_revoked(self, gone: set[TP]) -> None:
        """Call ``on_revoked``, where there is one and any partition goes."""
        if self.on_revoked is not None and gone:
            await self._bounded("on_revoked", self.on_revoked(gone))

    async def _bounded(self, name: str, hook: Awaitable[T]) -> T | None:
        """What the hook gives; ``None`` after an error or a timeout, which end the worker."""
        limit_s = self.transport_settings.hook_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await hook
        except TimeoutError:
            error: Exception = RebalanceHookError(
                f"partitions come and go, and {name} was not done within hook_timeout_s={limit_s}, two thirds of "
                "session_timeout_s: this machine is too busy, or a batch takes too long. Nothing is lost: start it "
                "again; if it happens often, give it more of a core, a smaller [worker] max_batch or a longer "
                "session_timeout_s"
            )
        except Exception as raised:  # noqa: BLE001 - the worker ends with it, whatever it is
            error = raised
        await self.crash(error)
        return None

    async def on_start(self) -> None:
        """Connect the producer before anything is consumed."""
        await self.records.start()
        await super().on_start()

    async def on_stop(self) -> None:
        """Drain and commit, let go of the partitions, then of the producer, which lanes use until they close."""
        await super().on_stop()
        if self._consumer is not None:
            await self.batch_consumer.let_go()
        await self.records.stop()

    def batch_topic(self, *names: str) -> TopicT:
        """Topics whose messages arrive as batches."""
        # With Faust's acknowledgements off, Faust keeps no book of its own about these topics.
        return self.topic(*names, schema=BatchSchema(), acks=False, allow_empty=True)

    @property
    def batch_consumer(self) -> BatchConsumer:
        """The consumer of this app."""
        return cast("BatchConsumer", self.consumer)
