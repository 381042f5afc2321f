"""Errors of the pure core. The shell's own tree (``weir.streams.errors``) is by the action an error causes."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding bytes of somebody else's making raises: no such structure, no UTF-8, or nested too deeply."""

Stored = TypeVar("Stored")


class WeirError(Exception):
    """Everything Weir raises on purpose; the message names the value, the limit and the fix."""


class TaskError(WeirError, ValueError):
    """A task file asks for something that does not exist or does not fit together: correct the file."""


class StateError(WeirError, ValueError):
    """A stored state does not belong to this task or version: rebuild it, or go back to the version that wrote it."""


def stored(state: bytes, kind: type[Stored], what: str, remedy: str = "start it anew") -> Stored:
    """A state in MessagePack as a ``kind``; raises ``StateError`` where the bytes are no snapshot of ``what``."""
    try:
        return msgspec.msgpack.decode(state, type=kind)
    except UNREADABLE as error:
        raise StateError(f"not a snapshot of {what}: {error}; {remedy}") from error
