"""Checkpoint files: replaced whole, and checked by their digest when they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from weir.models.durable import write_durably
from weir.streams.errors import StateError

_MAGIC = b"WCP1"
_DIGEST = 32


class Checkpoints:
    """The newest checkpoint of a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "checkpoint.bin"

    def write(self, data: bytes) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old or the new one, whole."""
        write_durably(self.path, lambda file: file.write(_MAGIC + hashlib.sha256(data).digest() + data))

    def newest(self) -> bytes | None:
        """The checkpoint's data; ``None`` when there is none. Raises ``StateError`` when it is damaged."""
        if not self.path.exists():
            return None
        whole = self.path.read_bytes()
        data = whole[len(_MAGIC) + _DIGEST :]
        if not whole.startswith(_MAGIC) or hashlib.sha256(data).digest() != whole[len(_MAGIC) : len(_MAGIC) + _DIGEST]:
            raise StateError(f"{self.path}: damaged ({len(whole)} B); remove the directory to start afresh")
        return data
