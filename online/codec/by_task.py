"""Decodes a log that holds records of several tasks, each with a shape of its own: features, widths, identifiers.

One msgspec call decodes a batch into structs made for the tasks that are known. A batch in which anything else shows
up is judged record by record, by the contract first (``weir.online.codec.accept``), then by the shape of its task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter, or_
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from weir.online.batch import Batch, IntVector
from weir.online.codec.accept import Reject, accept_records, decode_together, find_odd
from weir.online.codec.hot_structs import fields_of, list_of, times_of
from weir.online.codec.wire import WireModel
from weir.online.errors import UNREADABLE

Misfit = Callable[[str, Any], str | None]
"""Says why a valid record of the named task, ``features`` being a dict, does not fit the task; None where it does."""

OfTask = TypeVar("OfTask")
_FLOAT = frozenset({float})


@dataclass(frozen=True, slots=True)
class TaskRecords:
    """The usable records of one task, in log order."""

    structs: list[Any]
    index: IntVector
    """``(n,) int64``, the position in the input of each."""


@dataclass(frozen=True, slots=True)
class DecodedLog(Generic[OfTask]):
    """Every record of an input is one of a task's, a reject, or of an unknown task."""

    tasks: dict[str, OfTask]
    """Every known task, also without records."""
    rejects: list[Reject]
    unknown: dict[str, int]
    """How many records there were of each unknown task: one that was removed, or is not run here."""


class TaskDecoder:
    """Decodes records of ``model``.

    Parameters
    ----------
    fields : of each known task, the fields of ``model`` that have a narrower type there: (type,) or (type, default).
    """

    def __init__(self, model: type[WireModel], fields: Mapping[str, Mapping[str, tuple[Any, ...]]]) -> None:
        self._model = model
        self._structs = {task: self._struct(task, own) for task, own in fields.items()}
        self._task_of = {struct: task for task, struct in self._structs.items()}
        # A tag is optional where there is one struct to choose from; no record can be of the second.
        none = msgspec.defstruct("NoTask", [("v", Annotated[int, Meta(gt=0, lt=1)])], tag_field="task", tag="")
        self._many = msgspec.json.Decoder(list_of(reduce(or_, self._structs.values(), none)))
        self._one = {task: msgspec.json.Decoder(struct) for task, struct in self._structs.items()}

    def _struct(self, task: str, own: Mapping[str, tuple[Any, ...]]) -> type[Any]:
        fields = [
            (name, *own.get(name, (kind, *default)))
            for name, kind, *default in fields_of(self._model)
            if name != "task"
        ]
        return msgspec.defstruct(
            f"{self._model.__name__}Of", fields, kw_only=True, tag_field="task", tag=task, gc=False
        )

    def decode(
        self, raw: Sequence[bytes | None], misfit: Misfit, positions: IntVector | None = None
    ) -> DecodedLog[TaskRecords]:
        """Sort records by task; the verdict on a record does not depend on its neighbours.

        ``positions`` says where the records were in the caller's input; else they are all of it.
        """
        found = self._decode([record or b"" for record in raw], misfit)
        if positions is None:
            return found
        tasks = {task: TaskRecords(own.structs, positions[own.index]) for task, own in found.tasks.items()}
        rejects = [Reject(int(positions[r.index]), r.raw, r.reason) for r in found.rejects]
        return DecodedLog(tasks, rejects, found.unknown)

    def _decode(self, records: list[bytes], misfit: Misfit) -> DecodedLog[TaskRecords]:
        structs = self._together(records)
        if structs is None:
            return self._each(records, misfit)
        kinds = set(map(type, structs))
        rows: dict[str, Any] = dict.fromkeys(self._structs, ())
        # Mostly one task fills a batch: no loop over its records then.
        if len(kinds) == 1:
            rows[self._task_of[kinds.pop()]] = range(len(structs))
        else:
            rows = {task: [] for task in self._structs}
            for i, kind in enumerate(map(type, structs)):
                rows[self._task_of[kind]].append(i)
        return DecodedLog({task: _records(structs, at) for task, at in rows.items()}, [], {})

    def _together(self, records: list[bytes]) -> list[Any] | None:
        """Decode all at once, or None where one of them is odd."""
        joined = b",".join(records)
        if find_odd(records, joined).any():
            return None
        structs = decode_together(self._many, joined, len(records))
        for name in times_of(self._model) if structs is not None else ():
            if not _FLOAT.issuperset(map(type, map(attrgetter(name), structs or ()))):
                return None  # the range of a time given as text has to be checked
        return structs

    def _each(self, records: list[bytes], misfit: Misfit) -> DecodedLog[TaskRecords]:
        # By the contract first: whether a record is valid must not depend on which tasks run here.
        accepted = accept_records(self._model, records)
        rejects, unknown = list(accepted.rejects), Counter[str]()
        found: dict[str, tuple[list[Any], list[int]]] = {task: ([], []) for task in self._structs}
        for i, record in zip(accepted.index.tolist(), accepted.structs, strict=True):
            task = record.task
            if task not in found:
                unknown[task] += 1
                continue
            try:
                struct = self._one[task].decode(records[i])
            except UNREADABLE as error:
                rejects.append(Reject(i, records[i], misfit(task, record) or str(error)))
                continue
            found[task][0].append(struct)
            found[task][1].append(i)
        tasks = {task: TaskRecords(structs, np.array(at, np.int64)) for task, (structs, at) in found.items()}
        return DecodedLog(tasks, sorted(rejects, key=lambda reject: reject.index), unknown)


def _records(structs: list[Any], at: Sequence[int]) -> TaskRecords:
    index = np.array(at, np.int64)
    return TaskRecords(structs if len(index) == len(structs) else [structs[i] for i in at], index)


Rows = TypeVar("Rows", bound=Batch)


def interleave(first: Rows, at: IntVector, second: Rows, also: IntVector) -> tuple[Rows, IntVector]:
    """Columns of two parts of an input, from positions ``at`` and ``also``, in the order of the input; and those."""
    if not len(second):
        return first, at
    if not len(first):
        return second, also
    index = np.concatenate([at, also])
    # Both parts ascend, but interleave: a log is applied in its own order.
    order = np.argsort(index)
    return type(first).concat([first, second]).take(order), index[order]
