"""The snapshot of a label lane: where it is in its topics, and the state of its stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from weir.online.errors import stored
from weir.online.stages.labelling import LabellingStage

log = logging.getLogger(__name__)

_WHAT: Final = "a label lane"
_REMEDY: Final = "stop the workers and run 'weir features rebuild'"


class _Positions(msgspec.Struct):
    """As much of a snapshot as says where the lane goes on."""

    positions: dict[str, int]
    of: int = 0


class _Snapshot(msgspec.Struct):
    """A label lane as it was after a step."""

    positions: dict[str, int]
    stages: dict[str, bytes]
    of: int = 0


def positions_of(snapshot: bytes) -> tuple[dict[str, int], int]:
    """Next offset of each topic, and of how many lanes it was one; 0 where a version before did not say."""
    held = stored(snapshot, _Positions, _WHAT, _REMEDY)
    return held.positions, held.of


def restored(snapshot: bytes, stages: Mapping[str, LabellingStage], name: str) -> dict[str, int]:
    """Put the stage of every task back, in any thread; the positions of then. ``name`` is the lane's."""
    held = stored(snapshot, _Snapshot, _WHAT, _REMEDY)
    for task, state in held.stages.items():
        for anew in stages[task].restore(state) if task in stages else ():
            log.warning("%s: task %s was changed: %s", name, task, anew)
    return held.positions


def captured(positions: Mapping[str, int], stages: Mapping[str, LabellingStage], of: int) -> Callable[[], bytes]:
    """Copy what a lane is, one ``of`` so many; the call of what this returns makes a snapshot of it, in any thread."""
    # Copied here, where no step is half done; what it is encoded from must not change under the thread.
    held, parts = dict(positions), {task: stage.capture() for task, stage in stages.items()}
    return lambda: msgspec.msgpack.encode(_Snapshot(held, {task: part() for task, part in parts.items()}, of))
