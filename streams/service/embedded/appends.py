"""What callers append, and how appends of one topic become one batch: a batch costs about a millisecond, not a record.

Merging is pure. When an append is answered is up to `GroupCommit`, which has a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from weir.online.codec.decode import DecodedEvents, DecodedLabels
from weir.streams.config.topics import LABELS
from weir.streams.embedded.embedded_log import LoggedBatch
from weir.streams.embedded.host_state import Outcome as HostOutcome
from weir.streams.records import Record
from weir.streams.service.ports import Decoded, Outcome

ACCEPTED = Outcome("accepted")
REPEAT = Outcome("repeat")


@dataclass(slots=True)
class Append:
    """Records of one caller, and where their outcomes go."""

    topic: str
    records: Sequence[Record]
    decoded: Decoded | None
    answer: asyncio.Future[list[Outcome]] | None
    """Of the event loop: set there, and nowhere else. ``None`` where nobody waits."""


@dataclass(slots=True)
class MergedAppends:
    """Appends that become one batch."""

    topic: str
    appends: list[Append]

    @property
    def records(self) -> list[Record]:
        """Of all of them, in order."""
        return [record for append in self.appends for record in append.records]

    @property
    def decoded(self) -> Decoded | None:
        """Of all of them; ``None`` where one was not decoded, as then all are decoded at once."""
        parts = [append.decoded for append in self.appends if append.decoded is not None]
        whole = len(parts) == len(self.appends)
        return joined(parts, [len(append.records) for append in self.appends]) if whole else None

    def answers(self, made: Sequence[tuple[int, HostOutcome | None]]) -> Iterator[tuple[Append, list[Outcome]]]:
        """Each append with the outcomes of its records.

        ``made`` has the number of records of each batch that this became, and what the host said of them: nothing where
        it takes no such input, all of which is accepted.
        """
        outcomes: list[Outcome] = []
        for records, outcome in made:
            part = [ACCEPTED] * records
            if outcome is not None:
                for at in outcome.repeats.tolist():
                    part[at] = REPEAT
                for at, why in outcome.refused.items():
                    part[at] = Outcome("refused", why)
            outcomes += part
        start = 0
        for append in self.appends:
            yield append, outcomes[start : start + len(append.records)]
            start += len(append.records)


def merged(appends: Iterable[Append], most: int, *, in_turn: bool = False) -> list[MergedAppends]:
    """Appends by topic, in the order in which they came; a batch has at most ``most`` records, or is of one append.

    ``in_turn`` lets no batch of events go past labels that came between them, nor labels past events.
    """
    found: list[MergedAppends] = []
    open_of: dict[str, tuple[MergedAppends, int]] = {}
    for append in appends:
        # What is open closes where labels and events take turns: a later append of the same topic begins a batch.
        if in_turn and found and (append.topic == LABELS) != (found[-1].topic == LABELS):
            open_of = {}
        group, size = open_of.get(append.topic, (None, 0))
        if group is None or size + len(append.records) > most:
            group, size = MergedAppends(append.topic, []), 0
            found.append(group)
        group.appends.append(append)
        open_of[append.topic] = group, size + len(append.records)
    return found


def joined(parts: Sequence[Decoded], sizes: Sequence[int]) -> Decoded:
    """What several inputs of ``sizes`` records gave, as if they had been decoded as one.

    The inputs are of one topic, and were decoded into the same columns.
    """
    first, *others = parts
    if not others:
        return first
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    index = np.concatenate([part.index + start for part, start in zip(parts, starts, strict=True)])
    rejects = [
        replace(r, index=r.index + start) for part, start in zip(parts, starts, strict=True) for r in part.rejects
    ]
    if isinstance(first, DecodedEvents):
        batch = type(first.batch).concat([part.batch for part in parts if isinstance(part, DecodedEvents)])
        return DecodedEvents(batch, rejects, index)
    labels = [part for part in parts if not isinstance(part, DecodedEvents)]
    whole = type(first.batch).concat([part.batch for part in labels])
    return DecodedLabels(whole, rejects, index, [task for part in labels for task in part.tasks])


@dataclass(slots=True, eq=False)
class Step:
    """What the engine took at once: whom to answer, and which batches it made of that."""

    appends: list[Append]
    answers: list[tuple[Append, list[Outcome] | Exception]] = field(default_factory=list)
    batches: list[LoggedBatch] = field(default_factory=list)
    """Inputs and outputs, in the order of their partitions."""
    processed: bool = False
    durable: bool = False


class GroupCommit:
    """Syncs the log of inputs in a thread of its own while the engine computes, one fsync for all that came meanwhile.

    A step is shown when its inputs are on the disk *and* its outputs are made, and steps are shown in their order:
    nobody sees what a power cut could take back.

    Parameters
    ----------
    sync : makes durable what was appended until it is called; ``None`` where a step need not be durable.
    show : called with steps, in their order, by one thread at a time; it must not block.
    fail : called, once, with the error that ends this.
    """

    def __init__(
        self, sync: Callable[[], object] | None, show: Callable[[list[Step]], None], fail: Callable[[Exception], None]
    ) -> None:
        self._sync, self._show, self._fail = sync, show, fail
        self._steps: deque[Step] = deque()
        """Not shown yet."""
        self._unsynced: list[Step] = []
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="weir-fsync", daemon=True)
        if sync is not None:
            self._thread.start()

    def appended(self, step: Step) -> None:
        """A step's inputs are in the log; they are synced from now on."""
        with self._wake:
            self._steps.append(step)
            if self._sync is None:
                step.durable = True
            else:
                self._unsynced.append(step)
                self._wake.notify()

    def processed(self, step: Step) -> None:
        """A step's outputs are made."""
        with self._wake:
            step.processed = True
            self._show_ready()

    def close(self) -> list[Step]:
        """Sync what is left, and end; returns the steps that can not be shown, after a failure."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._sync is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        return list(self._steps)

    def _run(self) -> None:
        while taken := self._take():
            try:
                assert self._sync is not None
                self._sync()
            except Exception as error:  # noqa: BLE001 - the engine ends with it
                # The pages that were not written may be gone, and a second fsync would not say so (fsyncgate).
                self._fail(error)
                return
            with self._wake:
                for step in taken:
                    step.durable = True
                self._show_ready()

    def _take(self) -> list[Step]:
        with self._wake:
            while not self._unsynced and not self._closing:
                self._wake.wait()
            taken, self._unsynced = self._unsynced, []
            return taken

    def _show_ready(self) -> None:
        ready = []
        while self._steps and self._steps[0].processed and self._steps[0].durable:
            ready.append(self._steps.popleft())
        if ready:
            # Within the lock, so that no later step is shown before an earlier one by the other thread.
            self._show(ready)
