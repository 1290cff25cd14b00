"""A weighted sum of rows for numba kernels: kept in registers while it grows, in one fixed order.

In plain Python the loop over rows has to be the outer one, and reads and writes the whole sum for each row. Here it is
the inner one, for 64 columns at once: twice as fast. Part of the training stage.

Numba's cache does not notice changes of this file: kernels that call it must be touched with it.
"""

from typing import Any, no_type_check

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import NumbaTypeError
from numba.extending import intrinsic

LANES = 16
"""Columns in one vector; narrower vector units take several instructions for it."""
VECTORS = 4
"""Vectors that are summed at once, so that an addition need not wait for the one before."""
_FLOAT, _INDEX, _INT = ir.FloatType(), ir.IntType(64), ir.IntType(32)


@intrinsic
@no_type_check
def sum_rows(typing_context, start, rows, index, factor, first, last, out):
    """``out = start + sum over p from first to last of factor[p] * rows[index[p]]``, added one after another.

    Args:
        start: (n,), may be ``out``.
        rows: (m, n), float32 and contiguous, as ``start`` and ``out``.
        index: of rows, int32, not negative.
    """
    expected = (
        *((array, types.float32, n_dims) for array, n_dims in ((start, 1), (rows, 2), (factor, 1), (out, 1))),
        (index, types.int32, 1),
    )
    for array, dtype, n_dims in expected:
        if not isinstance(array, types.Array) or (array.dtype, array.ndim, array.layout) != (dtype, n_dims, "C"):
            raise NumbaTypeError(f"sum_rows takes a contiguous {n_dims}-dimensional array of {dtype}, not {array}")
    return types.void(start, rows, index, factor, types.int64, types.int64, out), _emit


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The instructions of ``sum_rows``: none has a flag that would let the compiler reorder or fuse them."""
    start, rows, index, factor, out = (
        context.make_array(signature.args[k])(context, builder, arguments[k]) for k in (0, 1, 2, 3, 6)
    )
    n = builder.extract_value(rows.shape, 1)

    def sum_columns(column: Any, kind: Any, n_parts: int) -> None:
        """Columns from ``column`` on: so many parts, each a vector or a number."""
        width = kind.count if isinstance(kind, ir.VectorType) else 1
        places = [builder.add(column, _INDEX(k * width)) for k in range(n_parts)]

        def pointer(array: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())

        sums = [cgutils.alloca_once(builder, kind) for _ in places]
        for total, place in zip(sums, places, strict=True):
            builder.store(builder.load(pointer(start, place), align=4), total)
        with cgutils.for_range_slice(builder, arguments[4], arguments[5], _INDEX(1), _INDEX) as (p, _):
            row = builder.mul(builder.sext(builder.load(builder.gep(index.data, [p])), _INDEX), n)
            weight = builder.load(builder.gep(factor.data, [p]))
            if width > 1:
                undefined = ir.Constant(kind, ir.Undefined)
                vector = builder.insert_element(undefined, weight, _INT(0))
                weight = builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(_INT, width), [0] * width))
            for total, place in zip(sums, places, strict=True):
                entries = builder.load(pointer(rows, builder.add(row, place)), align=4)
                builder.store(builder.fadd(builder.load(total), builder.fmul(weight, entries)), total)
        for total, place in zip(sums, places, strict=True):
            builder.store(builder.load(total), pointer(out, place), align=4)

    vector, done = ir.VectorType(_FLOAT, LANES), _INDEX(0)
    for kind, n_parts, width in ((vector, VECTORS, VECTORS * LANES), (vector, 1, LANES), (_FLOAT, 1, 1)):
        end = builder.sub(n, builder.urem(n, _INDEX(width)))
        with cgutils.for_range_slice(builder, done, end, _INDEX(width), _INDEX) as (column, _):
            sum_columns(column, kind, n_parts)
        done = end
    return context.get_dummy_value()
