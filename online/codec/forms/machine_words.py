"""Machine words that numba has no functions for: eight bytes at any position, wide products, leading zeros.

Nothing is checked: positions have to be inside the array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from weir.online.jit import njit

Bytes = NDArray[np.uint8]
U = np.uint64

_Function = TypeVar("_Function", bound=Callable[..., Any])


def jit_inline(function: _Function) -> _Function:
    """Compile a small function, whose call costs as much as half of what it does; without checks for divisors of 0."""
    compiled: Any = njit(cache=True, nogil=True, forceinline=True, error_model="numpy")(function)
    return cast(_Function, compiled)


@intrinsic
def _upper(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001 - numba passes its typing context
    """The upper half of the 128 bits of a product."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001 - likewise
        product = builder.mul(builder.zext(args[0], ir.IntType(128)), builder.zext(args[1], ir.IntType(128)))
        return builder.trunc(builder.lshr(product, ir.Constant(ir.IntType(128), 64)), args[0].type)

    return types.uint64(types.uint64, types.uint64), build


@intrinsic
def _zeros(typing: Any, a: Any) -> Any:  # noqa: ARG001 - likewise
    """How many of the 64 bits before the first one are zero."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001 - likewise
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), build


@intrinsic
def _load(typing: Any, buf: Any, at: Any) -> Any:  # noqa: ARG001 - likewise
    """Load eight bytes, the first becoming the lowest, from any position."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        kind = ir.IntType(64)
        place = builder.bitcast(builder.gep(array.data, [args[1]]), kind.as_pointer())
        # Texts begin anywhere: with the alignment of an int64 the compiler may use loads that fault.
        return builder.load(place, align=1)

    return types.uint64(buf, types.int64), build


@intrinsic
def _store(typing: Any, buf: Any, at: Any, eight: Any) -> Any:  # noqa: ARG001 - likewise
    """Store eight bytes, the lowest first, at any position; as one store."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), args[2].type.as_pointer())
        builder.store(args[2], place, align=1)
        return context.get_dummy_value()

    return types.void(buf, types.int64, types.uint64), build


# What numba makes of the functions above, for the type checker, to which an intrinsic is the function it was made of.
high: Callable[[U, U], U] = _upper  # type: ignore[assignment]
leading_zeros: Callable[[U], U] = _zeros  # type: ignore[assignment]
word: Callable[[Bytes, int], U] = _load  # type: ignore[assignment]
put: Callable[[Bytes, int, U], None] = _store  # type: ignore[assignment]
