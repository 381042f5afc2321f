"""``POST /v1/decisions``: events in, and for each task that sees them what was decided on them.

It knows the ``decisions`` topic alone, so that it does not matter who decides: the host in this process, or workers.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from fastapi import Query, Request, Response
from msgspec import UNSET
from msgspec.structs import asdict

from weir.online.batch import EventBatch
from weir.online.codec.decision_blocks import Decision
from weir.online.codec.decode import DecodedEvents
from weir.online.stages.scoring import seen_by
from weir.streams.config import topics
from weir.streams.records import RecordBatch
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.intake.decoding import Group
from weir.streams.service.intake.door import Stream, beside
from weir.streams.service.intake.intake_answers import DECISIONS, DecisionAnswer, EventResult, TaskDecision
from weir.streams.service.intake.recent_decisions import RecentDecisions, key_of
from weir.streams.service.parts import Part, Problem, View, answer
from weir.streams.service.ports import Outcome

if TYPE_CHECKING:
    from weir.streams.service.service import Service

MOST_EVENTS: Final = 1_000
"""Of one request."""


_FORGOTTEN: Final = "sent before, and its first answer is no longer in memory; it is in the topic predictions"


class _Letter(msgspec.Struct):
    """What matters of a dead letter here."""

    raw: bytes
    reason: str


_letter_decoder: Final = msgspec.json.Decoder(_Letter)


class _Request:
    """What one request waits for."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.outcomes: dict[int, Outcome] = {}
        """By place in the body."""
        self.keys: dict[int, list[str]] = defaultdict(list)
        """By place, the decisions that are to be answered."""
        self.event_ids: dict[int, str] = {}
        self.values: dict[bytes, list[int]] = defaultdict(list)
        """Places of what was appended, to know a dead letter by: of one record sent twice there may be one letter."""
        self.letters: dict[int, Outcome] = {}
        """What dead letters said, which may come before the brokers' acknowledgement."""
        self.known: dict[str, Decision] = {}
        self.repeats: set[str] = set()
        """Of them, those that were decided before this request came."""
        self.missing: set[str] = set()
        self.complete = asyncio.Event()

    def arrived(self, key: str, decision: Decision) -> None:
        """A decision is known."""
        self.known[key] = decision
        self.give_up([key])

    def give_up(self, keys: Sequence[str]) -> None:
        """Do not wait for these any longer."""
        self.missing.difference_update(keys)
        if not self.missing:
            self.complete.set()


class Decisions(View, Part):
    """Asks for decisions and waits for them."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "intake")
        self._limits = service.settings.serve.intake
        self.recent = RecentDecisions(self._limits.remembered_bytes)
        self._waiting: dict[str, list[_Request]] = {}
        self._requests: set[_Request] = set()
        self._appends: set[asyncio.Task[None]] = set()
        self.router.post("/decisions", summary="Ask for decisions", **DECISIONS)(self.decide)

    async def start(self) -> None:
        """Listen, before the first record can come."""
        self._service.log.subscribe([topics.DECISIONS], self._decided)
        self._service.log.subscribe([topics.DEAD_LETTERS], self._refused)

    async def stop(self) -> None:
        """Finish what was asked: an event is processed, also where its caller was told that it is late."""
        await asyncio.gather(*self._appends, return_exceptions=True)

    async def decide(
        self,
        request: Request,
        stream: Stream | None = None,
        deadline_ms: Annotated[int | None, Query(ge=1, le=60_000)] = None,
        explain: bool = True,
        caller: Caller = needs("decisions:write"),
    ) -> Response:
        """Append up to 1,000 events, and answer what each task that sees them decided.

        ``deadline_ms`` is how long to wait, by default ``[serve.intake] deadline_ms``; what is late is 504 with what
        is known by then, and its events are processed all the same. An event that was sent before gets its first
        answer, marked ``repeat``; where that is no longer in memory, the decision is ``repeat``, without a score.
        ``explain=false`` leaves the reasons out.
        """
        waits = _Request(time.perf_counter())
        # From before the body is read: what reading and decoding take is part of what the caller waits.
        deadline = asyncio.get_running_loop().time() + (deadline_ms or self._limits.deadline_ms) / 1000
        values, waits.outcomes = await self._service.door.receive(request, caller, most=MOST_EVENTS)
        groups = await beside(self._service.door.decoder.events, values, stream, time.time(), waits.outcomes)
        new = [self._ask(waits, group, caller.tasks) for group in groups]
        try:
            on_time = await self._done(waits, [group for group in new if group.records], deadline)
        finally:
            self._leave(waits)
        results = [_result(waits, place, explain) for place in range(len(values))]
        self._count(waits, "answered" if on_time else "late")
        if not on_time:
            fix = "raise deadline_ms; ask again for the same events to have the rest"
            limit = deadline_ms or self._limits.deadline_ms
            detail = f"after {limit} ms {len(waits.known)} decisions are known, others are late; {fix}"
            raise Problem(504, "Late", detail, limit=limit, fix=fix, results=results)
        return answer(DecisionAnswer(results))

    def _ask(self, waits: _Request, group: Group, allowed: frozenset[str] | None) -> Group:
        """Note what is to be waited for; what has to be appended for it."""
        assert isinstance(group.decoded, DecodedEvents)
        batch = group.decoded.batch
        ids = batch.event_id
        for row, key in self._keys(group.topic, batch):
            if allowed is None or key[0] in allowed:
                waits.keys[group.places[row]].append(key)
        fresh = []
        for row, place in enumerate(group.places):
            waits.event_ids[place] = ids[row]
            known = [key for key in waits.keys[place] if key in self.recent]
            for key in known:
                waits.known[key] = self.recent[key]
            waits.repeats.update(known)
            # Where one answer of several is lost, the event is appended again: that it is a repeat, the log knows.
            if known and len(known) == len(waits.keys[place]):
                waits.outcomes[place] = Outcome("repeat")
                continue
            fresh.append(row)
            waits.values[group.records[row].value].append(place)
            for key in waits.keys[place]:
                # A body may hold an event twice: it is waited for once.
                if key not in waits.known and key not in waits.missing:
                    waits.missing.add(key)
                    self._waiting.setdefault(key, []).append(waits)
        return group.take(fresh)

    def _keys(self, topic: str, batch: EventBatch) -> Iterator[tuple[int, str]]:
        """Rows and the decisions that each task will make on them."""
        for task in self._service.tasks:
            # A task that scores on timers decides nothing on an event itself.
            if task.stream == topic and not (task.labels.silence and task.labels.silence.on_timers):
                for row, entity in seen_by(task, batch):
                    yield row, key_of(task.name, entity, batch.event_id[row])

    def repeats(self, topic: str, batch: EventBatch) -> set[int]:
        """The rows of a batch on which all decisions are in memory."""
        known, missing = set[int](), set[int]()
        for row, key in self._keys(topic, batch) if len(self.recent) else ():
            (known if key in self.recent else missing).add(row)
        return known - missing

    async def _done(self, waits: _Request, groups: Sequence[Group], deadline: float) -> bool:
        """Append, and wait until all is decided; whether that was in time."""
        # Before the append: beside Kafka a dead letter may come before the brokers acknowledge the record.
        self._requests.add(waits)
        clock = asyncio.get_running_loop().time
        if groups:
            # A task of its own, as the events are to be processed even where nobody waits for them any longer.
            append = asyncio.create_task(self._append(waits, groups))
            self._appends.add(append)
            append.add_done_callback(self._appends.discard)
            done, _ = await asyncio.wait([append], timeout=max(deadline - clock(), 0))
            if not done:
                append.add_done_callback(_note)
                return False
            append.result()
        else:
            self._service.door.count("decisions", waits.outcomes)
        if waits.missing:
            try:
                async with asyncio.timeout_at(deadline):
                    await waits.complete.wait()
            except TimeoutError:
                return False
        return True

    async def _append(self, waits: _Request, groups: Sequence[Group]) -> None:
        await self._service.door.append("decisions", groups, waits.outcomes)
        taken = {place for place in waits.event_ids if waits.outcomes[place].status == "accepted"}
        coming = {key for place in taken for key in waits.keys[place]}
        # Nothing will be decided on the others, unless a body holds an event twice.
        waits.give_up([key for key in waits.missing if key not in coming])

    def _leave(self, waits: _Request) -> None:
        self._requests.discard(waits)
        for key in {key for keys in waits.keys.values() for key in keys}:
            # Another request may wait for the same event.
            others = [other for other in self._waiting.get(key, ()) if other is not waits]
            if others:
                self._waiting[key] = others
            else:
                self._waiting.pop(key, None)

    def _decided(self, batch: RecordBatch) -> None:
        for record in batch.records:
            keys = self.recent.add(record.value)
            if self._waiting:
                for key in self._waiting.keys() & keys:
                    decision = self.recent[key]
                    for waits in self._waiting.pop(key):
                        waits.arrived(key, decision)

    def _refused(self, batch: RecordBatch) -> None:
        """A worker refuses late events by a dead letter alone."""
        # A flood of letters is not decoded where nobody waits.
        if not self._requests:
            return
        for record in batch.records:
            letter = _letter_decoder.decode(record.value)
            for waits in self._requests:
                for place in waits.values.get(letter.raw, ()):
                    waits.letters[place] = Outcome("refused", letter.reason)
                    waits.give_up(waits.keys[place])

    def _count(self, waits: _Request, outcome: str) -> None:
        took = time.perf_counter() - waits.began
        self._service.metrics.observe("weir_decision_seconds", took, outcome=outcome)


def _result(waits: _Request, place: int, explain: bool) -> EventResult:
    # The letter counts first: brokers acknowledge a record that a worker then refuses.
    outcome = waits.letters.get(place) or waits.outcomes.get(place, Outcome("accepted"))
    event_id = waits.event_ids.get(place)
    if outcome.status == "refused":
        return EventResult(place, event_id, "refused", outcome.reason, [])
    keys, again = waits.keys[place], outcome.status == "repeat"
    made = [_decision(waits, key, again, explain) for key in keys if key not in waits.missing]
    # Without an outcome the append itself had not ended in time.
    if len(made) < len(keys) or place not in waits.outcomes:
        return EventResult(place, event_id, "late", "not decided by the deadline; it is processed all the same", made)
    return EventResult(place, event_id, outcome.status, _FORGOTTEN if _forgotten(made) else "", made)


def _forgotten(made: Sequence[TaskDecision]) -> bool:
    return any(decision.decision == "repeat" for decision in made)


def _decision(waits: _Request, key: str, again: bool, explain: bool) -> TaskDecision:
    known, task = waits.known.get(key), key.partition("\0")[0]
    if known is None:
        return TaskDecision(task, "repeat", repeat=True)
    alert = known.alert
    # What is said of a resolved alert is about other events than this one.
    own = alert if known.alerted else None
    return TaskDecision(
        task=task,
        decision="alert" if known.score >= known.threshold else "pass",
        score=known.score,
        threshold=known.threshold,
        severity=own.severity if own is not None else None,
        alert_id=alert.alert_id if alert is not None else None,
        alert_status=alert.status if alert is not None else None,
        reasons=([asdict(reason) for reason in own.reasons] if own is not None else []) if explain else UNSET,
        model_version=known.model_version,
        degraded=known.degraded,
        repeat=again or key in waits.repeats,
    )


def _note(append: asyncio.Task[None]) -> None:
    """Look at what became of an append that nobody waits for: its caller knows that it must ask again."""
    if not append.cancelled():
        append.exception()
