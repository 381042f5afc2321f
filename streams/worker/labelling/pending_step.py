"""A step of a label lane on its way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from weir.online.batch import LabelBatch, ScoredBatch
from weir.streams.kafka.consume.fetched_batch import FetchedBatch, Slice
from weir.streams.records import RefusedRecord
from weir.streams.redis.partitions.label_journal import OffsetRange
from weir.streams.worker.scoring.misplaced import Astray


@dataclass(slots=True)
class PendingStep:
    """One step to take, decoded."""

    step: OffsetRange
    scored: dict[str, ScoredBatch] = field(default_factory=dict)
    """By task."""
    labels: dict[str, LabelBatch] = field(default_factory=dict)
    """By task."""
    batch: FetchedBatch | None = None
    """What the consumer is told when the step is published; a step handed over or read again has none."""
    handed: int = 0
    """How many hand-overs it holds."""
    records: int = 0
    """How many it was decoded from; none where it was handed over."""
    unknown: dict[str, int] = field(default_factory=dict)
    """How many of them are of tasks that do not run here, by task: another group's, or nobody's."""
    refused: list[RefusedRecord] = field(default_factory=list)
    """Those of them that go to the dead letters."""
    astray: list[Astray] = field(default_factory=list)
    """Those of them that another partition owns."""
    source: Slice | None = None
    """The records, where some are astray."""


def together(works: Sequence[PendingStep]) -> list[PendingStep]:
    """Each run of predictions that were handed over one after the other as one step; the rest as it is."""
    runs: list[list[PendingStep]] = []
    for work in works:
        if runs and _follows(runs[-1][-1], work):
            runs[-1].append(work)
        else:
            runs.append([work])
    return [run[0] if len(run) == 1 else _joined(run) for run in runs]


def _follows(before: PendingStep, work: PendingStep) -> bool:
    handed = work.handed and before.handed and not work.refused and not before.refused
    return bool(handed) and (work.step.topic, work.step.start) == (before.step.topic, before.step.stop)


def _joined(run: list[PendingStep]) -> PendingStep:
    parts: dict[str, list[ScoredBatch]] = {}
    for work in run:
        for task, scored in work.scored.items():
            parts.setdefault(task, []).append(scored)
    step = OffsetRange(run[0].step.topic, run[0].step.start, run[-1].step.stop)
    return PendingStep(
        step, {task: ScoredBatch.concat(of) for task, of in parts.items()}, handed=sum(w.handed for w in run)
    )
