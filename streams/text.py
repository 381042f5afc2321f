"""Text of others, made safe to print: what it says is seen, what it could do to a terminal or a log is not done."""

from __future__ import annotations


def printable(value: bytes | str, chars: int | None = None) -> str:
    r"""One line that cannot move a cursor, change direction or hide: what does not print is written as its number.

    It is cut to ``chars`` characters.

    >>> print(printable("a\nb \x1b[2J \u202e.exe"), printable(b"\xff"))
    a\x0ab \x1b[2J \u202e.exe \xff
    """
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _number(ord(char)) for char in text)
    return text if chars is None or len(text) <= chars else f"{text[: chars - 3]}..."


def _number(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
