"""A dot product for numba kernels: on the vector unit, and yet summed in one fixed order. Part of the training stage.

``fastmath`` would let the compiler choose the order, and there is not one choice: numba optimises the body of a
parallel kernel several times over, and runs one of the results in the process that compiles it and another in those
that load it from the cache. Here the order is written down, so no cache, compiler or processor changes a bit.

Numba's cache does not notice changes of this file: kernels that call it must be touched with it.
"""

from typing import Any, no_type_check

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import NumbaTypeError
from numba.extending import intrinsic

LANES = 16
"""Products that are added at once; narrower vector units take several instructions for them."""
SUMS = 4
"""Independent sums of so many lanes, so that an addition need not wait for the one before."""
_FLOAT, _INDEX, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


@intrinsic
@no_type_check
def dot(typing_context, left, right):
    """Dot product of two contiguous float32 vectors; the length is that of the first.

    Whole blocks of 64 products are added to 64 sums, one for each place in a block; whole blocks of 16 that are left,
    to the first 16 of them. Neighbouring sixteens are added, then the lower and upper halves, until one sum is left;
    to it the last products are added one by one.
    """
    for array in (left, right):
        if not isinstance(array, types.Array) or (array.dtype, array.ndim, array.layout) != (types.float32, 1, "C"):
            raise NumbaTypeError(f"dot takes contiguous vectors of float32, not {array}")
    return types.float32(left, right), _emit


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The instructions of ``dot``: none has a flag that would let the compiler reorder or fuse them."""
    left, right = (
        context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, arguments, strict=True)
    )
    n = builder.extract_value(left.shape, 0)
    blocks_end, lanes_end = (builder.sub(n, builder.urem(n, _INDEX(size))) for size in (SUMS * LANES, LANES))

    def add_products(total: Any, place: Any, kind: Any) -> None:
        pointers = [builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer()) for array in (left, right)]
        product = builder.fmul(*(builder.load(pointer, align=4) for pointer in pointers))
        builder.store(builder.fadd(builder.load(total), product), total)

    zeros = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(SUMS)]
    with cgutils.for_range_slice(builder, _INDEX(0), blocks_end, _INDEX(SUMS * LANES), _INDEX) as (place, _):
        for k in range(SUMS):
            add_products(sums[k], builder.add(place, _INDEX(k * LANES)), _VECTOR)
    with cgutils.for_range_slice(builder, blocks_end, lanes_end, _INDEX(LANES), _INDEX) as (place, _):
        add_products(sums[0], place, _VECTOR)
    parts = [builder.load(part) for part in sums]
    while len(parts) > 1:
        parts = [builder.fadd(parts[k], parts[k + 1]) for k in range(0, len(parts), 2)]
    vector, width = parts[0], LANES
    while width > 1:
        width //= 2
        kind, places = ir.VectorType(_INT, width), list(range(2 * width))
        halves = [ir.Constant(kind, places[:width]), ir.Constant(kind, places[width:])]
        vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    total = cgutils.alloca_once_value(builder, builder.extract_element(vector, _INT(0)))
    with cgutils.for_range_slice(builder, lanes_end, n, _INDEX(1), _INDEX) as (place, _):
        add_products(total, place, _FLOAT)
    return builder.load(total)
