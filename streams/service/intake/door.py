"""``POST /v1/events`` and ``/v1/labels``: takes records in, and says of each what became of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from fastapi import Request, Response
from msgspec.structs import asdict

from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.intake import cloud_events
from weir.streams.service.intake.bodies import LARGE, read_body, split_array, split_body, warm_up
from weir.streams.service.intake.decoding import Group, InputDecoder
from weir.streams.service.intake.intake_answers import EVENTS, LABELS
from weir.streams.service.intake.record_results import IntakeAnswer, RecordResult
from weir.streams.service.parts import Part, Problem, View, answer
from weir.streams.service.ports import Outcome
from weir.streams.worker.warmup import warm_up_structs

if TYPE_CHECKING:
    from weir.streams.service.service import Service

Stream = Literal["user-events", "device-events"]


class Door(View, Part):
    """The way in."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "intake")
        self._limits = service.settings.serve.intake
        self.decoder = InputDecoder(service.settings, service.tasks)
        self.router.post("/events", summary="Send events", **EVENTS)(self.events)
        self.router.post("/labels", summary="Send labels", **LABELS)(self.labels)

    async def start(self) -> None:
        """Make ready for the first caller."""
        warm_up_structs()  # before other threads decode: msgspec does not survive two that meet a struct first
        warm_up()

    async def events(
        self, request: Request, stream: Stream | None = None, each: bool = False, caller: Caller = needs("events:write")
    ) -> Response:
        """Append events: one JSON object, an array, NDJSON or CloudEvents 1.0, each also as gzip or zstd.

        The stream of a record is told by its fields, or for all of them by ``stream``. Records that are refused, each
        with its reason, do not hold up the others. ``each`` lists the accepted ones too.
        """
        values, outcomes = await self.receive(request, caller)
        groups = await beside(self.decoder.events, values, stream, time.time(), outcomes)
        await self.append("events", groups, outcomes)
        return _answer(outcomes, len(values), each)

    async def labels(self, request: Request, each: bool = False, caller: Caller = needs("labels:write")) -> Response:
        """Append labels, in the forms that events have."""
        values, outcomes = await self.receive(request, caller, label=True)
        groups = await beside(self.decoder.labels, values, time.time(), outcomes, caller.tasks)
        await self.append("labels", groups, outcomes)
        return _answer(outcomes, len(values), each)

    async def receive(
        self, request: Request, caller: Caller, *, label: bool = False, most: int = 1_000_000
    ) -> tuple[list[bytes], dict[int, Outcome]]:
        """The records of a body, and what is refused before it is decoded: its record is ``b""``.

        Raises ``Problem`` where the body is none, too large, too slow, or has more records than ``caller`` may send.
        """
        body = await read_body(request, self._limits)
        values, outcomes = _split(request.headers, body, min(most, self._limits.body_records), label)
        # Before they are decoded: who sends too much costs no decoding.
        self._service.access.rates.take_records(caller, len(values))
        return values, outcomes

    async def append(self, route: str, groups: Sequence[Group], outcomes: dict[int, Outcome]) -> None:
        """Append what is valid; ``outcomes`` takes what became of it."""
        for group in groups:
            # Decoded here and handed on: the tasks' host in this process does not decode them again.
            told = await self._service.log.append(group.topic, group.records, group.decoded)
            outcomes.update(zip(group.places, told, strict=True))
        self.count(route, outcomes)

    def count(self, route: str, outcomes: Mapping[int, Outcome]) -> None:
        """Count what became of the records of a body."""
        for status, count in Counter(outcome.status for outcome in outcomes.values()).items():
            self._service.metrics.inc("weir_intake_records_total", count, route=route, outcome=status)


async def beside(decode: Callable[..., list[Group]], values: Sequence[bytes], *rest: object) -> list[Group]:
    """Decode; a large body in a thread, as nobody's decision is to wait for what others send in bulk."""
    if sum(map(len, values)) <= LARGE:
        return decode(values, *rest)
    return await asyncio.to_thread(decode, values, *rest)


def _answer(outcomes: Mapping[int, Outcome], count: int, each: bool) -> Response:
    """What became of ``count`` records; raises ``Problem`` (422) where none was taken."""
    shown = [RecordResult(i, *outcomes[i]) for i in range(count) if each or outcomes[i].status != "accepted"]
    tally = Counter(outcome.status for outcome in outcomes.values())
    told = IntakeAnswer(tally["accepted"], tally["repeat"], tally["refused"], shown)
    if told.refused == count:
        raise Problem(422, "All refused", shown[0].reason, **asdict(told))
    return answer(told)


def _split(headers: Mapping[str, str], body: bytes, most: int, label: bool) -> tuple[list[bytes], dict[int, Outcome]]:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == cloud_events.ONE:
        return _from_cloud_events([body], None, label)
    if media_type == cloud_events.BATCH:
        return _from_cloud_events(split_array(body, most), None, label)
    # One of them is enough, so that who forgets the other is told its name.
    if "ce-specversion" in headers or "ce-id" in headers:
        return _from_cloud_events([body], headers, label)
    return split_body(body, media_type, most), {}


def _from_cloud_events(
    values: Sequence[bytes], headers: Mapping[str, str] | None, label: bool
) -> tuple[list[bytes], dict[int, Outcome]]:
    records, outcomes = list[bytes](), dict[int, Outcome]()
    for i, value in enumerate(values):
        try:
            event = cloud_events.structured(value) if headers is None else cloud_events.binary(headers, value)
            records.append(cloud_events.record_of(event, label=label))
        except ValueError as error:
            records.append(b"")
            outcomes[i] = Outcome("refused", str(error))
    if not records:
        raise Problem(400, "No records", "the batch holds no CloudEvent")
    return records, outcomes
