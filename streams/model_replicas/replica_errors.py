"""Errors of models that follow a log, by the action each one causes.

ShellError (weir.streams.errors)
├── ReplicaDiverged    stop the worker; after a restart it takes the stored model, as the others did
└── FollowerBehind     wait longer, or see why the examples do not come
"""

from __future__ import annotations

from weir.streams.errors import ShellError


class ReplicaDiverged(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """Two workers learned the same examples and hold different models."""


class FollowerBehind(ShellError):  # noqa: N818 - named for what happened, as in weir.streams.errors
    """A version that another worker has reached did not come here in time."""
