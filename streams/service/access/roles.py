"""What a caller may do: scopes, and roles as named sets of them.

The one table behind the routes and docs/SECURITY.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SCOPES: Final[Mapping[str, str]] = {
    "feed:read": "follow the live feed",
    "alerts:read": "list alerts and open one, with what is known of its entity",
    "tasks:read": "see tasks, their metrics and drift",
    "models:read": "see models, their stages, what the gate said, and training jobs",
    "entities:read": "look an entity up: its features, events and scores",
    "alerts:write": "give verdicts, which become labels, and undo them",
    "cases:write": "assign, note, hold, escalate and snooze alerts",
    "events:write": "send events",
    "labels:write": "send labels",
    "decisions:write": "ask for decisions on events",
    "models:write": "promote models and roll them back",
    "retrain:write": "ask for a new full model",
    "deadletters:read": "see records that were refused",
    "deadletters:write": "replay them or drop them",
    "notify:write": "make rules of notifications, pause them, and send again what could not be sent",
    "keys:write": "make API keys and revoke them",
    "audit:read": "see who did what",
}
"""Each with what it allows."""

_VIEWER: Final = frozenset({"feed:read", "alerts:read", "tasks:read", "models:read"})
_ANALYST: Final = _VIEWER | {"entities:read", "alerts:write", "cases:write"}
_OPERATOR: Final = _ANALYST | {
    "events:write", "labels:write", "decisions:write", "models:write", "retrain:write", "deadletters:read",
    "deadletters:write", "notify:write",
}  # fmt: skip
ROLES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": _VIEWER,
    "analyst": _ANALYST,
    "operator": _OPERATOR,
    "admin": frozenset(SCOPES),
}
"""Each role has what the one before it has, and more."""
OF_ALL_TASKS: Final = frozenset({"deadletters:read", "deadletters:write", "notify:write", "keys:write", "audit:read"})
"""What no caller has that is limited to tasks: dead letters are of no task yet, and keys could be made that have no
limit, and a rule tells of all."""
INGEST: Final = frozenset({"events:write", "labels:write", "decisions:write"})
"""What programs do thousands of times a second: the audit counts it, a caller and minute together."""
