"""A model as one flat list of numbers, in MessagePack. It knows numbers, counts and columns, not what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from weir.online.errors import UNREADABLE, StateError

Number = int | float

_MOST_COUNT: Final = 2**53


class Writer:
    """Numbers of one model.

    Parameters
    ----------
    features : names of the F columns.
    """

    def __init__(self, features: tuple[str, ...]) -> None:
        self.numbers: list[Number] = []
        self._column = {name: i for i, name in enumerate(features)}
        self.tree: Any = None
        """Whose nodes are being written."""

    def put(self, *numbers: Any) -> None:
        """Add plain numbers; ``StateError`` for anything else."""
        for number in numbers:
            if type(number) is not float and type(number) is not int:
                raise StateError(f"cannot store {number!r}, a {type(number).__name__}, in a tree")
        self.numbers += numbers

    def features(self, names: Iterable[str]) -> None:
        """Add their column numbers."""
        self.put(*(self._column[name] for name in names))

    def encode(self) -> bytes:
        """All of them as MessagePack."""
        return msgspec.msgpack.encode(self.numbers)


class Reader:
    """Numbers of one model.

    Raises
    ------
    StateError
        Here and in every method: the snapshot holds something else.
    """

    def __init__(self, body: bytes, names: tuple[str, ...]) -> None:
        try:
            numbers = msgspec.msgpack.decode(body, type=list[int | float])
        except UNREADABLE as exc:
            raise StateError(f"not the numbers of a tree ({len(body)} bytes): {exc}") from exc
        if not all(map(math.isfinite, numbers)):
            raise StateError("the snapshot holds a number that is not finite, which no tree learns")
        self._numbers = iter(numbers)
        self._names, self.width = names, len(names)
        self.tree: Any = None
        """Whose nodes are being read."""
        self.kinds: tuple[type, ...] = ()
        """Classes of its nodes."""
        self.nodes_left = self.level = 0

    def number(self) -> Number:
        """The next one."""
        for found in self._numbers:
            # Not ``next``, whose StopIteration would look like the end of a loop of the caller's.
            return found
        raise StateError("the snapshot ends too early")

    def count(self, most: int = _MOST_COUNT) -> int:
        """The next one, which is a whole number of 0 to ``most``."""
        found = self.number()
        if type(found) is not int or not 0 <= found <= most:
            raise StateError(f"the snapshot holds {found!r} where a whole number of 0 to {most} belongs")
        return found

    def integer(self) -> int:
        """The next one, which is a whole number of either sign."""
        found = self.number()
        if type(found) is not int or abs(found) > _MOST_COUNT:
            raise StateError(f"the snapshot holds {found!r} where a whole number belongs")
        return found

    def label(self) -> bool:
        """The next one as a class."""
        return self.count(1) == 1

    def feature(self) -> str:
        """The next one as a column's name."""
        return self._names[self.count(len(self._names) - 1)]

    def end(self) -> None:
        """Everything has to be read."""
        for found in self._numbers:
            raise StateError(f"the snapshot goes on behind its end, with {found}")
