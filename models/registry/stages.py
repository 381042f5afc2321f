"""Which version serves: stages and the moves between them, as a fold. Pure.

candidate -> shadow -> champion -> archived. A log of moves is kept beside the versions, each entry with the stages
after it, so that reading the newest is enough. Making entry n + 1 is a compare-and-swap: only one writer can.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Literal

from pydantic import Field

from weir.models.errors import ModelError
from weir.models.manifest import FrozenModel

Stage = Literal["candidate", "shadow", "champion", "archived"]
Action = Literal["shadow", "promote", "rollback", "retire"]
"""As in ``ModelUpdate.action``."""
ACTIONS: dict[Stage, Action] = {"shadow": "shadow", "champion": "promote", "archived": "retire"}
"""The action that brings a version to a stage; no version becomes a candidate again."""

Version = Annotated[int, Field(ge=1)]


class Stages(FrozenModel):
    """Where the versions of a task stand; those not named are candidates."""

    seq: Annotated[int, Field(ge=0)] = 0
    """Number of the log's newest entry: what ``expect`` compares."""
    champion: Version | None = None
    shadow: Version | None = None
    previous: tuple[Version, ...] = ()
    """Champions before, the newest last; a rollback returns to that one, or to an older one that is named."""
    archived: tuple[Version, ...] = ()

    def of(self, version: int) -> Stage:
        """The stage of a version.

        >>> Stages(champion=2, archived=(1,)).of(2), Stages(champion=2).of(3)
        ('champion', 'candidate')
        """
        if version == self.champion:
            return "champion"
        if version == self.shadow:
            return "shadow"
        return "archived" if version in self.archived else "candidate"


class StageEntry(FrozenModel):
    """One move, ``stages/<seq>.json``."""

    at: float
    """Time of the move, epoch seconds."""
    action: Action
    version: Version
    """The version moved; of a rollback, the one that serves again."""
    why: str = ""
    by: str
    """A token of the writer, by which it knows its own entry again."""
    stages: Stages
    """Where the versions stand after the move."""


def move(now: Stages, action: Action, version: int, task: str) -> Stages:
    """The stages after a move; raises ``ModelError`` for one that makes no sense.

    A promotion archives the champion before; workers go on scoring it as a shadow until a ``retire`` or a rollback.

    >>> first = move(Stages(), "promote", 1, "fraud")
    >>> second = move(move(first, "shadow", 2, "fraud"), "promote", 2, "fraud")
    >>> second.champion, second.of(1), move(second, "rollback", 1, "fraud").champion
    (2, 'archived', 1)
    """
    champion, shadow, previous = now.champion, now.shadow, now.previous
    if action == "shadow":
        if version == champion:
            raise ModelError(f"{task} v{version} serves; promote or roll back to another version before it shadows")
        shadow = version
    elif action == "promote":
        # Each once: two rollbacks in a row must not come back to where they began.
        previous = tuple(v for v in previous if v != version) + ((champion,) if champion is not None else ())
        champion = version
    elif action == "rollback":
        if version not in previous:
            raise ModelError(f"{task}: v{version} did not serve before; promote it instead of rolling back")
        # Those that served in between go with the one that serves: the next rollback must not come back to them.
        champion, previous = version, previous[: previous.index(version)]
    else:
        champion = None if version == champion else champion
    shadow = None if shadow == champion or (action == "retire" and shadow == version) else shadow
    touched = {*now.archived, version, *(v for v in (now.champion, now.shadow) if v is not None)}
    archived = tuple(sorted(touched - {champion, shadow}))
    return Stages(seq=now.seq + 1, champion=champion, shadow=shadow, previous=previous, archived=archived)


def retired_in(moves: Iterable[StageEntry]) -> frozenset[int]:
    """The versions that somebody retired and nobody brought back since.

    ``archived`` does not say so: a champion that a newer one took the place of is there, too.

    >>> told = [("promote", 1), ("promote", 2), ("retire", 1)]
    >>> sorted(retired_in(StageEntry(at=0, action=a, version=v, by="", stages=Stages()) for a, v in told))
    [1]
    """
    gone: set[int] = set()
    for entry in moves:
        (gone.add if entry.action == "retire" else gone.discard)(entry.version)
    return frozenset(gone)


def rollback_target(now: Stages, task: str, retired: Collection[int] = (), to: int | None = None) -> int:
    """The version that served before, or an older one by its number.

    Raises ``ModelError`` where none did, or it was retired since: what somebody took out of service comes back by a
    promotion alone.
    """
    if not now.previous:
        raise ModelError(f"{task}: no champion served before this one; promote a version instead")
    wanted = now.previous[-1] if to is None else to
    if wanted in now.previous and wanted not in retired:
        return wanted
    left = ", ".join(f"v{v}" for v in reversed(now.previous) if v not in retired)
    why = "was retired since it served" if wanted in now.previous else "did not serve before"
    fix = f"name one that can be rolled back to: {left}" if left else "none is left to roll back to"
    raise ModelError(f"{task}: v{wanted} {why}; {fix}, or promote a version instead")
