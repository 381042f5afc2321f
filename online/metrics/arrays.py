"""Named arrays to bytes and back, without pickle. It knows dtypes and shapes, not what the numbers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.errors import StateError, stored

_DTYPE: Final = re.compile(r"\|[bu?]1|<[iuf][248]")


class _ArrayPack(msgspec.Struct, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Snapshot(msgspec.Struct):
    kind: str
    arrays: dict[str, _ArrayPack]
    names: list[str]


def pack(kind: str, arrays: Mapping[str, NDArray[Any]], names: list[str] | None = None) -> bytes:
    """Encode ``arrays`` (and a list of strings) as MessagePack; equal input gives equal bytes.

    ``kind`` says what may read it again: the class, its format version and the parameters that shape its state.

    >>> arrays, names = unpack("demo v1", pack("demo v1", {"a": np.arange(3)}, ["x"]))
    >>> arrays["a"], names
    (array([0, 1, 2]), ['x'])
    """
    packed = {
        name: _ArrayPack(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in arrays.items()
    }
    return msgspec.msgpack.encode(_Snapshot(kind, packed, names or []))


def unpack(kind: str, state: bytes) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Decode a ``pack`` of the same ``kind`` into fresh, writable arrays.

    Raises
    ------
    StateError (a ValueError)
        If the bytes are not a snapshot or are one of another kind.
    """
    snapshot = stored(state, _Snapshot, repr(kind))
    if snapshot.kind != kind:
        raise StateError(
            f"snapshot is of {snapshot.kind!r}, this object is {kind!r}; build it with the same parameters"
        )
    return {name: array_of(*msgspec.structs.astuple(each)) for name, each in snapshot.arrays.items()}, snapshot.names


def array_of(dtype: str, shape: tuple[int, ...], data: bytes) -> NDArray[Any]:
    """A stored array, writable; raises ``ValueError`` where the three do not fit, or it is not of plain numbers."""
    if _DTYPE.fullmatch(dtype) is None:  # numpy reads more than names of numbers in such a text
        raise StateError(f"dtype {dtype[:40]!r} is not a plain number")
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
