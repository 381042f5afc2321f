"""Redis' wire format (RESP 2) as bytes: commands of thousands of rows without a Python object for each value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

Argument = bytes | str | int | float | memoryview

ADDING: Final = frozenset({"SET", "RPUSH", "HSET", "HSETNX", "HINCRBY", "ZADD"})
"""Those of our commands that a full Redis refuses; it still reads and deletes."""
_CALL: Final = re.compile(r"call\('(\w+)'")


def argument(value: Argument) -> bytes:
    r"""One framed argument.

    >>> argument("ttl"), argument(15)
    (b'$3\r\nttl\r\n', b'$2\r\n15\r\n')
    """
    data = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def command(*args: Argument) -> bytes:
    """A whole command."""
    return b"*%d\r\n" % len(args) + b"".join(map(argument, args))


def framed_keys(prefix: str, ids: Sequence[str]) -> list[bytes]:
    r"""Keys ``prefix + id``, each a framed argument.

    >>> framed_keys("p:", ["a"])
    [b'$3\r\np:a\r\n']
    """
    head = prefix.encode()
    return [b"$%d\r\n%b\r\n" % (len(key), key) for key in [head + name.encode() for name in ids]]


def mget(frames: Sequence[bytes]) -> bytes:
    """``MGET`` of framed keys."""
    return b"*%d\r\n$4\r\nMGET\r\n%b" % (len(frames) + 1, b"".join(frames))


class Script:
    """A Lua script, known to Redis by its digest once it has run there.

    Parameters
    ----------
    source : Lua; all keys that it touches are given to it, as clusters and ACLs want.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.adds = not ADDING.isdisjoint(_CALL.findall(source))
        """Whether it writes something new."""
        # Redis names scripts so. Not for security, as FIPS builds refuse SHA-1 for that.
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def call(self, args: int, *, known: bool) -> bytes:
        """The command up to the number of keys, which comes next; ``args`` counts that number, keys and arguments."""
        name, what = ("EVALSHA", self._digest) if known else ("EVAL", self.source)
        return b"*%d\r\n" % (args + 2) + argument(name) + argument(what)


def script_arguments(keys: Sequence[Argument], args: Iterable[Argument]) -> tuple[int, bytes]:
    """Count and bytes of what follows a script's name."""
    parts = [len(keys), *keys, *args]
    return len(parts), b"".join(map(argument, parts))
