"""Errors of the trainer, by the action each one causes.

ShellError (weir.streams.errors)
├── LeaseLostError    another trainer works on the task now: leave it alone
└── WorkDiedError     a training's process came to an end by itself: note it, and go on with other candidates
"""

from __future__ import annotations

from typing import Final

from weir.models.errors import RegistryError, StageConflictError
from weir.streams.errors import BrokerError, ShellError

PASSING: Final = (OSError, BrokerError, RegistryError, StageConflictError)
"""What may be better in a while: storage or brokers that are away, somebody else who was first."""


class LeaseLostError(ShellError):
    """Another trainer took the task over, because this one was silent for longer than the lease."""


class WorkDiedError(ShellError):
    """The process of a training ended without a result; the message says how, and its last words."""
