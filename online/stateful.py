"""Stages made of parts: one snapshot of all, put back part by part, refused where it is of another task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from online.errors import StateError
from online.learners import ModelSnapshot, OnlineModel


class Stateful(Protocol):
    """A part with a state of its own."""

    def snapshot(self) -> bytes:
        """The whole state."""
        ...

    def restore(self, state: bytes) -> None:
        """Replace the state by a ``snapshot``; raises ``ValueError`` where it does not fit."""
        ...


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


YOUNGER: Final = frozenset({"time"})
"""Parts that snapshots of 12015ac do not hold: they begin anew, which changes nothing but their own first moments."""


def snapshot_parts(parts: Mapping[str, Stateful]) -> bytes:
    """The state of all parts by name, as MessagePack."""
    return msgspec.msgpack.encode({name: part.snapshot() for name, part in parts.items()})


def restore_parts(task: str, parts: Mapping[str, Stateful], state: bytes) -> None:
    """Put a ``snapshot_parts`` back; raises ``StateError`` naming the ``task`` where it does not fit."""
    try:
        held: dict[str, Any] = msgspec.msgpack.decode(state, type=dict[str, bytes])
        if held.keys() - parts.keys() or parts.keys() - held.keys() - YOUNGER:
            raise ValueError(f"it holds {', '.join(sorted(held))}; the task has {', '.join(sorted(parts))}")
        for name, of in held.items():
            parts[name].restore(of)
    except ValueError as exc:  # msgspec's errors are among them
        raise StateError(
            f"task {task}: the state does not fit: {exc}; start with a fresh directory, or go back to the task file "
            "that wrote it"
        ) from exc
