"""How long each stage of a pipeline took. A pipeline reads no clock, so its parts are timed from outside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from weir.online.stages.pipeline import TaskPipeline

_STAGES: Final = (
    ("features", "engine", "process"), ("features fed by labels", "engine", "apply"), ("scoring", "model", "score"),
    ("learning", "model", "learn"), ("line, alerts and reasons", "book", "decide_by"),
    ("metrics", "evaluation", "update"), ("waiting for labels", "joiner", "log"),
    ("waiting for labels", "joiner", "label"),
    ("drift", "labelling.drift", "update"), ("drift", "labelling.rate_drift", "update"),
)  # fmt: skip


class StageClock:
    """Seconds of each stage; time in a stage within another one counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, pipeline: TaskPipeline) -> None:
        """Time the parts of this pipeline from now on."""
        for stage, part, method in _STAGES:
            # A task need not watch for drift.
            if (owner := attrgetter(part)(pipeline)) is not None:
                setattr(owner, method, self._timed(stage, getattr(owner, method)))

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self.seconds[stage] += took - self._inner.pop()
                self._inner[-1] += took

        return timed

    def shares(self, total_s: float) -> list[tuple[str, float]]:
        """Stages with their seconds, the longest first; the last is the rest, such as reading the files."""
        longest = sorted(self.seconds.items(), key=lambda each: -each[1])
        return [*longest, ("reading rows, and the rest", max(total_s - sum(self.seconds.values()), 0.0))]
