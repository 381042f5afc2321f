"""``njit`` of numba whose stored kernels notice an edit in another module too.

numba finds a stored kernel by its own code and by the age of its own file. What a kernel calls and the constants that
it reads are compiled into it, wherever they stand; here their code and values are part of what it is found by.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from pickle import UnpicklingError
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=np.generic)


def njit(**options: Any) -> Callable[[F], F]:
    """``numba.njit``; with ``cache=True`` a kernel is kept on disk until something that is compiled into it changes."""

    def compiled(function: F) -> F:
        made: Any = numba.njit(**options)(function)
        if options.get("cache"):
            # numba has no public way to give a function another cache.
            made._cache = _StoredFunction(function)  # type: ignore[no-untyped-call]
        return cast("F", made)

    return compiled


def plain(array: NDArray[T]) -> NDArray[T]:
    """The array as compiled code takes it: of one with gaps, or of a message, numba would compile a second kernel."""
    return array if array.flags.carray else array.copy()


class _StoredFunction(FunctionCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        _load_arrays()  # under the lock of numba's compiler, as all of this is
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except (ImportError, AttributeError, EOFError, UnpicklingError):
            # What is stored names a type that has moved since, or was cut short. The index goes: what is compiled now
            # is noted in it, and it would be read before that again.
            self.flush()  # type: ignore[no-untyped-call]
            return None

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        # Of a named tuple the places of its fields are compiled in; its type tells only their types.
        fields = repr([getattr(kind, "fields", ()) for kind in sig])
        key = super()._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        return (*key, fingerprint(self._py_func), fields)


@cache
def _load_arrays() -> None:
    """Import numba's functions on arrays without ``scipy.linalg``, which takes a quarter of a second of each process.

    They import it only to see whether it is there. A kernel that uses it has it imported when it is compiled or called.
    """
    linalg: Any = importlib.import_module("numba.np.linalg")  # with what it imports: for who runs a kernel
    check, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = check


@cache
def fingerprint(function: FunctionType) -> str:
    """A digest of the code and the constants of everything that is compiled into ``function``."""
    return hashlib.sha256("\n".join(_parts(function, set())).encode()).hexdigest()


def _parts(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    # Kernels may call each other in a circle.
    if function in seen:
        return
    seen.add(function)
    # Code and constants, not the text: a comment, or a line moved, changes nothing that is compiled.
    for code in _codes(function.__code__):
        yield f"{code.co_code.hex()} {[each for each in code.co_consts if not isinstance(each, CodeType)]}"
        for value in _read(code, function.__globals__):
            if isinstance(value, Dispatcher):
                yield repr(sorted(value.targetoptions.items()))
                yield from _parts(value.py_func, seen)
            elif hasattr(value, "_defn"):  # an intrinsic
                yield from _parts(value._defn, seen)
            elif isinstance(value, np.ndarray):
                yield f"{value.dtype} {value.shape} {value.tobytes().hex()}"
            elif isinstance(value, bool | int | float | str | tuple | np.generic):
                yield repr(value)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _read(code: CodeType, names: dict[str, Any]) -> list[Any]:
    """What a code reads of its module and, as attributes, of others."""
    held = [names[name] for name in code.co_names if name in names]
    modules = [vars(each) for each in held if isinstance(each, ModuleType)]
    return held + [module[name] for module in modules for name in code.co_names if name in module]
