"""Files that pages need: read once, compressed once, and kept by browsers for as long as they are the same."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Final

from fastapi import Request, Response

from weir.streams.pages.values import FOLDER
from weir.streams.service.problems import Problem

_FOLDERS: Final = (FOLDER / "assets", Path(__file__).parent / "assets")
_TYPES: Final = {
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
_KEPT: Final = "public, max-age=31536000, immutable"


class Assets:
    """The files under ``assets/``, here and of all pages; the digest of all of them is part of their addresses."""

    def __init__(self) -> None:
        found = [(path, folder) for folder in _FOLDERS for path in folder.rglob("*") if path.suffix in _TYPES]
        # In an order of their own, not the disk's: the same files have the same digest on every machine.
        self._files = {path.relative_to(folder).as_posix(): path.read_bytes() for path, folder in sorted(found)}
        self._compressed = {name: gzip.compress(data, 9, mtime=0) for name, data in self._files.items()}
        every = b"\0".join(name.encode() + b"\0" + data for name, data in self._files.items())
        self.version = hashlib.sha256(every).hexdigest()[:12]

    def address(self, name: str) -> str:
        """Where pages find a file; raises ``KeyError`` for one that is not there."""
        if name not in self._files:
            raise KeyError(f"no asset {name!r}; there are {', '.join(self._files)}")
        return f"/console/assets/{self.version}/{name}"

    def answer(self, request: Request, version: str, name: str) -> Response:
        """The file; a page of an earlier version gets today's, which is not kept under that name."""
        if name not in self._files:
            raise Problem(404, "Not found", f"no asset {name[:100]!r}")
        headers = {"Cache-Control": _KEPT if version == self.version else "no-cache", "Vary": "Accept-Encoding"}
        data = self._files[name]
        if "gzip" in request.headers.get("accept-encoding", ""):
            data = self._compressed[name]
            headers["Content-Encoding"] = "gzip"
        return Response(data, headers=headers, media_type=_TYPES[Path(name).suffix])
