"""Stages made of parts: one snapshot of all, put back part by part, refused where it is of another task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from weir.online.errors import UNREADABLE, StateError
from weir.online.learners.online_model import ModelSnapshot, OnlineModel


class Stateful(Protocol):
    """A part with a state of its own."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` where it does not fit."""


@runtime_checkable
class DeferredSnapshot(Protocol):
    """A part so large that its snapshot is better made in another thread."""

    def capture(self) -> Callable[[], bytes]:
        """Copy the state; the call of what it returns makes a snapshot of the copy, in any thread."""


@dataclass(slots=True)
class Counts:
    """What a task has done since the start."""

    scored: int = 0
    labelled: int = 0
    repeats: int = 0
    """Predictions that came again and were left out."""

    def snapshot(self) -> bytes:
        """The whole state."""
        return msgspec.msgpack.encode([self.scored, self.labelled, self.repeats])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        self.scored, self.labelled, self.repeats = msgspec.msgpack.decode(state, type=tuple[int, int, int])


@dataclass(frozen=True, slots=True)
class ModelPart:
    """An online model as a part: its snapshot with version and digest."""

    model: OnlineModel

    def snapshot(self) -> bytes:
        """The whole state."""
        model = self.model.snapshot()
        return msgspec.msgpack.encode([model.version, model.digest, model.state])

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``."""
        version, digest, learned = msgspec.msgpack.decode(state, type=tuple[int, str, bytes])
        self.model.restore(ModelSnapshot(version, digest, learned))


MEANING: Final = {
    "joiner": "predictions that wait for labels are forgotten, and labels of them teach nothing",
    "seen": "a prediction that comes again counts again",
    "threshold": "the line begins without history, and a budget is spent anew",
    "book": "open alerts and mutes are forgotten",
    "typical": "reasons name typical values of what comes from now on",
    "evaluation": "metrics count from now on",
    "drift": "drift is judged against a new reference",
    "rate_drift": "drift of the label rate is judged against a new reference",
    "trigger": "labels until the next retraining count from now on",
    "counts": "counts begin at 0",
    "model": "it has learned nothing yet",
    "timers": "silence counts from each entity's next event",
    "time": "event time begins with the next record",
}
"""What it means where a part begins anew."""
YOUNGER: Final = frozenset({"time"})
"""Parts that snapshots of 12015ac do not hold: they begin anew, which changes nothing but their own first moments."""


@dataclass(frozen=True, slots=True)
class Anew:
    """A part that begins anew, because what was stored of it does not fit the task as it is now."""

    part: str
    why: str

    def __str__(self) -> str:
        meaning = MEANING.get(self.part, "it has no history")
        return f"{self.part} begins anew: {meaning} ({self.why})"


def snapshot_parts(parts: Mapping[str, Stateful]) -> bytes:
    """The state of all parts by name, as MessagePack."""
    return capture_parts(parts)()


def capture_parts(parts: Mapping[str, Stateful]) -> Callable[[], bytes]:
    """Copy the state of all parts; the call of what it returns makes a ``snapshot_parts`` of it, in any thread."""
    large = {name: part.capture() for name, part in parts.items() if isinstance(part, DeferredSnapshot)}
    small = {name: part.snapshot() for name, part in parts.items() if name not in large}
    return lambda: msgspec.msgpack.encode(small | {name: encode() for name, encode in large.items()})


def restore_parts(
    task: str, parts: Mapping[str, Stateful], state: bytes, upgrade: Callable[[dict[str, bytes]], None] | None = None
) -> None:
    """Put a ``snapshot_parts`` back; raises ``StateError`` naming the ``task`` where it does not fit.

    ``upgrade`` makes of the parts that an earlier version wrote those of this one.
    """
    try:
        held: dict[str, Any] = msgspec.msgpack.decode(state, type=dict[str, bytes])
        if upgrade is not None:
            upgrade(held)
        if held.keys() - parts.keys() or parts.keys() - held.keys() - YOUNGER:
            raise ValueError(f"it holds {', '.join(sorted(held))}; the task has {', '.join(sorted(parts))}")
        for name, of in held.items():
            parts[name].restore(of)
    except ValueError as exc:  # msgspec's errors are among them
        raise StateError(
            f"task {task}: the state does not fit: {exc}; start with a fresh directory, or go back to the task file "
            "that wrote it"
        ) from exc


def restore_fitting(
    task: str, parts: Mapping[str, Stateful], state: bytes, upgrade: Callable[[dict[str, bytes]], None] | None = None
) -> list[Anew]:
    """Put back each part of a ``snapshot_parts`` that fits; the others stay as they are, which is told.

    ``upgrade`` as for `restore_parts`. Raises ``StateError`` where it is no snapshot at all.
    """
    try:
        held: dict[str, bytes] = msgspec.msgpack.decode(state, type=dict[str, bytes])
        if upgrade is not None:
            upgrade(held)
    except UNREADABLE as exc:
        raise StateError(f"task {task}: not a snapshot of its parts: {exc}; run 'weir features rebuild'") from exc
    anew: list[Anew] = []
    for name, part in parts.items():
        if name not in held:
            if name not in YOUNGER:
                anew.append(Anew(name, "there was none before"))
            continue
        blank = part.snapshot()
        try:
            part.restore(held[name])
        except ValueError as exc:  # half of it may be in place
            part.restore(blank)
            anew.append(Anew(name, str(exc)))
    return anew
