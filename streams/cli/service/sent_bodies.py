"""What ``weir send`` sends: lines as they are, or the events and labels that a task's ``[source]`` makes of tables.

It knows files and bodies, not the service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson

from weir.streams.cli.service.reached import bodies_of
from weir.streams.config import topics

if TYPE_CHECKING:
    from weir.streams.replay.replayed_files import TableSource

MOST: Final = 500
"""Records of one body: of larger ones the rate is the same, and what is refused is told later."""
_OF_LABELS: Final = f'{{"topic":"{topics.LABELS}",'.encode()


@dataclass(frozen=True, slots=True)
class Body:
    """Records of one kind that go together."""

    lines: list[bytes]
    labels: bool
    begins: str
    """Where it begins, for the message that it was not acknowledged."""
    named: Callable[[int], str]
    """How a person finds the record with that index."""


def bodies_of_lines(paths: Sequence[str], labels: bool) -> Iterator[Body]:
    """The lines of files, of ``-`` those of the standard input.

    Of events and labels in one stream, as ``weir simulate --out -`` writes it, labels name their topic. They go behind
    the events of their body: one of them may be theirs.
    """
    for path in paths:
        at = 1
        for lines in bodies_of(path, MOST):
            kinds = [labels or line.startswith(_OF_LABELS) for line in lines]
            for of_labels in (False, True):
                mine = [i for i, kind in enumerate(kinds) if kind == of_labels]
                if mine:
                    places = [at + i for i in mine]
                    name = partial(_line_name, path, places)
                    yield Body([lines[i] for i in mine], of_labels, f"{path} from record {places[0]:,}", name)
            at += len(lines)


def bodies_of_tables(source: TableSource, labels_alone: bool, negative_after_s: float | None = None) -> Iterator[Body]:
    """Events by their time, and behind each body of them the labels that were known by its last event.

    So a label goes out later than it was known by a body at most, and never earlier; and before the first event by
    whose time its own would be taken for a negative, ``negative_after_s`` behind it.
    """
    from weir.streams.replay.replayed_files import time_of

    events, labels, due = list[bytes](), list[bytes](), math.inf
    for record in source:
        now = record.ts or 0.0
        if record.topic != topics.LABELS:
            if now >= due:
                yield from _told(events, labels, labels_alone)
                events, labels, due = [], [], math.inf
        elif negative_after_s is not None:
            until = (time_of(orjson.loads(record.value)) or 0.0) + negative_after_s
            due = min(due, until) if until > now else due  # one that comes too late anyway makes no haste
        (labels if record.topic == topics.LABELS else events).append(record.value + b"\n")
        if max(len(events), len(labels)) == MOST:
            yield from _told(events, labels, labels_alone)
            events, labels, due = [], [], math.inf
    yield from _told(events, labels, labels_alone)


def _told(events: list[bytes], labels: list[bytes], labels_alone: bool) -> Iterator[Body]:
    # A label behind its event: it may be of one in the same round.
    for lines, of_labels in ((events, False), (labels, True)):
        if lines and (of_labels or not labels_alone):
            named = partial(_event_name, lines, "label of " if of_labels else "")
            yield Body(lines, of_labels, f"from {named(0)}", named)


def _line_name(path: str, places: list[int], index: int) -> str:
    """Names a line by its number in a file."""
    return f"{path}, record {places[index]}"


def _event_name(lines: list[bytes], what: str, index: int) -> str:
    """Names a record by its event: rows of tables are sent by time, so that their numbers say little."""
    record = orjson.loads(lines[index])
    # A row without an id is refused, and named by its time.
    return f"{what}event {record.get('event_id') or 'without event_id of ' + str(record.get('ts'))}"
