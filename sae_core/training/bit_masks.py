"""Comparing 64 integers at once, for numba kernels: which reach a bound, as the bits of one integer.

Part of the training stage. A loop that writes the places of few large entries spends most of its time on entries that
are not. The instructions are of no particular processor; LLVM translates them for each. Numba's cache does not notice
changes of this file: kernels that call it must be touched with it.
"""

from typing import Any, no_type_check

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import NumbaTypeError
from numba.extending import intrinsic

WIDTH = 64
_VECTOR, _MASK = ir.VectorType(ir.IntType(32), WIDTH), ir.IntType(WIDTH)


@intrinsic
@no_type_check
def mask_reaching(typing_context, array, start, bound):
    """Bit i says whether ``array[start + i] >= bound``, for 64 entries of a contiguous int32 vector; all must exist."""
    if not isinstance(array, types.Array) or (array.dtype, array.ndim, array.layout) != (types.int32, 1, "C"):
        raise NumbaTypeError(f"mask_reaching takes a contiguous vector of int32, not {array}")
    return types.uint64(array, types.int64, types.int32), _emit_mask


def _emit_mask(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), _VECTOR.as_pointer())
    entries = builder.load(pointer, align=4)
    bounds = cgutils.get_null_value(_VECTOR)
    one = builder.insert_element(bounds, arguments[2], ir.Constant(ir.IntType(32), 0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.bitcast(builder.icmp_signed(">=", entries, builder.shuffle_vector(one, one, places)), _MASK)


@intrinsic
@no_type_check
def lowest_bit(typing_context, mask):
    """Place of the lowest bit that is set; some is."""
    return types.int64(types.uint64), _emit_lowest


def _emit_lowest(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
