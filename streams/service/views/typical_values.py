"""What features usually are: of a sample of recent predictions of a task, taken again after a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np

from weir.online.batch import FloatVector
from weir.streams.config import topics
from weir.streams.service.ports import ServiceLog, every_record

SAMPLED: Final = 5_000
"""Newest predictions of each partition; those of one task are among them."""
_FRESH_S: Final = 60.0


class _Prediction(msgspec.Struct):
    task: str
    features: dict[str, float | None]


class Usual(NamedTuple):
    """How a feature is distributed."""

    low: float
    """5 % of the sample are below."""
    middle: float
    """The median."""
    high: float
    """5 % are above."""
    values: FloatVector
    """``(n,)``, sorted."""

    def above(self, value: float) -> float:
        """The share of the sample that is below ``value``, 0 to 1; of equal ones half counts."""
        left, right = np.searchsorted(self.values, value), np.searchsorted(self.values, value, "right")
        return float(left + right) / 2 / len(self.values)


class Sample(NamedTuple):
    """What a task's features were."""

    size: int
    taken_at: float
    usual: Mapping[str, Usual]

    def get(self, feature: str) -> Usual | None:
        """Of one feature; ``None`` where nothing is known of it."""
        return self.usual.get(feature)


class TypicalValues:
    """See the module.

    Parameters
    ----------
    log : where predictions are.
    clock : epoch seconds.
    """

    def __init__(self, log: ServiceLog, clock: Callable[[], float] = time.time) -> None:
        self._log, self._clock = log, clock
        self._samples: dict[str, Sample] = {}

    def known(self, task: str) -> Sample | None:
        """The sample, if there is one that is not older than a minute."""
        found = self._samples.get(task)
        return found if found is not None and self._clock() - found.taken_at < _FRESH_S else None

    async def of(self, task: str) -> Sample:
        """The sample; taken now where there is none."""
        if (known := self.known(task)) is not None:
            return known
        values: dict[str, list[float]] = {}
        size, needle = 0, msgspec.json.encode(task)
        async for placed in every_record(self._log, topics.PREDICTIONS, newest=SAMPLED):
            # Most are of other tasks: to look for the name is cheaper than to decode, and says no more than "perhaps".
            if needle not in placed.record.value:
                continue
            found = msgspec.json.decode(placed.record.value, type=_Prediction)
            if found.task == task:
                size += 1
                for name, value in found.features.items():
                    if value is not None:
                        values.setdefault(name, []).append(value)
        made = Sample(size, self._clock(), {name: _usual(given) for name, given in values.items()})
        self._samples[task] = made
        return made


def _usual(given: list[float]) -> Usual:
    values = np.sort(np.array(given))
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Usual(low, middle, high, values)
