"""Whether the records that a task makes fit their topics, whatever is in them; looked at before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from weir.online.codec.wire import ID_CHARS, REASON_CHARS
from weir.online.stages.scoring import ScoringStage
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.worker.update_partition import side_layouts

_AROUND: Final = 4_096
"""Bytes of a record's other fields and of its frame: ids of the largest size, times, names of fields."""
_NUMBER: Final = 26
"""Bytes of the longest number, with a comma."""
_CHARACTER: Final = 4
"""Bytes of the longest character."""
_REASONS, _EVENTS, _EVENT_CHARS = 64, 1_000, 100
"""Of one alert, at most; a timer's event id is that of its entity with a time."""


def largest_records(stage: ScoringStage) -> dict[str, int]:
    """By topic, the bytes of the largest record that a task can make, its frame included."""
    shape, features = stage.shape, sum(len(name.encode()) + 4 + _NUMBER for name in stage.shape.features)
    ids = len(shape.secondary) * (2 * ID_CHARS * _CHARACTER + 8)
    widths = [stage.engine.width(layout) for layout in side_layouts(stage)]
    found = {
        topics.PREDICTIONS: _AROUND + features + ids + _NUMBER * (shape.masks + len(shape.watched)),
        topics.EXAMPLES: _AROUND + features,
    }
    if widths:
        found[topics.ENTITY_UPDATES] = _AROUND + _NUMBER * max(widths)
    if stage.task.alerting:
        reason = (REASON_CHARS + ID_CHARS) * _CHARACTER + 2 * _NUMBER + 64
        found[topics.ALERTS] = _AROUND + _REASONS * reason + _EVENTS * (_EVENT_CHARS * _CHARACTER + 3)
    return found


def check_sizes(stages: Iterable[ScoringStage], limit: Callable[[str], int]) -> None:
    """Raise ``UsageError`` where a record of a task may not fit; ``limit`` gives the bytes that a topic takes."""
    for stage in stages:
        for own, size in largest_records(stage).items():
            if size > (allowed := limit(own)):
                raise UsageError(
                    f"task {stage.task.name}: a record of {own} may have {size} bytes, and the topic takes {allowed}: "
                    f"raise its max.message.bytes and [worker] max_record_bytes to {size}, or give the task fewer "
                    "features"
                )
