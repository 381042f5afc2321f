"""Leaving a consumer group as a static member, which aiokafka does not do (it never sends the request for one).

Without it, the partitions of a worker that is scaled away stand still until its session times out. Source: KIP-345,
LeaveGroup version 3, the first that names members by their instance id.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from aiokafka.errors import KafkaError, NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from weir.streams.errors import in_words

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
