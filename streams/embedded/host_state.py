"""What a checkpoint of the embedded host holds, and what the host says of the records of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from weir.online.batch import IntVector
from weir.online.errors import UNREADABLE
from weir.streams.errors import StateError


@dataclass
class HostStats:
    """Counts since the start (of the first run, when resumed)."""

    events: int = 0
    labels: int = 0
    predictions: int = 0
    alerts: int = 0
    examples: int = 0
    detections: int = 0
    requests: int = 0
    dead_letters: int = 0
    unknown_task_labels: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the ``records`` of a batch: a record that is neither refused nor a repeat was admitted."""

    records: int
    refused: dict[int, str]
    """By place in the batch, why: the words of its dead letter."""
    repeats: IntVector = field(default_factory=lambda: np.empty(0, np.int64))
    """``(r,) int64``, places of events that had come before; they changed nothing."""

    def with_admitted(self, admitted: IntVector) -> Outcome:
        """The same batch, where of the records not refused only those at ``admitted (a,)`` were new."""
        old = np.ones(self.records, dtype=np.bool_)
        old[admitted] = False
        old[list(self.refused)] = False
        return replace(self, repeats=np.flatnonzero(old))


class HostState(msgspec.Struct):
    """A checkpoint."""

    seq: int
    """Where the log (of inputs) ended."""
    done: int
    """Up to where inputs were processed; what lies between was waiting."""
    stats: dict[str, int]
    intake: dict[str, bytes]
    tasks: dict[str, bytes]
    store: bytes
    extra: bytes
    outputs: int | None = None
    """Where the log of outputs ended; ``None`` where one log holds both."""
    swaps: list[bytes] | None = None
    """All records of ``model-updates`` up to ``done``; ``None`` in checkpoints of before: they are in the log."""


def check_kept(wanted: int, first: int) -> None:
    """Raise ``StateError`` where a log that keeps batches from ``first`` on does not hold what is ``wanted``."""
    if wanted < first:
        raise StateError(
            f"the log begins at batch {first}, and batches from {wanted} on are needed to go on: restore them and the "
            "checkpoint, or start with a fresh directory"
        )


def decode_state(data: bytes, tasks: Iterable[str] | None, first: int, end: int, outputs_end: int | None) -> HostState:
    """A checkpoint's content.

    Parameters
    ----------
    data : of the checkpoint.
    tasks : names of those that run now; ``None`` where they may be others.
    first : sequence number of the first batch that the log (of inputs) keeps.
    end, outputs_end : sequence numbers at which the logs end now; no ``outputs_end`` where there is one log for both.

    Raises
    ------
    StateError
        It cannot be read, or is of other tasks or other logs.
    """
    try:
        state = msgspec.msgpack.decode(data, type=HostState)
    except UNREADABLE as exc:
        raise StateError(f"the checkpoint cannot be read: {exc}; start with a fresh directory") from exc
    if tasks is not None and set(state.tasks) != set(tasks):
        raise StateError(
            f"the checkpoint is of the tasks {sorted(state.tasks)}, now there are {sorted(tasks)}; "
            "start with a fresh directory"
        )
    if (state.outputs is None) != (outputs_end is None):
        had, has = ("one log", "two logs") if state.outputs is None else ("two logs", "one log")
        raise StateError(f"the checkpoint is of {had}, and this is a host with {has}; start with a fresh directory")
    # From where inputs were processed, not from where the log ended: those in between waited.
    check_kept(state.done, first)
    for what, written, now in (("log", state.seq, end), ("log of outputs", state.outputs or 0, outputs_end or 0)):
        if written > now:
            raise StateError(
                f"the checkpoint was written at batch {written} of the {what}, which ends at {now}: it is "
                "of another log; start with a fresh directory"
            )
    return state
