"""Who runs a command, for what it notes of that."""

from __future__ import annotations

import getpass
import os


def caller() -> str:
    """Who runs the command: a name, or the user's number where the machine has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container that is run as any user; Python 3.13 raises OSError
        return f"uid-{os.getuid()}"
