"""Learned state as bytes: named numpy arrays by MessagePack, equal bytes for equal states.

It knows nothing of any one learner. A snapshot is numbers and names of its own making: nothing in it is looked up,
imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from weir.online.errors import UNREADABLE, StateError
from weir.online.metrics.arrays import array_of

Arrays = dict[str, NDArray[Any]]

MAX_STATE_BYTES: Final = 256 << 20
"""Of one learner's snapshot; a forest of 100 full trees over 64 features has some 70 MB."""


class _Envelope(msgspec.Struct, frozen=True):
    """What every snapshot starts with, so that a foreign one is refused before anything is read from it."""

    kind: str
    features: tuple[str, ...]
    body: bytes


class _PackedArray(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def seal(kind: str, features: tuple[str, ...], body: bytes) -> bytes:
    """Prefix ``body`` with the learner's kind and feature names."""
    return msgspec.msgpack.encode(_Envelope(kind, features, body))


def unseal(state: bytes, kind: str, features: tuple[str, ...]) -> bytes:
    """Return the body of a snapshot of this ``kind`` over these ``features``; raise ``StateError`` otherwise."""
    if len(state) > MAX_STATE_BYTES:
        raise StateError(f"a learner snapshot of {len(state)} bytes: the most is {MAX_STATE_BYTES}")
    try:
        envelope = msgspec.msgpack.decode(state, type=_Envelope)
    except UNREADABLE as exc:
        raise StateError(f"not a learner snapshot ({len(state)} bytes): {exc}") from exc
    if envelope.kind != kind:
        raise StateError(f"snapshot is of kind {envelope.kind!r}, this learner is {kind!r}: build the same kind")
    # The order counts as well: weights are found by the number of the column.
    if envelope.features != features:
        odd = sorted(set(envelope.features) ^ set(features)) or "same names in another order"
        raise StateError(f"snapshot has {len(envelope.features)} features, this learner {len(features)}: {odd}")
    return envelope.body


def seal_with(members: Sequence[bytes], kind: str, features: tuple[str, ...], arrays: Arrays) -> bytes:
    """A snapshot of a learner that holds others: its own ``arrays``, and the snapshots of its ``members``."""
    return seal(kind, features, msgspec.msgpack.encode([pack_arrays(arrays), *members]))


def unseal_with(members: int, state: bytes, kind: str, features: tuple[str, ...]) -> tuple[Arrays, list[bytes]]:
    """Take ``seal_with`` apart; raise ``StateError`` also where it is not of so many ``members``."""
    body = unseal(state, kind, features)
    try:
        own, *others = msgspec.msgpack.decode(body, type=list[bytes])
    except (*UNREADABLE, ValueError) as exc:
        raise StateError(f"{kind} snapshot: {exc}") from exc
    if len(others) != members:
        raise StateError(f"snapshot has {len(others)} members, this {kind} {members}")
    return unpack_arrays(own), others


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encode named arrays, names sorted, C order.

    >>> unpack_arrays(pack_arrays({"w": np.array([1.0, 2.0])}))["w"]
    array([1., 2.])
    """
    packed = {
        name: _PackedArray(arrays[name].dtype.str, arrays[name].shape, np.ascontiguousarray(arrays[name]).tobytes())
        for name in sorted(arrays)
    }
    return msgspec.msgpack.encode(packed)


def unpack_arrays(body: bytes) -> Arrays:
    """Decode ``pack_arrays``; the arrays are writable copies."""
    try:
        packed = msgspec.msgpack.decode(body, type=dict[str, _PackedArray])
        return {name: array_of(*msgspec.structs.astuple(each)) for name, each in packed.items()}
    except (*UNREADABLE, ValueError) as exc:
        raise StateError(f"not packed arrays ({len(body)} bytes): {exc}") from exc


def copy_into(target: Mapping[str, NDArray[Any]], source: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite every array of ``target`` by its namesake; raise ``StateError`` on a missing name or another shape."""
    for name, array in target.items():
        got = source.get(name)
        if got is None or got.shape != array.shape or got.dtype != array.dtype:
            have = "nothing" if got is None else f"{got.dtype} {got.shape}"
            raise StateError(f"snapshot array {name!r}: have {have}, want {array.dtype} {array.shape}")
    for name, array in target.items():
        array[...] = source[name]
