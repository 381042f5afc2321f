"""Reads the text of files that people write: task files and settings."""

from __future__ import annotations

from pathlib import Path

from weir.online.mistakes import near
from weir.streams.errors import UsageError


def read_text(path: Path, what: str, remedy: str) -> str:
    """The text of ``path``, in UTF-8 with or without a byte order mark.

    Raises ``UsageError`` for what is not there, is a directory or may not be read (``remedy`` says what to do), and for
    what is no such text.
    """
    if path.is_dir():
        raise UsageError(f"{path}: a directory, not a {what}; name the file in it")
    if not path.is_file():
        beside = [other.stem for other in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
        meant = [f"did you mean {path.with_stem(stem)}?" for stem in near(path.stem, beside)]
        raise UsageError(f"no such {what}: {path}; {meant[0] if meant else remedy}")
    raw = path.read_bytes()
    # Windows' editors save so; as UTF-8 the error would name a byte that nobody wrote.
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or raw[:64].count(0) > len(raw[:64]) // 3 > 0:
        raise UsageError(f"{path}: not UTF-8 text: it is UTF-16, or no text at all; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise UsageError(
            f"{path}: not UTF-8 text (byte 0x{raw[exc.start]:02x} in line {line}); save it as UTF-8"
        ) from None
