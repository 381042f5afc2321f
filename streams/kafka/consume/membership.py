"""Errors of a consumer's place in its group that aiokafka keeps until someone polls: noticed at once, with what to do.

Faust polls only after the first assignment, which such an error prevents: its worker would wait and say nothing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    NoError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from weir.streams.errors import BrokerError, in_words
from weir.streams.kafka.kafka_errors import RecordsDeleted
from weir.streams.kafka.reachable import grant
from weir.streams.kafka.transport_settings import LinkSecurity, TransportSettings

PUT_OUT: Final = 5
WITHIN_S: Final = 30.0
Report = Callable[[BaseException], Awaitable[None]]


def report_errors(consumer: Any, security: LinkSecurity, report: Report) -> None:
    """Have ``report`` told of every error that a started `AIOKafkaConsumer` cannot go on from."""
    coordinator = consumer._coordinator
    keep = coordinator._push_error_to_user
    told: set[asyncio.Future[None]] = set()

    def tell(error: BaseException) -> None:
        told.add(task := asyncio.ensure_future(report(explained(error, consumer, security))))
        task.add_done_callback(told.discard)

    def push(error: BaseException) -> Any:
        tell(error)
        return keep(error)

    coordinator._push_error_to_user = push
    if coordinator._group_instance_id is not None:
        _notice_namesakes(coordinator, tell)
    # An error that aiokafka did not expect ends one of these, and nothing else would ever say so.
    for task in (coordinator._coordination_task, consumer._fetcher._fetch_task):
        task.add_done_callback(functools.partial(_ended, tell))


def _notice_namesakes(coordinator: Any, tell: Callable[[BaseException], None]) -> None:
    """Two workers of one instance id would put each other out of the group every second, for ever."""
    reset, times = coordinator.reset_generation, deque[float](maxlen=PUT_OUT)

    def counted() -> None:
        reset()
        # A rebalance or a slow member does this once; only namesakes do it again and again.
        times.append(time.monotonic())
        if len(times) == PUT_OUT and times[-1] - times[0] < WITHIN_S:
            tell(BrokerError(f"put out of the group {PUT_OUT} times in {WITHIN_S:g} s"))

    coordinator.reset_generation = counted


def _ended(tell: Callable[[BaseException], None], task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        tell(error)


def explained(error: BaseException, consumer: Any, security: LinkSecurity) -> BrokerError:
    """The error with the group it concerns and what to do."""
    coordinator = consumer._coordinator
    group, instance = coordinator.group_id, coordinator._group_instance_id
    hint = "see the broker's log"
    if isinstance(error, GroupAuthorizationFailedError):
        hint = grant(security, f"read group {group}")
    elif isinstance(error, TopicAuthorizationFailedError):
        hint = grant(security, "read the topics of Weir")
    elif instance is not None:
        hint = f"perhaps another worker runs as instance {instance!r}: give each a name of its own"
    return BrokerError(f"out of group {group!r}: {in_words(error)}; {hint}")


log = logging.getLogger(__name__)

_MEMBER = (("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))


class _LeaveGroupResponseV3(Response):  # type: ignore[misc] # aiokafka has no types
    API_KEY: ClassVar[int] = 13
    API_VERSION: ClassVar[int] = 3
    SCHEMA: ClassVar[Any] = Schema(
        ("throttle_time_ms", Int32), ("error_code", Int16), ("members", Array(*_MEMBER, ("error_code", Int16)))
    )


class _LeaveGroupRequestV3(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    API_KEY: ClassVar[int] = 13
    API_VERSION: ClassVar[int] = 3
    RESPONSE_TYPE: ClassVar[Any] = _LeaveGroupResponseV3
    SCHEMA: ClassVar[Any] = Schema(("group", String("utf-8")), ("members", Array(*_MEMBER)))


class _LeaveGroup(Request[_LeaveGroupRequestV3]):  # type: ignore[misc] # aiokafka has no types
    API_KEY: ClassVar[int] = 13

    def __init__(self, group: str, member_id: str, instance_id: str) -> None:
        self._group, self._member = group, (member_id, instance_id)

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._group, [self._member])


async def leave_static_member(coordinator: Any) -> None:
    """Take this member out of its group; stands in for `GroupCoordinator._maybe_leave_group`."""
    if coordinator.generation > 0:
        # aiokafka never takes a static member out, and its own request (version 1 and less) cannot name one.
        request = _LeaveGroup(coordinator.group_id, coordinator.member_id, coordinator._group_instance_id)
        try:
            response = await coordinator._send_req(request)
        except KafkaError as error:
            log.warning(
                "could not leave group %s: %s; its session has to time out", coordinator.group_id, in_words(error)
            )
        else:
            verdict = for_code(response.error_code)
            if verdict is not NoError:
                log.warning("could not leave group %s: %s", coordinator.group_id, verdict.__name__)
    coordinator.reset_generation()


async def resolve(consumer: Any, tp: Any, failed: Any, settings: TransportSettings) -> None:
    """Choose where an `AIOKafkaConsumer` goes on after a `FetchError`; raises every error that is not about that."""
    try:
        failed.check_raise()
    except NoOffsetForPartitionError:
        log.info("%s-%d: the group has no offset yet, so it starts at the earliest", tp.topic, tp.partition)
    except OffsetOutOfRangeError as error:
        offset, name = error.args[0].get(tp), f"{tp.topic}-{tp.partition}"
        end = (await consumer.end_offsets([tp]))[tp]
        # Never skipped, whatever `when_deleted` says: no record is missing, these offsets are of another log.
        if offset > end:
            raise RecordsDeleted(
                f"{name}: the log ends at offset {end}, and we are at {offset}: somebody made the topic anew, or Kafka "
                "lost records. Restore them, or clear what was stored about the old ones"
            ) from error
        if settings.when_deleted == "stop":
            raise RecordsDeleted(
                f"{name}: offset {offset} is not in Kafka any more: retention deleted records before group "
                f"{settings.group!r} processed them. Restore them, or set when_deleted='skip' to go on with the first "
                "that is left; and give the topic more retention"
            ) from error
        log.error("%s: offset %d is not in Kafka any more: going on with the first that is left", name, offset)
    assignment = consumer._fetcher._subscriptions.subscription.assignment
    state = assignment.state_value(tp) if assignment is not None else None
    if state is not None:  # else it was revoked meanwhile
        state.await_reset(OffsetResetStrategy.EARLIEST)
