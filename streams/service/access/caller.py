"""Who asks, and what that allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from weir.streams.service.access.roles import OF_ALL_TASKS, ROLES
from weir.streams.service.problems import Problem

Via = Literal["key", "session", "token", "open"]
"""How somebody proved who they are; ``open`` is nobody's proof (``[serve.access] open``)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Parameters
    ----------
    id : of the key, or of the person at the identity provider; what the audit and rate limits go by.
    name : what people read.
    via : how it was proved.
    scopes : what is allowed.
    tasks : the only tasks it is allowed for; ``None`` for all.
    expires_at : when that ends, epoch seconds; a feed ends then.
    requests_per_s, records_per_s : limits of its own.
    """

    id: str
    name: str
    via: Via
    scopes: frozenset[str]
    tasks: frozenset[str] | None = None
    expires_at: float | None = None
    requests_per_s: float | None = None
    records_per_s: float | None = None

    def sees(self, task: str) -> bool:
        """Whether it may see and change what belongs to ``task``."""
        return self.tasks is None or task in self.tasks

    def must_see(self, task: str) -> None:
        """Raise a ``Problem`` (403) where it may not."""
        if not self.sees(task):
            words = f"{self.name} may not use task {task!r}, only {', '.join(sorted(self.tasks or ())) or 'none'}"
            fix = "use a key or group that has this task, or none of its own"
            raise Problem(403, "Not allowed", words, value=task, fix=fix)


def limited(scopes: frozenset[str], tasks: Iterable[str] | None) -> tuple[frozenset[str], frozenset[str] | None]:
    """Scopes and tasks of a caller; without the scopes that are of all tasks, where it has only some."""
    return (scopes, None) if tasks is None else (scopes - OF_ALL_TASKS, frozenset(tasks))


def administrator(via: Via) -> Caller:
    """Who holds the token of the administrator, or anyone where access is open."""
    name = "admin" if via != "open" else "anyone"
    return Caller(name, name, via, ROLES["admin"])
