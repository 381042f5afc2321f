"""Read back the ``examples`` log: what online models fold over after a restart or on another replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from online.accept import Reject, accept_records
from online.batch import ExampleBatch, IntVector
from online.structs import UnknownFields
from online.wire import Example


@dataclass(frozen=True, slots=True)
class DecodedExamples:
    """The usable examples of an input in log order, and the rest one by one."""

    batch: ExampleBatch
    rejects: list[Reject]
    index: IntVector
    """``(n,) int64``, the position in the input of each example of ``batch``."""


def decode_examples(
    raw: Sequence[bytes | None], feature_names: Sequence[str], task: str, *, unknown_fields: UnknownFields = "ignore"
) -> DecodedExamples:
    """Decode ``examples`` records of one task; floats come back bit for bit as ``encode_examples`` was given them.

    A record of another task, or one whose features are not exactly ``feature_names``, is a reject: a model cannot
    learn it. The order of the names in the record does not matter.
    """
    names = tuple(feature_names)
    accepted = accept_records(Example, raw, unknown_fields)
    known, rows, rejects = set(names), [], list(accepted.rejects)
    for row, (example, i) in enumerate(zip(accepted.structs, accepted.index.tolist(), strict=True)):
        reason = _misfit(example, task, known)
        if reason is None:
            rows.append(row)
        else:
            rejects.append(Reject(i, raw[i] or b"", reason))
    kept = [accepted.structs[row] for row in rows]
    x = [[example.features[name] for name in names] for example in kept]
    batch = ExampleBatch(
        event_id=[example.event_id for example in kept],
        ts=accepted.ts[rows],
        x=np.array(x, np.float64).reshape(len(kept), len(names)),
        score=np.array([example.score for example in kept], np.float64),
        y=np.array([example.value for example in kept], np.bool_),
        weight=np.array([example.weight for example in kept], np.float64),
        correction=np.array([example.correction for example in kept], np.bool_),
    )
    return DecodedExamples(batch, sorted(rejects, key=lambda reject: reject.index), accepted.index[rows])


def _misfit(example: Any, task: str, known: set[str]) -> str | None:
    if example.task != task:
        return f"task: is {example.task!r}, this log is read for {task!r}"
    if example.features.keys() != known:
        missing, extra = sorted(known - example.features.keys()), sorted(example.features.keys() - known)
        return f"features: {missing[:3]} missing and {extra[:3]} unknown; rebuild the examples or go back a version"
    return None
