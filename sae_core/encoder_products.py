"""The one dense product of the sparse training step: pre-activations, on a CPU.

Part of the training stage. Which product is used depends on the machine alone, never on a measured time, so that equal
runs on one machine give equal bits.
"""

from functools import cache

import torch
from jaxtyping import Float, Int8, Int32
from torch import Tensor


def linear(x: Float[Tensor, "batch d_in"], rows: Float[Tensor, "n d_in"], bias: Float[Tensor, " n"]) -> Tensor:
    """``x rows^T + bias``, through oneDNN where torch has it: on AMD processors 1.3 to 2 times as fast as MKL."""
    if _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
        return product
    return torch.nn.functional.linear(x, rows, bias)


@cache
def _has_onednn() -> bool:
    """Whether the private operator exists and computes what it should. Not by speed: the choice must not vary."""
    x, rows, bias = (torch.linspace(-1, 1, n).reshape(shape) for n, shape in ((6, (2, 3)), (12, (4, 3)), (4, (4,))))
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(found, torch.nn.functional.linear(x, rows, bias), atol=1e-6)


def multiply_int8(x: Int8[Tensor, "batch d_in"], rows: Int8[Tensor, "n d_in"], out: Int32[Tensor, "batch n"]) -> None:
    """Write ``x rows^T`` to ``out``, exact while d_in is at most 130,000; only where ``has_fast_int8``."""
    torch._int_mm(x, rows.T, out=out)


@cache
def has_fast_int8() -> bool:
    """Whether the processor multiplies 8-bit integers in hardware and torch has the product (a private operator)."""
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    x, rows = (torch.arange(-n, n, dtype=torch.int8).reshape(-1, 6) for n in (3, 12))
    found = torch.empty(len(x), len(rows), dtype=torch.int32)
    try:
        multiply_int8(x, rows, found)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.equal(found, x.int() @ rows.int().T)


@cache
def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
