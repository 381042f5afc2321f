"""Closed pipes, for the commands that write streams."""

from __future__ import annotations

import os
import sys


def close_stdout() -> None:
    """Let the interpreter's last flush of stdout go nowhere: its reader has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
