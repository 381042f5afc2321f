"""Learned state as bytes: numpy arrays by msgpack, River objects by a pickle whose loading admits safe names only.

It knows nothing of any one learner. Array states are byte-for-byte deterministic. River objects keep their state in
private attributes of many small classes, so pickle is the only complete form; a snapshot is loaded through
``_SafeUnpickler``, which admits classes of ``river`` and a short list of standard containers and refuses everything
else, so a forged snapshot cannot call a function of its choosing.
"""

from __future__ import annotations

import copyreg
import importlib
import io
import pickle
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_SAFE_NAMES = {
    ("builtins", "bool"),
    ("builtins", "complex"),
    ("builtins", "dict"),
    ("builtins", "float"),
    ("builtins", "frozenset"),
    ("builtins", "int"),
    ("builtins", "list"),
    ("builtins", "set"),
    ("builtins", "str"),
    ("builtins", "tuple"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("functools", "partial"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("random", "Random"),
}


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
    """Return the body of a snapshot of this ``kind`` over these ``features``; raise ``ValueError`` otherwise."""
    try:
        envelope = msgspec.msgpack.decode(state, type=_Envelope)
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a learner snapshot ({len(state)} bytes): {exc}") from exc
    if envelope.kind != kind:
        raise ValueError(f"snapshot is of kind {envelope.kind!r}, this learner is {kind!r}: build the same kind")
    if envelope.features != features:
        odd = sorted(set(envelope.features) ^ set(features)) or "same names in another order"
        raise ValueError(f"snapshot has {len(envelope.features)} features, this learner {len(features)}: {odd}")
    return envelope.body


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
        return {n: np.frombuffer(a.data, np.dtype(a.dtype)).reshape(a.shape).copy() for n, a in packed.items()}
    except (msgspec.DecodeError, TypeError) as exc:
        raise ValueError(f"not packed arrays ({len(body)} bytes): {exc}") from exc


def copy_into(target: Mapping[str, NDArray[Any]], source: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite every array of ``target`` by its namesake; raise ``ValueError`` on a missing name or another shape."""
    for name, array in target.items():
        got = source.get(name)
        if got is None or got.shape != array.shape or got.dtype != array.dtype:
            have = "nothing" if got is None else f"{got.dtype} {got.shape}"
            raise ValueError(f"snapshot array {name!r}: have {have}, want {array.dtype} {array.shape}")
    for name, array in target.items():
        array[...] = source[name]


def pack_river(objects: Any, features: tuple[str, ...]) -> bytes:
    """Pickle River objects (protocol 5), equal bytes for equal states over the same feature names."""
    buffer = io.BytesIO()
    _StatePickler(buffer, features).dump(objects)
    return buffer.getvalue()


def unpack_river(body: bytes, features: tuple[str, ...]) -> Any:
    """Load ``pack_river``; a name outside ``river`` classes and the safe list raises ``ValueError``."""
    try:
        return _SafeUnpickler(io.BytesIO(body), features).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError) as exc:
        raise ValueError(f"not a River snapshot ({len(body)} bytes): {exc}") from exc


class _StatePickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, features: tuple[str, ...]) -> None:
        super().__init__(file, protocol=5)
        self._number = {name: i for i, name in enumerate(features)}

    def persistent_id(self, obj: Any) -> int | None:
        """Write a feature name as its number: pickle would tell apart equal names that are different objects."""
        return self._number.get(obj) if type(obj) is str else None

    def reducer_override(self, obj: Any) -> Any:
        """Leave out the generator that every Gaussian of a leaf owns.

        River seeds it from the operating system and uses it for ``sample`` alone, which no learner here calls; with it
        no two snapshots would be alike, and each would be ten times larger.
        """
        kind = type(obj)
        if (kind.__module__, kind.__name__) == ("river.proba.gaussian", "Gaussian"):  # importing it takes seconds
            return copyreg.__newobj__, (kind,), {**obj.__dict__, "_rng": None}  # type: ignore[attr-defined] # not in its stub
        return NotImplemented


class _SafeUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, features: tuple[str, ...]) -> None:
        super().__init__(file)
        self._features = features

    def persistent_load(self, pid: Any) -> str:
        name: str = self._features[pid]
        return name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _SAFE_NAMES:
            return getattr(importlib.import_module(module), name)
        if module == "river" or module.startswith(("river.", "online.learners.")):
            found = getattr(importlib.import_module(module), name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a snapshot: only River classes are")
