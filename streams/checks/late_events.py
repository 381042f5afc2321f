"""Whether rows are kept for as long as events of their entity may come late. It looks at tasks and settings only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from weir.online.durations import format_duration
from weir.online.features.spec import DAY_S, KEPT
from weir.online.features.store import SPARE
from weir.streams.checks.findings import Check

if TYPE_CHECKING:
    from weir.online.task.spec import TaskSpec
    from weir.streams.config.settings import Settings

_SPARE: Final = KEPT * (SPARE - 1.0)
"""Of a ``ttl``: for how long a row is kept that its entity's next event in time would find forgotten."""


def late_events(settings: Settings, tasks: Sequence[TaskSpec]) -> list[Check]:
    """A finding for each kind of rows that may be gone when an event in time comes late."""
    late = settings.worker.intake.allowed_lateness
    rows = [(f"{task.name}.{each.name}", each.kept_s / KEPT) for task in tasks for each in task.entities]
    rows += [(f"{task.name}.full", task.full.ttl) for task in tasks if task.full is not None]
    least, found = math.ceil(late / _SPARE / DAY_S), []
    for name, ttl in rows:
        if (spare := _SPARE * ttl) < late:
            said = (
                f"kept {_hours(spare)} longer than an entity may be silent (ttl {format_duration(ttl)}), and an event "
                f"may come {format_duration(late)} late (allowed_lateness): it may find its row gone and count as first"
            )
            fix = f"Make ttl {least}d or more, or [worker.intake] allowed_lateness {_hours(spare)} or less."
            found.append(Check(f"rows {name}", "WARN", said, fix))
    return found


def _hours(seconds: float) -> str:
    """As a duration, rounded down.

    >>> _hours(0.140625 * 2 * 86_400), _hours(500)
    ('6h', '8m')
    """
    unit = next(unit for unit in (DAY_S, 3_600.0, 60.0, 1.0) if seconds >= unit or unit == 1.0)
    return format_duration(seconds // unit * unit)
