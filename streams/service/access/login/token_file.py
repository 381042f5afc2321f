"""The token of the administrator that a service on loopback makes for itself."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from weir.streams.errors import UsageError

FILE: Final = "token"
_LEAST: Final = 32


def token_in(directory: Path) -> str:
    """The token kept in ``directory``, made where there is none; of this user alone (0600).

    It is kept, so that the link, sessions and scripts of this machine still work after a restart: who can read the file
    can read the data beside it anyway. To have a new one, and end the sessions of the old one, delete the file.

    Raises
    ------
    UsageError
        Others may read the file, or it holds no token.
    """
    path = directory / FILE
    directory.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _kept(path)
    with os.fdopen(handle, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


def _kept(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path}: others may read this token; delete the file, and a new one is made")
    token = path.read_text().strip()
    if len(token) < _LEAST:
        raise UsageError(f"{path}: no token of {_LEAST} characters or more; delete the file, and one is made")
    return token
