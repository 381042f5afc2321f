"""Read back the ``examples`` log: what online models fold over after a restart or on another replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from weir.online.batch import ExampleBatch, FloatMatrix, IntVector
from weir.online.codec.accept import seconds
from weir.online.codec.by_task import DecodedLog, TaskDecoder
from weir.online.codec.hot_structs import features_struct
from weir.online.codec.wire import Example


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """The examples of one task, in log order."""

    batch: ExampleBatch
    index: IntVector
    """``(n,) int64``, the position in the input of each example of ``batch``."""


def decode_example_log(
    raw: Sequence[bytes | None], features_of: Mapping[str, Sequence[str]]
) -> DecodedLog[TaskExamples]:
    """Decode ``examples`` records of several tasks; floats come back bit for bit as ``encode_examples`` was given them.

    A record whose features are not exactly those of its task is a reject: a model cannot learn it. The order of the
    names in the record does not matter.

    Parameters
    ----------
    features_of : the feature names of each known task, in the order of the columns of ``x``.
    """
    names_of = {task: tuple(names) for task, names in features_of.items()}
    decoder = _decoder(tuple(names_of.items()))
    found = decoder.decode(raw, lambda task, record: other_features(record.features, names_of[task]))
    tasks = {
        task: TaskExamples(_examples(records.structs, len(names_of[task])), records.index)
        for task, records in found.tasks.items()
    }
    return DecodedLog(tasks, found.rejects, found.unknown)


@lru_cache(maxsize=16)
def _decoder(names_of: tuple[tuple[str, tuple[str, ...]], ...]) -> TaskDecoder:
    fields = {task: {"features": (features_struct(names),)} for task, names in names_of}
    return TaskDecoder(Example, fields)


def _examples(structs: list[Any], width: int) -> ExampleBatch:
    return ExampleBatch(
        event_id=[s.event_id for s in structs],
        n=np.array([s.n for s in structs], np.int64),
        ts=seconds([s.ts for s in structs]),
        x=feature_matrix(structs, width),
        score=np.array([s.score for s in structs], np.float64),
        y=np.array([s.value for s in structs], np.bool_),
        weight=np.array([s.weight for s in structs], np.float64),
        correction=np.array([s.correction for s in structs], np.bool_),
        entity_id=[s.entity_id for s in structs],
    )


def feature_matrix(structs: list[Any], width: int) -> FloatMatrix:
    """The features, as ``features_struct`` holds them, of each struct: ``(n, width) float64``."""
    values = chain.from_iterable(msgspec.structs.astuple(s.features) for s in structs)
    return np.fromiter(values, np.float64, len(structs) * width).reshape(len(structs), width)


def other_features(found: Mapping[str, float], names: Sequence[str]) -> str | None:
    """Say how the names ``found`` in a record differ from a task's, or None.

    >>> (other_features({"a": 1.0, "b": 2.0}, ["a", "c", "d"]) or "").partition(": it was")[0]
    "features: 2 missing, as 'c' and 1 unknown, as 'b'"
    """
    known = set(names)
    if found.keys() == known:
        return None
    missing, extra = sorted(known - found.keys()), sorted(found.keys() - known)
    differ = " and ".join(
        f"{len(names)} {which}, as {names[0]!r}" for names, which in ((missing, "missing"), (extra, "unknown")) if names
    )
    return (
        f"features: {differ}: it was written before the task file was changed, and nothing is learned from it now. "
        "What is scored from here on fits: there is nothing to mend, unless the old file is to come back"
    )
